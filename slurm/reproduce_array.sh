#!/bin/bash
# A table of reproduce.py as a SLURM array, a cell a task. From the repository's folder:
#
#   N=$(.venv/bin/python reproduce.py --table kitti --list | wc -l)
#   sbatch --array=0-$((N - 1)) slurm/reproduce_array.sh --table kitti labeled.root=/kitti ...
#   .venv/bin/python reproduce.py --table kitti --report        # when they are done
#
# Budgets, methods and seeds must be the same in all three. What your cluster calls its partitions
# goes before the script's name (sbatch --partition=... --array=...), as does anything below that
# does not fit. PYTHON names another interpreter than .venv/bin/python.
#
# A task that comes near its time limit stops its training and joins the queue again; one that is
# preempted is put there by SLURM. Both go on from their last checkpoint (save.every_steps).

#SBATCH --job-name=depth_table
#SBATCH --output=slurm-%x-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@180

set -u
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}" || exit 2

: "${SLURM_ARRAY_TASK_ID:?submit this with sbatch --array}"
out_of_time=no
stop_at_once=no
table=
stop() { if [ -n "$table" ]; then kill -TERM "$table"; else stop_at_once=yes; fi; }
trap stop TERM INT
trap 'out_of_time=yes; stop' USR1
"${PYTHON:-.venv/bin/python}" reproduce.py --cell "$SLURM_ARRAY_TASK_ID" "$@" &
table=$!
[ "$stop_at_once" = no ] || kill -TERM "$table" # asked between the two lines before

wait "$table"
code=$?
while kill -0 "$table" 2>/dev/null; do # a signal ends `wait` before the table has ended
    wait "$table"
    code=$?
done
wait "$table" # it may have ended between the two, and its code is still to be had
last=$?
[ "$last" -eq 127 ] || code=$last

if [ "$out_of_time" = yes ] && [ "$code" -eq 143 ]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit "$code"
