#!/usr/bin/env bash
# Fuzzing: every parser of this package gets inputs that are almost right, for some minutes. Status 1 if one crashed.
#
#   bash launch/fuzz.sh                                # one minute
#   bash launch/fuzz.sh 10 --workers=2                 # ten minutes, two processes
#   bash launch/fuzz.sh 1 --target=records --seed=7    # one parser; the same inputs again
#   bash launch/fuzz.sh --runs=1000                    # so many inputs of each, however long it takes
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh

minutes=1
if [[ ${1-} =~ ^[0-9.]+$ ]]; then
  minutes=$1
  shift
fi
make_environment test
export JAX_PLATFORMS=cpu
exec "$ENV_PYTHON" tests/fuzz/fuzz_run.py --minutes="$minutes" "$@"
