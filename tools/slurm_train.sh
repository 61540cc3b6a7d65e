#!/usr/bin/env bash
# Train under Slurm:
#   [GPUS=4] [GPUS_PER_NODE=4] [CPUS_PER_TASK=5] [SRUN_ARGS=...] [GRACE=120] \
#     tools/slurm_train.sh PARTITION JOB_NAME CONFIG [OPTIONS OF train.py]
# GRACE seconds before the time limit Slurm sends SIGUSR1; the run then writes a checkpoint, exits
# with status 75, is queued again and goes on. In a batch script say the same to sbatch:
# `#SBATCH --requeue --signal=USR1@120`; the job is requeued as a whole.
set -u
[ $# -ge 3 ] || { sed -n '3,4s/^# */usage: /p' "$0" >&2; exit 2; }

resume=()
[ "${SLURM_RESTART_COUNT:-0}" -eq 0 ] || resume=(--resume)
status=0
SRUN_ARGS="--signal=USR1@${GRACE:-120} ${SRUN_ARGS:-}" \
    bash "$(dirname "$0")/slurm_run.sh" train.py "$@" ${resume[@]+"${resume[@]}"} || status=$?
[ "$status" -eq 75 ] || exit "$status"
if [ -n "${SLURM_JOB_ID:-}" ]; then
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exec bash "$0" "$@" --resume
