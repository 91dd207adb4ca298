"""One evaluator: memory or PNG, one process or two, plain or mirrored; who looked at the test."""

import csv
import json
import zipfile

import numpy as np
import pytest
import torch
from conftest import TINY, run_pair, run_script
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor, resize
from trees import write_depth, write_list, write_picture

from datasets.frame import DataError
from datasets.kitti_server import NAMES, check_server_zip, server_images, write_server_zip
from datasets.prediction_files import PredictionFolder, png_name, png_names, write_depth_png
from datasets.protocol import plain
from evaluate import USER_ERRORS, evaluate, main
from evaluation_report import gallery_places
from networks import build_network, load_network
from predictions import Prediction, with_flip
from utils.checkpoint import file_sha256, load_checkpoint
from utils.ledger import append_to_ledger


@pytest.fixture(scope="module")
def run(tmp_path_factory, streets):
    """A finished tiny run, on the streets: its folder."""
    folder = tmp_path_factory.mktemp("runs")
    roots = [f"{stream}.root={streets}" for stream in ("labeled", "validation")]
    run_script("train.py", *TINY, *roots, f"run.folder={folder}", "run.name=run")
    return folder / "run"


def metrics_of(out):
    return json.loads((out / "metrics.json").read_text())


WHO = ("checkpoint", "sha256", "step", "predictions", "image_size", "rounding", "time", "resize",
       "flip")  # fmt: skip


def numbers(result):
    """Everything in it but who was evaluated and when."""
    return {key: value for key, value in result.items() if key not in WHO}


def flat(tree, prefix=""):
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {k: v for key, sub in tree.items() for k, v in flat(sub, f"{prefix}.{key}").items()}


def test_memory_and_png_give_the_same_numbers_to_the_rounding(run, streets, tmp_path):
    main(["--ckpt", str(run), "--save-png", "--out", str(tmp_path / "memory")])
    folder = tmp_path / "memory" / "predictions"
    conf = tmp_path / "conf.yaml"
    conf.write_text(f"validation: {{root: {streets}}}\n")
    main(["--predictions", str(folder), "--conf", str(conf), "--out", str(tmp_path / "png")])
    memory, png = metrics_of(tmp_path / "memory"), metrics_of(tmp_path / "png")
    assert png["sha256"] == memory["sha256"] == file_sha256(run / "checkpoints" / "best.pt")
    for key in ("protocols", "median_scaled", "other_ground_truth", "list_sha256", "num_images"):
        one, two = flat(memory[key]), flat(png[key])
        assert one.keys() == two.keys()
        for name, value in one.items():
            # half a unit of 1/256 m beside depths of 2 m and more
            near = value if isinstance(value, str) else pytest.approx(value, rel=1e-3, abs=1e-3)
            assert two[name] == near, f"{key}{name}"
    first = next(folder.glob("*.png"))
    with Image.open(first) as image:
        assert image.mode.startswith("I;16")


def test_two_processes_give_the_numbers_of_one_and_every_frame_once(run, tmp_path):
    run_script("evaluate.py", "--ckpt", str(run), "--floors", "--out", str(tmp_path / "one"))
    run_pair("evaluate.py", "--ckpt", str(run), "--floors", "--out", str(tmp_path / "two"),
             "--save-png")  # fmt: skip
    one, two = (metrics_of(tmp_path / name) for name in ("one", "two"))
    for key in ("protocols", "median_scaled", "other_ground_truth", "ranges", "floors"):
        assert one[key] == two[key]
    one, two = flat(one["uncertainty"]), flat(two["uncertainty"])
    exact = [key for key in one if "calibrat" not in key and key != ".nll"]
    assert [one[key] for key in exact] == [two[key] for key in exact]
    rest = sorted(set(one) - set(exact) - {".recalibrated.fitted_on"})
    # the sums over images are added up in another order
    assert [one[key] for key in rest] == pytest.approx([two[key] for key in rest], rel=1e-12)
    tables = [(tmp_path / name / "per_image.csv").read_text() for name in ("one", "two")]
    assert tables[0] == tables[1] and len(tables[0].splitlines()) == 1 + 4
    assert len(list((tmp_path / "two" / "predictions").glob("*.png"))) == 4


