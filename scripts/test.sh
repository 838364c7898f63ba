#!/usr/bin/env bash
# Installs into .venv if needed, then lints, checks types and runs every test; extra arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

# A browser for the tests of the page; without one they are skipped, and say why.
if ! command -v chromium > /dev/null && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    { apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium; } > /dev/null 2>&1 \
        || echo "no Chromium could be installed: the tests of vlm web in a browser are skipped"
fi

export HF_HUB_OFFLINE=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
ruff check .
ruff format --check .
pyrefly check
python -m pytest --durations=10 "$@"
