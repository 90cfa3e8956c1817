#!/usr/bin/env bash
# The three models of one chain over decoding steps and temperatures, compared at equal entropy.
#
#   bash examples/frontier.sh                   # the chain of examples/quickstart.sh
#   CHAIN=ckpt OUT=figures bash examples/frontier.sh
#
# CHAIN holds the folders mdlm, ae, prior and student; SAMPLES, TEMPERATURES and DECODE_STEPS say what is drawn.
# Files of samples are kept: cut off, the same command goes on.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
chain=${CHAIN:-quickstart/ckpt}
out=${OUT:-frontier}
n=${SAMPLES:-512}
mkdir -p "$out"

draw() { # NAME OPTIONS...
  local name=$1; shift
  local file="$out/${name}_$(echo "$*" | tr -d - | tr ' ' '_').jsonl"
  [ -f "$file" ] || diladiff sample --model "$chain/$name" --n "$n" --precision bf16 --out "$file" "$@"
}

for temperature in ${TEMPERATURES:-1.0 0.9 0.8}; do
  for decode_steps in ${DECODE_STEPS:-4 8 16 32}; do
    options="--decode-steps $decode_steps --temperature $temperature"
    draw mdlm $options
    draw student $options --steps 2 --decodings 2
    draw student $options --steps 5 --decodings 2
    draw prior $options --steps 200 --decodings 2
    draw ae $options --decodings 2
  done
done
diladiff eval "$out"/*_*.jsonl --precision bf16 --batch-size 32 >"$out/figures.jsonl"
python "$here/summary.py" "$out/figures.jsonl" "$@"
python "$here/summary.py" "$out/figures.jsonl" --at-entropy "$@"
