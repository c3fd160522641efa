#!/usr/bin/env bash
# The paper's pipeline on the sample data: stage I (SFT with LoRA), responses sampled from the model it made, judged, paired, and stage II
# (DPO) on the pairs. On CPU, with a tiny random model, in minutes; the commands are those of a real run.
#
#   bash launch/pipeline.sh                      # everything into runs/pipeline; vLLM samples if .venv-vllm is there, else the Flax sampler
#   bash launch/pipeline.sh --out=DIR --engine=vllm --family=internvl3
#   bash launch/pipeline.sh --n=8 --limit=4 --max_tokens=64 --sft_steps=3 --dpo_steps=2                        # smaller
#   GEMINI_API_KEY=… bash launch/pipeline.sh --judge=gemini [--judge_model=NAME] [--judge_url=URL]             # or openai: a paid judge
#   bash launch/pipeline.sh --demonstrations=FILE --questions=FILE --image_root=DIR --rollouts=own             # your data, start to end
#
# A tiny random model is hardly ever right, so its own responses (which are sampled and judged all the same) make no pairs: these are made of
# data/sample/rollouts.jsonl, responses with known flaws that no model wrote, unless --rollouts names another file, or `own`.
# PYTHON_ENV=DIR uses an environment that is there already (.venv is made otherwise). Called again after an interruption, it goes on where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh

out=runs/pipeline engine=auto family=qwen2_5_vl n=8 limit=none max_tokens=256 temperature=1.0 sft_steps=none dpo_steps=none
judge=offline judge_model='' judge_url='' rollouts=data/sample/rollouts.jsonl
demonstrations=data/sample/demonstrations.jsonl questions=data/sample/questions.jsonl image_root=none sft_options=''
for argument in "$@"; do
  case $argument in
    --out=* | --engine=* | --family=* | --n=* | --limit=* | --max_tokens=* | --temperature=* | --sft_steps=* | --dpo_steps=* | \
      --judge=* | --judge_model=* | --judge_url=* | --rollouts=* | --demonstrations=* | --questions=* | --image_root=* | --sft_options=*)
      name=${argument%%=*}
      printf -v "${name#--}" '%s' "${argument#*=}"
      ;;
    *) stop "unknown argument '$argument'; the top of launch/pipeline.sh lists what there is" ;;
  esac
done
if [ -z "${PYTHON_ENV:-}" ]; then # an environment that is already there, such as the tests' own
  make_environment train
else
  ENV_PYTHON=$PYTHON_ENV/bin/python
fi

# Before hours of training and sampling, not after them.
case $judge in
  gemini)
    [ -n "${GEMINI_API_KEY:-}${GOOGLE_API_KEY:-}" ] || stop "--judge=gemini needs GEMINI_API_KEY in the environment"
    "$ENV_PYTHON" -c 'import google.genai' 2>/dev/null || stop "--judge=gemini needs Gemini's client: $ENV_PYTHON -m pip install -e '.[judge]'"
    ;;
  openai) [ -n "$judge_model" ] || stop "--judge=openai needs --judge_model=NAME" ;;
esac

step() {
  say "python -m mede2_jax.$*"
  "$ENV_PYTHON" -m "mede2_jax.$1" "${@:2}"
}

resume() { # prints --resume where a run has begun
  if [ -f "$1/config.yaml" ]; then echo --resume; fi
}

judge() {
  local options=()
  if [ "$judge" != offline ]; then options+=("--cache=$out/api_cache.sqlite"); fi
  if [ -n "$judge_model" ]; then options+=("--model=$judge_model"); fi
  if [ -n "$judge_url" ]; then options+=("--base_url=$judge_url"); fi
  step judge "--rollouts=$1" "--out=$2" "--judge=$judge" "--image_root=$3" ${options[@]+"${options[@]}"}
}

# shellcheck disable=SC2046,SC2086 # options that may be none, or several
step train --stage=sft "--family=$family" "--data.path=$demonstrations" "--data.image_root=$image_root" "--output=$out/sft" \
  "--max_steps=$sft_steps" $sft_options $(resume "$out/sft")
step rollout "--model=$out/sft/model" "--questions=$questions" "--data.image_root=$image_root" "--out=$out/rollouts.jsonl" \
  "--engine=$engine" "--n=$n" "--limit=$limit" "--max_tokens=$max_tokens" "--temperature=$temperature"
judge "$out/rollouts.jsonl" "$out/judgments.jsonl" none
if [ "$rollouts" = own ]; then
  rollouts=$out/rollouts.jsonl judgments=$out/judgments.jsonl
else
  say "pairs are made of $rollouts, not of the model's own responses"
  judgments=$out/judgments-of-$(basename "$rollouts")
  judge "$rollouts" "$judgments" none
fi
step pair "--rollouts=$rollouts" "--judgments=$judgments" "--out=$out/pairs.jsonl" --max_pairs=2
pair=$("$ENV_PYTHON" -c 'import json, sys; print(json.loads(open(sys.argv[1], encoding="utf-8").readline())["id"])' "$out/pairs.jsonl")
step trace "$pair" "--pairs=$out/pairs.jsonl" --limit=300
# shellcheck disable=SC2046
step train --stage=dpo "--model=$out/sft/model" "--data.path=$out/pairs.jsonl" "--output=$out/dpo" --epochs=1 "--max_steps=$dpo_steps" \
  --rows_per_step=1 --data.row_tokens=2048 --compute_dtype=float32 --optimizer.learning_rate=5e-4 $(resume "$out/dpo")
