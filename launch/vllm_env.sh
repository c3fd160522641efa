#!/usr/bin/env bash
# Makes .venv-vllm, the environment in which vLLM serves model directories: vLLM, this package as its plugin, no JAX.
# With an NVIDIA GPU it is vLLM as released, without one its CPU build. Reused when called again.
#
#   bash launch/vllm_env.sh
#   .venv-vllm/bin/vllm serve runs/sft/model --load-format orbax
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh

make_environment vllm
