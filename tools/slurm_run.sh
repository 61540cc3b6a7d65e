#!/usr/bin/env bash
# What slurm_train.sh and slurm_test.sh share:
#   slurm_run.sh SCRIPT PARTITION JOB_NAME [ARGUMENTS OF SCRIPT]
# One task per GPU; a task that dies takes the job with it, so that no rank waits for ever.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
script=$1 partition=$2 job=$3
shift 3
gpus=${GPUS:-4}
if [[ ! $gpus =~ ^[1-9][0-9]*$ ]]; then
    echo "GPUS is the number of GPUs of the job, not '$gpus'" >&2
    exit 2
fi
per_node=${GPUS_PER_NODE:-$((gpus < 4 ? gpus : 4))}
export PYTHONPATH="$(dirname "$here")${PYTHONPATH:+:$PYTHONPATH}"

# SRUN_ARGS is meant to be split into words.
# shellcheck disable=SC2086
exec srun \
    --partition="$partition" \
    --job-name="$job" \
    --gres=gpu:"$per_node" \
    --ntasks="$gpus" \
    --ntasks-per-node="$per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$here/$script" "$@" --launcher slurm
