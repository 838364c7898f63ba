#!/usr/bin/env bash
# Pretraining under SLURM, one task for each GPU and no launcher in between.
#
# usage: sbatch [FLAGS OF SBATCH] scripts/slurm_pretrain.sh [FLAGS OF pretrain/run.py]
#
# examples:
#   sbatch scripts/slurm_pretrain.sh --preset base --data '/data/cc12m/*.tar' --out runs/cc12m
#   sbatch --nodes 4 --time 04:00:00 scripts/slurm_pretrain.sh ...
#
# --out (default runs/pretrain) must lie on storage that all nodes share, as must this folder and the data.
#
# Five minutes before the time limit, and when the job is preempted, every rank gets SIGTERM: it finishes its step, saves
# and exits with 143. The job is then queued again, and goes on where it was to the last bit. After any other failure it
# stays down; submitted again with the same arguments, it continues from its last checkpoint.
#
#SBATCH --job-name=levljepa
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -uo pipefail
case "${1:-}" in
    --help | -h)
        sed -n '2,/^#SBATCH /{/^#SBATCH /d;s/^# \{0,1\}//;p}' "$0"
        exit 0 ;;
esac
cd "$SLURM_SUBMIT_DIR"
export PATH="$PWD/.venv/bin:$PATH" OMP_NUM_THREADS=1

MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))

# exec: the signal must reach python, not a shell around it. -u: lines in the log as they come.
srun --kill-on-bad-exit=1 bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    exec python -u pretrain/run.py --resume auto "$@"' pretrain "$@"
status=$?
if [ $status -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi

# Success is what the run records last, not an exit code alone.
out=runs/pretrain
for argument in "$@"; do
    [ "${before:-}" = --out ] && out="$argument"
    [[ "$argument" = --out=* ]] && out="${argument#--out=}"
    before="$argument"
done
if [ $status -eq 0 ] && [ ! -f "$out/done.json" ]; then
    echo "error: there is no $out/done.json: submitted again with the same arguments, the run goes on" >&2
    status=1
fi
exit $status
