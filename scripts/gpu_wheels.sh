#!/usr/bin/env bash
# Gathers into DIR what a GPU machine without a network lacks of this project's requirements, as wheels for Python 3.12
# on x86-64, and prints their sizes. It needs PyPI.
#
# usage: scripts/gpu_wheels.sh [DIR]      default DIR: .whl, about 22 MiB with bitsandbytes
#
# DIR changes only once all are gathered: they are moved there, and older wheels of the same packages go.
#
# examples:
#   scripts/gpu_wheels.sh
#   scripts/gpu_wheels.sh /tmp/wheels
#
# The machine is taken to have torch, timm, accelerate, peft, numpy, huggingface_hub, tokenizers, safetensors, psutil,
# pyarrow and what these need. There:
#
#   python3 -m pip install -q --no-index --no-deps --target /tmp/site DIR/*.whl
#   PYTHONPATH=/tmp/site:$PWD HF_HUB_OFFLINE=1 python3 scripts/gpu_check.py --out OUT
set -euo pipefail

case "${1:-}" in
    --help | -h)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
        exit 0 ;;
    -*) echo "error: unknown argument $1 (see --help)" >&2; exit 2 ;;
esac
mkdir -p "${1:-.whl}"
out="$(cd "${1:-.whl}" && pwd)" python="${PYTHON:-python3}"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
gathered="$scratch/gathered" whole="$scratch/whole"
mkdir "$gathered" "$whole"

# The versions that are installed here, with which the tests have passed; the newest of what is not.
version_of() { "$python" -c 'import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))' "$1" 2>/dev/null || true; }
platforms=()
for tag in manylinux_2_39 manylinux_2_35 manylinux_2_34 manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17; do
    platforms+=(--platform "${tag}_x86_64")
done
platforms+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)
download() { # NAME FOLDER
    local version
    version="$(version_of "$1")"
    "$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        "${platforms[@]}" -d "$2" "$1${version:+==$version}"
}

for name in transformers datasets dill multiprocess braceexpand gguf pydantic pydantic-core annotated-types \
    typing-inspection; do
    download "$name" "$gathered"
done
# hjson has tags that pip takes for no platform in some versions.
download hjson "$gathered" || "$python" -m pip wheel -q --no-deps -w "$gathered" hjson
# DeepSpeed has no wheel on PyPI. Without compiled ops it is pure Python; what it wants of them it builds on first use.
version="$(version_of deepspeed)"
DS_BUILD_OPS=0 DS_ACCELERATOR="${DS_ACCELERATOR:-cpu}" "$python" -m pip wheel -q --no-deps --no-build-isolation \
    -w "$gathered" "deepspeed${version:+==$version}"

# Of bitsandbytes' libraries, one for each CUDA, only the CPU's and CUDA 13.0's are kept: 3 MiB of 41.
download bitsandbytes "$whole"
"$python" - "$whole"/bitsandbytes-*.whl "$gathered" <<'PYTHON'
import sys
import zipfile
from pathlib import Path

source, keep = Path(sys.argv[1]), ("libbitsandbytes_cpu.so", "libbitsandbytes_cuda130.so")
target = Path(sys.argv[2]) / source.name
with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
    for item in old.infolist():
        name = Path(item.filename).name
        if not name.startswith("libbitsandbytes_") or name in keep:
            new.writestr(item, old.read(item))
PYTHON

cd "$gathered"
ls -l --block-size=1 | awk 'NR > 1 {printf "%8.2f MiB  %s\n", $5 / 1048576, $9}' | sort -rn
du -cb -- *.whl | awk 'END {printf "%8.2f MiB  together\n", $1 / 1048576}'

for wheel in *.whl; do
    mv "$wheel" "$out/"
    for other in "$out/${wheel%%-*}"-*.whl; do # a wheel's name has no dash before its version
        [ "$other" = "$out/$wheel" ] || rm "$other"
    done
done
