#!/usr/bin/env bash
# Grid Engine on this one host: queue all.q with 8 slots, parallel environment smp, without systemd.
#
# Its two ports (6444, 6445) listen on all interfaces, which cannot be configured.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

SLOTS=8
HOST=$(hostname)
export SGE_ROOT=/var/lib/gridengine SGE_CELL=default
SPOOL=/var/spool/gridengine
QSUB=/usr/bin/qsub # by its path: the one of PBS has the same name

# A queue without a load value has no execution daemon; letters in the sixth column are faults.
queue_ready() { timeout 5 qstat -f 2>/dev/null | awk 'index($1, "all.q@") == 1 { ok = ($4 != "-NA-" && NF < 6) } END { exit !ok }'; }
master_pid() { pid_in $SPOOL/qmaster/qmaster.pid; }
worker_pid() { cat $SPOOL/execd/*/execd.pid 2>/dev/null | head -n 1; }
master_answers() { timeout 5 qconf -sh; }

is_up() { [[ -x $QSUB && -e $STATE/sge/ours ]] && alive "$(master_pid)" sge_qmaster && alive "$(worker_pid)" sge_execd && queue_ready; }

install_it() {
    local part
    if ! [[ -x $QSUB && -x /usr/lib/gridengine/sge_qmaster && -x /usr/lib/gridengine/sge_execd ]]; then
        for part in common client exec master; do
            printf 'gridengine-%s shared/gridengine%s\n' $part 'config boolean true' $part 'cell string default' \
                $part "master string $HOST"
        done | debconf-set-selections
    fi
    # dma is the smallest mail transport agent: without it, apt would install exim.
    packages gridengine-master gridengine-exec gridengine-client dma
}

# Every name of 127.0.0.1 must map to this host; otherwise the daemon rejects it as another host.
name_host() {
    local common=$SGE_ROOT/$SGE_CELL/common others
    others=$({ echo localhost; getent hosts 127.0.0.1 | cut -d' ' -f2-; awk '$1 == "127.0.0.1"' /etc/hosts | cut -f2- -d' '; } |
        tr -s ' \t' '\n' | awk -v me="$HOST" 'NF && $1 != me && $1 !~ /^127\./ && !seen[$1]++' | tr '\n' ' ')
    printf '%s %s\n' "$HOST" "$others" >$common/host_aliases
    echo "$HOST" >$common/act_qmaster
    chown sgeadmin:sgeadmin $common/host_aliases $common/act_qmaster
}

# Show the output of qconf only if it fails.
quietly() {
    local log=$STATE/sge/qconf.log
    "$@" >"$log" 2>&1 </dev/null || { cat "$log" >&2; fail "failed: $*"; }
}

# set_all FILE KEY VALUE [KEY VALUE ...]: change lines of the form "key value".
set_all() {
    local file=$1
    shift
    while (($#)); do
        sed -i "s|^\($1\)[[:space:]].*|\1 $2|" "$file"
        shift 2
    done
}

configure() {
    local work=$STATE/sge
    qconf -sconf global >"$work/global"
    # Allow jobs of root; report loads at once; kill the whole process tree.
    set_all "$work/global" min_uid 0 min_gid 0 load_report_time 00:00:02 reschedule_unknown 00:00:00 \
        execd_params ENABLE_ADDGRP_KILL=true,PTF_MIN_PRIORITY=0 shell_start_mode unix_behavior
    sed -i 's/flush_time=[0-9:]*/flush_time=00:00:01/' "$work/global"
    quietly qconf -Mconf "$work/global"
    # Schedule on each event, and start jobs even on a loaded host.
    qconf -ssconf >"$work/scheduler"
    set_all "$work/scheduler" schedule_interval 0:0:2 flush_submit_sec 1 flush_finish_sec 1 \
        job_load_adjustments NONE schedd_job_info true
    quietly qconf -Msconf "$work/scheduler"
    qconf -as "$HOST" >/dev/null 2>&1 || true
    if ! qconf -sel 2>/dev/null | grep -qx "$HOST"; then
        printf '%s NONE\n' load_scaling complex_values user_lists xuser_lists projects xprojects usage_scaling \
            report_variables | sed "1i hostname $HOST" >"$work/host"
        quietly qconf -Ae "$work/host"
    fi
    if ! qconf -shgrp @allhosts >/dev/null 2>&1; then
        printf 'group_name @allhosts\nhostlist %s\n' "$HOST" >"$work/group"
        quietly qconf -Ahgrp "$work/group"
    fi
    if ! qconf -sp smp >/dev/null 2>&1; then
        printf '%s\n' 'pe_name smp' 'slots 999' 'user_lists NONE' 'xuser_lists NONE' 'start_proc_args NONE' \
            'stop_proc_args NONE' 'allocation_rule $pe_slots' 'control_slaves TRUE' 'job_is_first_task TRUE' \
            'urgency_slots min' 'accounting_summary FALSE' 'qsort_args NONE' >"$work/smp"
        quietly qconf -Ap "$work/smp"
    fi
    add_queue "$work/queue"
}

