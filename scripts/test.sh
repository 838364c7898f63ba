#!/usr/bin/env bash
# Installs into .venv if needed, then lints, checks types and runs every test; extra arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

export HF_HUB_OFFLINE=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
ruff check .
ruff format --check .
pyrefly check
python -m pytest --numprocesses 2 --dist loadfile --durations=10 "$@"
