# shellcheck shell=bash
# What the training scripts share; sourced by them. Variables that are set already win.

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
    printf ' %q' env ${XLA_FLAGS:+"XLA_FLAGS=$XLA_FLAGS"} "JAX_COMPILATION_CACHE_DIR=$JAX_COMPILATION_CACHE_DIR" "$@"
    printf '\n'
    exit
  fi
  cd "$folder" || stop "no folder $folder"
  exec "$@"
}
