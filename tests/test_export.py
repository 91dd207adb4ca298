"""What export.py writes computes what the network does and says where it comes from."""

import json
import shutil
import socket
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors
import safetensors.torch
import torch
import yaml
from conftest import HOUSE, TINY, run_script

import evaluate
import train
from export import USER_ERRORS, main, whole_file
from export_onnx import DepthOutputs, ExportError, check_parity, example_and_axes, output_names
from networks import NetworkError, build_network, load_network
from networks.hub import HubDepthNetwork, read_exported
from networks.model_card import model_card
from utils import command_line
from utils.checkpoint import CheckpointError, file_sha256


@pytest.fixture(scope="module")
def run(tmp_path_factory, streets) -> Path:
    """The folder of a tiny finished run; tests that evaluate it work on a copy. Its network keeps
    the class token: its graph has then all that it has without, and more."""
    base = tmp_path_factory.mktemp("trained")
    roots = [f"{stream}.root={streets}" for stream in ("labeled", "validation")]
    changes = ["train.num_steps=2", "network.prefix_tokens=per_group", "run.name=run"]
    assert train.main([*TINY, *roots, *changes, f"run.folder={base}"]) == 0
    return base / "run"


def words(source: Path, form: str, out: Path) -> list[str]:
    return ["--ckpt", str(source), "--format", form, "--out", str(out)]


@pytest.fixture(scope="module")
def exported(run) -> dict[str, Path]:
    """The run in all three formats; ONNX by the script as users call it."""
    files = {form: run.parent / f"depth.{form}" for form in ("onnx", "safetensors", "hub")}
    told = run_script("export.py", *words(run, "onnx", files["onnx"])).stdout
    assert "parity with PyTorch on 1 x 48 x 48" in told and f"written to {files['onnx']}" in told
    assert all(main(words(run, form, files[form])) == 0 for form in ("safetensors", "hub"))
    return files


