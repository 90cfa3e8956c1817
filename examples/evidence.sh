#!/usr/bin/env bash
# Measures a finished chain of examples/train_demo.sh, or the one that ships, for the tables that docs/build.py makes.
#
#   CHAIN=shipped SCORER=smollm2 EMBEDDER=sentence-transformers/all-MiniLM-L6-v2 bash examples/evidence.sh    # into ./evidence
#   cp evidence/*.json evidence/*.jsonl docs/evidence/ && python docs/build.py
#
# Into an empty folder first. Cut off, the same command goes on: finished points and files are not made again.
# Speeds are measured as well: nothing else should run. SEEDS=0 takes less than half of the time, and has no MAUVE of more than 352 texts.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
chain=${CHAIN:-demo}
out=${OUT:-evidence}
seeds=${SEEDS:-0,1,2}
scale=${LATENT_SCALE:-0.7} # of prior and student
embedder=${EMBEDDER:-sentence-transformers/all-MiniLM-L6-v2}
models=$chain/ckpt
data=()
mkdir -p "$out"
if [ "$chain" = shipped ]; then # a bundle, which comes without its data set
  bundle=$(python3 -c 'from diladiff_cli.shipped import SHIPPED_MODEL; print(SHIPPED_MODEL)')
  models=$out/shipped data=(--data "$out/data")
  mkdir -p "$models"
  ln -sfn "$bundle" "$models/student"
  for stage in mdlm ae prior; do ln -sfn "$bundle/parents/$stage" "$models/$stage"; done
  [ -f "$out/data/config.json" ] || diladiff encode --preset demo --tokenizer "$bundle" --out "$out/data"
fi

