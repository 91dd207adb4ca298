"""Choosing frames to label: spread over scenes, hard ones first, nothing that is not allowed."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, run_script
from trees import (
    image_tree,
    kitti_tree,
    nyu_bts_tree,
    nyu_densedepth_tree,
    nyu_labeled_tree,
    rgbd_tree,
    virtual_kitti_tree,
    write_list,
)

from datasets import DATASETS, DataError
from datasets.pool import candidates, lines_of
from datasets.splits import label_budget
from evaluate import USER_ERRORS
from label_next import absolute_score, check_request, main, parse_arguments, relative_score
from networks import DepthOutput, NetworkError, build_network
from utils.config import load_config
from utils.selection import scene_positions, select_frames


def frames(counts, seed=0):
    """Arguments of `select_frames` for scenes of these sizes, with random scores."""
    scenes = [f"s{scene}" for scene, count in enumerate(counts) for _ in range(count)]
    positions = [position for count in counts for position in range(count)]
    ids = [f"{scene}/{position}" for scene, position in zip(scenes, positions, strict=True)]
    scores = np.random.default_rng(seed).normal(size=len(ids)).tolist()
    return {"frame_ids": ids, "scenes": scenes, "positions": positions, "scores": scores}


def test_choosing_all_is_an_order_of_all_and_fewer_are_its_beginning():
    known = frames([30, 7, 1, 12])
    everything = select_frames(**known, num_frames=50, min_gap=4)
    assert sorted(everything) == list(range(50))
    for count in (0, 1, 3, 17, 49):
        assert select_frames(**known, num_frames=count, min_gap=4) == everything[:count]


def test_the_order_of_the_input_does_not_matter_and_equal_scores_go_by_name():
    known = frames([20, 20])
    known["scores"] = [round(score) for score in known["scores"]]  # many equal ones
    names = [known["frame_ids"][k] for k in select_frames(**known, num_frames=12)]
    order = np.random.default_rng(1).permutation(40)
    mixed = {key: [values[k] for k in order] for key, values in known.items()}
    assert [mixed["frame_ids"][k] for k in select_frames(**mixed, num_frames=12)] == names
    same = {**known, "scores": [0.0] * 40}
    first = select_frames(**same, num_frames=2, min_gap=0)
    assert [known["frame_ids"][k] for k in first] == ["s0/0", "s1/0"]


def test_scenes_take_turns_and_the_most_uncertain_goes_first():
    known = frames([40, 40, 40])
    known["scores"] = [
        score + 10 * (scene == "s1")
        for score, scene in zip(known["scores"], known["scenes"], strict=True)
    ]
    chosen = [known["scenes"][k] for k in select_frames(**known, num_frames=14, min_gap=1)]
    assert [chosen.count(scene) for scene in ("s0", "s1", "s2")] in ([4, 5, 5], [5, 5, 4])
    assert chosen[0::3] == ["s1"] * 5
    places = select_frames(**known, num_frames=120, min_gap=1)
    for k in range(0, 120, 3):
        turn = places[k : k + 3]
        assert len({known["scenes"][place] for place in turn}) == 3
        scores = [known["scores"][place] for place in turn]
        assert scores == sorted(scores, reverse=True)


def test_neighbours_wait_until_nothing_else_is_left():
    known, gap = frames([50, 50]), 5
    order = select_frames(**known, num_frames=100, min_gap=gap)
    where = [(known["scenes"][place], known["positions"][place]) for place in order]

    def is_near(place, others):
        return any(place[0] == scene and abs(place[1] - k) < gap for scene, k in others)

    near = [is_near(place, where[:count]) for count, place in enumerate(where)]
    first = near.index(True)
    assert first >= 2 * 50 / (2 * gap - 1) and all(near[first:])
    # when the first neighbour came, every other frame left was a neighbour as well
    assert all(is_near(place, where[:first]) for place in where[first:])
    assert not any(near[:first])
    # among neighbours, too, scenes take turns
    crowded = {**frames([8, 8]), "scores": [1.0] * 8 + [0.0] * 8}
    scenes = [place // 8 for place in select_frames(**crowded, num_frames=16, min_gap=20)]
    assert scenes == [0, 1] * 8


def test_labelled_frames_keep_their_neighbours_waiting():
    known = frames([9])
    known["scores"] = [0.0, 1.0, 2.0, 3.0, 9.0, 3.0, 2.0, 1.0, 0.0]
    assert select_frames(**known, num_frames=1, min_gap=3) == [4]
    assert select_frames(**known, num_frames=2, min_gap=3, taken=[("s0", 4)]) == [1, 7]
    assert select_frames(**known, num_frames=1, min_gap=3, taken=[("other", 4)]) == [4]


def test_hard_frames_are_found_far_more_often_than_by_chance():
    known = frames([100] * 5)
    rng = np.random.default_rng(2)
    hard = set(rng.choice(500, 50, replace=False).tolist())
    known["scores"] = [
        score + 3 * (place in hard) for place, score in enumerate(rng.normal(size=500))
    ]
    found = len(hard & set(select_frames(**known, num_frames=50, min_gap=2)))
    by_chance = len(hard & set(label_budget(known["frame_ids"], 50, seed=0)))
    assert found >= 30 and by_chance <= 12


def test_bad_requests_for_a_selection_are_refused():
    known = frames([5])
    for change, message in [
        ({"num_frames": 6}, "6 frames asked for, but there are 5"),
        ({"scores": [0, 1, 2, 3, float("nan")]}, "finite"),
        ({"scenes": ["s0"]}, "for each frame"),
        ({"frame_ids": ["a"] * 5}, "each frame once"),
    ]:
        with pytest.raises(ValueError, match=message):
            select_frames(**{**known, "num_frames": 1, **change})


def test_positions_count_numbers_as_numbers_within_each_scene():
    ids = ["a/10.jpg", "a/9.jpg", "b/1.jpg", "a/100.jpg", "b/01.jpg"]
    assert scene_positions(ids, [name[0] for name in ids]) == [1, 0, 1, 2, 0]


def test_scores_are_the_expected_error_absolute_and_relative_to_depth():
    depth = torch.full((2, 1, 4, 6), 2.0)
    depth[1] = 40.0
    error = torch.tensor([0.5, 2.0]).view(2, 1, 1, 1).expand_as(depth)  # metres
    output = DepthOutput(depth, error.log(), ())
    assert absolute_score(output).exp().tolist() == pytest.approx([0.5, 2.0])
    assert relative_score(output).exp().tolist() == pytest.approx([0.25, 0.05])


def everything(dataset):
    return dataset, range(len(dataset))


TREES = {
    "kitti": (kitti_tree, "train_all", {}),
    "virtual_kitti": (virtual_kitti_tree, "all", {}),
    "nyu, bts": (nyu_bts_tree, "train_all", {}),
    "nyu, densedepth": (nyu_densedepth_tree, "train_all", {"variant": "densedepth"}),
    "nyu, labeled": (nyu_labeled_tree, "all", {"variant": "labeled"}),
    "rgbd": (rgbd_tree, "train", {"depth_scale": 1000}),
    "images": (image_tree, "all", {}),
}


@pytest.mark.parametrize("kind", TREES)
def test_a_written_list_names_the_same_files_again(tmp_path, kind):
    tree, split, options = TREES[kind]
    tree(tmp_path / "data")
    opened = DATASETS[kind.split(",", maxsplit=1)[0]]
    dataset = opened(tmp_path / "data", split, **options)
    line = lines_of(dataset, split)
    backwards = range(len(dataset) - 1, -1, -1)
    path = write_list(tmp_path / "next.txt", [line(index) for index in backwards])
    again = opened(tmp_path / "data", str(path), **options)
    assert again.frame_ids == dataset.frame_ids[::-1]
    assert [again.paths(k) for k in range(len(again))] == [dataset.paths(k) for k in backwards]


def test_a_list_of_rgbd_keeps_all_its_columns(tmp_path):
    rgbd_tree(tmp_path)
    line = lines_of(DATASETS["rgbd"](tmp_path, "train", depth_scale=1000), "train")
    assert line(1) == (tmp_path / "train.txt").read_text().splitlines()[1]
    assert line(1).split()[2] == "30.5"


def test_every_frame_of_the_pool_is_ranked_or_left_out_for_one_reason(tmp_path):
    rgbd_tree(tmp_path, scenes={"desk": 6, "den": 4, "hall": 1})
    pool = DATASETS["rgbd"](tmp_path, "train", depth_scale=1000)
    streams = {"labeled": (pool, [0, 3]), "validation": (pool, [3, 7])}
    tests = {pool.frame_ids[1]}
    apart = candidates(everything(pool), **streams, may_share="scenes", tests=tests)
    assert apart == {
        "test": [1], "validation": [3, 7], "labelled": [0], "ranked": [2, 4, 5, 6, 8, 9],
    }  # fmt: skip
    streams["validation"] = (pool, [7])
    strict = candidates(everything(pool), **streams, may_share="nothing", tests=tests)
    assert strict == {"test": [1], "validation": [6, 7, 8, 9], "labelled": [0, 3],
                      "ranked": [2, 4, 5]}  # fmt: skip
    pictures = DATASETS["images"](tmp_path, "all")  # the same files under another kind of dataset
    seen = candidates(everything(pictures), **streams, may_share="nothing", tests=())
    left_out = {pictures.frame_ids[k] for k in (*seen["labelled"], *seen["validation"])}
    assert left_out == {pool.frame_ids[k] for k in (0, 3, 7)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, streets):
    """A tiny run with two of the six training frames as labels."""
    base = tmp_path_factory.mktemp("trained")
    roots = [f"{name}.root={streets}" for name in ("labeled", "validation", "unlabeled")]
    run_script(
        "train.py", *TINY, *roots, "labeled.num_frames=2", "samples.num_images=0",
        f"run.folder={base}", "run.name=run",
    )  # fmt: skip
    return base / "run"


def used(run: Path, name: str) -> list[str]:
    return (run / "splits" / f"{name}.txt").read_text().splitlines()


def test_the_script_writes_a_list_that_training_takes(trained, streets, tmp_path):
    out = tmp_path / "lists" / "next.txt"
    shown = run_script(
        "label_next.py", "--ckpt", str(trained), "--num-frames", "3", "--out", str(out)
    )  # fmt: skip
    assert "pool: 6 frames; left out: 0 test, 0 validation, 2 labelled; ranked: 4" in shown.stdout
    assert "4/4" in shown.stderr  # progress
    names = out.read_text().splitlines()
    pool = set((streets / "look_a" / "splits" / "train.txt").read_text().splitlines())
    assert len(set(names)) == 3 and set(names) <= pool - set(used(trained, "labeled"))
    with out.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["frame_id"] for row in rows] == names
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert all(row["scene"] == row["frame_id"].split()[0] for row in rows)
    assert len({float(row["score"]) for row in rows}) == 3
    roots = [f"{name}.root={streets}" for name in ("labeled", "validation")]
    run_script("train.py", "--dry-run", *TINY, *roots, f"labeled.split={out}")


def test_old_labels_come_first_where_they_are_kept(trained, tmp_path):
    out = tmp_path / "both.txt"
    words = ["--ckpt", str(trained), "--num-frames", "4", "--out", str(out)]
    run_script("label_next.py", *words, "--keep-labeled", "--score", "absolute")
    names = out.read_text().splitlines()
    assert set(names[:2]) == set(used(trained, "labeled")) and len(set(names)) == 6


def request(trained, out, *words):
    """Arguments for one frame of the run's pool; later words win."""
    return ["--ckpt", str(trained), "--num-frames", "1", "--out", str(out), *words]


