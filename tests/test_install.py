"""package_install.sh, driven with an interpreter that only writes down what it is asked to do."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "package_install.sh"

# answers `-c CODE` with a version, makes a "virtual environment" of itself, and notes every call
INTERPRETER = """#!/bin/sh
printf '%s\\n' "$*" >>"$CALLS"
case "$*" in
    "-m venv"*) rm -rf "$4" && mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
    *whl/*) exit "$INDEX_RC" ;;
    *"pip install"*) exit "$PIP_RC" ;;
    *"-c"*) echo "$VERSION" ;;
esac
"""


def refusing(code: str) -> str:
    """The interpreter, but `-c` of anything with this code in it fails."""
    return INTERPRETER.replace("case", f'case "$*" in *"{code}"*) exit 1 ;; esac\ncase', 1)


class Checkout:
    """A copy of the script in a folder with a space, and programs of our own first on the PATH."""

    def __init__(self, tmp_path: Path):
        self.folder = tmp_path / "a folder"
        self.programs = tmp_path / "programs"
        self.calls_file = tmp_path / "calls.txt"
        self.folder.mkdir()
        self.programs.mkdir()
        for name in ("package_install.sh", "requirements.txt", "requirements-dev.txt"):
            shutil.copy(ROOT / name, self.folder)
        self.interpreter = self.add_program("python3", INTERPRETER)
        self.add_program("nvidia-smi", "#!/bin/sh\nexit 9\n")  # as on a machine without a GPU
        self.add_program("df", "#!/bin/sh\necho header; echo disk 9 9 99000000 9 /\n")

    def add_program(self, name: str, text: str) -> Path:
        program = self.programs / name
        program.write_text(text)
        program.chmod(0o755)
        return program

    def run(self, *arguments, **environment) -> subprocess.CompletedProcess:
        """Run the script from another folder; `calls` holds what the interpreter was asked."""
        answers = {"VERSION": "3.12", "PIP_RC": "0", "INDEX_RC": "0"}
        search = {"PATH": f"{self.programs}:{os.environ['PATH']}", "CALLS": str(self.calls_file)}
        self.calls_file.write_text("")
        result = subprocess.run(
            ["sh", self.folder / "package_install.sh", *arguments],
            cwd="/",
            env=answers | search | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        self.calls = self.calls_file.read_text().splitlines()
        self.installs = [call for call in self.calls if "pip install" in call]
        return result


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
def test_script_parses_in_every_posix_shell(shell):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    subprocess.run([shell, "-n", SCRIPT], check=True)


def test_help_names_every_option_and_installs_nothing(checkout):
    result = checkout.run("--help")
    assert result.returncode == 0
    for option in ("--dev", "--cpu", "--cuda", "--cu126", "--no-venv", "PYTHON="):
        assert option in result.stdout
    assert checkout.calls == []


@pytest.mark.parametrize("arguments", [["--gpu"], ["--cpu", "--cuda"]])
def test_bad_usage_is_exit_code_two(checkout, arguments):
    result = checkout.run(*arguments)
    assert result.returncode == 2
    assert arguments[-1] in result.stderr
    assert checkout.calls == []


@pytest.mark.parametrize("version", ["3.9", "2.7"])
def test_an_old_python_is_refused_by_name(checkout, version):
    result = checkout.run(PYTHON=str(checkout.interpreter), VERSION=version)
    assert result.returncode == 1
    assert "Python 3.10 or newer is needed" in result.stderr
    assert f"{checkout.interpreter} is {version}" in result.stderr
    assert not (checkout.folder / ".venv").exists()


def test_a_python_that_does_not_run_is_refused_by_name(checkout):
    result = checkout.run(PYTHON="/no/such/python")
    assert result.returncode == 1
    assert "PYTHON=/no/such/python cannot be run" in result.stderr


def test_install_takes_the_pair_first_and_then_everything_else_under_its_constraint(checkout):
    result = checkout.run("--dev", "--cuda")
    assert result.returncode == 0, result.stderr
    pair, rest = checkout.installs
    assert "torch===2.13.0 torchvision===0.28.0" in pair
    assert "--constraint" in rest
    for name in ("requirements.txt", "requirements-dev.txt"):
        assert str(checkout.folder / name) in rest
    assert (checkout.folder / ".venv/bin/python").exists()


def test_a_second_run_installs_nothing_and_is_quick(checkout):
    assert checkout.run().returncode == 0
    start = time.monotonic()
    result = checkout.run()
    assert time.monotonic() - start < 3
    assert result.returncode == 0
    assert "up to date" in result.stdout
    assert checkout.installs == []


def test_dev_covers_the_product_and_not_the_other_way_round(checkout):
    checkout.run()
    checkout.run("--dev")
    assert "requirements-dev.txt" in checkout.installs[-1]
    for arguments in (["--dev"], []):
        checkout.run(*arguments)
        assert checkout.installs == []


def test_changed_requirements_are_installed(checkout):
    checkout.run("--dev")
    with (checkout.folder / "requirements.txt").open("a") as file:
        file.write("another\n")
    checkout.run("--dev")
    assert len(checkout.installs) == 2


def test_a_failed_install_says_so_and_is_tried_again(checkout):
    result = checkout.run("--cuda", PIP_RC="1")
    assert result.returncode == 1
    assert "could not install torch and torchvision" in result.stderr
    assert checkout.run().returncode == 0
    assert "torch===2.13.0" in checkout.installs[0]


def test_another_python_makes_the_environment_anew(checkout):
    checkout.run()
    checkout.run(PYTHON=str(checkout.interpreter))
    assert checkout.installs == []
    environment = checkout.folder / ".venv/bin/python"
    environment.write_text(INTERPRETER.replace('"$VERSION"', "3.11"))
    checkout.run(PYTHON=str(checkout.interpreter))
    assert any(call.startswith("-m venv --clear") for call in checkout.calls)
    assert len(checkout.installs) == 2


def test_an_environment_left_half_made_is_made_anew(checkout):
    half_made = checkout.folder / ".venv/bin/python"
    half_made.parent.mkdir(parents=True)
    half_made.write_text(refusing("import pip"))
    half_made.chmod(0o755)
    assert checkout.run().returncode == 0
    assert any(call.startswith("-m venv --clear") for call in checkout.calls)


def test_without_a_gpu_the_cpu_index_comes_first_and_pypi_is_the_fallback(checkout):
    checkout.run()
    assert "--index-url https://download.pytorch.org/whl/cpu" in checkout.installs[0]
    assert "torch==2.13.0+cpu torchvision==0.28.0+cpu" in checkout.installs[0]
    assert len(checkout.installs) == 2
    shutil.rmtree(checkout.folder / ".venv")
    result = checkout.run(INDEX_RC="1")
    assert result.returncode == 0
    assert "run without a GPU too" in result.stdout.replace("\n", " ")
    assert "torch===2.13.0" in checkout.installs[1]


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ("580.65.06, 9.0", "torch===2.13.0"),
        ("580.65.06, 9.0\\n580.65.06, 7.0", "whl/cu126"),
        ("535.104.05, 8.0", "whl/cu126"),
        ("No devices were found", "whl/cpu"),
    ],
)
def test_the_gpu_and_its_driver_choose_the_wheels(checkout, cards, expected):
    checkout.add_program("nvidia-smi", f"#!/bin/sh\nprintf '{cards}\\n'\n")
    checkout.run()
    assert expected in checkout.installs[0]


def test_a_chosen_build_of_torch_is_kept_until_another_is_asked_for(checkout):
    checkout.run("--cu126")
    checkout.run("--dev")
    assert "whl/cu126" in checkout.installs[0]
    checkout.run("--cpu")
    assert "whl/cpu" in checkout.installs[0]


def test_cpu_wheels_give_way_where_a_gpu_has_appeared(checkout):
    checkout.run()
    checkout.add_program("nvidia-smi", "#!/bin/sh\necho '590.10, 8.9'\n")
    checkout.run()
    assert "torch===2.13.0" in checkout.installs[0]
    checkout.add_program("nvidia-smi", "#!/bin/sh\nexit 9\n")  # a login node of the same cluster
    checkout.run()
    assert checkout.installs == []


def test_cuda_126_has_no_fallback(checkout):
    result = checkout.run("--cu126", INDEX_RC="1")
    assert result.returncode == 1
    assert "whl/cu126" in result.stderr


def test_no_venv_installs_into_the_interpreter_given(checkout):
    result = checkout.run("--no-venv", PYTHON=str(checkout.interpreter))
    assert result.returncode == 0, result.stderr
    assert "keeping the torch" in result.stdout  # this interpreter says that every check passes
    assert not (checkout.folder / ".venv").exists()
    assert "requirements.txt" in checkout.installs[0]
    checkout.run("--no-venv", "--cuda")
    assert "torch===2.13.0" in checkout.installs[0]


def test_a_missing_venv_module_is_explained(checkout):
    checkout.add_program("python3", refusing("import venv"))
    result = checkout.run()
    assert result.returncode == 1
    assert "python3-venv" in result.stderr
    assert "--no-venv" in result.stderr


def test_a_full_disk_is_noticed_before_the_download(checkout):
    checkout.add_program("df", "#!/bin/sh\necho header; echo disk 9 9 512000 9 /\n")
    assert checkout.run("--cuda").returncode == 0  # torch is there: nothing large is to come
    shutil.rmtree(checkout.folder / ".venv")
    checkout.add_program("python3", refusing("importlib.metadata"))  # no torch, so no version
    result = checkout.run("--cuda")
    assert result.returncode == 1
    assert "6500 MB are needed" in result.stderr
    assert "only 500 MB are free" in result.stderr
    assert checkout.installs == []