into() { # FILE COMMAND...: whole or not at all
  if [ ! -f "$out/$1" ]; then
    "${@:2}" >"$out/$1.part" # no `&&`: a function left of it would go on after a failure
    mv "$out/$1.part" "$out/$1"
  fi
}
chain_information() { for stage in mdlm ae prior student; do diladiff info "$models/$stage"; done | python3 -c '
import json, sys
text, found, decoder = sys.stdin.read(), [], json.JSONDecoder()
kept = ("stage", "hash", "parameters", "network", "training", "progress", "validation")
while text.strip():
    value, end = decoder.raw_decode(text := text.lstrip())
    found.append({name: value[name] for name in kept} | {"length": value["data"]["length"]})
    text = text[end:]
print(json.dumps(found, indent=1))'; }
bench() { diladiff bench --latent-scale 1 "$@" ${data[@]+"${data[@]}"} --scorer "${SCORER:-auto}" --out "$out/bench"; }
all_samples() {
  diladiff sample --model "$models/mdlm" --decode-steps 64 --n 30
  diladiff sample --model "$models/prior" --steps 5 --decode-steps 16 --latent-scale "$scale" --n 30
  diladiff sample --model "$models/student" --steps 2 --decode-steps 16 --latent-scale "$scale" --n 30
}
powers=4,8,16,32,64
many=(--n 352 --seeds "$seeds") # of three seeds together more than 1,000, for MAUVE
one=(--n 352 --seeds "${seeds%%,*}")
few=(--n 128 --seeds "$seeds")
student=(--model "$models/student" --steps 2)
prior=(--model "$models/prior" --prior-steps 5)
temperatures=1.0,0.85,0.7
whole_frontier() {
  bench "${student[@]}" --decode-steps "$powers" --against "$models/mdlm" --temperatures "$temperatures" "${many[@]}"
  bench --model "$models/mdlm" --decode-steps "$powers" --temperatures 0.92 "${many[@]}" # between, where the curve bends
  bench --model "$models/mdlm" --decode-steps "$powers" --temperatures 1.1 "${one[@]}" # for other entropies
  bench "${prior[@]}" --decode-steps "$powers" --temperatures "$temperatures" "${many[@]}"
}
scales() {
  local few_steps=(--decode-steps 4,16,64 --temperatures 0.85 "${one[@]}")
  bench "${student[@]}" --latent-scale 1,0.8,0.7,0.6 "${few_steps[@]}"
  bench "${prior[@]}" --latent-scale 1,0.8,0.7,0.6 "${few_steps[@]}"
}
smaller_latents() { # by the factor that is best there
  bench "${student[@]}" --latent-scale "$scale" --decode-steps "$powers" --temperatures 0.85 "${many[@]}"
  bench "${student[@]}" --latent-scale "$scale" --decode-steps "$powers" --temperatures 1.0 "${one[@]}"
  bench "${prior[@]}" --latent-scale "$scale" --decode-steps "$powers" --temperatures 0.85 "${many[@]}"
}
ten_steps() { # of the prior, guided, at four times the cost of five
  local ten=(--model "$models/prior" --prior-steps 10 --guidance 1 --latent-scale "$scale")
  bench "${ten[@]}" --decode-steps "$powers" --temperatures 0.85 "${many[@]}"
}
taking_over() {
  bench "${student[@]}" --latent-scale "$scale" --latent-until 0.5 --decode-steps "$powers" --temperatures 0.85 "${many[@]}"
}
latent_steps() {
  bench --model "$models/prior" --prior-steps 5,10,50,200 --decode-steps 16 "${few[@]}"
  bench --model "$models/prior" --prior-steps 200 --latent-scale 0.8 --decode-steps 16 "${few[@]}" # as small as of five
  bench --model "$models/prior" --prior-steps 5,50,200 --solver euler --decode-steps 16 "${few[@]}"
  for gamma in 0 0.4 0.8; do
    bench --model "$models/student" --steps 1,2,5 --decode-steps 16 --gamma "$gamma" "${few[@]}"
  done
}
spread_order() {
  local latents=(--latent-scale "$scale" --temperatures 0.85 "${many[@]}")
  bench --model "$models/mdlm" --decode-steps "$powers" --order spread --temperatures 1.0,0.92,0.85 "${many[@]}"
  bench "${prior[@]}" --decode-steps 4,8,16 --order spread "${latents[@]}"
  bench "${student[@]}" --decode-steps "$powers" --order spread "${latents[@]}"
  bench "${student[@]}" --decode-steps "$powers" --order spread --latent-until 0.5 "${latents[@]}"
}
corrected() {
  local base=(--model "$models/mdlm" --order spread)
  bench "${base[@]}" --corrector 0.5 --decode-steps "$powers" --temperatures 0.92,0.85 "${many[@]}"
  bench "${base[@]}" --corrector 0.25,0.75 --decode-steps 16,64 --temperatures 0.85 "${one[@]}"
  bench "${student[@]}" --corrector 0.5 --decode-steps "$powers" --order spread --latent-until 0.5 \
    --latent-scale "$scale" --temperatures 0.85 "${many[@]}"
}
throughput() { # of all ways in the pictures in turn, three times, since machines are not always equally fast
  for seed in 0 1 2; do all_ways "$seed" >/dev/null; done
  all_ways 0,1,2
}
all_ways() { # SEEDS: without figures that cost time
  local seeds_of_all=$1
  time_of() { # as `bench`, which has a folder of finished points
    diladiff bench "$@" ${data[@]+"${data[@]}"} --scorer none --temperatures 0.85 --n 128 --seeds "$seeds_of_all" --out "$out/throughput"
  }
  local spread=(--decode-steps "$powers" --order spread) over=(--latent-scale "$scale" --latent-until 0.5)
  time_of --model "$models/mdlm" --decode-steps "$powers"
  time_of "${student[@]}" --latent-scale "$scale" --decode-steps "$powers"
  time_of "${student[@]}" "${over[@]}" --decode-steps "$powers"
  time_of "${prior[@]}" --latent-scale "$scale" --decode-steps "$powers"
  time_of --model "$models/mdlm" "${spread[@]}"
  time_of --model "$models/mdlm" "${spread[@]}" --corrector 0.5
  time_of "${student[@]}" --latent-scale "$scale" "${spread[@]}"
  time_of "${prior[@]}" --latent-scale "$scale" "${spread[@]}"
  time_of "${student[@]}" "${over[@]}" "${spread[@]}"
  time_of "${student[@]}" "${over[@]}" "${spread[@]}" --corrector 0.5
}
looking_at_jumps() {
  local over=(--order spread --latent-until 0.5 --latent-scale "$scale" --temperatures 0.85)
  for what in network jump; do # few steps cost little: more texts
    bench --model "$models/student" --steps 2,3,5 --self-cond "$what" --decode-steps 4,8 "${over[@]}" \
      --n 512 --seeds "$seeds"
  done
}
surest_first() {
  bench "${student[@]}" --decode-steps 8,16,32 --order confidence --against "$models/mdlm" --temperatures 1.0 "${few[@]}"
}

into chain.json chain_information
for stage in mdlm ae prior student; do into "$stage.json" diladiff eval "$models/$stage" ${data[@]+"${data[@]}"}; done
into samples.jsonl all_samples
into throughput.jsonl throughput
into frontier.jsonl whole_frontier
into latent_scale.jsonl smaller_latents
into scales.jsonl scales
into ten_steps.jsonl ten_steps
into latent_until.jsonl taking_over
into spread.jsonl spread_order
into corrected.jsonl corrected
into latent_steps.jsonl latent_steps
into self_cond.jsonl looking_at_jumps
into orders.jsonl surest_first
into oracle.jsonl bench --model "$models/ae" --decode-steps "$powers" "${few[@]}"
into semantics.json python3 "$here/semantics.py" --model "$models/ae" ${data[@]+"${data[@]}"} --embedder "$embedder"
speed() { diladiff bench --speed --seconds "$@"; }
into speed_bf16.jsonl speed 12 --precision bf16 --lengths 128
compiled_and_not() {
  for how in --no-compile --compile; do speed 6 --precision bf16 --lengths 128 --decode-steps 16,64 "$how"; done
}
into speed_compiled.jsonl compiled_and_not
vocabularies() {
  speed 12 --precision bf16 --lengths 128 --batch-sizes 32
  speed 12 --precision bf16 --lengths 128 --batch-sizes 32 --decode-steps 16,64 --width 768 --layers 12 --top-p 1
}
into speed_vocabularies.jsonl vocabularies
into speed_fp32.jsonl speed 12 --precision fp32 --lengths 128 --batch-sizes 32 --decode-steps 16,64