def test_frames_of_validation_scenes_are_never_chosen(trained, tmp_path):
    names = used(trained, "validation")[:2] + used(trained, "labeled")
    pool = write_list(tmp_path / "pool.txt", names)
    with pytest.raises(DataError, match="2 validation, 2 labelled") as error:
        main(request(trained, tmp_path / "next.txt", f"unlabeled.split={pool}"))
    assert "0 frames of the pool can be chosen" in str(error.value)


def test_depth_is_never_needed_and_pictures_are_known_behind_links(
    trained, streets, tmp_path, capsys
):
    plain = tmp_path / "plain"
    for file in streets.rglob("*"):
        if file.is_file() and "groundtruth" not in file.parts:
            link = plain / file.relative_to(streets)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
    out = tmp_path / "next.txt"
    assert main(request(trained, out, "--num-frames", "4", f"unlabeled.root={plain}")) == 0
    shown = capsys.readouterr().out
    assert "2 labelled; ranked: 4" in shown and "4 of them have no depth file yet" in shown
    assert f"labeled.split={out}" in shown and f"labeled.root={plain}" in shown
    assert not set(out.read_text().splitlines()) & set(used(trained, "labeled"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num-frames", "5"], "--num-frames 5, but 4 frames of the pool can be chosen"),
        (["--num-frames", "0"], "choose 1 to 4"),
        (["--out", "next.csv"], "--out next.csv: a list's name ends in .txt"),
        (["--out", "test_next.txt"], "training takes it for a test list"),
        (["--out", "old/next.txt"], "is there already"),
        (["loss_weights.uncertainty=0"], "loss_weights.uncertainty=1"),
        (["labeled.root=/elsewhere"], "the run had no unlabelled frames"),
        (["unlabeled.variant=look_b", "--keep-labeled"], "cannot name the labelled frames"),
        (["unlabeled.split=nowhere"], "no split 'nowhere'"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_written(
    trained, tmp_path, words, message, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_list(tmp_path / "old" / "next.txt", ["precious"])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(USER_ERRORS) as error:
        main(request(trained, tmp_path / "next.txt", *words))
    assert message in str(error.value) and sorted(tmp_path.rglob("*")) == before


def test_a_network_without_uncertainty_is_refused_with_the_remedy(trained, tmp_path):
    cfg = load_config(trained / "config.yaml")
    settings = {**cfg.network.toDict(), "uncertainty": False}
    args = parse_arguments(request(trained, tmp_path / "next.txt"))
    with pytest.raises(NetworkError, match=r"train one with network\.uncertainty=true"):
        check_request(args, cfg, build_network(**settings))


def test_an_export_cannot_name_the_frames_which_is_one_line_and_exit_code_2(tmp_path):
    hub = tmp_path / "hub"
    hub.mkdir()
    for file in (tmp_path / "depth.safetensors", hub / "model.safetensors", hub / "config.json"):
        file.touch()
    message = "not the run's configuration, .*; give the run folder or its .pt checkpoint"
    with pytest.raises(USER_ERRORS, match=f"{hub}: .*{message}"):
        main(request(hub, tmp_path / "next.txt"))
    with pytest.raises(USER_ERRORS, match="/nowhere: neither a checkpoint file nor a run folder"):
        main(request("/nowhere", tmp_path / "next.txt"))
    words = request(tmp_path / "depth.safetensors", tmp_path / "next.txt")
    told = run_script("label_next.py", *words, code=2).stderr.strip()
    assert re.fullmatch(rf"CheckpointError: {words[1]}: .*{message}", told)  # . is no line break
