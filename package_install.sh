#!/bin/sh
# Makes .venv beside this file and installs MaskingDepth's dependencies into it. POSIX sh; run it
# from anywhere, as often as you like: a second run only checks that nothing has changed.
#
# torch and torchvision must come from one source. PyPI's torchvision is built for CUDA, and next to
# a CPU-only torch it breaks `import timm`, while `pip check` reports nothing. Hence the exact pair,
# the constraint file that keeps every later package from replacing it, and the check at the end.
set -eu

TORCH=2.13.0
TORCHVISION=0.28.0
INDEX=https://download.pytorch.org/whl

usage() {
    cat <<'TEXT'
usage: sh package_install.sh [--dev] [--cpu | --cuda | --cu126] [--no-venv] [--help]

  --dev      also what the tests need
  --cpu      torch without CUDA, about 1.8 GB on disk (PyPI's wheels, 5.5 GB, if the PyTorch
             index cannot be reached; they run without a GPU too)
  --cuda     torch for CUDA 13: driver 580 or newer, GPU of the Turing generation or newer
  --cu126    torch for CUDA 12.6: older drivers, and V100 or P100
             Without one of the three the machine decides: no NVIDIA GPU is --cpu.
  --no-venv  install into the interpreter's own environment instead of .venv; a working pair of
             torch >= 2.10 and torchvision in it is kept
  --help     this text

  PYTHON=/path/to/python chooses the interpreter (3.10 or newer).
TEXT
}

say() { printf '%s\n' "package_install.sh: $*"; }
fail() {
    say "$*" >&2
    exit 1
}

# --- what is asked for ---------------------------------------------------------------------------

dev=no venv=yes wheels=auto
for argument in "$@"; do
    case $argument in
        --dev) dev=yes ;;
        --no-venv) venv=no ;;
        --cpu | --cuda | --cu126)
            if [ "$wheels" != auto ]; then
                say "$argument and --$wheels exclude each other" >&2
                exit 2
            fi
            wheels=${argument#--}
            ;;
        -h | --help)
            usage
            exit 0
            ;;
        *)
            say "unknown option $argument" >&2
            usage >&2
            exit 2
            ;;
    esac
done

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
environment=$here/.venv
stamp=$environment/.maskingdepth   # what the last complete installation consisted of
asked=$wheels

python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

new_enough() {  # VERSION
    case $1 in
        3.[0-9]) return 1 ;;
        3.[0-9][0-9]) return 0 ;;
        *) return 1 ;;
    esac
}

choose_python() {
    if [ -n "${PYTHON:-}" ]; then
        found=$(python_version "$PYTHON") || fail "PYTHON=$PYTHON cannot be run"
        new_enough "$found" ||
            fail "Python 3.10 or newer is needed, PYTHON=$PYTHON is $found"
        python=$PYTHON
        return
    fi
    seen=
    for candidate in python3 python python3.13 python3.12 python3.11 python3.10; do
        found=$(python_version "$candidate") || continue
        if new_enough "$found"; then
            python=$candidate
            return
        fi
        seen="$seen $candidate is $found,"
    done
    fail "Python 3.10 or newer is needed;$seen none other is on the PATH." \
        "Install one, or set PYTHON=/path/to/python"
}

# --- which wheels --------------------------------------------------------------------------------

wheels_of_this_machine() {  # cpu | cuda | cu126
    # one line a card, "535.104.05, 8.0"; CUDA 13 wants driver 580 and compute capability 7.5
    nvidia-smi --query-gpu=driver_version,compute_cap --format=csv,noheader 2>/dev/null |
        awk -F '[ ,]+' '
            /^[0-9]+\./ { cards++; if ($1 + 0 < 580 || ($2 ~ /^[0-9]/ && $2 + 0 < 7.5)) old++ }
            END { print (cards ? (old ? "cu126" : "cuda") : "cpu") }'
}

stamped() { sed -n "s/^$1=//p" "$stamp" 2>/dev/null || true; }

choose_wheels() {
    [ "$wheels" = auto ] || return 0
    wheels=$(wheels_of_this_machine)
    # an earlier choice is kept, except that CPU-only wheels give way where a GPU has appeared
    before=$(stamped wheels)
    case $venv-$before-$wheels in
        yes--* | yes-cpu-cu* | no-*) ;;
        *) wheels=$before ;;
    esac
}

# --- installing ----------------------------------------------------------------------------------

fingerprint() {  # FILES
    printf '%s %s ' "$(python_version "$python")" "$wheels"
    cat "$@" | cksum
}

has_pair() {
    "$python" -c "
from importlib.metadata import version
assert version('torch').split('+')[0] == '$TORCH'
assert version('torchvision').split('+')[0] == '$TORCHVISION'" 2>/dev/null
}

