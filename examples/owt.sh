#!/usr/bin/env bash
# The published configuration on OpenWebText, for one node of GPUs (set GPUS; several nodes: see `accelerate launch --help`).
# Every command continues where it was cut off when it is given again.
set -euo pipefail
gpus=${GPUS:-8}
run() { accelerate launch --multi_gpu --num_processes "$gpus" -m diladiff_cli "$@"; }

diladiff encode Skylion007/openwebtext --preset owt --valid-share 0.0125 --out data
# Micro-batches of 64 sequences of 1,024 tokens for a GPU of 80 GB; the global batch is the preset's.
run train-mdlm  --preset owt --data data --grad-accum 1
run train-ae    --preset owt --base ckpt/mdlm --features google-bert/bert-base-uncased
run train-prior --preset owt --ae ckpt/ae
run distill     --preset owt --prior ckpt/prior --grad-accum 8

run sample --model ckpt/prior   --steps 200 --decode-steps 1024 --n 1024 --decodings 2 --out ladiff.jsonl
run sample --model ckpt/student --steps 5   --decode-steps 64   --n 1024 --decodings 2 --out diladiff.jsonl
diladiff eval ladiff.jsonl diladiff.jsonl --scorer openai-community/gpt2-large
