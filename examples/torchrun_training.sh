#!/usr/bin/env bash
# Pretraining and meta-training on all GPUs of this machine, or on two processes where it has none:
#   bash examples/torchrun_training.sh DATA...        (folders of images, and cubes)
# N=4 sets the number of processes, OUT=folder where the weights go, TIME=2h the time of each training,
# OPTIONS='--scale 2 --scale 4' more options of both. Run it again after a stop: it goes on where it was.
set -euo pipefail
: "${1:?Type: bash examples/torchrun_training.sh DATA...}"
python=${PYTHON:-python3}
out=${OUT:-trained}
gpus=$("$python" -c 'import torch; print(torch.cuda.device_count())')
n=${N:-$((gpus > 0 ? gpus : 2))}
read -r -a options <<<"${OPTIONS:-}"
mkdir -p "$out"

# train COMMAND NAME MORE...: the crops or tasks of --batch are shared out over the processes, and the
# result is that of one process with the same --batch. The first process writes and speaks.
train() {
  local resume=()
  [ -f "$out/$2.checkpoint" ] && resume=(--resume)
  "$python" -m torch.distributed.run --standalone --nproc-per-node "$n" -m mzsr_cli \
    "$1" "${data[@]}" -o "$out/$2.safetensors" --max-time "${TIME:-1h}" \
    "${@:3}" ${options[@]+"${options[@]}"} ${resume[@]+"${resume[@]}"}
}

data=("$@")
[ -f "$out/mine.checkpoint" ] || train pretrain pretrained --batch "$((8 * n))"
train meta-train mine --batch "$((4 * n))" --init "$out/pretrained.safetensors"

# Several machines under Slurm, one torchrun each, data and $out in a folder that all of them see:
#   #SBATCH --nodes=2 --ntasks-per-node=1 --gpus-per-node=4 --cpus-per-task=16 --time=04:00:00
#   host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
#   srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 4 --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" \
#     --rdzv-endpoint "$host:29500" -m mzsr_cli pretrain DATA... -o trained/pretrained.safetensors --batch 64
# At the time limit Slurm's SIGTERM makes them write a checkpoint; submit again with --resume.
