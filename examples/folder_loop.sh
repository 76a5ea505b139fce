#!/usr/bin/env bash
# Every cube of a folder, JOBS at a time, each in a process of its own; run it again to go on.
#   bash examples/folder_loop.sh CUBES OUT --scale 4
# One after the other, `mzsr upscale CUBES -o OUT/` does the same.
set -euo pipefail
cubes=$1 out=$2
shift 2
jobs=${JOBS:-1}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( ($(nproc) + jobs - 1) / jobs ))}
mkdir -p "$out"
shopt -s nullglob
files=("$cubes"/*.{mat,h5,hdf5,npy,npz,zarr,tif,tiff,png,jpg})
[ ${#files[@]} -gt 0 ] || { echo "$cubes: holds no cubes" >&2; exit 3; }
# A cube that fails does not stop the others; xargs then exits with 123.
printf '%s\0' "${files[@]}" | xargs -0 -P "$jobs" -I{} mzsr upscale {} -o "$out/" --resume "$@"
