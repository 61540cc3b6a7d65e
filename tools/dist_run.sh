#!/usr/bin/env bash
# What dist_train.sh and dist_test.sh share: dist_run.sh SCRIPT PROCESSES [ARGUMENTS OF SCRIPT]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
script=$1 processes=$2
shift 2

# torchrun would give every process one thread; share the cores instead.
cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
share=$((cores / processes))
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((share > 1 ? share : 1))}"
export PYTHONPATH="$(dirname "$here")${PYTHONPATH:+:$PYTHONPATH}"

exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$processes" \
    "$here/$script" "$@" --launcher pytorch
