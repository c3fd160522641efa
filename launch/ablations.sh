#!/usr/bin/env bash
# The paper's ablations, each as the commands that one would type: runs, their scores, and one report of all.
#
#   bash launch/ablations.sh elicitation --model=MODEL_DIR --text=text.jsonl --multimodal=cases.jsonl --task=… --data=… --out=runs/elicitation
#       Figure 5: stage I on text, on multimodal demonstrations, and on both together, beside the model as it was
#   bash launch/ablations.sh sizes --models=7B=DIR,32B=DIR,72B=DIR --text=text.jsonl [--pairs=pairs-{size}.jsonl] --task=… --data=… --out=runs/sizes
#       Figure 4: each size as it was, after stage I, and, where its pairs are given, after stage II
#   bash launch/ablations.sh samples --models=base=DIR,I=DIR,II=DIR --task=… --data=… --out=runs/samples [--n=32 --temperature=0.5]
#       Figure 6: MV@n and pass@n of models that are there
#
#   --sft=FILE, --dpo=FILE            configs of the stages; {size} stands for the size in small letters, as in configs/sft_qwen2_5_vl_{size}_lora.yaml
#   --train_options='--max_steps=9'   more options of every training run
#   --evaluate_options='--limit=200'  more options of every evaluation, such as --prompt=mede2,official or --engine=vllm
#   --image_root=DIR                  where the paths of the demonstrations' images start; none: beside their file
#
# Pairs of stage II are made of a model's own responses (launch/pipeline.sh shows how), so each size has a file of its own.
# PYTHON_ENV=DIR uses an environment that is there already (.venv is made otherwise). Called again, it goes on where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh

usage() {
  printf 'error: %s; the top of launch/ablations.sh shows how it is called\n' "$1" >&2
  exit 2
}

which=${1:-} model='' models='' text='' multimodal='' pairs='' task='' data='' out='' sft='' dpo='' train_options='' evaluate_options=''
image_root='' n=32 temperature=0.5
: "$sft$dpo" # used by name, in train
case $which in elicitation | sizes | samples) shift ;; *) usage "give elicitation, sizes or samples (got '$which')" ;; esac
for argument in "$@"; do
  case $argument in
    --model=* | --models=* | --text=* | --multimodal=* | --pairs=* | --task=* | --data=* | --out=* | --sft=* | --dpo=* | --train_options=* | \
      --evaluate_options=* | --image_root=* | --n=* | --temperature=*)
      name=${argument%%=*}
      printf -v "${name#--}" '%s' "${argument#*=}"
      ;;
    *) usage "unknown argument '$argument'" ;;
  esac
done

needs() { # the options that an ablation cannot do without
  local name
  for name in "$@"; do [ -n "${!name}" ] || usage "$which needs --$name"; done
}

step() {
  local IFS=' ' command # as it can be typed again
  printf -v command ' %q' "$@"
  command=${command//\\,/,}
  say "python -m mede2_jax.${command# }"
  "$ENV_PYTHON" -m "mede2_jax.$1" "${@:2}"
}

small() { tr '[:upper:]' '[:lower:]' <<<"$1"; } # not by an expansion, which the bash of macOS does not know

train() { # train STAGE SIZE MODEL DATA OUTPUT
  local options=("--stage=$1" "--model=$3" "--data.path=$4" "--output=$5") config=${!1}
  if [ -n "$config" ]; then options+=("--config=${config//\{size\}/$(small "$2")}"); fi
  if [ -n "$image_root" ]; then options+=("--data.image_root=$image_root"); fi
  if [ -f "$5/config.yaml" ]; then options+=(--resume); fi
  # shellcheck disable=SC2086 # several options
  step train "${options[@]}" $train_options
}

scores=()
evaluate() { # evaluate NAME MODEL [OPTION…]
  # shellcheck disable=SC2086
  step evaluate "--task=$task" "--data=$data" "--model=$2" "--out=$out/scores/$1" "${@:3}" $evaluate_options
  scores+=("$1=$out/scores/$1")
}

report() {
  local IFS=,
  step report "--scores=${scores[*]-}" "--out=$out/report" "$@"
}

elicitation() {
  needs model text multimodal
  mkdir -p "$out"
  # awk ends every line, so that the last of one file and the first of the next do not become one.
  awk 1 "$text" "$multimodal" >"$out/mixed.jsonl"
  image_root=${image_root:-$(dirname "$multimodal")}
  evaluate base "$model"
  local kind file
  for kind in text multimodal mixed; do
    file=$out/mixed.jsonl
    if [ "$kind" != mixed ]; then file=${!kind}; fi
    train sft '' "$model" "$file" "$out/$kind"
    evaluate "$kind" "$out/$kind/model"
  done
  report "--runs=$out/text,$out/multimodal,$out/mixed"
}

each_model() { # each_model FUNCTION: FUNCTION NAME DIR for every part of --models
  local part parts
  needs models
  IFS=, read -ra parts <<<"$models"
  for part in ${parts[@]+"${parts[@]}"}; do
    case $part in ?*=?*) "$1" "${part%%=*}" "${part#*=}" ;; *) usage "--models wants NAME=DIR, several with commas between (got '$part')" ;; esac
  done
}

size() {
  evaluate "$1" "$2"
  train sft "$1" "$2" "$text" "$out/$1-I"
  evaluate "$1 +I" "$out/$1-I/model"
  if [ -n "$pairs" ]; then
    train dpo "$1" "$out/$1-I/model" "${pairs//\{size\}/$(small "$1")}" "$out/$1-II"
    evaluate "$1 +II" "$out/$1-II/model"
  fi
}

samples() { evaluate "$1" "$2" "--n=$n" "--temperature=$temperature"; }

needs task data out
if [ -z "${PYTHON_ENV:-}" ]; then
  make_environment train
else
  ENV_PYTHON=$PYTHON_ENV/bin/python
fi
case $which in
  elicitation) elicitation ;;
  sizes)
    needs text
    each_model size
    report
    ;;
  samples)
    each_model samples
    report
    ;;
esac
say "the report is in $out/report: open index.html"
