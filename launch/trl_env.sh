#!/usr/bin/env bash
# Makes .venv-trl, the environment in which `python -m mede2_jax.benchmark --peer=trl` runs TRL beside this package: torch
# (its CPU build where there is no NVIDIA GPU), transformers, peft and TRL. Reused when called again.
#
#   bash launch/trl_env.sh
#   python -m mede2_jax.benchmark --model=DIR --stage=dpo --peer=trl
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh

make_environment trl
