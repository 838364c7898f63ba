#!/usr/bin/env bash
# The whole job on the embedded world: captions -> encoder -> VLM -> scores beside its baselines -> a chat exchange.
set -euo pipefail

usage() {
    cat <<'EOF'
usage: scripts/quickstart.sh [--out DIR] [--seed S]

Makes .venv and installs if needed, then trains and scores everything under DIR (default runs/).
Run again, it goes on from there.

examples:
  scripts/quickstart.sh
  scripts/quickstart.sh --out /tmp/levlm --seed 1
EOF
}

out=runs seed=0
while [ $# -gt 0 ]; do
    case "$1" in
        --out | --seed)
            [ $# -ge 2 ] || { echo "error: $1 needs a value (see --help)" >&2; exit 2; }
            declare "${1#--}=$2"
            shift 2 ;;
        --help | -h) usage; exit 0 ;;
        *) echo "error: unknown argument $1 (see --help)" >&2; exit 2 ;;
    esac
done
mkdir -p "$out"
out="$(cd "$out" && pwd)"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

# Two lanes of one thread each: at these sizes two processes side by side are faster than one with two threads.
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
command -v nvidia-smi > /dev/null || export DS_ACCELERATOR=cpu # DeepSpeed would warn at each start that it looked
world="$out/world" logs="$out/logs"
mkdir -p "$logs"
started=$SECONDS
say() { printf '\n[%3d s] %s\n' $((SECONDS - started)) "$*"; }

# A shell that is told to stop leaves what runs in front of it behind. So each step has a process group (set -m), which
# is told as well, and saves its step first.
running=""
run() { # COMMAND...
    set -m
    "$@" &
    running=$!
    set +m
    wait "$running"
}
stop() { # SIGNAL EXIT_CODE
    trap '' INT TERM HUP
    [ -z "$running" ] || kill -"$1" -- "-$running" 2> /dev/null || true
    wait "$running" 2> /dev/null || true
    exit "$2"
}
trap 'stop INT 130' INT
trap 'stop TERM 143' TERM
trap 'stop HUP 129' HUP

bridge() { # NAME ENCODER
    python bridge/train.py --llm smollm2 --encoder "$2" --gqa "$world/gqa" --vqav2 "$world/vqav2" \
        --out "$out/bridge/$1" --seed "$seed" --steps 650 --batch-questions 8 --lr 5e-3
}
evaluate() { # NAME RUN [FLAGS]
    local name="$1" run="$2"
    shift 2
    python bridge/evaluate.py "$run/vlm" --gqa "$world/gqa" --vqav2 "$world/vqav2" --pope "$world/pope" \
        --vqav2-split test-dev2015 --limit-images 60 --out "$out/eval/$name" "$@"
}

say "world: drawn scenes in the files of GQA, VQAv2 and POPE"
run python scripts/make_world.py "$world" --seed "$seed"

say "lane 1: pretrain the encoder, then its connector; lane 2 (its log: $logs/lane2.log): the two baselines"
set -m # a process group of its own, so that nothing of it outlives this script
(
    set -e
    python pretrain/run.py --data "$world/captions" --out "$out/untrained" --seed "$seed" --steps 0
    bridge random "random:$out/untrained/encoder"
    evaluate random "$out/bridge/random"
    bridge blind blind
    evaluate blind "$out/bridge/blind"
) > "$logs/lane2.log" 2>&1 &
lane2=$!
set +m
trap 'kill -- -$lane2 2> /dev/null || true' EXIT
# One process: the model is tiny, and a batch of 32 cannot be shared by 3 GPUs. `--num_gpus 1` would always take GPU 0.
gpu="${CUDA_VISIBLE_DEVICES:-0}"
run deepspeed --include "localhost:${gpu%%,*}" pretrain/run.py --data "$world/captions" --out "$out/pretrain" --seed "$seed"
# deepspeed exits with 0 as well if its launch.py was killed: the run's last record counts.
[ -f "$out/pretrain/done.json" ] || { echo "error: the pretraining broke off; the same command goes on" >&2; exit 1; }

say "the connector between the frozen encoder and the frozen LLM"
run bridge pretrained "$out/pretrain/encoder"

say "scores on held-out scenes"
run evaluate pretrained "$out/bridge/pretrained"
say "the ceiling: the same LLM reads each scene's true caption in place of the image"
run evaluate oracle "$out/bridge/pretrained" --oracle "$world/captions.json"
say "what the encoder has learnt"
run python pretrain/probe.py "$out/pretrain/encoder" --task objects --data "$world/gqa"
run python pretrain/probe.py "$out/pretrain/encoder" --task retrieval --data "$world/captions/testdev-*.tar"
say "waiting for lane 2: $(tail -c 120 "$logs/lane2.log" | tr '\r' '\n' | tail -1)"
wait $lane2 || { tail -5 "$logs/lane2.log" >&2; exit 1; }
run python bridge/results.py pretrained="$out/eval/pretrained" random="$out/eval/random" blind="$out/eval/blind" \
    oracle="$out/eval/oracle" --out "$out"

say "four held-out questions of different kinds, whatever the answers are"
shown=(python scripts/show_answers.py "$world" "$out/eval/pretrained" --seed "$seed")
run "${shown[@]}" --out "$out"
IFS=$'\t' read -r image question < <("${shown[@]}" --pick)
say "a chat about the first of them that is right (if none is, about the first): $image"
echo "> $question"
run vlm chat "$out/bridge/pretrained/vlm" --image "$image" --question "$question"
say "done: $out/results.png, $out/results.md, $out/examples.png; go on with: . .venv/bin/activate; vlm chat $out/bridge/pretrained/vlm --image $image"
