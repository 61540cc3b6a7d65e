#!/usr/bin/env bash
# What dist_train.sh and dist_test.sh share: dist_run.sh SCRIPT PROCESSES [ARGUMENTS OF SCRIPT]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
script=$1 processes=$2
shift 2

if [[ $processes =~ ^[1-9][0-9]*$ ]]; then
    # torchrun would give every process one thread; share the cores instead.
    cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
    share=$((cores / processes))
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((share > 1 ? share : 1))}"
elif [[ ! $processes =~ ^(auto|cpu|gpu)$ ]]; then  # torchrun counts these itself
    echo "PROCESSES is a number, or auto, cpu or gpu as torchrun counts them, not '$processes'" >&2
    sed -n "3s/^# */usage: /p" "$here/dist_${script%.py}.sh" >&2
    exit 2
fi
export PYTHONPATH="$(dirname "$here")${PYTHONPATH:+:$PYTHONPATH}"

exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$processes" \
    "$here/$script" "$@" --launcher pytorch
