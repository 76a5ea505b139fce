#!/usr/bin/env bash
# From nothing to a super-resolved cube: environment, install, upscale, picture, table.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${MZSR_VENV:-.venv-quickstart}
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet -c .ci/constraints.txt ".[figures]"
mzsr="$venv/bin/mzsr"
out=examples/out
mkdir -p "$out"

"$mzsr" upscale examples/example_cube.mat --scale 2 --steps 10 -o "$out/mzsr.mat" --overwrite
for method in bicubic spline; do
  "$mzsr" upscale examples/example_cube.mat --scale 2 --method "$method" -o "$out/$method.mat" --overwrite --quiet
done
"$venv/bin/python" examples/figure.py examples/example_cube.mat "$out/bicubic.mat" "$out/mzsr.mat" \
  examples/example_truth.mat "$out/quickstart.png"
"$mzsr" evaluate "$out/bicubic.mat" "$out/spline.mat" "$out/mzsr.mat" examples/example_truth.mat