def test_the_report_is_one_file_with_tables_plots_and_panels(run, tmp_path):
    main(["--ckpt", str(run), "--out", str(tmp_path)])
    text = (tmp_path / "report.html").read_text()
    for words in ("Metric depth", "On other ground truth: velodyne_raw",
                  "Error by depth range in metres",
                  "Uncertainty", "Worst by AbsRel", "What the protocols are"):  # fmt: skip
        assert f"<h2>{words}</h2>" in text
    assert f"{metrics_of(tmp_path)['protocols']['plain']['abs_rel']:.4f}" in text
    assert text.count("data:image/") == 3 + 3 + 1  # plots, gallery of 4 frames, one panel
    assert "http" not in text and "<script" not in text and 'src="data:' in text
    for plot in ("ranges", "sparsification", "coverage"):
        assert (tmp_path / f"{plot}.png").is_file()
    with (tmp_path / "per_range.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (tmp_path / "per_image.csv").open() as file:
        whole = {row["frame_id"]: row for row in csv.DictReader(file)}
    for name, row in whole.items():  # the ranges are a partition of what is scored
        assert row["scene"] == name.split()[0]
        parts = [float(r["num_valid"]) for r in rows if r["frame_id"] == name]
        assert sum(parts) == float(row["num_valid"])


@pytest.mark.parametrize("flip", ["mean", "ramp"])
def test_fusion_with_the_mirrored_pass_is_what_its_formula_says(run, flip):
    network = load_network(run)
    image = torch.rand(2, 3, 32, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        plain = network(image).depth
        mirrored = network(image.flip(-1)).depth.flip(-1)
        fused = with_flip(network, image, flip).depth
    if flip == "mean":
        assert torch.equal(fused, 0.5 * (plain + mirrored))
        return
    for column in range(96):
        x = column / 95
        left = 1 - min(max(20 * (x - 0.05), 0), 1)
        right = 1 - min(max(20 * (1 - x - 0.05), 0), 1)
        expected = right * plain[..., column] + left * mirrored[..., column]
        expected = expected + (1 - left - right) * 0.5 * (plain + mirrored)[..., column]
        assert torch.allclose(fused[..., column], expected, rtol=0, atol=1e-4)
    assert torch.equal(fused[..., 0], mirrored[..., 0])
    assert torch.equal(fused[..., -1], plain[..., -1])


def test_the_fusion_is_named_beside_its_numbers(run, tmp_path):
    main(["--ckpt", str(run), "--out", str(tmp_path), "evaluation.flip=ramp"])
    assert metrics_of(tmp_path)["flip"] == "ramp"


def test_every_look_at_test_frames_is_one_line_of_the_ledger(run, tmp_path, capsys):
    ledger = run.parent / "test_ledger.jsonl"
    main(["--ckpt", str(run), "--out", str(tmp_path)])
    assert not ledger.exists()
    for look in (1, 2):
        main(["--ckpt", str(run), "--split", "test", "--out", str(tmp_path)])
        assert f"look number {look} at this list" in capsys.readouterr().out
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert len(lines) == 2
    assert lines[0]["sha256"] == file_sha256(run / "checkpoints" / "best.pt")
    assert lines[0]["protocols"] == metrics_of(tmp_path)["protocols"]
    # calibrated on validation frames, never on the test frames themselves
    assert metrics_of(tmp_path)["uncertainty"]["recalibrated"]["fitted_on"] == (
        "4 validation frames of the run"
    )


def test_the_scale_of_the_uncertainty_comes_from_validation_whichever_way(run, tmp_path):
    main(["--ckpt", str(run), "--out", str(tmp_path / "val")])
    fitted = metrics_of(tmp_path / "val")["uncertainty"]["recalibrated"]
    assert fitted["fitted_on"] == "these frames themselves"
    main(["--ckpt", str(run), "--split", "test", "--out", str(tmp_path / "pass")])
    main(["--ckpt", str(run), "--split", "test", "--out", str(tmp_path / "file"), "--calibration",
          str(tmp_path / "val" / "metrics.json")])  # fmt: skip
    for name in ("pass", "file"):
        found = metrics_of(tmp_path / name)["uncertainty"]["recalibrated"]["scale_m"]
        assert found == pytest.approx(fitted["scale_m"], rel=1e-12)


def test_ledgers_of_other_lists_are_counted_apart(tmp_path):
    path = tmp_path / "deep" / "ledger.jsonl"
    entries = [{"dataset": "kitti", "list_sha256": sha} for sha in "aab"]
    assert [append_to_ledger(path, entry) for entry in entries] == [1, 2, 1]
    assert all("time" in json.loads(line) for line in path.read_text().splitlines())


@pytest.mark.parametrize("section", ["labeled", "validation"])
def test_training_does_not_open_test_frames(tiny, section):
    """(row 42)"""
    result = run_script("train.py", *tiny, f"{section}.split=test", code=2)
    assert f"{section}: 2 frames are test frames" in result.stderr
    assert "evaluate.py --split test" in result.stderr


def test_a_list_of_another_name_with_a_test_frame_in_it_is_found(tiny, streets, tmp_path):
    test = (streets / "look_a" / "splits" / "test.txt").read_text().splitlines()
    train = (streets / "look_a" / "splits" / "train.txt").read_text().splitlines()
    listed = write_list(tmp_path / "mine.txt", [*train[:3], test[0]])
    result = run_script("train.py", *tiny, f"labeled.split={listed}", code=2)
    assert "labeled: 1 frames are test frames" in result.stderr


def test_plain_images_are_no_test_frames_either(tiny, streets):
    words = [f"unlabeled.root={streets}", "unlabeled.split=test", "unlabeled.may_share=frames",
             "labeled.num_frames=2"]  # fmt: skip
    result = run_script("consistency_train.py", *tiny, *words, code=2)
    assert "unlabeled: 2 frames are test frames" in result.stderr


def spoilt(run, tmp_path, change):
    """A copy of the run's checkpoint after `change(state)`."""
    state = load_checkpoint(run / "checkpoints" / "best.pt")
    change(state)
    torch.save(state, tmp_path / "spoilt.pt")
    return tmp_path / "spoilt.pt"


def test_predictions_that_are_nan_are_one_error_that_names_the_frame(run, tmp_path):
    def change(state):
        state["network"]["depth_head.conv3.bias"].fill_(float("nan"))

    file = spoilt(run, tmp_path, change)
    with pytest.raises(USER_ERRORS, match=r"image '.*_sync 00.*: the prediction is NaN at \d+ of"):
        main(["--ckpt", str(file), "--out", str(tmp_path)])


def test_a_network_without_uncertainty_is_evaluated_without(run, streets, tmp_path):
    def change(state):
        settings = state["config"]["network"]
        settings["uncertainty"] = False
        state["config"]["loss_weights"]["uncertainty"] = 0.0
        state["network"] = build_network(**settings).state_dict()

    file = spoilt(run, tmp_path, change)
    main(["--ckpt", str(file), "--out", str(tmp_path / "out")])
    assert metrics_of(tmp_path / "out")["uncertainty"] is None
    assert not (tmp_path / "out" / "sparsification.png").exists()


def test_bad_usage_is_one_line(run, tmp_path, capsys):
    """(row 9)"""
    for words, message in (
        (["--predictions", str(tmp_path)], "--predictions needs --conf"),
        (["--ckpt", str(run), "--export", "kitti-server"], "needs --ckpt and --images"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 2 and message in capsys.readouterr().err
    conf = ["--conf", "conf/base_train_kitti.yaml"]
    for words, message in (
        (["--predictions", str(tmp_path / "nowhere"), *conf, "validation.split=test",
          f"validation.root={tmp_path}"], "is empty: no frame"),
        (["--ckpt", str(run), "--calibration", str(run / "config.yaml"), "--out",
          str(tmp_path / "out")], "no recalibrated scale in it"),
    ):  # fmt: skip
        with pytest.raises(USER_ERRORS, match=message):
            main(words)
    result = run_script("evaluate.py", "--ckpt", str(run / "metrics.jsonl"), *conf, code=2)
    assert len(result.stderr.splitlines()) == 1 and "metrics.jsonl" in result.stderr


def test_an_incomplete_test_set_is_refused_under_its_public_name(run, tmp_path):
    for number in (45, 46):
        folder = tmp_path / "nyu/official_splits/test/bathroom"
        write_picture(folder / f"rgb_{number:05d}.jpg", (480, 640), number)
        write_depth(folder / f"sync_depth_{number:05d}.png", np.full((480, 640), 2000, np.uint16))
    words = ["validation.dataset=nyu", f"validation.root={tmp_path}/nyu", "--out", str(tmp_path)]
    with pytest.raises(USER_ERRORS, match="the NYU 654 test list has 654 frames, this one 2"):
        main(["--ckpt", str(run), "--split", "test", *words])
    listed = write_list(
        tmp_path / "two.txt", ["bathroom/rgb_00045.jpg bathroom/sync_depth_00045.png"]
    )
    main(["--ckpt", str(run), "--split", str(listed), *words])
    assert metrics_of(tmp_path)["list"] is None


def test_names_of_prediction_files_are_those_that_bts_takes_apart():
    assert png_name("2011_09_26_drive_0002_sync 0000000069") == (
        "2011_09_26_drive_0002_sync_0000000069.png"
    )
    assert png_name("bathroom/rgb_00045.jpg") == "bathroom_rgb_00045.png"
    with pytest.raises(DataError, match=r"'a/b' and 'a b' would both be a_b\.png"):
        png_names(["a/b", "a b"])


def test_png_round_trip_is_to_half_a_unit_and_overflow_is_refused(tmp_path):
    depth = np.random.default_rng(0).uniform(0.001, 65.535, (20, 30)).astype(np.float32)
    write_depth_png(tmp_path / "a.png", depth, units_per_metre=1000)
    read = PredictionFolder(tmp_path, units_per_metre=1000).depth("a", (20, 30))
    assert np.abs(read - depth).max() <= 0.0005 + 4e-6
    assert abs(float((read - depth).mean())) < 5e-5  # rounded: truncation would be off by 5e-4
    for bad in (65.536, 70.0, np.nan, -1.0, np.inf):
        with pytest.raises(DataError, match="does not fit into 16 bits at 1000 units"):
            write_depth_png(tmp_path / "b.png", np.full((2, 2), bad), units_per_metre=1000)
    assert not (tmp_path / "b.png").exists()
    write_depth_png(tmp_path / "near.png", np.full((2, 2), 1e-5), units_per_metre=1000)
    assert (np.asarray(Image.open(tmp_path / "near.png")) == 1).all()  # 0 would be no estimate


def test_the_gallery_has_the_best_the_middle_and_the_worst():
    errors = [0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.8, 0.4, 0.6]
    places = gallery_places(errors, 3)
    assert {group: [errors[i] for i in chosen] for group, chosen in places.items()} == {
        "best": [0.1, 0.2, 0.3], "median": [0.4, 0.5, 0.6], "worst": [0.9, 0.8, 0.7]
    }  # fmt: skip
    assert gallery_places([0.1, 0.2], 3) == {"best": [], "median": [], "worst": []}


@pytest.fixture(scope="module")
def benchmark_pictures(tmp_path_factory):
    """A folder like test_depth_prediction_anonymous/image."""
    folder = tmp_path_factory.mktemp("server") / "image"
    first = write_picture(folder / NAMES[0], (352, 1216))
    for name in NAMES[1:]:
        (folder / name).hardlink_to(first)
    return folder


def test_the_kitti_submission_is_written_and_is_what_the_server_reads(
    run, benchmark_pictures, tmp_path, capsys
):
    main(["--ckpt", str(run), "--export", "kitti-server", "--images", str(benchmark_pictures),
          "--out", str(tmp_path), "train.num_workers=0", "evaluation.batch_size=16"])  # fmt: skip
    assert "500 PNGs, checked" in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "kitti_server.zip") as archive:
        assert sorted(archive.namelist()) == list(NAMES)
        archive.extract(NAMES[0], tmp_path)
    read = PredictionFolder(tmp_path, units_per_metre=256).depth("0000000000", (352, 1216))
    network = load_network(run)
    picture = pil_to_tensor(Image.open(benchmark_pictures / NAMES[0]))
    image = resize(picture, (32, 96), antialias=True)[None].float() / 255
    with torch.inference_mode():
        expected = network(image).resized((352, 1216)).depth[0, 0].numpy()
    assert np.abs(read - expected).max() <= 0.5 / 256 + 1e-3


def test_incomplete_or_foreign_benchmark_pictures_are_refused(tmp_path):
    write_picture(tmp_path / NAMES[0], (352, 1216))
    with pytest.raises(DataError, match=r"499 of the 500 pictures .* are missing"):
        server_images(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: files.pop(NAMES[7]), r"1 are missing or foreign: 0000000007\.png"),
        (
            lambda files: files.update({"image/x.png": files[NAMES[0]]}),
            "missing or foreign: image/",
        ),
        (lambda files: files.update({NAMES[3]: np.ones((352, 1216), np.uint8)}), "not 16-bit"),
        (lambda files: files.update({NAMES[3]: np.ones((2, 2), np.uint16)}), "not 16-bit of"),
        (lambda files: files.update({NAMES[3]: np.zeros((352, 1216), np.uint16)}), "no estimate"),
    ],
)
def test_an_archive_that_the_server_would_not_read_is_refused(tmp_path, change, message):
    files = dict.fromkeys(NAMES, np.ones((352, 1216), np.uint16))
    change(files)
    contents = {}
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        for name, units in files.items():
            if id(units) not in contents:
                file = write_depth(tmp_path / "one.png", units)
                contents[id(units)] = file.read_bytes()
            archive.writestr(name, contents[id(units)])
    with pytest.raises(DataError, match=message):
        check_server_zip(tmp_path / "bad.zip")


def test_a_submission_that_fails_leaves_no_file(tmp_path):
    with pytest.raises(DataError, match="499 are missing or foreign"):
        write_server_zip(tmp_path / "out.zip", [(NAMES[0], np.ones((352, 1216)))])
    assert not list(tmp_path.iterdir())


def test_a_frame_that_nobody_predicts_is_an_error():
    depth = torch.full((1, 4, 4), 2.0)
    one = Prediction(0, "a", depth, None, {"own": depth})
    how = {"protocols": [plain(80.0)], "kinds": ["own"]}
    scores = evaluate([one], ["a"], **how)
    assert scores["own", "plain", False].mean()["num_images"] == 1
    with pytest.raises(USER_ERRORS, match=r"1 of 2 images were not scored \['b'\]"):
        evaluate([one], ["a", "b"], **how)
    with pytest.raises(USER_ERRORS, match="image 'a': scored twice"):
        evaluate([one, one], ["a"], **how)
