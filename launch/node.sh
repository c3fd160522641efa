#!/usr/bin/env bash
# Trains on one machine with GPUs (or whatever JAX finds): one process with all of them.
#
#   bash launch/node.sh --config=configs/dpo_qwen2_5_vl_7b_full.yaml --model=runs/sft/model --data.path=pairs.jsonl --output=runs/dpo
#   bash launch/node.sh --dry_run …   # prints what would run
#
# Options go to `python -m mede2_jax.train`. The same line with --resume goes on after a kill; the first time it starts afresh.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/train_environment.sh
source "$root/launch/train_environment.sh"
take_dry_run "$@"
run_in "$root" "$(train_python "$root")" -m mede2_jax.train ${ARGUMENTS[@]+"${ARGUMENTS[@]}"}
