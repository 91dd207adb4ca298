"""`python -m datasets.prepare nyu`: the forms of NYU, and the official labelled file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from prepare_command import (
    prepare,
    problems,
)
from trees import (
    nyu_bts_tree,
    nyu_densedepth_tree,
    write_list,
)

from datasets.nyu import Nyu
from datasets.splits import list_sha256


def test_nyu_is_cut_by_rooms_from_a_list_as_bts_writes_it(tmp_path, capsys):
    root = nyu_bts_tree(tmp_path / "nyu")
    lines = [
        f"/{scene}/rgb_{number:05d}.jpg /{scene}/sync_depth_{number:05d}.png 518.8579"
        for scene, count in (("bedroom_0001", 3), ("bedroom_0026", 2))
        for number in range(count)
    ]
    path = write_list(tmp_path / "nyudepthv2_train.txt", lines)
    words = ("nyu", "--root", root, "--variant", "bts", "--train-list", path)
    code, shown = prepare(capsys, *words)
    assert code == 0 and "expected 24,231 frames" in shown, shown
    val = Nyu(root, "val", variant="bts")
    assert val.frame_ids == ("bedroom_0026/rgb_00000.jpg", "bedroom_0026/rgb_00001.jpg")
    assert val.frame(0).depth().max() > 0
    assert len(Nyu(root, "train")) == 3 and len(Nyu(root, "train_all")) == 5

    rooms = write_list(tmp_path / "test_rooms.txt", ["1 kitchen_0004", "2 bedroom_0001b"])
    code, shown = prepare(capsys, *words, "--test-scenes", rooms)
    assert code == 1 and "train: 3 frames lie on 1 test drives or scenes (bedroom_0001)" in shown


def test_another_form_of_nyu_and_another_root_are_recognised(tmp_path, capsys):
    root = nyu_densedepth_tree(tmp_path / "a" / "nyu")
    code, shown = prepare(capsys, "nyu", "--root", root, "--variant", "bts")
    assert code == 1 and "pass --variant densedepth" in shown
    code, shown = prepare(capsys, "nyu", "--root", tmp_path / "a", "--variant", "densedepth")
    assert code == 1 and f"pass --root {root}" in shown
    assert not list(tmp_path.glob("**/manifest.json"))
    code, shown = prepare(capsys, "nyu", "--root", root, "--variant", "densedepth")
    assert code == 0 and "expected 50,688 frames" in shown, shown
    assert len(Nyu(root, "train", variant="densedepth")) == 3


def labeled_file(folder: Path, num_frames: int = 5) -> tuple[Path, Path]:
    """A tiny nyu_depth_v2_labeled.mat and its splits.mat; frame 3 and on are for testing."""
    h5py, scipy_io = pytest.importorskip("h5py"), pytest.importorskip("scipy.io")
    rng = np.random.default_rng(0)
    path, splits = folder / "labeled.mat", folder / "splits.mat"
    scenes = ["bedroom_0001", "bedroom_0026", *["kitchen_0004"] * (num_frames - 2)]
    with h5py.File(path, "w") as file:
        shape = (num_frames, 3, 640, 480)
        file["images"] = (
            rng.integers(0, 255, (num_frames, 3, 1, 1), np.uint8).repeat(640, 2).repeat(480, 3)
        )
        assert file["images"].shape == shape
        ramp = np.linspace(1, 4, 640, dtype=np.float32)[:, None].repeat(480, 1)
        file["depths"] = np.stack([ramp + number for number in range(num_frames)])
        file["rawDepths"] = np.stack([ramp * (np.arange(480) > 99) for _ in range(num_frames)])
        references = file.create_dataset("scenes", (1, num_frames), h5py.ref_dtype)
        for number, scene in enumerate(scenes):
            text = file.create_dataset(f"#refs#/{number}", data=[[ord(letter)] for letter in scene])
            references[0, number] = text.ref
    numbers = np.arange(1, num_frames + 1)[:, None]
    scipy_io.savemat(splits, {"trainNdxs": numbers[:2], "testNdxs": numbers[2:]})
    return path, splits


def test_the_official_nyu_file_is_extracted_upright_in_millimetres(tmp_path, capsys):
    mat, splits = labeled_file(tmp_path)
    out = tmp_path / "nyu"
    words = ("nyu", "--variant", "labeled", "--mat", mat, "--splits", splits, "--out", out)
    code, shown = prepare(capsys, *words)
    assert code == 1  # it is not the whole of it
    assert [line[-40:] for line in problems(shown)] == [
        line[-40:]
        for line in (
            "labelled NYU, all: 5 frames, expected 1,449",
            "labelled NYU, train: 2 frames, expected 795",
            "labelled NYU, test: 3 frames, expected 654",
        )
    ], shown
    test = Nyu(out, "test", variant="labeled")
    assert test.frame_ids == tuple(f"kitchen_0004/rgb_{number:05d}" for number in (3, 4, 5))
    depth = test.frame(0).depth()
    assert depth.shape == (480, 640)
    assert depth[100:, 0] == pytest.approx(1.0) and depth[200, -1] == pytest.approx(4.0)
    assert not depth[:100].any()
    filled = Nyu(out, "test", variant="labeled_filled").frame(0).depth()
    assert filled[0, 0] == pytest.approx(3.0)
    assert Nyu(out, "val", variant="labeled").frame_ids == ("bedroom_0026/rgb_00002",)
    manifest = json.loads((out / "splits/manifest.json").read_text())
    assert manifest["test"]["sha256"] == list_sha256(test.frame_ids)

    # a stopped extraction goes on where it was, and an intact frame is not written again
    kept, lost = out / "labeled/rgb_00001.png", out / "labeled/raw_depth_00002.png"
    before, _ = kept.stat().st_mtime_ns, lost.unlink()
    assert prepare(capsys, *words)[0] == 1
    assert lost.is_file() and kept.stat().st_mtime_ns == before


def test_a_web_page_saved_as_the_nyu_file_is_refused_in_one_line(tmp_path, capsys):
    pytest.importorskip("h5py")
    mat = tmp_path / "labeled.mat"
    mat.write_text("<html>quota exceeded</html>")
    words = ("nyu", "--variant", "labeled", "--mat", mat, "--out", tmp_path / "out")
    code, shown = prepare(capsys, *words)
    assert code == 2 and str(mat) in shown and "2.8 GB" in shown


def test_without_h5py_the_pip_install_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    words = ("nyu", "--variant", "labeled", "--mat", tmp_path / "x.mat", "--out", tmp_path / "out")
    code, shown = prepare(capsys, *words)
    assert code == 2 and "pip install h5py" in shown
