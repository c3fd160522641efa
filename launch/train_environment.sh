# shellcheck shell=bash
# What the training scripts share; sourced by them. Variables that are set already win.

# The CUDA allocator takes this share of each GPU at once; the rest is NCCL's and the driver's.
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}
# Gathers of the next layer's parameters run beside this layer's products (GPU only; other backends refuse unknown flags).
if command -v nvidia-smi >/dev/null 2>&1 || [ "${MEDE2_EXTRAS:-}" = gpu ]; then
  export XLA_FLAGS=${XLA_FLAGS:---xla_gpu_enable_latency_hiding_scheduler=true}
fi
# Compiled programs stay: a restart begins to train minutes earlier.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/mede2_jax/compiled}

stop() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

# Takes --dry_run out of the arguments: DRY_RUN, ARGUMENTS.
take_dry_run() {
  DRY_RUN='' ARGUMENTS=()
  local argument
  for argument in "$@"; do
    case $argument in
      --dry_run | --dry-run) DRY_RUN=yes ;;
      --distributed.*) stop "the launcher says which process is which; leave $argument out" ;;
      *) ARGUMENTS+=("$argument") ;;
    esac
  done
}

train_python() {
  printf '%s\n' "${MEDE2_PYTHON:-$1/.venv/bin/python}"
}

# Hands the shell's place over, so that signals reach the command; with --dry_run shows it: run_in FOLDER COMMAND...
run_in() {
  local folder=$1
  shift
  if [ -n "$DRY_RUN" ]; then
    printf 'cd %q &&' "$folder"
    printf ' %q' env "XLA_PYTHON_CLIENT_MEM_FRACTION=$XLA_PYTHON_CLIENT_MEM_FRACTION" ${XLA_FLAGS:+"XLA_FLAGS=$XLA_FLAGS"} \
      "JAX_COMPILATION_CACHE_DIR=$JAX_COMPILATION_CACHE_DIR" "$@"
    printf '\n'
    exit
  fi
  cd "$folder" || stop "no folder $folder"
  exec "$@"
}
