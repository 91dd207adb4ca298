"""The scripts, run as users run them: on a tiny rendered street, in subprocesses."""

import csv
import json
from pathlib import Path

import pytest
import torch
from conftest import run_pair, run_script
from PIL import Image

from datasets.splits import list_sha256
from networks import load_network
from utils.config import load_config


def records(folder: Path, split: str) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == split]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, streets):
    """A finished tiny run and its output."""
    from conftest import TINY  # noqa: PLC0415 - `tiny` has another scope

    base = tmp_path_factory.mktemp("trained")
    roots = [f"{stream}.root={streets}" for stream in ("labeled", "validation")]
    result = run_script("train.py", *TINY, *roots, f"run.folder={base}", "run.name=run")
    return base / "run", result


def test_a_run_leaves_the_folder_of_the_contract(trained):
    folder, _ = trained
    for name in ("config.yaml", "environment.json", "metrics.jsonl", "splits/labeled.txt",
                 "splits/validation.txt", "checkpoints/last.pt", "checkpoints/best.pt",
                 "samples/step_000004.png"):  # fmt: skip
        assert (folder / name).is_file(), name
    cfg = load_config(folder / "config.yaml")
    ids = (folder / "splits" / "labeled.txt").read_text().splitlines()
    assert len(ids) == 6 and cfg.labeled.list_sha256 == list_sha256(ids)
    assert {"torch", "timm", "git_commit", "device"} <= set(
        json.loads((folder / "environment.json").read_text())
    )
    with Image.open(folder / "samples" / "step_000004.png") as picture:
        assert picture.width > 400


def test_metrics_hold_raw_terms_rates_and_speed(trained):
    lines = records(trained[0], "train")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    weights = load_config(trained[0] / "config.yaml").loss_weights
    for line in lines:
        total = weights.depth * line["depth"] + weights.uncertainty * line["uncertainty"]
        assert line["total"] == pytest.approx(total, rel=1e-5)
        assert line["images_per_s"] > 0 and 0 <= line["data_wait_fraction"] <= 1
        assert line["peak_memory_gib"] > 0 and line["eta_s"] >= 0
        assert line["lr_encoder"] > 0 and line["lr_decoder"] > 0
    assert [line["step"] for line in records(trained[0], "val")] == [2, 4]


def test_the_floors_are_printed_beside_the_result(trained):
    output = trained[1].stdout
    assert "floor: constant" in output and "floor: per_pixel_mean" in output


def test_the_checkpoint_is_that_of_the_contract(trained):
    """(row 13)"""
    state = torch.load(trained[0] / "checkpoints" / "last.pt", weights_only=True)
    assert set(state) == {"format_version", "step", "config", "network", "step_module",
                          "optimizer", "scaler", "best", "wandb_id", "versions",
                          "progress"}  # fmt: skip
    assert state["step"] == 4 and state["config"]["train"]["num_steps"] == 4
    for path in (trained[0], trained[0] / "checkpoints" / "last.pt"):
        network = load_network(path)
        assert not network.training
        assert network(torch.rand(1, 3, 32, 96)).depth.shape == (1, 1, 32, 96)


