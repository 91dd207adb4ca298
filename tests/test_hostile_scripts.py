"""Scripts among hostile words, clocks, networks, installations and screens.

What files can hold is in test_fuzz.py and test_bad_files.py.
"""

import json
import os
import subprocess
import sys
import time
from itertools import count

import pytest
import torch
from conftest import HOUSE

import train
from utils import command_line

YAML = {
    "typo": ("traning:\n  num_steps: 1\n", "did you mean 'train'"),
    "typo inside": ("train:\n  num_step: 1\n", "did you mean 'train.num_steps'"),
    "duplicate": ("train: {num_steps: 1}\ntrain: {num_steps: 2}\n", "line 2: key 'train' is given"),
    "tab": ("train:\n\tnum_steps: 1\n", "no tab characters"),
    "code": ("run: !!python/object/apply:os.getcwd []\n", "is a tag"),
    "alias": ("run: {name: &a x, folder: *a}\n", "is an alias"),
}
WORDS = {  # each wrong alone, beside weights that would have to be downloaded
    "optimizer.lr=-1": "must be a number above 0",
    "optimizer.lr=fast": "is str, expected float",
    "labeled.batch_size=0": "must be a whole number >= 1",
    "masking.num_groups=1.5": "is float, expected int",
    "augmentation.flip=1.2": "must be a number from 0 to 1",
    "network.image_size=[192000, 640]": "must be a list of 2 values",
    "network.image_size=[350, 1216]": "the nearest that is: [352, 1216]",
    "network.encoder=vit_enormous": "vit_enormous",
}


def code_and_message(words, capsys):
    """Exit code of train.py and what it told on stderr, which is one line."""
    code = command_line.run_script(lambda: train.main(words), train.USER_ERRORS)
    (told,) = capsys.readouterr().err.strip().splitlines()
    return code, told


@pytest.mark.parametrize("name", YAML)
def test_a_bad_configuration_file_is_one_line_and_exit_code_2(tmp_path, capsys, name):
    """(rows 51 and 52)"""
    text, message = YAML[name]
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    code, told = code_and_message(["--conf", str(file)], capsys)
    assert code == 2 and str(file) in told and message in told


@pytest.mark.parametrize("word", WORDS)
def test_a_bad_value_costs_neither_a_download_nor_the_gpu(tiny, capsys, monkeypatch, word):
    """(row 53) Nothing is connected to, and no module goes to a device."""

    def fail(*_):
        raise AssertionError("too late: the value was not checked")

    monkeypatch.setattr("socket.socket.connect", fail)
    monkeypatch.setattr(torch.nn.Module, "to", fail)
    code, told = code_and_message([*tiny, "network.pretrained=timm", word], capsys)
    assert code == 2 and WORDS[word] in told


def test_a_clock_that_jumps_backwards_makes_nothing_negative(tiny, tmp_path, monkeypatch):
    """(row 55) An hour back at every look: daylight saving, or a server that sets the time."""
    jumps = count()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 3600 * next(jumps))
    assert train.main([*tiny, "samples.num_images=0"]) == 0
    monkeypatch.undo()
    lines = (tmp_path / "runs/run/metrics.jsonl").read_text().splitlines()
    lines = [line for line in map(json.loads, lines) if line["split"] == "train"]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        assert line["images_per_s"] > 0 and line["eta_s"] >= 0
        assert 0 <= line["data_wait_fraction"] <= 1


@pytest.mark.parametrize("setting", [{"ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": True}])
def test_without_a_network_pretrained_weights_fail_at_once_with_the_remedy(
    tiny, tmp_path, capsys, monkeypatch, setting
):
    """(row 56) No network, or told to stay off it."""
    for name, value in {"HF_HUB_CACHE": str(tmp_path / "hub"), **setting}.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    start = time.monotonic()
    code, told = code_and_message([*tiny, "network.pretrained=timm"], capsys)
    assert time.monotonic() - start < 5
    assert code == 2 and "network.pretrained=/path/to/model.safetensors" in told


def run(script, *words, **options):
    """A script in a process of its own, whatever its exit code."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "", **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, str(HOUSE / script), *words], cwd=HOUSE, env=env, check=False,
        stderr=subprocess.PIPE, timeout=120, **{"text": True, **options},
    )  # fmt: skip


@pytest.mark.parametrize("script", ["train.py", "export.py"])
def test_a_torchvision_of_another_build_is_one_line_that_names_the_installer(tmp_path, script):
    """(row 57) CPU-only torch beside PyPI's torchvision: pip sees nothing wrong with the pair."""
    package = tmp_path / "torchvision"
    package.mkdir()
    error = "operator torchvision::nms does not exist"
    (package / "__init__.py").write_text(f"raise RuntimeError({error!r})\n")
    result = run(script, "--help", stdout=subprocess.PIPE, env={"PYTHONPATH": str(tmp_path)})
    (told,) = result.stderr.strip().splitlines()
    assert result.returncode == 2 and error in told and "sh package_install.sh" in told


@pytest.fixture
def closed_pipe():
    """The end to write to of a pipe that nobody reads any more: what `| head` leaves behind."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize(("word", "unbuffered"), [("--help", ""), ("--print-config", "1")])
def test_whoever_stops_reading_sees_no_traceback(closed_pipe, word, unbuffered):
    """(row 58) `python train.py --print-config | head -1`; it is noticed at the end, or at once."""
    result = run("train.py", word, stdout=closed_pipe, env={"PYTHONUNBUFFERED": unbuffered})
    assert result.returncode == 0 and not result.stderr


def test_a_closed_screen_costs_no_step_of_a_run(tiny, tmp_path, closed_pipe):
    """(row 58) The run goes on, as the record of it is metrics.jsonl, not the screen."""
    result = run("train.py", *tiny, stdout=closed_pipe)
    assert result.returncode == 0 and "Traceback" not in result.stderr
    lines = (tmp_path / "runs/run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 2, 3, 4, 4]
    assert (tmp_path / "runs/run/checkpoints/last.pt").is_file()


def test_a_log_file_gets_no_control_characters(tiny):
    """(row 58) A moving bar belongs on a terminal."""
    result = run("train.py", *tiny, stdout=subprocess.PIPE, text=False)
    text = (result.stdout + result.stderr).decode()
    assert "step 4/4" in text and not [sign for sign in text if sign < " " and sign != "\n"]
