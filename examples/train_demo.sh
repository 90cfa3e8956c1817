#!/usr/bin/env bash
# Trains the chain that ships with diladiff on the text that ships with it, on a GPU or on the CPU.
#
#   bash examples/train_demo.sh               # into ./demo, until all is done
#   MINUTES=9 bash examples/train_demo.sh     # a piece; the same command goes on
#
# Settings: the preset `demo` and examples/demo.toml (another file: CONFIG=...). Exit status 75: not done yet.
# The bundle takes drawn latents times 0.7 (LATENT_SCALE=...; `diladiff bench --latent-scale` finds the best factor).
set -euo pipefail
config=$(realpath "${CONFIG:-$(dirname "$0")/demo.toml}")
out=${OUT:-demo}
deadline=$(($(date +%s) + ${MINUTES:-1000000} * 60)) # without MINUTES some years
mkdir -p "$out" && cd "$out"

pause() { echo "time is up; the same command goes on" >&2 && exit 75; }
seconds_left() { echo $((deadline - $(date +%s))); }
finished() {
  [ -f "$1/config.json" ] && diladiff info "$1" 2>/dev/null |
    python3 -c 'import json, sys; r = json.load(sys.stdin); p = r["progress"]; sys.exit(p.get("validated_step", p["step"]) < r["training"]["max_steps"])'
}
train() { # FOLDER COMMAND...
  local folder=$1
  if finished "$folder"; then return; fi
  [ "$(seconds_left)" -gt 0 ] || pause
  shift
  [ -z "${MINUTES:-}" ] || set -- "$@" --max-minutes "$(seconds_left | awk '{print $1 / 60}')" # the artifact records it
  diladiff "$@" --preset demo --config "$config" --out "$folder"
  finished "$folder" || pause
}

[ -f data/config.json ] || diladiff encode --preset demo --config "$config" --out data
train ckpt/mdlm train-mdlm --data data
train ckpt/ae train-ae --base ckpt/mdlm
if [ ! -f latents/config.json ]; then # cut off, it goes on with the next shard
  [ "$(seconds_left)" -gt 0 ] || pause
  timeout "$(seconds_left)" diladiff encode --ae ckpt/ae --out latents || { [ $? -eq 124 ] && pause || exit 1; }
fi
train ckpt/prior train-prior --ae ckpt/ae --latents latents
train ckpt/student distill --prior ckpt/prior --latents latents
diladiff export --model ckpt/student --latent-scale "${LATENT_SCALE:-0.7}" --out bundle # as what ships, whose prior has it too
