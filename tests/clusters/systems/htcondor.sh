#!/usr/bin/env bash
# HTCondor on this one host: a personal pool with one slot that is divided by requests of jobs, on the loopback interface.
#
# Debian 12 has no HTCondor, and that of Debian 13 cannot be installed there: it is unpacked into a separate folder, with
# its own libraries, without upgrading the host.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

PORT=29618
CPUS=8
MEMORY_MB=32000
TREE=$STATE/htcondor/tree # the unpacked packages
POOL=$STATE/htcondor/pool # configuration, logs and spool
ACCOUNT=amlsched-condor
COMMANDS=(config_val history hold off q qedit reconfig release rm status submit vacate_job version wait who)

master_pid() { pid_in "$POOL/master.pid"; }
slot_ready() { timeout 10 "$POOL/bin/condor_status" -af Name 2>/dev/null | grep -q .; }
queue_answers() { timeout 10 "$POOL/bin/condor_q" -allusers 2>/dev/null; }

is_up() { alive "$(master_pid)" condor_master && slot_ready; }

# The Debian mirror of this host.
mirror() {
    apt-get indextargets --format '$(SITE)' 'Identifier: Packages' "Codename: $(. /etc/os-release && echo "$VERSION_CODENAME")" |
        head -n 1
}

# Private folders of apt, with the next release as the only source and no installed packages.
private_apt() {
    local work=$1
    mkdir -p "$work"/{etc,lists/partial,cache/archives/partial}
    : >"$work/status"
    printf '%s\n' 'Types: deb' "URIs: $(mirror)" 'Suites: trixie' 'Components: main' \
        'Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg' >"$work/etc/next.sources"
    cat >"$work/apt.conf" <<CONF
Dir::Etc::sourcelist "$work/etc/next.sources";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State::lists "$work/lists";
Dir::State::status "$work/status";
Dir::State::extended_states "$work/extended_states";
Dir::Cache "$work/cache";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Debug::NoLocking "true";
CONF
}

unpack() {
    [[ -e $TREE/.complete ]] && return
    packages patchelf
    say "unpacking HTCondor of Debian 13 into $TREE"
    local work=$STATE/htcondor/apt log=$STATE/htcondor/unpack.log package
    rm -rf "$work" "$TREE"
    [[ -n $(mirror) ]] || apt-get -q update >"$log" 2>&1 </dev/null || true # a fresh image may have no lists at all
    [[ -n $(mirror) ]] || fail "apt-get knows no mirror of Debian"
    private_apt "$work"
    mkdir -p "$TREE"
    # Since nothing is installed there, apt lists all dependencies of HTCondor; only its libraries are needed.
    {
        export APT_CONFIG=$work/apt.conf
        apt-get update -q
        apt-get -s -y --no-install-recommends install condor | awk '/^Inst/ { print $2 }' |
            grep -E '^(condor$|lib|zlib1g|gcc-14-base)' | grep -vE '^lib(js-|perl|date|python3-stdlib|pam-)' >"$work/wanted"
        # shellcheck disable=SC2046
        (cd "$work/cache/archives" && apt-get download -q $(cat "$work/wanted"))
        unset APT_CONFIG
    } >"$log" 2>&1 </dev/null || { tail -n 20 "$log" >&2; fail "the packages could not be fetched; all of the output: $log"; }
    for package in "$work"/cache/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$TREE"
    done
    relink
    rm -rf "$work"
    : >"$TREE/.complete"
}

# Programs and libraries find each other in the tree, not on the host.
relink() {
    local file loader=$TREE/usr/lib64/ld-linux-x86-64.so.2 libraries=$TREE/usr/lib:$TREE/usr/lib/condor:$TREE/usr/lib/x86_64-linux-gnu
    [[ -e $loader ]] || loader=$TREE/lib64/ld-linux-x86-64.so.2
    {
        find "$TREE"/usr/{bin,sbin,libexec/condor} -type f
        find "$TREE/usr/lib" -maxdepth 1 -type f -name 'lib*'
        find "$TREE/usr/lib/condor" -type f 2>/dev/null || true
    } | while read -r file; do
        [[ $(head -c 4 "$file" | tail -c 3 | tr -d '\0') == ELF ]] || continue
        if patchelf --print-interpreter "$file" >/dev/null 2>&1; then patchelf --set-interpreter "$loader" "$file"; fi
        patchelf --force-rpath --set-rpath "$libraries" "$file" 2>/dev/null || true
    done
}

