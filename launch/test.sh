#!/usr/bin/env bash
# Every check of this repository, in its own environment (.venv-test): lint, format, types, import layers, tests. On CPU.
# Tests that serve a model do so with real vLLM, from .venv-vllm.
#
#   bash launch/test.sh                    # all of it
#   bash launch/test.sh --no-vllm          # without .venv-vllm and the tests that need it
#   bash launch/test.sh -k tokenizer -x    # arguments go to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh

with_vllm=yes
arguments=()
for argument in "$@"; do
  if [ "$argument" = --no-vllm ]; then with_vllm=no; else arguments+=("$argument"); fi
done
set -- ${arguments[@]+"${arguments[@]}"}

if [ "$with_vllm" = yes ]; then
  make_environment vllm
  export MEDE2_TEST_VLLM=$PWD/.venv-vllm
else
  export MEDE2_TEST_VLLM=
fi
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
[ $# -gt 0 ] || set -- -n 2 --dist loadfile
say "pytest $*"
exec "$ENV_PYTHON" -m pytest "$@"
