#!/usr/bin/env bash
# Every check of this repository, in its own environment (.venv-test): lint, format, types, import layers, tests. On CPU.
#
#   bash launch/test.sh                    # all of it
#   bash launch/test.sh -k tokenizer -x    # arguments go to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh

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
say "pytest $*"
exec "$ENV_PYTHON" -m pytest "$@"
