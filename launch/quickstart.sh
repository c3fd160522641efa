#!/usr/bin/env bash
# From a fresh clone to a trained model: makes .venv, then runs DPO on the sample data with a tiny random model, on CPU, in minutes.
#
#   bash launch/quickstart.sh                # the embedded default, into runs/quickstart
#   bash launch/quickstart.sh --max_steps=5  # any flag of `python -m mede2_jax.train` may follow
#   bash launch/quickstart.sh --dry_run      # shows what it would train
#
# A second call starts that demonstration over. A run with --output, --config or --model is yours, and is not overwritten.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh

arguments=() stage=dpo family='' before='' is_own=yes is_resumed='' dry_run=''
for argument in "$@"; do
  case $argument in --dry_run | --dry-run) dry_run=yes && continue ;; esac
  case $before$argument in
    --stage=*) stage=${stage:+${argument#--stage=}} ;;
    --family=*) family=-${argument#--family=} ;;
    --config | --config=*) is_own='' stage='' ;;
    --output | --output=* | --model | --model=*) is_own='' ;;
    --resume*) is_resumed=yes ;;
  esac
  # A value may be the next word.
  case $argument in --stage | --family) before=$argument= ;; *) before='' ;; esac
  arguments+=("$argument")
done
run=()
if [ -n "$stage" ]; then run=(--stage=dpo); fi
if [ -n "$is_own" ]; then
  # A folder that nothing else writes to; what is no name of a stage or family, the trainer refuses.
  output=runs/quickstart
  if [ "$stage" != dpo ]; then output+=-${stage//[!a-z]/}; fi
  output+=${family//[!-a-z0-9_]/}
  run+=("--output=$output")
  if [ -z "$is_resumed" ]; then run+=(--overwrite); fi
fi
if [ -n "$dry_run" ]; then
  printf 'python -m mede2_jax.train'
  printf ' %q' ${run[@]+"${run[@]}"} ${arguments[@]+"${arguments[@]}"}
  printf '\n'
  exit
fi
make_environment train
say "python -m mede2_jax.train ${run[*]-} ${arguments[*]-}"
exec "$ENV_PYTHON" -m mede2_jax.train ${run[@]+"${run[@]}"} ${arguments[@]+"${arguments[@]}"}
