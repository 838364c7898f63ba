#!/usr/bin/env bash
# Installs into .venv where needed, then lints and runs every test; extra arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

export HF_HUB_OFFLINE=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
ruff check .
ruff format --check .
python -m pytest --durations=10 "$@"
