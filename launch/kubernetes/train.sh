#!/usr/bin/env bash
# Trains on several machines under Kubernetes: a JobSet (https://jobset.sigs.k8s.io) of one pod a machine, each with all its GPUs.
#
#   NAME=dpo NODES=4 IMAGE=registry/mede2_jax CLAIM=shared bash launch/kubernetes/train.sh --config=… --output=/shared/runs/dpo --mesh.data=4
#   … --dry_run   # prints the manifest
#
# IMAGE has this checkout in /mede2_jax with its .venv (MEDE2_EXTRAS=gpu bash launch/quickstart.sh); CLAIM is a volume claim that all pods
# can write, mounted at /shared, with model, data and run directory. GPUS (8) a machine. --resume is added: restarted pods go on.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/train_environment.sh
source "$here/../train_environment.sh"
take_dry_run "$@"
for variable in NAME NODES IMAGE CLAIM; do
  [ -n "${!variable:-}" ] || stop "set $variable; the first lines of $0 say what it is"
done
# In variables: the bash of macOS (3.2) takes no parenthesis inside [[ ]].
word='^[a-z]([-a-z0-9]{0,40}[a-z0-9])?$' number='^[1-9][0-9]*$'
[[ $NAME =~ $word ]] || stop "NAME=$NAME: a name of lower-case letters, digits and -"
[[ $NODES =~ $number ]] || stop "NODES=$NODES: a number of machines"
[[ ${GPUS:-8} =~ $number ]] || stop "GPUS=$GPUS: a number of GPUs a machine"

# The options as a JSON list, which is YAML too; in it nothing means anything to a shell.
options=
for argument in ${ARGUMENTS[@]+"${ARGUMENTS[@]}"} --resume; do
  argument=${argument//\\/\\\\}
  argument=${argument//$'\n'/\\n} argument=${argument//$'\t'/\\t}
  options+=", \"${argument//\"/\\\"}\""
done
manifest=$(<"$here/jobset.yaml")
# The options last: what they say is not looked through for names.
for variable in NAME NODES IMAGE CLAIM; do
  manifest=${manifest//\$\{$variable\}/"${!variable}"}
done
manifest=${manifest//\$\{GPUS\}/"${GPUS:-8}"}
manifest=${manifest//\$\{OPTIONS\}/"$options"}
if [ -n "$DRY_RUN" ]; then
  printf '%s\n' "$manifest"
  exit
fi
kubectl apply -f - <<<"$manifest"
