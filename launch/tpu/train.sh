#!/usr/bin/env bash
# Trains on a Cloud TPU pod slice: starts one process on each of its machines, through gcloud.
#
#   TPU=my-pod ZONE=us-east5-a bash launch/tpu/train.sh --config=… --model=/mnt/shared/m0 --data.path=… --output=/mnt/shared/runs/dpo
#   … --dry_run   # prints the gcloud command
#
# Every machine has this checkout in the same place (MEDE2_ROOT, by default ~/mede2_jax) with MEDE2_EXTRAS=tpu bash launch/quickstart.sh
# run there once, and sees the model, the data and the run directory under the same path (Filestore, or a bucket mounted by gcsfuse).
# --resume is added: the same line goes on after a preemption. PROJECT=… chooses another project than gcloud's own.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=launch/train_environment.sh
source "$here/launch/train_environment.sh"
take_dry_run "$@"
[ -n "${TPU:-}" ] || stop "set TPU to the name of the TPU VM"
[ -n "${ZONE:-}" ] || stop "set ZONE to where it is, such as us-east5-a"
root=${MEDE2_ROOT:-mede2_jax} # in the home directory of each machine, where ssh begins

# One line for a shell on the other side. JAX learns from the pod's own metadata which machine is which.
printf -v remote ' %q' ${ARGUMENTS[@]+"${ARGUMENTS[@]}"} --resume --distributed.launcher=tpu
printf -v there '%q' "$root"
remote="cd $there && JAX_COMPILATION_CACHE_DIR=\$HOME/.cache/mede2_jax/compiled exec .venv/bin/python -m mede2_jax.train$remote"
command=(gcloud compute tpus tpu-vm ssh "$TPU" "--zone=$ZONE" ${PROJECT:+"--project=$PROJECT"} --worker=all "--command=$remote")
if [ -n "$DRY_RUN" ]; then
  printf '%q ' "${command[@]}"
  printf '\n'
  exit
fi
exec "${command[@]}"
