#!/usr/bin/env bash
# A dask cluster: a scheduler and WORKERS workers, all on this machine as a stand-in, for one run.
#   bash examples/dask_cluster.sh cube.mat --scale 4
# On a real cluster leave out --host, start each `dask worker tcp://HOST:8786 --nthreads N` on its
# own machine (ssh, Slurm, ...), one for each GPU with CUDA_VISIBLE_DEVICES set, and name the
# scheduler's machine in --scheduler. Only this process reads the cube and writes the result.
# Needs: pip install 'mzsr[distributed]'
set -euo pipefail
address=tcp://127.0.0.1:${PORT:-8786}
folder=$(mktemp -d)
stop() {
  kill $(jobs -p) 2>/dev/null || true
  wait
  rm -rf "$folder"
}
trap stop EXIT

dask scheduler --host 127.0.0.1 --port "${PORT:-8786}" --no-dashboard 2>"$folder/scheduler.log" &
for _ in $(seq "${WORKERS:-2}"); do
  dask worker "$address" --host 127.0.0.1 --nthreads 1 --no-dashboard \
    --local-directory "$folder" 2>>"$folder/workers.log" &
done
mzsr upscale "$@" --scheduler "$address"
