#!/usr/bin/env bash
# From a fresh clone to a trained model: makes .venv, then runs DPO on the sample data with a tiny random model, on CPU, in minutes.
#
#   bash launch/quickstart.sh                # the embedded default
#   bash launch/quickstart.sh --max_steps=5  # any flag of `python -m mede2_jax.train` may follow
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh

make_environment train
# A second call starts the demonstration over, unless told to resume it or to write elsewhere.
run=(--stage=dpo)
case " $* " in *" --resume"* | *" --output"*) ;; *) run+=(--overwrite) ;; esac
say "python -m mede2_jax.train ${run[*]} $*"
exec "$ENV_PYTHON" -m mede2_jax.train "${run[@]}" "$@"