def outputs_of_onnx(file: Path, image: torch.Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(["depth", "log_uncertainty"], {"image": image.numpy()})


@torch.inference_mode()
def same_outputs(one, two, size=(48, 64)) -> bool:
    image = torch.rand(2, 3, *size)
    pairs = zip(one(image)[:2], two(image)[:2], strict=True)
    return not one.training and not two.training and all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("bhw", [(1, 32, 96), (3, 32, 96), (2, 64, 48), (1, 16, 16), (2, 80, 208)])
def test_onnx_computes_what_the_network_does_at_any_batch_and_size(run, exported, bhw):
    """(row 59)"""
    image = torch.rand(bhw[0], 3, *bhw[1:])
    with torch.inference_mode():
        expected = load_network(run)(image)
    depth, log_uncertainty = outputs_of_onnx(exported["onnx"], image)
    assert depth.shape == log_uncertainty.shape == (bhw[0], 1, *bhw[1:])
    np.testing.assert_allclose(depth, expected.depth, atol=80 * 5e-6, rtol=0)
    np.testing.assert_allclose(log_uncertainty, expected.log_uncertainty, atol=5e-5, rtol=0)


def test_onnx_refuses_a_size_that_the_patch_does_not_divide(exported):
    for size in ((40, 96), (32, 100)):
        with pytest.raises(Exception, match="cannot be reshaped"):
            outputs_of_onnx(exported["onnx"], torch.rand(1, 3, *size))


def test_onnx_says_what_it_is_and_nothing_of_the_machine(run, exported):
    model = onnx.load(exported["onnx"])
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert said["encoder"] == "vit_tiny_patch16_224" and json.loads(said["image_size"]) == [32, 96]
    assert json.loads(said["max_depth"]) == 80 and json.loads(said["patch_size"]) == [16, 16]
    assert said["checkpoint_sha256"] == file_sha256(run / "checkpoints" / "best.pt")
    assert "RGB in [0, 1]" in said["input"]
    assert not any(x.data_location for x in model.graph.initializer)  # no second file beside it
    assert str(HOUSE).encode() not in exported["onnx"].read_bytes()


def test_a_graph_that_differs_fails_and_leaves_nothing(run, exported, tmp_path, capsys):
    """(row 59)"""
    network = load_network(run)
    check_parity(exported["onnx"], network)
    otherwise = onnx.load(exported["onnx"])  # positions resampled in another, plausible way
    resizes = (node.attribute for node in otherwise.graph.node if node.op_type == "Resize")
    (switch,) = (x for attributes in resizes for x in attributes if x.name == "antialias" and x.i)
    switch.i = 0
    refused = pytest.raises(ExportError, match=r"48 x 48.*nothing was written")
    for before in (None, b"earlier"):
        if before:
            (tmp_path / "depth.onnx").write_bytes(before)
        with refused, whole_file(tmp_path / "depth.onnx") as file:
            onnx.save(otherwise, file)
            check_parity(file, network)
        assert [f.read_bytes() for f in tmp_path.iterdir()] == [before] * bool(before)
    own_sizes = [line for line in capsys.readouterr().out.splitlines() if "x 32 x 96" in line]
    assert len(own_sizes) == 6  # 1 and 3 images at the network's own size do not show it


def test_registers_other_patches_and_no_uncertainty_are_traced_as_the_network_computes_them():
    network = build_network(
        encoder="vit_small_patch14_reg4_dinov2", image_size=(14, 42), max_depth=10.0,
        taps=(0, 1, 2, 3), decoder_channels=8, uncertainty=False, prefix_tokens="per_group",
    ).eval()  # fmt: skip
    image, axes = example_and_axes(network)
    assert image.shape == (2, 3, 28, 42)  # an axis of one patch would become a constant
    assert sorted(axes) == [0, 2, 3] and [axes[axis].fn(5) for axis in (2, 3)] == [70, 70]
    with torch.inference_mode():
        outputs = dict(zip(output_names(network), DepthOutputs(network)(image), strict=True))
        assert list(outputs) == ["depth"] and torch.equal(outputs["depth"], network(image).depth)
    with pytest.raises(RuntimeError, match="unflatten"):
        DepthOutputs(network)(torch.rand(1, 3, 28, 48))  # 48 is a multiple of 16


def test_safetensors_comes_back_bit_for_bit(run, exported):
    """(row 60)"""
    file = exported["safetensors"]
    assert same_outputs(load_network(run), load_network(file))
    with safetensors.safe_open(file, framework="pt") as opened:
        said = opened.metadata()
    assert said["format"] == "pt" and said["step"] == "2"
    assert said["checkpoint_sha256"] == file_sha256(run / "checkpoints" / "best.pt")
    assert json.loads(said["network"])["image_size"] == [32, 96]
    assert file.stat().st_mode == (run / "config.yaml").stat().st_mode


def test_a_hub_folder_comes_back_bit_for_bit_both_ways_offline(run, exported, monkeypatch):
    """(row 60)"""
    monkeypatch.setattr(socket.socket, "connect", None)  # not to be called
    folder = exported["hub"]
    assert {f.name for f in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    trained = load_network(run)
    assert same_outputs(trained, load_network(folder))
    assert same_outputs(trained, load_network(folder / "model.safetensors"))
    assert same_outputs(trained, HubDepthNetwork.from_pretrained(folder))
    config = json.loads((folder / "config.json").read_text())
    assert config["checkpoint_sha256"] == file_sha256(run / "checkpoints" / "best.pt")
    mode = (run / "config.yaml").stat().st_mode
    assert all(file.stat().st_mode == mode for file in folder.iterdir())


def test_hub_weights_that_lack_a_tensor_are_refused_both_ways(exported, tmp_path):
    """(row 60)"""
    folder = shutil.copytree(exported["hub"], tmp_path / "hub")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    del weights["depth_head.conv1.weight"]
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    with pytest.raises(NetworkError, match="do not fit"):
        load_network(folder)
    with pytest.raises(RuntimeError, match=r"depth_head\.conv1\.weight"):
        HubDepthNetwork.from_pretrained(folder)


def test_an_export_is_exported_on_with_its_origin_but_not_onto_itself(exported, tmp_path):
    for source in (exported["hub"], exported["safetensors"]):
        out = tmp_path / f"{source.name}.safetensors"
        main(words(source, "safetensors", out))
        assert read_exported(out) == read_exported(exported["safetensors"])
    main(words(exported["safetensors"], "hub", tmp_path / "h"))
    card = (tmp_path / "h" / "README.md").read_text()
    assert "Not recorded in the file" in card and "was not evaluated" in card
    with pytest.raises(ExportError, match="is the folder that is exported"):
        main(words(exported["hub"], "hub", exported["hub"]))


def test_the_card_of_a_checkpoint_that_was_not_evaluated_has_no_score(run, exported):
    card = (exported["hub"] / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == "maskingdepth" and front["license"] == "mit"
    assert front["pipeline_tag"] == "depth-estimation" and "dpt" in front["tags"]
    assert "This checkpoint was not evaluated." in card and "abs_rel" not in card
    assert f"checkpoint SHA-256: `{file_sha256(run / 'checkpoints' / 'best.pt')}`" in card
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert f"| labeled | synthetic | train | all | `{config['labeled']['list_sha256']}` |" in card
    assert "unlabeled" not in card  # the section exists in every configuration; nobody read it
    assert "HubDepthNetwork.from_pretrained" in card and "load_network(" in card


def test_the_card_has_the_scores_of_this_very_checkpoint_and_of_no_other(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    assert evaluate.main(["--ckpt", str(folder), "evaluation.num_panels=0"]) == 0
    export = words(folder, "hub", tmp_path / "hub")
    file = folder / "evaluation" / "val" / "metrics.json"
    scores = json.loads(file.read_text())
    (tmp_path / "hub").mkdir()  # an empty folder is nobody's
    main(export)
    card = (tmp_path / "hub" / "README.md").read_text()
    row = next(line for line in card.splitlines() if line.startswith("| plain |"))
    assert all(f"{scores['protocols']['plain'][name]:.4f}" in row for name in ("abs_rel", "d1"))
    assert "split val, 4 images" in card and scores["list_sha256"] in card
    assert "| plain, median-scaled |" in card and "was not evaluated" not in card
    (tmp_path / "hub" / "notes.txt").write_text("mine")
    file.write_text(json.dumps(scores | {"sha256": "0" * 64}))
    main(export)  # over the earlier export
    assert "was not evaluated" in (tmp_path / "hub" / "README.md").read_text()
    assert (tmp_path / "hub" / "notes.txt").read_text() == "mine"
    file.write_text("{}")
    with pytest.raises(ExportError, match=r"metrics\.json: not what evaluate\.py writes"):
        main(export)


def test_the_card_names_plain_images_where_they_taught():
    config = yaml.safe_load((HOUSE / "conf" / "defaults.yaml").read_text())
    config["loss_weights"]["depth_consistency"] = 1.0
    config["unlabeled"] |= {"split": "/home/me/lists/all.txt", "num_frames": 7, "list_sha256": "ab"}
    config["network"]["pretrained"] = "/home/me/vit.pth"
    card = model_card(config["network"], config=config, scores=None, checkpoint_sha256="cd", step=3)
    assert "| unlabeled | synthetic | all.txt | 7 | `ab` |" in card
    assert "the file `vit.pth`" in card and "/home/me" not in card


def test_bad_usage_is_one_message_and_exit_code_2(run, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert command_line.run_script(lambda: main(words(run, "hub", tmp_path)), USER_ERRORS) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told == f"ExportError: --out {tmp_path}: has files that are no export; give a new folder"
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("form", "out", "message"),
    [
        ("onnx", "depth.pt", r"writes a file that ends in \.onnx"),
        ("safetensors", "depth.onnx", r"ends in \.safetensors"),
        ("onnx", "folder.onnx", "is a folder"),
        ("hub", "file", "is a file; --format hub writes a folder"),
        ("safetensors", "file/depth.safetensors", "could not be written"),
    ],
)
def test_a_target_that_cannot_be_is_refused(run, tmp_path, form, out, message):
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ExportError, match=message):
        main(words(run, form, tmp_path / out))
    assert {f.name for f in tmp_path.rglob("*")} == {"folder.onnx", "file"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"uncertainty_activation": "relu"}, r"\['uncertainty_activation'\] cannot be expressed"),
        ({"encoder": [16, 192, 12, 3, 768]}, r"\['encoder'\] cannot be expressed"),
        ({"colour": "red"}, r"which has no \['colour'\]"),
        ({"image_size": "large"}, "image_size = 'large' is not usable"),
    ],
)
def test_settings_that_no_export_can_express_are_refused(run, tmp_path, settings, message):
    state = torch.load(run / "checkpoints" / "best.pt", weights_only=True)
    state["config"]["network"] |= settings
    # most of the bytes, and nobody's here
    torch.save(state | {"step_module": None, "optimizer": None}, tmp_path / "changed.pt")
    with pytest.raises(NetworkError, match=message):
        main(words(tmp_path / "changed.pt", "hub", tmp_path / "hub"))
    assert not (tmp_path / "hub").exists()


