#!/usr/bin/env bash
# The commands of PBS (qsub, qstat, qdel, ... as of Torque) in front of the Slurm of slurm.sh, which runs the jobs.
#
# They are unpacked into a separate folder, as Grid Engine has commands of the same names. To use PBS, put that folder
# first in PATH.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

HERE=$(dirname "${BASH_SOURCE[0]}")
TREE=$STATE/pbs
BIN=$TREE/usr/bin

# qstat cannot be used to test it: it fails if there are no jobs.
is_up() { [[ -x $BIN/qsub ]] && "$HERE/slurm.sh" status && timeout 20 "$BIN/qstat" -Q >/dev/null 2>&1; }

bring_up() {
    "$HERE/slurm.sh" up
    packages libslurm-perl libslurmdb-perl libswitch-perl
    if [[ ! -x $BIN/qsub ]]; then
        local work log=$STATE/pbs.log
        work=$(mktemp -d)
        chmod 0755 "$work"
        (cd "$work" && { apt-get -q download slurm-wlm-torque || { apt-get -q update && apt-get -q download slurm-wlm-torque; }; }) \
            >"$log" 2>&1 </dev/null || { tail -n 20 "$log" >&2; rm -rf "$work"; fail "slurm-wlm-torque could not be fetched"; }
        mkdir -p "$TREE"
        dpkg-deb -x "$work"/slurm-wlm-torque_*.deb "$TREE"
        rm -rf "$work"
    fi
    # The commands look for those of Slurm in their own folder.
    local command
    for command in salloc sbatch scancel scontrol sinfo squeue srun; do ln -sf "/usr/bin/$command" "$BIN/$command"; done
    is_up || fail "qstat -Q does not answer"
}

take_down() { :; } # it has no daemons; its jobs are Slurm's

environment() { echo "export PATH=$BIN:\$PATH"; }

dispatch "$@"
