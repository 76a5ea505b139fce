#!/usr/bin/env bash
# Sets up a virtual environment, lints, checks types and runs the tests:  bash tests/run.sh [PYTEST ARGUMENTS]
# MZSR_VENV names another folder for the environment, PYTHON another interpreter (3.11 or newer).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${MZSR_VENV:-.venv}
python=${PYTHON:-python3}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet -c .ci/constraints.txt -e ".[test]"
"$venv/bin/ruff" check .
"$venv/bin/mypy"
exec "$venv/bin/python" -m pytest "$@"
