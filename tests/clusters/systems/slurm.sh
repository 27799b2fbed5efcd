#!/usr/bin/env bash
# Slurm on this one host: a controller and simulated nodes n1, n2, ... on the loopback interface, without systemd.
#
# Partitions: main, whose jobs are preempted and requeued by those of high. The CPUs and the memory of the nodes are
# declared, not measured, so more jobs fit than the host could run well. AMLSCHED_SLURM_NODES sets the number of nodes.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

NODES=${AMLSCHED_SLURM_NODES:-4}
CPUS=8
MEMORY_MB=32000
HOME_=$STATE/slurm
CONF=/etc/slurm/slurm.conf
MARK='# written by tests/clusters of amlsched'

# The daemons inherit no lock, no open terminal and none of the caller's Slurm variables.
daemon() { (unset "${!SLURM@}" "${!SBATCH@}" 2>/dev/null || true; cd / && "$@" </dev/null >/dev/null 2>&1 9>&-); }

controller_answers() { timeout 5 scontrol ping 2>/dev/null | grep -q 'is UP'; }
nodes_ready() { [[ $(timeout 5 sinfo -h -N -p main -o %t 2>/dev/null | grep -cE '^(idle|mix|alloc|comp)$') == "$NODES" ]]; }
munge_works() { munge -n 2>/dev/null | unmunge >/dev/null 2>&1; }
controller_runs() { alive "$(pid_in "$HOME_/slurmctld.pid")" slurmctld; }

is_up() { command -v sbatch >/dev/null && grep -qsF "$MARK" $CONF && controller_runs && nodes_ready; }

write_conf() {
    cat >"$1" <<CONF
$MARK
ClusterName=amlsched
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
SlurmctldPort=6817
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
MpiDefault=none
StateSaveLocation=$HOME_/controller
SlurmdSpoolDir=$HOME_/%n
SlurmctldPidFile=$HOME_/slurmctld.pid
SlurmdPidFile=$HOME_/%n.pid
SlurmctldLogFile=$HOME_/slurmctld.log
SlurmdLogFile=$HOME_/%n.log
# No cgroups: they are rarely writable in a container.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,bf_interval=2
SlurmdParameters=config_overrides
# Reject requests that no node can satisfy, instead of queuing them.
EnforcePartLimits=ALL
DefMemPerCPU=500
KillWait=5
SlurmdTimeout=20
MinJobAge=300
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$HOME_/completed.log
# Kill jobs that exceed their memory; checked every 2 s.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n[1-$NODES] NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=[17001-$((17000 + NODES))] CPUs=$CPUS RealMemory=$MEMORY_MB State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES DefaultTime=60 MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=REQUEUE
PartitionName=high Nodes=ALL Default=NO DefaultTime=60 MaxTime=INFINITE State=UP PriorityTier=100 PreemptMode=OFF
CONF
}

# Only overwrite a Slurm that uses the loopback interface: any other one may be a real cluster.
foreign() { [[ -e $CONF ]] && ! grep -qF "$MARK" $CONF && ! grep -q '^NodeName=.*NodeAddr=127\.0\.0\.1' $CONF; }

start_munge() {
    munge_works && return
    # Without systemd-tmpfiles, the folder of the socket is missing. munged rejects a key that others can read.
    install -d -o munge -g munge -m 0755 /run/munge
    install -d -o munge -g munge -m 0700 /var/log/munge /etc/munge
    [[ -s /etc/munge/munge.key ]] || mungekey -c -k /etc/munge/munge.key
    chown munge:munge /etc/munge/munge.key
    chmod 0600 /etc/munge/munge.key
    daemon runuser -u munge -- /usr/sbin/munged
    wait_for 10 munge_works
}

bring_up() {
    foreign && fail "$CONF is not of these tests, and names other hosts: it is left alone"
    packages slurmctld slurmd slurm-client munge
    start_munge
    install -d -m 0755 "$HOME_" "$HOME_/controller" /etc/slurm
    write_conf "$HOME_/slurm.conf"
    if ! cmp -s "$HOME_/slurm.conf" $CONF; then
        controller_answers && stop_daemons
        install -m 0644 "$HOME_/slurm.conf" $CONF
    fi
    controller_runs || daemon slurmctld
    wait_for 20 controller_answers
    local node
    for node in $(seq -f 'n%g' "$NODES"); do
        install -d -m 0755 "$HOME_/$node"
        alive "$(pid_in "$HOME_/$node.pid")" slurmd || daemon slurmd -N "$node"
    done
    # A node that a test has set down, or whose daemon has died, does not recover by itself.
    soon 4 nodes_ready || scontrol update NodeName="n[1-$NODES]" State=RESUME 2>/dev/null || true
    wait_for 30 nodes_ready
}

stop_daemons() {
    local file pids=()
    for file in "$HOME_"/*.pid; do pids+=("$(pid_in "$file")"); done
    scontrol shutdown 2>/dev/null || true
    for pid in "${pids[@]}"; do soon 20 gone "$pid" || say "process $pid has not ended"; done
}

no_jobs() { [[ -z $(squeue -h 2>/dev/null) ]]; }

take_down() {
    grep -qsF "$MARK" $CONF && controller_runs || return 0
    scancel -u root 2>/dev/null || true
    soon 15 no_jobs || say "jobs are left in the queue"
    stop_daemons
    munged --stop 2>/dev/null || true
}

dispatch "$@"