configure() {
    local id=$1
    mkdir -p "$POOL"/{bin,execute,lock,log,passwords.d,run,spool,tokens.d}
    chmod 0700 "$POOL/passwords.d" "$POOL/tokens.d"
    cat >"$POOL/condor_config" <<CONF
RELEASE_DIR = $TREE/usr
LOCAL_DIR = $POOL
RUN = \$(LOCAL_DIR)/run
LOG = \$(LOCAL_DIR)/log
LOCK = \$(LOCAL_DIR)/lock
SPOOL = \$(LOCAL_DIR)/spool
EXECUTE = \$(LOCAL_DIR)/execute
ETC = \$(LOCAL_DIR)
BIN = \$(RELEASE_DIR)/bin
SBIN = \$(RELEASE_DIR)/sbin
LIB = \$(RELEASE_DIR)/lib
LIBEXEC = \$(RELEASE_DIR)/libexec/condor
SHARE = \$(RELEASE_DIR)/share/condor
use ROLE: CentralManager
use ROLE: Submit
use ROLE: Execute
CONDOR_IDS = $id
CONDOR_HOST = 127.0.0.1
COLLECTOR_HOST = 127.0.0.1:$PORT
SHARED_PORT_PORT = $PORT
NETWORK_INTERFACE = 127.0.0.1
BIND_ALL_INTERFACES = False
ENABLE_IPV6 = False
UID_DOMAIN = amlsched
FILESYSTEM_DOMAIN = amlsched
TRUST_UID_DOMAIN = True
SEC_DEFAULT_AUTHENTICATION = REQUIRED
SEC_DEFAULT_AUTHENTICATION_METHODS = FS
SEC_DEFAULT_INTEGRITY = OPTIONAL
SEC_DEFAULT_ENCRYPTION = OPTIONAL
ALLOW_READ = *
ALLOW_WRITE = *
ALLOW_DAEMON = *
ALLOW_NEGOTIATOR = *
ALLOW_ADMINISTRATOR = *
NUM_CPUS = $CPUS
MEMORY = $MEMORY_MB
NUM_SLOTS = 1
NUM_SLOTS_TYPE_1 = 1
SLOT_TYPE_1 = 100%
SLOT_TYPE_1_PARTITIONABLE = True
START = True
SUSPEND = False
PREEMPT = False
KILL = False
WANT_SUSPEND = False
SCHEDD_INTERVAL = 2
SCHEDD_MIN_INTERVAL = 1
NEGOTIATOR_INTERVAL = 2
NEGOTIATOR_CYCLE_DELAY = 1
NEGOTIATOR_MIN_INTERVAL = 1
UPDATE_INTERVAL = 2
STARTER_UPDATE_INTERVAL = 5
SHADOW_QUEUE_UPDATE_INTERVAL = 5
JOB_START_DELAY = 0
CLAIM_WORKLIFE = 0
RUNBENCHMARKS = 0
SYSTEM_PERIODIC_REMOVE = False
MOUNT_UNDER_SCRATCH =
MOUNT_PRIVATE_DEV_SHM = False
BASE_CGROUP =
CONF
    local command program
    for command in "${COMMANDS[@]}"; do
        program=$TREE/usr/bin/condor_$command
        [[ -e $program ]] || program=$TREE/usr/sbin/condor_$command
        [[ -e $program ]] || continue
        printf '#!/bin/sh\nexport CONDOR_CONFIG=%s\nexec %s %s "$@"\n' "$POOL/condor_config" "${AS_ACCOUNT[*]}" "$program" \
            >"$POOL/bin/condor_$command.new"
        chmod +x "$POOL/bin/condor_$command.new"
        mv "$POOL/bin/condor_$command.new" "$POOL/bin/condor_$command"
    done
}

bring_up() {
    unpack
    id $ACCOUNT >/dev/null 2>&1 || useradd -r -d "$POOL" -s /bin/sh $ACCOUNT
    # HTCondor does not run jobs of root and rejects its submissions. In a user namespace, root has another user id for
    # its programs: they act as a personal pool of that user, and their jobs keep root's access to files.
    AS_ACCOUNT=(unshare --user --map-user="$(id -u $ACCOUNT)" --map-group="$(id -g $ACCOUNT)" --)
    "${AS_ACCOUNT[@]}" true || fail "user namespaces are forbidden here"
    configure "$(id -u $ACCOUNT).$(id -g $ACCOUNT)"
    if ! alive "$(master_pid)" condor_master; then
        (
            cd /
            export CONDOR_CONFIG=$POOL/condor_config
            exec setsid "${AS_ACCOUNT[@]}" "$TREE/usr/sbin/condor_master" -f </dev/null >"$POOL/log/master.out" 2>&1 9>&-
        ) &
        echo $! >"$POOL/master.pid"
    fi
    wait_for 60 slot_ready
    wait_for 20 queue_answers
}

take_down() {
    local pid
    pid=$(master_pid)
    alive "$pid" condor_master || return 0
    "$POOL/bin/condor_rm" -all >/dev/null 2>&1 || true
    kill "$pid"
    soon 40 gone "$pid" condor_master || say "condor_master has not ended"
}

environment() { echo "export PATH=$POOL/bin:\$PATH"; }

dispatch "$@"
