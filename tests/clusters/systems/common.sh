# Functions shared by the scripts of this folder; each sources this file, defines these, and ends with: dispatch "$@"
#
#     is_up         whether the system answers
#     bring_up      install missing packages, and start daemons that are not running
#     take_down     cancel the jobs, then stop the daemons
#     environment   shell commands to use the system, if it needs any
#
# State is kept in $AMLSCHED_CLUSTERS, outside of any checkout, so that all checkouts share one set of systems.
set -euo pipefail

STATE=${AMLSCHED_CLUSTERS:-/var/lib/amlsched-clusters}
NAME=$(basename "$0" .sh)

say() { printf '%s: %s\n' "$NAME" "$*" >&2; }
fail() {
    say "$@"
    exit 1
}

# Whether the process with this id runs, under this name (as in /proc/PID/comm). Without systemd, no process may reap a
# daemon that has exited; kill -0 would not distinguish such a zombie from a running process.
alive() {
    local pid=${1:-} comm=${2:-}
    [[ -n $pid && -r /proc/$pid/status ]] || return 1
    [[ -z $comm || $(cat "/proc/$pid/comm" 2>/dev/null) == "$comm" ]] || return 1
    grep -q '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$pid/status" 2>/dev/null
}

pid_in() { cat "$1" 2>/dev/null || true; }

# soon SECONDS COMMAND ...: whether the command succeeds within this time.
soon() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || return 1
        sleep 0.1
    done
}

# wait_for SECONDS COMMAND ...: the same, but fails with an error.
wait_for() { soon "$@" || fail "not within $1 s: ${*:2}"; }

gone() { ! alive "$@"; }

# Install missing packages; on failure, show the end of apt's output.
packages() {
    local missing=() package log=$STATE/apt.log
    for package in "$@"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    say "apt-get install ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    local apt=(apt-get -q -y -o DPkg::Lock::Timeout=600)
    "${apt[@]}" install --no-install-recommends "${missing[@]}" >"$log" 2>&1 </dev/null && return
    { "${apt[@]}" update && "${apt[@]}" install --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null ||
        { tail -n 20 "$log" >&2; fail "apt-get failed; all of its output: $log"; }
}

# Print why this user cannot start the system on this machine; nothing if it is possible.
why_not() {
    if [[ $(id -u) != 0 ]]; then echo "only root can bring it up"
    elif ! command -v apt-get >/dev/null || ! grep -qs '^ID=debian' /etc/os-release; then echo "it is brought up on Debian only"
    elif [[ $(. /etc/os-release && echo "$VERSION_CODENAME") != bookworm ]]; then echo "it is brought up on Debian 12 only"
    fi
}

dispatch() {
    local reason
    case ${1:-} in
    up)
        if is_up; then return; fi
        reason=$(why_not)
        [[ -z $reason ]] || fail "$reason"
        install -d -m 0755 "$STATE"
        # One at a time: two test runs may start the same system.
        exec 9>"$STATE/$NAME.lock"
        flock -w 300 9 || fail "another run holds $STATE/$NAME.lock"
        is_up || bring_up
        ;;
    down) take_down ;;
    status) is_up ;;
    env) if declare -F environment >/dev/null; then environment; fi ;;
    *) fail "usage: $0 up|down|status|env" ;;
    esac
}
