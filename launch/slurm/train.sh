#!/usr/bin/env bash
# Trains on several machines under SLURM: one process on each, with all its GPUs.
#
#   sbatch --nodes=4 launch/slurm/train.sh --config=… --model=… --data.path=… --output=runs/dpo --mesh.data=4
#   bash launch/slurm/train.sh --dry_run …   # prints what the job would run
#
# --mesh.data=NODES keeps the parameters' shards inside a machine, where the links are fast, if they fit there; otherwise leave it 1.
# The run directory, the model and the data lie on a file system that all machines share. --resume is added here: a job that is
# requeued, preempted or submitted again goes on from its last checkpoint.
#SBATCH --job-name=mede2-train
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@180
#SBATCH --output=%x-%j.log
set -euo pipefail
# SLURM runs a copy of this file from its spool folder: the checkout is where sbatch was called.
root=${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}
[ -f "$root/launch/train_environment.sh" ] || {
  echo "error: no checkout of mede2_jax in $root: call sbatch in its root" >&2
  exit 2
}
# shellcheck source=launch/train_environment.sh
source "$root/launch/train_environment.sh"
take_dry_run "$@"
# --kill-on-bad-exit: a process that ends with an error leaves no other waiting. NCCL finds the network by itself; where it
# takes a slow one, set NCCL_SOCKET_IFNAME (and NCCL_IB_HCA) before sbatch.
# --signal=TERM goes to srun's tasks three minutes before the time limit: they agree on a step, save, and exit with 0.
run_in "$root" srun --kill-on-bad-exit=1 --label "$(train_python "$root")" -m mede2_jax.train \
  ${ARGUMENTS[@]+"${ARGUMENTS[@]}"} --resume --distributed.launcher=slurm
