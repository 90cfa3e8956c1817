#!/usr/bin/env bash
# The published configuration on OpenWebText, for one node of GPUs (set GPUS; several nodes: see `accelerate launch --help`,
# in a folder that all of them share).
# Given again, it goes on where it was cut off; finished stages are left as they are.
# Where the paper is silent or its law leaves the ends of time out, the preset is ours: cross-attention starts local
# (train-ae --no-local-attention), priors have rotary positions (train-prior --positions learned), half of distillation's
# times are uniform and 15 % end at 0 (distill --p-uniform 0 --p-zero 0); in parentheses what turns it off. More of what
# differs, such as the times of a student's steps, is in docs/differences.md.
set -euo pipefail
gpus=${GPUS:-8}
# Any data set on the Hub with a `text` field, or files: OpenWebText itself needs a copy without a loading script.
text=${TEXT:-Skylion007/openwebtext@refs/convert/parquet}
run() { accelerate launch --multi_gpu --num_processes "$gpus" -m diladiff_cli "$@"; }

# The last 100,000 of 8 million documents are held out as published; in the preset it is 1.25 % of them, chosen by number.
[ -f data/config.json ] || diladiff encode "$text" --preset owt --out data
run train-mdlm  --preset owt --data data
run train-ae    --preset owt --base ckpt/mdlm
run train-prior --preset owt --ae ckpt/ae
run distill     --preset owt --prior ckpt/prior --grad-accum 8  # micro-batches of 32 on 8 GPUs

run sample --model ckpt/prior   --solver euler --steps 200 --decode-steps 1024 --n 1024 --decodings 2 --out ladiff.jsonl
run sample --model ckpt/student --steps 5   --decode-steps 64   --n 1024 --decodings 2 --out diladiff.jsonl
diladiff eval ladiff.jsonl diladiff.jsonl --scorer openai-community/gpt2-large