add_queue() {
    {
        printf '%s\n' 'qname all.q' 'hostlist @allhosts' 'seq_no 0' 'nsuspend 1' 'suspend_interval 00:05:00' \
            'priority 0' 'min_cpu_interval 00:05:00' 'processors UNDEFINED' 'qtype BATCH INTERACTIVE' 'pe_list smp' \
            'rerun FALSE' "slots $SLOTS" 'tmpdir /tmp' 'shell /bin/bash' 'shell_start_mode unix_behavior' \
            'notify 00:00:05' 'initial_state default'
        printf '%s NONE\n' load_thresholds suspend_thresholds ckpt_list prolog epilog starter_method suspend_method \
            resume_method terminate_method owner_list user_lists xuser_lists subordinate_list complex_values projects \
            xprojects calendar
        printf '%s INFINITY\n' {s,h}_{rt,cpu,fsize,data,stack,core,rss,vmem}
    } >"$1"
    if qconf -sql 2>/dev/null | grep -qx all.q; then quietly qconf -Mq "$1"; else quietly qconf -Aq "$1"; fi
}

bring_up() {
    if alive "$(master_pid)" sge_qmaster && [[ ! -e $STATE/sge/ours ]]; then
        fail "a Grid Engine runs here that is not of these tests: it is left alone"
    fi
    install_it
    install -d "$STATE/sge"
    : >"$STATE/sge/ours"
    if ! alive "$(master_pid)" sge_qmaster; then
        name_host
        (cd / && /usr/sbin/sge_qmaster </dev/null >"$STATE/sge/qmaster.out" 2>&1 9>&-)
    fi
    wait_for 20 master_answers
    configure
    alive "$(worker_pid)" sge_execd || (cd / && /usr/sbin/sge_execd </dev/null >"$STATE/sge/execd.out" 2>&1 9>&-)
    wait_for 60 queue_ready
}

no_jobs() { [[ -z $(qstat -u '*' 2>/dev/null) ]]; }

take_down() {
    [[ -e $STATE/sge/ours ]] && alive "$(master_pid)" sge_qmaster || return 0
    qdel -u '*' >/dev/null 2>&1 || true
    soon 15 no_jobs || say "jobs are left in the queue"
    local worker master
    worker=$(worker_pid) master=$(master_pid)
    qconf -ke all >/dev/null 2>&1 || true
    soon 20 gone "$worker" sge_execd || say "sge_execd has not ended"
    qconf -km >/dev/null 2>&1 || true
    soon 20 gone "$master" sge_qmaster || say "sge_qmaster has not ended"
}

# PBS has commands of the same names: put these first in PATH again.
environment() { echo 'export PATH=/usr/bin:$PATH'; }

PATH=/usr/bin:$PATH
dispatch "$@"
