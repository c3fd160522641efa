#!/usr/bin/env bash
# Small wrong changes to a copy of the project, one at a time (tests/mutants/*.yaml): each must make its test fail. In .venv-test, on CPU.
#
#   bash launch/mutants.sh               # all of them
#   bash launch/mutants.sh train models  # of two rooms, which are files of tests/mutants/
#   bash launch/mutants.sh --list        # what there is; --help tells the rest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh

make_environment test
export JAX_PLATFORMS=cpu
exec "$ENV_PYTHON" tests/mutants/mutant_run.py "$@"