def test_evaluate_prints_the_numbers_of_the_validation_in_training(trained, tmp_path):
    folder, _ = trained
    best = torch.load(folder / "checkpoints" / "best.pt", weights_only=True)["best"]
    result = run_script("evaluate.py", "--ckpt", str(folder), "--floors")
    metrics = json.loads((folder / "evaluation" / "val" / "metrics.json").read_text())
    scores = metrics["protocols"]["plain"]
    assert scores == {key: best[key] for key in scores}
    assert f"{best['abs_rel']:.4f}" in result.stdout
    assert metrics["num_images"] == 4 and metrics["image_size"] == [32, 96]
    assert metrics["dataset"] == "synthetic" and metrics["split"] == "val"
    assert set(metrics["median_scaled"]) == set(metrics["protocols"]) == {"plain"}
    assert metrics["floors"]["constant"]["abs_rel"] > 0
    with (folder / "evaluation" / "val" / "per_image.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    mean = sum(float(row["abs_rel"]) for row in rows) / 4
    assert mean == pytest.approx(metrics["protocols"]["plain"]["abs_rel"], rel=1e-12)
    panels = sorted(file.name for file in (folder / "evaluation" / "val" / "panels").iterdir())
    assert panels == ["00000.png", "best_1.png", "median_1.png", "worst_1.png"]


def test_evaluate_takes_other_splits_and_folders(trained, tmp_path):
    run_script("evaluate.py", "--ckpt", str(trained[0] / "checkpoints" / "last.pt"), "--split",
               "test", "--out", str(tmp_path / "out"), "evaluation.batch_size=1")  # fmt: skip
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["split"] == "test" and metrics["num_images"] == 2


def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(trained, tiny, tmp_path):
    """(row 17)"""
    folder = tmp_path / "runs" / "run"
    # the same run, stopped after two of its four steps: the schedule must not know of the stop
    run_script("train.py", *tiny, "train.num_steps=4", "schedule.name=constant", "run.name=whole")
    run_script("train.py", *tiny, "train.num_steps=2", "schedule.name=constant")
    run_script("train.py", *tiny, "train.num_steps=4", "schedule.name=constant")
    whole, halves = (
        torch.load(tmp_path / "runs" / name / "checkpoints" / "last.pt", weights_only=True)
        for name in ("whole", "run")
    )
    for part in ("network", "step_module"):
        assert all(torch.equal(whole[part][key], value) for key, value in halves[part].items())
    assert [line["step"] for line in records(folder, "train")] == [1, 2, 3, 4]
    losses = [[line["total"] for line in records(tmp_path / "runs" / name, "train")]
              for name in ("whole", "run")]  # fmt: skip
    assert losses[0] == losses[1]


def test_a_moving_average_is_what_is_evaluated_saved_and_resumed(tiny, tmp_path):
    """(row 17)"""
    average = ["train.ema_decay=0.5", "schedule.name=constant"]
    run_script("train.py", *tiny, *average, "run.name=whole")
    run_script("train.py", *tiny, *average, "train.num_steps=2")
    run_script("train.py", *tiny, *average)
    whole, halves = (
        torch.load(tmp_path / "runs" / name / "checkpoints" / "last.pt", weights_only=True)
        for name in ("whole", "run")
    )
    assert all(torch.equal(whole["network"][k], v) for k, v in halves["network"].items())
    key = "depth_head.conv1.weight"
    assert not torch.equal(whole["network"][key], whole["step_module"][f"network.{key}"])


def test_another_network_in_the_same_folder_is_refused(trained, tiny):
    """(row 11)"""
    words = [*tiny, f"run.folder={trained[0].parent}", "network.decoder_channels=16"]
    result = run_script("train.py", *words, code=2)
    assert "does not fit this configuration" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_changed_list_is_refused_when_its_hash_is_insisted_on(tiny):
    result = run_script("train.py", *tiny, "labeled.list_sha256=abc", code=2)
    assert "has other frames than asked for" in result.stderr


def test_pictures_can_be_left_out(tiny, tmp_path):
    none = ["samples.num_images=0", "train.num_steps=2"]
    run_script("train.py", *tiny, *none)
    assert not (tmp_path / "runs" / "run" / "samples").exists()
    run_script("evaluate.py", "--ckpt", str(tmp_path / "runs" / "run"), "evaluation.num_panels=0")
    assert not list((tmp_path / "runs" / "run").rglob("panels"))


def test_dry_run_does_everything_and_keeps_nothing(tiny, tmp_path):
    result = run_script("train.py", "--dry-run", *tiny)
    assert "dry run done" in result.stdout and "step 2/2  val" in result.stdout
    assert not (tmp_path / "runs").exists()


def test_print_config_prints_the_resolved_configuration_and_nothing_else(tmp_path):
    result = run_script("train.py", "--print-config", "optimizer.lr=1e-5")
    file = tmp_path / "printed.yaml"
    file.write_text(result.stdout)
    assert load_config(file).optimizer.lr == 1e-5


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_help_shows_how_to_start(script):
    assert f"python {script}" in run_script(script, "--help").stdout


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("train.py", ["traning.lr=1"], "did you mean 'train"),
        ("train.py", ["--conf", "conf/nowhere.yaml"], "conf/nowhere.yaml: cannot be read"),
        ("train.py", ["network.image_size=[350, 1216]"], "the nearest that is: [352, 1216]"),
        ("train.py", ["labeled.num_frames=7"], "label budget of 7 frames"),
        ("train.py", ["labeled.split=nowhere"], "nowhere"),
        ("train.py", ["validation.split=train"], "the two splits share"),
        ("train.py", ["network.pretrained=/nowhere/vit.pth"], "no such file /nowhere/vit.pth"),
        ("train.py", ["resume=must"], "resume=must, but there is no checkpoint"),
        ("train.py", ["run.device=cuda"], "sees no CUDA device"),
        ("evaluate.py", ["--ckpt", "/nowhere"], "/nowhere: neither a checkpoint file nor a run"),
    ],
)
def test_bad_usage_is_one_message_and_exit_code_2(script, words, message, tiny):
    if "cuda" in words[0] and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    result = run_script(script, *(tiny if script == "train.py" else []), *words, code=2)
    assert message in result.stderr and "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def broken_streets(streets, tmp_path):
    """The same streets by symbolic links, but with one damaged training picture."""
    root = tmp_path / "broken"
    for file in streets.rglob("*"):
        if file.is_file():
            link = root / file.relative_to(streets)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
    first = (streets / "look_a" / "splits" / "train.txt").read_text().splitlines()[0].split()
    picture = next((root / "look_a" / "raw").rglob(f"{first[0]}/image_02/data/{first[1]}.*"))
    content = picture.read_bytes()
    picture.unlink()
    picture.write_bytes(content[: len(content) // 2])
    return root, picture


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_stops_the_run_by_name_or_is_replaced_and_counted(
    streets, tiny, tmp_path, workers
):
    """(row 36)"""
    root, picture = broken_streets(streets, tmp_path)
    words = [*tiny, f"labeled.root={root}", f"train.num_workers={workers}"]
    stopped = run_script("train.py", *words, code=2)
    assert picture.name in stopped.stderr and "Traceback" not in stopped.stderr
    run_script("train.py", *words, "train.on_bad_sample=skip", "run.name=skip")
    assert records(tmp_path / "runs" / "skip", "train")[-1]["replaced_frames"] >= 1


def test_a_missing_file_is_found_before_the_first_step(streets, tiny, tmp_path):
    """(row 40)"""
    root, picture = broken_streets(streets, tmp_path)
    picture.unlink()
    result = run_script("train.py", *tiny, f"labeled.root={root}", code=2)
    assert "1 files of this split" in result.stderr and picture.stem in result.stderr


def test_divergence_ends_the_run_with_exit_code_3(tiny, tmp_path):
    """(row 31)"""
    words = [*tiny, "loss_weights.depth=1e38", "train.num_steps=30",
             "train.max_skipped_steps=2", "evaluation.every_steps=100"]  # fmt: skip
    result = run_script("train.py", *words, code=3)
    assert "training diverged: 2 steps in a row" in result.stderr
    assert "skipped: gradient not finite on" in result.stdout


@pytest.mark.parametrize("mode", ["bf16", "fp16"])
def test_mixed_precision_trains(tiny, tmp_path, mode):
    run_script("train.py", *tiny, f"train.precision={mode}", "train.num_steps=2")
    assert all(line["total"] > 0 for line in records(tmp_path / "runs" / "run", "train"))


def test_two_processes_train_and_validate_like_one(tiny, tmp_path):
    words = [word for word in tiny if not word.startswith("labeled.batch_size")]
    alone = run_script("train.py", *words, "labeled.batch_size=4", "run.name=alone")
    assert alone.returncode == 0
    run_pair("train.py", *words, "labeled.batch_size=2", "run.name=pair")
    for split in ("train", "val"):
        one, two = (records(tmp_path / "runs" / name, split) for name in ("alone", "pair"))
        key = "total" if split == "train" else "abs_rel"
        assert [r[key] for r in one] == pytest.approx([r[key] for r in two], rel=1e-2)