make_environment() {
    existing=$(python_version "$environment/bin/python") || existing=none
    # an interrupted or crowded-out first run leaves an interpreter without pip
    "$environment/bin/python" -c 'import pip' 2>/dev/null || existing=none
    if [ -z "${PYTHON:-}" ] && new_enough "$existing"; then return; fi
    choose_python
    if [ "$existing" = "$found" ]; then return; fi
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "$python cannot make virtual environments. On Debian and Ubuntu: apt install" \
            "python3-venv; or set PYTHON to another interpreter; or use your own environment" \
            "with --no-venv"
    say "making $environment with Python $found"
    "$python" -m venv --clear "$environment" ||
        fail "$environment could not be made (see above). $(free_space "$here")"
}

free_megabytes() { df -Pk "$1" 2>/dev/null | awk 'NR == 2 { print int($4 / 1024) }'; }
free_space() { echo "$(free_megabytes "$1") MB are free at $1"; }

need_space() {  # MEGABYTES: stop before pip fills the disk
    if has_pair; then return; fi
    available=$(free_megabytes "$site")
    [ "${available:-$1}" -ge "$1" ] ||
        fail "about $1 MB are needed on the disk, but only $(free_space "$site")"
}

pip_install() { "$python" -m pip install --disable-pip-version-check --no-input "$@"; }

own_pair_works() {
    "$python" -c '
import torch, torchvision
from torchvision.ops import nms

nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
assert tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 10)' 2>/dev/null
}

install_torch() {
    if [ "$venv" = no ] && [ "$asked" = auto ] && own_pair_works; then
        say "keeping the torch of this environment"
        return
    fi
    if [ "$wheels" != cuda ] && [ "$(uname -s)" != Darwin ]; then
        need_space 2000
        if pip_install --index-url "$INDEX/$wheels" --retries 0 --timeout 10 \
            "torch==$TORCH+$wheels" "torchvision==$TORCHVISION+$wheels"; then
            return
        fi
        [ "$asked" != cu126 ] ||
            fail "the wheels for CUDA 12.6 are only at $INDEX/cu126, where pip failed (see above)"
        say "the PyTorch index could not be used, so PyPI's wheels are taken; they run without a" \
            "GPU too, and use one if its driver is 580 or newer"
    fi
    need_space 6500
    # === compares strings: == would also take a local 2.13.0+cpu from a find-links folder
    pip_install "torch===$TORCH" "torchvision===$TORCHVISION" ||
        fail "pip could not install torch and torchvision (see above). $(free_space "$site")"
}

install_requirements() {
    constraints=$(mktemp)
    trap 'rm -f "$constraints"' EXIT
    "$python" -c '
from importlib.metadata import version
for name in ("torch", "torchvision"):
    print(f"{name}==={version(name)}")' >"$constraints"
    if [ "$dev" = yes ]; then
        set -- -r "$here/requirements-dev.txt"
    else
        set --
    fi
    say "installing the other packages"
    pip_install --quiet --constraint "$constraints" -r "$here/requirements.txt" "$@" ||
        fail "pip could not install the requirements (see above). $(free_space "$site")"
}

smoke_check() {
    "$python" -c '
import av, dotmap, einops, huggingface_hub, matplotlib, numpy, onnx, onnxruntime, onnxscript
import PIL, safetensors, tqdm, yaml
import timm, torch, torchvision, wandb
from torchvision.ops import nms

nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
print(f"Python packages work: torch {torch.__version__}, torchvision {torchvision.__version__},"
      f" timm {timm.__version__}, CUDA available: {torch.cuda.is_available()}")' ||
        fail "the packages are installed but do not work together (see above)." \
            "Remove $environment and run this again"
}

# --- all of it -----------------------------------------------------------------------------------

choose_wheels
if [ "$venv" = yes ]; then
    make_environment
    python=$environment/bin/python
    product=$(fingerprint "$here/package_install.sh" "$here/requirements.txt")
    tests=$(fingerprint "$here/requirements-dev.txt")
    if [ "$(stamped product)" = "$product" ] && has_pair; then
        if [ "$dev" = no ] || [ "$(stamped tests)" = "$tests" ]; then
            say "$environment is up to date (torch for $wheels)"
            exit 0
        fi
    fi
    echo "wheels=$wheels" >"$stamp"
else
    choose_python
fi
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
install_torch
install_requirements
smoke_check
if [ "$venv" = yes ]; then
    echo "product=$product" >>"$stamp"
    if [ "$dev" = yes ]; then echo "tests=$tests" >>"$stamp"; fi
fi
say "done; now run: $python train.py"
