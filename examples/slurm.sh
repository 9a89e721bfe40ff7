#!/bin/bash
# One worker a GPU, as a Slurm array. luigid runs on $LUIGID; the options are those of RunDataset:
#
#   export LUIGID=10.0.0.1 DYENET_CACHE=/shared/artifacts
#   sbatch examples/slurm.sh --dataset davis17 --root /shared/DAVIS --output /shared/out
#
#SBATCH --job-name=dyenet
#SBATCH --array=0-7
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# Five minutes before the end, or before a preemption that says so, the worker gets SIGUSR1: it
# ends the stage that it is in, and others take its task at once. Longer stages need more time.
#SBATCH --signal=USR1@300

srun luigi --module pipeline RunDataset --scheduler-host "$LUIGID" --workers 1 "$@"
status=$?
if [ "$status" -eq 25 ]; then
    # It left with work to do: queue up again. Status 0 means that all videos are there.
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
