#!/usr/bin/env bash
# Train under Slurm:
#   [GPUS=4] [GPUS_PER_NODE=4] [CPUS_PER_TASK=5] [SRUN_ARGS=...] \
#     tools/slurm_train.sh PARTITION JOB_NAME CONFIG [OPTIONS OF train.py]
set -eu
[ $# -ge 3 ] || { sed -n '3,4s/^# */usage: /p' "$0" >&2; exit 2; }
exec bash "$(dirname "$0")/slurm_run.sh" train.py "$@"
