#!/usr/bin/env bash
# All stages on the text that ships with the package, then a table of what they reach: about 20 minutes on two CPU cores.
#
#   bash examples/quickstart.sh            # into ./quickstart
#   SCALE=5 bash examples/quickstart.sh    # five times the steps: the model that ships with the package
#
# Cut off, the same command continues where it was.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-quickstart}
scale=${SCALE:-1}
samples=${SAMPLES:-256}
mkdir -p "$out" && cd "$out"

[ -f data/config.json ] || diladiff encode --preset demo --out data

# A finished stage is left alone; an unfinished one goes on.
stage() { # NAME STEPS COMMAND...
  local name=$1 steps=$2; shift 2
  if diladiff info "ckpt/$name" 2>/dev/null | grep -q "\"step\": $steps[,}]"; then
    echo "ckpt/$name is finished" >&2
  else
    diladiff "$@" --preset demo --max-steps "$steps" --out "ckpt/$name"
  fi
}
stage mdlm    $((1000 * scale)) train-mdlm --data data
stage ae      $((400 * scale))  train-ae --base ckpt/mdlm
diladiff encode --ae ckpt/ae --out latents
stage prior   $((1500 * scale)) train-prior --ae ckpt/ae --latents latents
stage student $((400 * scale))  distill --prior ckpt/prior --latents latents

# Two texts from each latent, so that the report can say whether the latent steers the text.
rm -f samples.jsonl seconds.tsv
draw() { # NAME DECODE_STEPS OPTIONS...
  local name=$1 decode_steps=$2 begin=$EPOCHREALTIME; shift 2
  diladiff sample --model "ckpt/$name" --n "$samples" --decode-steps "$decode_steps" "$@" >>samples.jsonl
  printf 'ckpt/%s\t%s\t%s\n' "$name" "$decode_steps" "$(echo "$begin $EPOCHREALTIME" | awk '{print $2 - $1}')" >>seconds.tsv
}
for decode_steps in 4 8 16 32; do
  draw mdlm    $decode_steps
  draw prior   $decode_steps --steps 50 --decodings 2
  draw student $decode_steps --steps 2 --decodings 2
done
diladiff eval samples.jsonl >figures.jsonl
python "$here/summary.py" figures.jsonl seconds.tsv
