# shellcheck shell=bash
# Makes the Python environments of this repository; sourced by quickstart.sh and test.sh from the repository's root.
#
#   make_environment train    .venv       what training needs; no torch
#   make_environment test     .venv-test  the same, the test tools, and torch as the reference that tests compare with
#
# Sets ENV_PYTHON to the environment's interpreter. An environment is reused as long as its stamp matches pyproject.toml,
# constraints.txt and this folder; a failed installation leaves no stamp, so the next call starts it afresh.
# PYTHON=/path/to/python chooses the interpreter. MEDE2_EXTRAS=gpu (or tpu) adds that extra of pyproject.toml.

PINNED_PYTHON=3.11 # constraints.txt was resolved for this version

say() { printf '== %s\n' "$*"; }

stop() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# A name on the PATH is not enough: version managers leave shims that only fail, and some systems ship Python without venv.
usable_python() {
  "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
  local candidate
  if [ -n "${PYTHON:-}" ]; then
    usable_python "$PYTHON" || stop "PYTHON=$PYTHON is not a Python >= 3.11 with the venv module"
    printf '%s\n' "$PYTHON"
    return
  fi
  for candidate in python3.11 python3.12 python3.13 python3.14 python3 python; do
    if usable_python "$candidate"; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  stop "no Python >= 3.11 with the venv module found; install one (Debian: python3.11-venv) or set PYTHON=/path/to/python"
}

# One line that changes whenever the environment has to.
environment_stamp() {
  "$1" - "$PWD" "${MEDE2_EXTRAS:-}" <<'PY'
import hashlib, pathlib, sys
digest = hashlib.sha256(b"".join(pathlib.Path(name).read_bytes() for name in ("pyproject.toml", "constraints.txt")))
print(sys.version.split()[0], digest.hexdigest(), *sys.argv[1:])
PY
}

# A stamp from another place or Python means scripts with dead paths: make such an environment anew, update any other.
same_home() {
  [ -f "$1/.stamp" ] && [ "$(cut -d' ' -f1,3- "$1/.stamp")" = "$(cut -d' ' -f1,3- <<<"$2")" ] && "$1/bin/python" -c '' 2>/dev/null
}

# -qq keeps errors and drops warnings: a configured index that lacks a package warns once for each.
install() {
  "$ENV_PYTHON" -m pip install -qq --disable-pip-version-check --no-input "$@"
}

make_environment() {
  local kind=$1 folder python stamp version extras
  local -a constraints=()
  case $kind in
    train) folder=.venv extras=${MEDE2_EXTRAS:-} ;;
    test) folder=.venv-test extras=test${MEDE2_EXTRAS:+,$MEDE2_EXTRAS} ;;
    *) stop "make_environment: expected train or test, got '$kind'" ;;
  esac
  python=$(find_python) || exit 1
  stamp=$(environment_stamp "$python")
  ENV_PYTHON=$folder/bin/python
  if [ -f "$folder/.stamp" ] && [ "$(cat "$folder/.stamp")" = "$stamp" ] && "$ENV_PYTHON" -c '' 2>/dev/null; then
    say "environment $folder: up to date"
    return
  fi
  if same_home "$folder" "$stamp"; then
    say "environment $folder: pyproject.toml or constraints.txt changed, updating"
    rm -f "$folder/.stamp"
  else
    say "environment $folder: creating (Python ${stamp%% *}; a few minutes the first time)"
    rm -f "$folder/.stamp"
    "$python" -m venv --clear "$folder" || stop "cannot create $folder with $python -m venv"
  fi
  version=$("$ENV_PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  if [ "$version" = "$PINNED_PYTHON" ]; then
    constraints=(-c constraints.txt)
  else
    say "constraints.txt pins versions for Python $PINNED_PYTHON; this is $version, so pip picks the newest that fit"
  fi
  if [ "$kind" = test ]; then
    # Asked for alone, by its exact version and first: a package index or a find-links folder of the user's pip configuration
    # may then offer its CPU build (2.13.0+cpu ranks above 2.13.0); left to the resolver, torch brings gigabytes of CUDA.
    say "environment $folder: installing torch 2.13.0 (the reference in tests)"
    install torch==2.13.0 || stop "pip could not install torch==2.13.0 into $folder"
  fi
  say "environment $folder: installing the package${extras:+ with [$extras]}"
  install ${constraints[@]+"${constraints[@]}"} -e ".${extras:+[$extras]}" || stop "pip could not install the package into $folder"
  printf '%s\n' "$stamp" >"$folder/.stamp"
  say "environment $folder: ready"
}
