#!/usr/bin/env bash
# Runs a homegrown command as one process per accelerator, on this host or as this host's part of a larger job.
#
#     launch/torchrun.sh train CONFIG.toml [FLAGS]                                          one host
#     NNODES=2 NODE_RANK=0 MASTER_ADDR=host-a launch/torchrun.sh train CONFIG.toml [FLAGS]  on host-a
#     NNODES=2 NODE_RANK=1 MASTER_ADDR=host-a launch/torchrun.sh train CONFIG.toml [FLAGS]  on the other
#
# Variables: NNODES hosts (1), NODE_RANK this host's number from 0, MASTER_ADDR the first host as all others see it,
# MASTER_PORT a free port there (29400), PROCESSES per host (the accelerators it has, or 1), LOGS a folder for a log
# file of each process (without it all of them write to the terminal).
set -euo pipefail

if [ $# -eq 0 ]; then
    sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi

accelerators() {
    python -c 'from homegrown.device import available; print(max(1, len(available()) - 1))'
}

nodes=${NNODES:-1}
arguments=(--nnodes "$nodes" --nproc-per-node "${PROCESSES:-$(accelerators)}")
if [ "$nodes" = 1 ]; then
    arguments+=(--standalone)
else
    : "${NODE_RANK:?is needed with NNODES > 1: the number of this host, from 0}"
    : "${MASTER_ADDR:?is needed with NNODES > 1: the first host, as all others see it}"
    # Ranks follow hosts in their order, so that neighbouring ranks, which talk most, share a host.
    arguments+=(--node-rank "$NODE_RANK" --master-addr "$MASTER_ADDR" --master-port "${MASTER_PORT:-29400}")
fi
if [ -n "${LOGS:-}" ]; then
    arguments+=(--log-dir "$LOGS" --tee 3 --local-ranks-filter 0)
fi

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # threads of each process; torchrun would choose 1 too, with a warning
# A restarted attempt must not find the addresses of the one before it.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
# Seconds that processes have to save after SIGTERM; torchrun's own 30 are short for a large checkpoint.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-100}"
# `--` ends torchrun's own flags, one of which `--run` would be taken for.
exec torchrun "${arguments[@]}" --module -- homegrown "$@"