def test_files_that_hold_no_network_of_ours_are_refused_in_one_line(exported, tmp_path):
    tensors = {"blocks.0.norm1.weight": torch.zeros(3)}
    bare, damaged, vit = (tmp_path / name for name in ("a.safetensors", "b.safetensors", "vit.pth"))
    safetensors.torch.save_file(tensors, bare)
    damaged.write_bytes(exported["safetensors"].read_bytes()[:1000])
    torch.save(tensors, vit)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    shutil.copy(bare, foreign / "model.safetensors")
    (foreign / "config.json").write_text('{"architecture": "vit_base_patch16_224"}')
    (tmp_path / "empty").mkdir()
    messages = {
        bare: "no network settings in its metadata",
        damaged: "not a network exported by this project",
        vit: "not a checkpoint of this project",
        exported["onnx"]: "not a checkpoint of this project",
        foreign: "which has no ['architecture']",
        tmp_path / "empty": "neither a checkpoint file nor a run folder",
    }
    for path, message in messages.items():
        with pytest.raises(NetworkError) as loaded:
            load_network(path)
        with pytest.raises((NetworkError, CheckpointError)) as caught:
            main(words(path, "hub", tmp_path / "hub"))
        assert message in str(loaded.value)
        for told in (str(loaded.value), str(caught.value)):
            assert str(path) in told and "\n" not in told


def test_help_shows_how_to_start(capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"--format {form}" in shown for form in ("onnx", "safetensors", "hub"))
