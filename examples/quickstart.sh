#!/usr/bin/env bash
# All stages on the text that ships with the package, then a table of what they reach: about 20 minutes on two CPU cores.
#
#   bash examples/quickstart.sh    # into ./quickstart
#   MDLM_STEPS=4000 AE_STEPS=1200 PRIOR_STEPS=3600 STUDENT_STEPS=1000 bash examples/quickstart.sh    # the model that ships
#
# Cut off, the same command continues where it was.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-quickstart}
samples=${SAMPLES:-128}
mkdir -p "$out" && cd "$out"

[ -f data/config.json ] || diladiff encode --preset demo --out data

steps() { [ -z "${!1:-}" ] || echo --max-steps "${!1}"; } # of the preset unless the variable says otherwise

# Finished stages are left as they are, unfinished ones go on.
diladiff train-mdlm --preset demo $(steps MDLM_STEPS) --data data
diladiff train-ae --preset demo $(steps AE_STEPS) --base ckpt/mdlm
diladiff encode --ae ckpt/ae --out latents
diladiff train-prior --preset demo $(steps PRIOR_STEPS) --ae ckpt/ae --latents latents
diladiff distill --preset demo $(steps STUDENT_STEPS) --prior ckpt/prior --latents latents

# Two texts from each latent, so that the report can say whether the latent steers the text.
rm -f samples.jsonl seconds.tsv
draw() { # NAME DECODE_STEPS OPTIONS...
  local name=$1 decode_steps=$2 begin=$SECONDS; shift 2
  diladiff sample --model "ckpt/$name" --n "$samples" --decode-steps "$decode_steps" "$@" >>samples.jsonl
  printf 'ckpt/%s\t%s\t%s\n' "$name" "$decode_steps" "$((SECONDS - begin))" >>seconds.tsv
}
for decode_steps in 4 8 16 32; do
  draw mdlm    $decode_steps
  draw prior   $decode_steps --steps 50 --decodings 2
  draw student $decode_steps --steps 2 --decodings 2
done
diladiff eval samples.jsonl --precision bf16 --batch-size 32 >figures.jsonl
python "$here/summary.py" figures.jsonl seconds.tsv
