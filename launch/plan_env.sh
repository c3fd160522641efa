#!/usr/bin/env bash
# Makes .venv-plan-tpu or .venv-plan-gpu, in which `python -m mede2_jax.plan` compiles for TPU slices or for GPUs that are not here:
# this package with libtpu (about 1 GB), or with JAX's CUDA plugin, nvcc, nvvm and cuDNN (about 3 GB). Reused when called again.
#
#   bash launch/plan_env.sh tpu
#   .venv-plan-tpu/bin/python -m mede2_jax.plan --model=DIR --topology=v5e:8x8
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh

case ${1:-} in
  tpu | gpu) make_environment "plan-$1" ;;
  *) stop "usage: bash launch/plan_env.sh tpu (or gpu), got '${1:-}'" ;;
esac
