"""evaluate_pose.py on rendered drives: the right pairs, the right way round, and clear refusals."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor, resize
from trees import image_tree, write_list

from datasets.crop import cropped
from datasets.splits import list_sha256
from datasets.synthetic import Synthetic
from datasets.synthetic_tree import SyntheticSettings, write_tree
from datasets.views import evaluation_image
from evaluate_pose import USER_ERRORS, main
from networks.pose_network import build_pose_network
from train import main as train_main
from utils.checkpoint import KEYS, file_sha256, save_checkpoint
from utils.config import load_config
from utils.trajectory import floors, pose_errors, scaled, snippet_ate

SIZE = (32, 96)


@pytest.fixture(scope="module")
def drives(tmp_path_factory):
    """Root of a synthetic dataset: drives of 6 frames, 2 to train on, 1 to validate, 1 to test."""
    root = tmp_path_factory.mktemp("data") / "synthetic"
    settings = SyntheticSettings(
        num_train_scenes=2, num_val_scenes=1, num_test_scenes=1, frames_per_scene=6,
        image_size=(64, 208),
    )  # fmt: skip
    write_tree(root / "look_a", "look_a", settings, workers=1)
    return root


def lively_network(seed=0):
    """Untrained, but what it says depends on the pictures and is some decimetres and degrees."""
    torch.manual_seed(seed)
    network = build_pose_network(encoder="vit_tiny_patch16_224", image_size=SIZE).eval()
    with torch.no_grad():
        network.head.weight *= 10
    return network


def write_run(folder, root, network, *words):
    """A run folder whose checkpoint holds a configuration and, if given, a pose network."""
    cfg = load_config(None, [*TINY, f"unlabeled.root={root}", *words]).toDict()
    step_module = {"network.weight": torch.zeros(1)}
    if network is not None:
        step_module |= {
            f"self_supervision.pose_network.{key}": value
            for key, value in network.state_dict().items()
        }
    state = {key: {} for key in KEYS} | {"format_version": 1, "step": 7, "config": cfg}
    save_checkpoint(
        folder / "checkpoints", state | {"step_module": step_module}, keep_last=1, best=True
    )
    return folder


@pytest.fixture(scope="module")
def network():
    return lively_network()


@pytest.fixture
def run(tmp_path, drives, network):
    return write_run(tmp_path / "runs" / "video", drives, network)


def result_of(run, split="train"):
    return json.loads((run / "pose" / split / "pose.json").read_text())


def by_hand(network, dataset, crop=None):
    """Predicted and true poses of all pairs, one pair at a time."""

    def image(frame):
        picture = frame.image
        if crop:
            picture, _ = cropped(picture, frame.intrinsics, crop)
        return resize(pil_to_tensor(picture), SIZE, antialias=True)[None].float() / 255

    predicted, true = [], []
    for index in range(len(dataset)):
        following = dataset.neighbour_frame(index, 1)
        if following is not None:
            with torch.no_grad():
                pose = network(image(dataset.frame(index)), image(following))
            predicted.append(pose[0].double().numpy())
            true.append(dataset.relative_pose(index, 1))
    return np.array(predicted), np.array(true)


def same_numbers(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        near = None if value is None else pytest.approx(value, rel=1e-4, abs=1e-5)
        assert found[key] == near, key


def test_every_pair_is_scored_the_right_way_round(run, drives, network):
    assert main(["--ckpt", str(run)]) == 0
    predicted, true = by_hand(network, Synthetic(drives, "train"))
    assert len(true) == 10
    runs = [0] * 5 + [1] * 5
    rows = {"predicted": predicted, **floors(true)}
    ratio = pose_errors(predicted, true)["length_ratio"]
    rows["median_scaled"] = scaled(predicted, 1 / ratio)
    found = result_of(run)["errors"]
    assert found.keys() == rows.keys()
    for name, poses in rows.items():
        numbers = pose_errors(poses, true) | snippet_ate(poses, true, runs=runs)
        expected = {k: None if math.isnan(v) else v for k, v in numbers.items()}
        same_numbers(found[name], expected)
    assert found["standing_still"]["direction_error_deg"] is None
    # not the same as from the source to the target
    backwards = pose_errors(np.linalg.inv(predicted), true)["translation_error_m"]
    assert abs(found["predicted"]["translation_error_m"] - backwards) > 0.01


def test_the_order_of_a_list_does_not_matter(run, drives, tmp_path):
    main(["--ckpt", str(run)])
    names = Synthetic(drives, "train").frame_ids
    path = write_list(tmp_path / "mixed.txt", [names[(7 * i) % 12] for i in range(12)])
    main(["--ckpt", str(run), "--split", str(path)])
    errors, mixed = (result_of(run, split)["errors"] for split in ("train", "mixed"))
    for name, row in errors.items():
        same_numbers(mixed[name], row)


def test_the_network_keeps_the_size_that_it_was_trained_at(run):
    main(["--ckpt", str(run)])
    errors = result_of(run)["errors"]
    main(["--ckpt", str(run), "network.image_size=[64, 96]"])
    assert result_of(run)["errors"] == errors and result_of(run)["image_size"] == list(SIZE)


def test_a_network_that_says_the_mean_is_as_good_as_constant_velocity(tmp_path, drives):
    true = by_hand(lively_network(), Synthetic(drives, "val"))[1]
    constant = lively_network()
    mean = true[:, :3, 3].mean(0)
    with torch.no_grad():
        constant.head.weight.zero_()
        constant.head.bias.copy_(torch.tensor([0, 0, 0, *(mean / 0.1)]))
    run = write_run(tmp_path / "runs" / "constant", drives, constant)
    main(["--ckpt", str(run), "--split", "val"])
    errors = result_of(run, "val")["errors"]
    spread = np.linalg.norm(true[:, :3, 3] - mean, axis=1).mean()
    for name in ("predicted", "constant_velocity"):
        assert errors[name]["translation_error_m"] == pytest.approx(spread, abs=1e-5)
    assert errors["standing_still"]["translation_error_m"] > 5 * spread


def test_what_was_evaluated_is_written_down(run, drives, capsys):
    main(["--ckpt", str(run / "checkpoints" / "last.pt")])
    result = result_of(run)
    dataset = Synthetic(drives, "train")
    assert result["sha256"] == file_sha256(run / "checkpoints" / "last.pt")
    assert result["list_sha256"] == list_sha256(dataset.frame_ids)
    facts = {"dataset": "synthetic", "split": "train", "num_frames": 12, "num_pairs": 10,
             "num_runs": 2, "step": 7, "image_size": list(SIZE), "snippet_frames": 5,
             "num_test_frames": 0, "pose_encoder": "vit_tiny_patch16_224",
             "crop": None}  # fmt: skip
    assert facts.items() <= result.items()
    with Image.open(run / "pose" / "train" / "trajectory.png") as picture:
        picture.verify()
    names = {path.name for path in (run / "pose" / "train").iterdir()}
    assert names == {"pose.json", "trajectory.png"}
    said = capsys.readouterr().out
    for name, row in result["errors"].items():
        line = next(x for x in said.splitlines() if x.startswith(name.replace("_", " ")))
        assert f"{row['translation_error_m']:.4f}" in line and f"{row['ate_m']:.4f}" in line
    assert not list(run.parent.glob("test_ledger.jsonl"))


def test_a_look_at_test_frames_is_entered(run, capsys):
    out = run / "elsewhere"
    main(["--ckpt", str(run), "--split", "test", "--out", str(out)])
    main(["--ckpt", str(run), "--split", "test", "--out", str(out)])
    assert (out / "pose.json").is_file() and not (run / "pose").exists()
    lines = (run.parent / "test_ledger.jsonl").read_text().splitlines()
    assert len(lines) == 2 and json.loads(lines[0])["num_test_frames"] == 6
    assert "look number 2" in capsys.readouterr().out


def test_frames_that_the_run_left_out_are_scored_too(tmp_path, drives, network):
    few = ["unlabeled.num_frames=3", f"unlabeled.list_sha256={'a' * 64}"]
    run = write_run(tmp_path / "runs" / "few", drives, network, *few)
    main(["--ckpt", str(run)])
    assert result_of(run)["num_pairs"] == 10
    main(["--ckpt", str(run), "unlabeled.num_frames=3"])
    assert result_of(run)["num_pairs"] == 3


def test_pictures_are_cropped_as_in_training(tmp_path, drives, network):
    crop = (0.25, 1.0, 0.0, 0.5)
    run = write_run(tmp_path / "runs" / "crop", drives, network, f"unlabeled.crop={list(crop)}")
    main(["--ckpt", str(run), "--split", "val"])
    errors = pose_errors(*by_hand(network, Synthetic(drives, "val"), crop))
    found = result_of(run, "val")["errors"]["predicted"]
    same_numbers({key: found[key] for key in errors}, errors)
    whole = pose_errors(*by_hand(network, Synthetic(drives, "val")))
    assert abs(errors["rotation_error_deg"] - whole["rotation_error_deg"]) > 1e-3


def test_runs_too_short_for_a_snippet_have_no_ate(tmp_path, streets, network, capsys):
    run = write_run(tmp_path / "runs" / "short", streets, network)
    main(["--ckpt", str(run)])
    result = result_of(run)
    assert result["num_pairs"] == result["num_runs"] == 3
    assert all("ate_m" not in row for row in result["errors"].values())
    assert "no run has 5 consecutive frames" in capsys.readouterr().out
    main(["--ckpt", str(run), "--snippet-frames", "2"])
    assert result_of(run)["errors"]["predicted"]["num_snippets"] == 3
    with pytest.raises(SystemExit, match="2"):
        main(["--ckpt", str(run), "--snippet-frames", "1"])


def refused(message, *words):
    with pytest.raises(USER_ERRORS, match=message) as caught:
        main([str(word) for word in words])
    return caught


def test_a_run_without_a_pose_network_is_refused_with_the_keys_that_train_one(tmp_path, drives):
    run = write_run(tmp_path / "runs" / "stereo", drives, None)
    caught = refused("no pose network in it", "--ckpt", run)
    assert "self_supervision.sources=video" in str(caught.value)
    assert not (run / "pose").exists()
    export = tmp_path / "model.safetensors"
    export.write_bytes(b"x")
    refused("an export holds no pose network", "--ckpt", export)


@pytest.mark.parametrize(
    "word", ["self_supervision.pose_encoder=vit_small_patch16_224", "network.image_size=[64, 96]"]
)
def test_a_pose_network_that_its_configuration_does_not_describe_is_refused(
    tmp_path, drives, network, word
):
    run = write_run(tmp_path / "runs" / "other", drives, network, word)
    refused("last.pt|best.pt: its pose network does not fit its own", "--ckpt", run)


def test_frames_without_poses_are_refused(tmp_path, drives, run):
    bare = tmp_path / "bare"
    shutil.copytree(drives, bare)
    shutil.rmtree(bare / "look_a" / "poses")
    refused("none of the 12 frames", "--ckpt", run, f"unlabeled.root={bare}")
    pictures = image_tree(tmp_path / "pictures")
    words = ["--split", "all", "unlabeled.dataset=images", f"unlabeled.root={pictures}"]
    refused("frames of ImageFolder", "--ckpt", run, *words)
    assert not (run / "pose").exists()


def test_predictions_that_are_no_numbers_are_refused(tmp_path, drives):
    broken = lively_network()
    with torch.no_grad():
        broken.head.bias[0] = math.nan
    run = write_run(tmp_path / "runs" / "broken", drives, broken)
    refused("10 of 10 predicted poses are not finite", "--ckpt", run)
    assert not (run / "pose").exists()


def test_a_damaged_picture_is_named(tmp_path, drives, run):
    damaged = tmp_path / "damaged"
    shutil.copytree(drives, damaged)
    path = Synthetic(damaged, "train").paths(2)["image"]
    path.write_bytes(path.read_bytes()[:500])
    refused(path.name, "--ckpt", run, f"unlabeled.root={damaged}")


def test_what_the_training_script_saves_is_what_is_evaluated(tiny, streets, tmp_path):
    train_main([
        *tiny, f"unlabeled.root={streets}", "unlabeled.batch_size=2", "train.num_steps=1",
        "loss_weights.photometric=1", "self_supervision.sources=video",
    ])  # fmt: skip
    run = tmp_path / "runs" / "run"
    main(["--ckpt", str(run)])
    state = torch.load(run / "checkpoints" / "best.pt", weights_only=True)["step_module"]
    trained = build_pose_network(encoder="vit_tiny_patch16_224", image_size=SIZE).eval()
    prefix = "self_supervision.pose_network."
    trained.load_state_dict(
        {key.removeprefix(prefix): value for key, value in state.items() if prefix in key}
    )
    errors = pose_errors(*by_hand(trained, Synthetic(streets, "train")))
    same_numbers(result_of(run)["errors"]["predicted"], errors)


def test_the_pictures_are_those_of_the_evaluation(drives):
    """`by_hand` above resizes for itself; it is the same to the bit."""
    frame = Synthetic(drives, "train").frame(0)
    expected = resize(pil_to_tensor(frame.image), SIZE, antialias=True).float() / 255
    assert torch.equal(evaluation_image(frame, SIZE), expected)
