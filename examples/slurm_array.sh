#!/usr/bin/env bash
#SBATCH --job-name=mzsr
#SBATCH --array=0-7
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time=01:00:00
#SBATCH --requeue
# One cube by a Slurm array: a task does slices ID, ID + COUNT, ID + 2 COUNT, ... and a second job,
# which waits for all of them, joins their results. On the login node:
#   job=$(sbatch --parsable examples/slurm_array.sh cube.mat cube_x4.mat --scale 4)
#   sbatch --dependency=afterok:$job --wrap "mzsr merge 'cube_x4.mat.parts/*.mat' -o cube_x4.mat"
# With no more tasks than slices (--array=0-3 after sbatch changes their number). A requeued task
# goes on where it was. Without Slurm: SLURM_ARRAY_TASK_ID=0 SLURM_ARRAY_TASK_COUNT=2 before it.
set -euo pipefail
cube=$1 out=$2
shift 2
id=${SLURM_ARRAY_TASK_ID:?is set by sbatch --array} count=${SLURM_ARRAY_TASK_COUNT:?}
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
mkdir -p "$out.parts"
mzsr upscale "$cube" --slices "$id::$count" -o "$out.parts/$id.${out##*.}" --resume "$@"
