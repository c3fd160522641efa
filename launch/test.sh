#!/usr/bin/env bash
# The checks of this repository, on a CPU: lint, format, types, import layers, tests. docs/development.md says what runs where.
#
#   bash launch/test.sh                    # what needs .venv-test alone and is quick: minutes
#   bash launch/test.sh --all              # everything: also the slow tests, and those with real vLLM, TRL and the compilers of TPUs and
#                                          # GPUs, in environments of their own (about 10 GB in all)
#   bash launch/test.sh tests/train -x     # other arguments go to pytest, and nothing else runs
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh

# Two files at a time, since a file's tests share their runs. More would want more memory than a laptop has.
# Of a worker that crashes, another begins its file again, so a test that crashes would do so as often as workers are replaced.
WORKERS=(-n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart=2)
OTHERS=(vllm trl plan-tpu plan-gpu label-studio)

# In the background, while tests that need none of them run.
make_others() {
  local kind
  for kind in "${OTHERS[@]}"; do make_environment "$kind"; done
}

lint() {
  say "ruff check"
  "$ENV_PYTHON" -m ruff check .
  say "ruff format --check"
  "$ENV_PYTHON" -m ruff format --check .
  say "mypy"
  "$ENV_PYTHON" -m mypy
  say "lint-imports"
  "${ENV_PYTHON%/python}/lint-imports"
}

run_pytest() {
  say "pytest $*"
  "$ENV_PYTHON" -m pytest "$@"
}

# The environments come without bytecode. Where none may be written, each of the many processes here compiles all that it imports anew:
# 7 s for a command, 60 s for a vLLM server.
unset PYTHONDONTWRITEBYTECODE
make_environment test
export JAX_PLATFORMS=cpu
if [ $# -eq 0 ]; then
  lint
  run_pytest "${WORKERS[@]}" -m "not slow and not environment"
elif [ "$1" = --all ]; then
  shift
  log=$(mktemp)
  make_others >"$log" 2>&1 &
  export MEDE2_TEST_MAKER=$!
  trap 'kill "$MEDE2_TEST_MAKER" 2>/dev/null || true; rm -f "$log"' EXIT
  make_chromium &
  chromium=$!
  lint
  wait "$chromium"
  failed=0
  run_pytest "${WORKERS[@]}" "$@" || failed=$?
  wait "$MEDE2_TEST_MAKER" || { cat "$log" && stop "an environment could not be made"; }
  [ "$failed" -eq 0 ] || exit "$failed"
  say "fuzz, the same inputs every time"
  bash launch/fuzz.sh --runs=500 --workers=2 --seed=1 # so many, not so long: what a fast machine reaches, a slow one does too
else
  run_pytest "$@"
fi
