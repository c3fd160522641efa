#!/usr/bin/env bash
# Every check of this repository, in its own environment (.venv-test): lint, format, types, import layers, tests. On CPU.
# Tests that serve a model do so with real vLLM, those that compare with TRL run it, and those that plan compile with the compilers
# of TPUs and GPUs: from .venv-vllm, .venv-trl, .venv-plan-tpu and .venv-plan-gpu (about 10 GB in all).
#
#   bash launch/test.sh                    # all of it
#   bash launch/test.sh --few              # with .venv-test alone, and without the tests that need another environment
#   bash launch/test.sh -k tokenizer -x    # arguments go to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh

few=
arguments=()
for argument in "$@"; do
  if [ "$argument" = --few ]; then few=yes; else arguments+=("$argument"); fi
done
set -- ${arguments[@]+"${arguments[@]}"}

for kind in vllm trl plan-tpu plan-gpu; do
  variable=MEDE2_TEST_$(tr a-z- A-Z_ <<<"$kind")
  if [ -n "$few" ]; then
    export "$variable="
  else
    make_environment "$kind"
    export "$variable=$PWD/.venv-$kind"
  fi
done
make_environment test
export JAX_PLATFORMS=cpu
say "ruff check"
"$ENV_PYTHON" -m ruff check .
say "ruff format --check"
"$ENV_PYTHON" -m ruff format --check .
say "mypy"
"$ENV_PYTHON" -m mypy
say "lint-imports"
"${ENV_PYTHON%/python}/lint-imports"
# All of it: two at a time, a file each, since a file's tests share their runs. More would want more memory than a laptop has.
[ $# -gt 0 ] || set -- -n 2 --dist loadfile --no-loadscope-reorder
say "pytest $*"
exec "$ENV_PYTHON" -m pytest "$@"
