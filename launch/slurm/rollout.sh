#!/usr/bin/env bash
# Rollouts on several machines: a SLURM array, one shard of the questions a task, each with its own vLLM server and its own file.
#
#   sbatch --array=0-7 launch/slurm/rollout.sh --model=runs/sft/model --questions=questions.jsonl --out=rollouts/mm.jsonl --n=8
#   bash launch/slurm/rollout.sh --dry_run --model=… --questions=… --out=…   # prints what this task would run
#
# Task i of n writes rollouts/mm-0000i-of-0000n.jsonl; further options go to `python -m mede2_jax.rollout`. Submit the same line again
# after a failure, a time limit or a preemption: what is in the files stays, and only what is missing is sampled. Keep n the same.
#
# When all tasks have ended: cat rollouts/mm-*-of-0000n.jsonl > rollouts/mm.jsonl; to go on later (a larger --n), go on with the shards
# and join them again, since the joined file has no manifest.
#SBATCH --job-name=mede2-rollout
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@60
#SBATCH --output=%x-%A_%a.log
set -euo pipefail

stop() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

# SLURM runs a copy of this file from its spool folder: the checkout is where sbatch was called.
root=${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}
python=${MEDE2_PYTHON:-$root/.venv/bin/python}

dry_run='' out='' arguments=()
for argument in "$@"; do
  case $argument in
    --dry_run | --dry-run) dry_run=yes ;;
    --out=?*) out=${argument#--out=} ;;
    --out | --out=) stop "write --out=FILE.jsonl" ;;
    --shard | --shard=*) stop "the array decides the shards; leave --shard out" ;;
    --base_url | --base_url=*) stop "each task starts a server of its own; leave --base_url out" ;;
    *) arguments+=("$argument") ;;
  esac
done
[ -n "$out" ] || stop "missing --out=FILE.jsonl"

# MIN has to be 0 for the shards to be 0 … COUNT - 1; a resubmitted part of an array would be counted wrongly.
index=${SLURM_ARRAY_TASK_ID:-0} count=${SLURM_ARRAY_TASK_COUNT:-1}
first=${SLURM_ARRAY_TASK_MIN:-0} last=${SLURM_ARRAY_TASK_MAX:-$index}
[ "$first" -eq 0 ] && [ "$last" -eq $((count - 1)) ] || stop "--array=$first-$last with $count tasks; an array begins at 0 and leaves none out: submit the whole array"

suffix=
case ${out##*/} in *.*) suffix=.${out##*.} ;; esac
command=("$python" -m mede2_jax.rollout ${arguments[@]+"${arguments[@]}"} --engine=vllm "--shard=$index/$count"
  "--out=${out%"$suffix"}-$(printf '%05d-of-%05d' "$index" "$count")$suffix")

if [ -n "$dry_run" ]; then
  printf 'cd %q &&' "$root"
  printf ' %q' "${command[@]}"
  printf '\n'
  exit
fi
[ -x "$python" ] || stop "no $python; make it with launch/quickstart.sh, or set MEDE2_PYTHON"
cd "$root"
# The shell hands its place over, so that the signal a minute before the time limit (which goes to the batch shell alone, B:TERM above)
# reaches Python, which stops its server and says how far it came. Without it nothing would be lost either.
exec "${command[@]}"
