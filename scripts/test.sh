#!/usr/bin/env bash
# Installs into .venv if needed, then lints, checks types and runs every test; extra arguments go to pytest.
#
# usage: scripts/test.sh [ARGUMENTS OF pytest]
#
# examples:
#   scripts/test.sh
#   scripts/test.sh tests/vlm/test_images.py -k png
set -euo pipefail

case "${1:-}" in
    --help | -h)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
        exit 0 ;;
esac
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

export HF_HUB_OFFLINE=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
ruff check .
ruff format --check .
pyrefly check
exec python -m pytest --numprocesses 2 --dist loadfile --durations=10 "$@"
