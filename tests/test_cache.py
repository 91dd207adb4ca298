"""The cache of pictures: the same batches to the bit, whole or not at all, never out of date."""

import itertools
import json
import multiprocessing
import os
import resource
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from consistency_train import main as consistency_main
from datasets.cache import CHECKED, cached_frames
from datasets.colours import Jitter, colour_views
from datasets.frame import DataError
from datasets.images import ImageFolder
from datasets.loading import TrainingSamples, training_batches
from datasets.order import SampleOrder
from datasets.photometric import OPERATIONS, Strong
from datasets.synthetic import Synthetic
from datasets.views import labeled_view, resized, unlabeled_view
from train import main as train_main
from utils.seeding import seeded

SIZE = (32, 96)
CROP = (0.1, 0.9, 0.2, 1)
COLOURS = {
    "augmentation": Jitter(0.5, 0.7, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.1),
    "strong": Strong(tuple(OPERATIONS), num_operations=2, magnitude=5, magnitude_std=2),
}
LABELED = partial(labeled_view, image_size=SIZE, depth_size=(64, 208), max_depth=80.0, **COLOURS)
PLAIN = partial(unlabeled_view, image_size=SIZE, crop=CROP, **COLOURS)


class Counted:
    """A dataset that knows how often a picture was decoded."""

    def __init__(self, dataset):
        self.dataset, self.decoded = dataset, 0

    def __getattr__(self, name):
        return getattr(self.dataset, name)

    def frame(self, index):
        self.decoded += 1
        return self.dataset.frame(index)


def batches_of(dataset, indices, view, *, workers=0, steps=4):
    samples = TrainingSamples(
        dataset, view=view, generator_for=partial(seeded, 0, "v"), replacements=indices
    )
    order = SampleOrder(
        indices, batch_size=3, first_sample=0, generator_for=partial(seeded, 0, "order")
    )
    loaded = training_batches(samples, order, num_workers=workers, device=torch.device("cpu"))
    return list(itertools.islice(loaded, steps))


def check_same_batches(found, expected):
    for one, same in zip(found, expected, strict=True):
        assert one.keys() == same.keys() and one["frame_id"] == same["frame_id"]
        for key in one.keys() - {"frame_id"}:
            assert torch.equal(one[key].nan_to_num(-1), same[key].nan_to_num(-1)), key
        colour_views(one)


@pytest.fixture
def folder(tmp_path):
    """Twenty pictures of noise of 24 x 40 pixels, taken by a known camera."""
    root = tmp_path / "pictures"
    root.mkdir()
    for number in range(20):
        values = np.random.default_rng(number).integers(0, 256, (24, 40, 3), dtype=np.uint8)
        Image.fromarray(values).save(root / f"{number:02d}.png")
    (root / "intrinsics.txt").write_text("30 0 20  0 30 12  0 0 1")
    return root


def opened(root, cache, indices=range(20), **options):
    """The frames of `folder`, and how many pictures were decoded to open their cache."""
    counted = Counted(ImageFolder(root, "all"))
    options = {"image_size": (12, 20), **options}
    return cached_frames(counted, indices, cache, **options), counted


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("view", "crop"), [(LABELED, None), (PLAIN, CROP)], ids=["labeled", "not"])
def test_batches_are_those_without_a_cache_bit_for_bit(streets, tmp_path, view, crop, workers):
    dataset, indices = Synthetic(streets, "train"), [5, 0, 3, 2]
    cached = cached_frames(
        dataset, indices, tmp_path, image_size=SIZE, crop=crop, num_workers=workers
    )
    check_same_batches(
        batches_of(cached, indices, view, workers=workers), batches_of(dataset, indices, view)
    )
    assert np.array_equal(cached.frame(5).depth(), dataset.frame(5).depth())


def test_a_second_opening_decodes_a_few_frames_and_a_pass_none(folder, tmp_path):
    _, counted = opened(folder, tmp_path / "cache")
    assert counted.decoded == 20
    frames, counted = opened(folder, tmp_path / "cache")
    assert counted.decoded == CHECKED + 1
    for index in range(20):
        frames.frame(index)
    assert counted.decoded == CHECKED + 1


def test_streams_of_the_same_frames_share_a_cache_whatever_their_order(folder, tmp_path):
    opened(folder, tmp_path / "cache", range(20))
    frames, counted = opened(folder, tmp_path / "cache", list(range(20))[::-1])
    assert counted.decoded == CHECKED + 1
    expected = resized(ImageFolder(folder, "all").frame(3).image, (12, 20))
    assert torch.equal(torch.from_numpy(np.array(frames.frame(3).image)).permute(2, 0, 1), expected)
    assert frames.frame(3).frame_id == "03.png"


def test_what_a_cache_depends_on_asks_for_another(folder, tmp_path):
    cache = tmp_path / "cache"
    opened(folder, cache)
    for options in ({"image_size": (16, 20)}, {"crop": CROP}, {"indices": range(19)}):
        assert opened(folder, cache, **options)[1].decoded >= 19
    Image.new("RGB", (40, 24), (9, 9, 9)).save(folder / "07.png")  # not one of those checked
    frames, counted = opened(folder, cache)
    assert counted.decoded == 20 and np.asarray(frames.frame(7).image).max() == 9


def test_another_calibration_is_noticed(folder, tmp_path, capsys):
    first, _ = opened(folder, tmp_path / "cache")
    (folder / "intrinsics.txt").write_text("60 0 20  0 60 12  0 0 1")
    second, counted = opened(folder, tmp_path / "cache")
    assert "built anew" in capsys.readouterr().out and counted.decoded == 21
    assert second.frame(4).intrinsics[0, 0] == 2 * first.frame(4).intrinsics[0, 0] == 30


def spoil(cache, how):
    (one,) = (path for path in cache.iterdir() if path.is_dir())
    if how == "cut short":
        with (one / "pictures.u8").open("r+b") as file:
            file.truncate(1000)
    elif how == "other values":
        with (one / "pictures.u8").open("r+b") as file:
            file.write(b"\0" * 720)
    elif how == "a part missing":
        (one / "intrinsics.npy").unlink()
    else:
        (one / "broken.json").write_text("{")


@pytest.mark.parametrize("how", ["cut short", "other values", "a part missing", "no json"])
def test_a_spoilt_cache_is_built_anew(folder, tmp_path, how, capsys):
    cache = tmp_path / "cache"
    whole = np.asarray(opened(folder, cache)[0].frame(0).image)
    spoil(cache, how)
    frames, _ = opened(folder, cache)
    assert "built anew" in capsys.readouterr().out
    assert np.array_equal(np.asarray(frames.frame(0).image), whole)


def test_a_cache_that_shrinks_under_a_run_is_an_error_not_a_crash(folder, tmp_path):
    frames, _ = opened(folder, tmp_path / "cache")
    spoil(tmp_path / "cache", "cut short")
    with pytest.raises(DataError, match=r"pictures\.u8 was cut short; delete"):
        frames.frame(19)


class Stops(Counted):
    """Someone presses Ctrl-C at the twelfth picture."""

    def frame(self, index):
        if self.decoded == 12:
            raise KeyboardInterrupt
        return super().frame(index)


def test_a_build_that_is_stopped_leaves_nothing_that_counts(folder, tmp_path):
    cache = tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        cached_frames(Stops(ImageFolder(folder, "all")), range(20), cache, image_size=(12, 20))
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
    # and if it is killed, what it leaves behind is thrown away
    frames, _ = opened(folder, cache)
    shutil.move(frames.folder, f"{frames.folder}.unfinished")
    with (frames.folder.with_name(f"{frames.folder.name}.unfinished") / "pictures.u8").open(
        "r+b"
    ) as file:
        file.write(b"\0" * 720)
    again, counted = opened(folder, cache)
    assert counted.decoded == 20 and np.asarray(again.frame(0).image).any()
    assert not list(cache.glob("*.unfinished"))


def test_a_broken_frame_stops_the_build_and_is_named(folder, tmp_path):
    (folder / "11.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"11\.png"):
        opened(folder, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_frame_is_skipped_as_without_a_cache(folder, tmp_path, workers, capfd):
    (folder / "11.png").write_bytes(b"no picture")
    plain = ImageFolder(folder, "all")
    view = partial(PLAIN, image_size=(12, 20), crop=None)
    frames, _ = opened(folder, tmp_path / "cache", skip_broken=True, num_workers=workers)
    assert "broken frame: " in capfd.readouterr().out
    found = batches_of(frames, range(20), view, steps=12)
    check_same_batches(found, batches_of(plain, range(20), view, steps=12))
    assert sum(int(batch["replaced"].sum()) for batch in found) >= 1
    _, counted = opened(folder, tmp_path / "cache", skip_broken=True)
    assert counted.decoded == CHECKED + 1


def test_many_broken_frames_are_refused_even_then(folder, tmp_path):
    for name in ("04.png", "11.png"):
        (folder / name).write_bytes(b"no picture")
    with pytest.raises(DataError, match="2 of 20 frames are broken"):
        opened(folder, tmp_path / "cache", skip_broken=True)


def test_a_full_disk_is_one_clear_error(folder, tmp_path, monkeypatch):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))  # bytes; 14,400 are needed
    try:
        with pytest.raises(DataError, match=r"train\.cache: .* cannot be written"):
            opened(folder, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=14_000))
    with pytest.raises(DataError, match=r"GiB needed, .* choose a folder on a local disk"):
        opened(folder, tmp_path / "cache")


def test_a_folder_that_cannot_be_made_is_one_clear_error(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"train\.cache"):
        opened(folder, tmp_path / "file")


def _open_at_once(root, cache, barrier, answers):
    barrier.wait()
    frames, counted = opened(root, cache)
    sums = [int(np.asarray(frames.frame(index).image).astype(int).sum()) for index in range(20)]
    answers.put((os.getpid(), counted.decoded, sums))


def test_processes_that_start_at_once_build_one_cache(folder, tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(3), context.Queue()
    started = [
        context.Process(
            target=_open_at_once, args=(folder, tmp_path / "cache", barrier, answers), daemon=True
        )
        for _ in range(3)
    ]
    for process in started:
        process.start()
    found = [answers.get(timeout=60) for _ in started]
    for process in started:
        process.join(timeout=60)
    assert sorted(decoded for _, decoded, _ in found) == [CHECKED + 1, CHECKED + 1, 20]
    assert found[0][2] == found[1][2] == found[2][2]


def test_a_run_learns_the_same_from_the_cache(tiny, streets, tmp_path):
    """Both scripts, with a crop and with the stereo partner, which is never cached."""
    plain = [f"unlabeled.root={streets}", "unlabeled.batch_size=2", "train.num_steps=2",
             "unlabeled.crop=[0, 0.8, 0, 1]", "loss_weights.photometric=1",
             "validation.num_frames=1", "labeled.num_frames=null"]  # fmt: skip
    semi = ["loss_weights.depth_consistency=1", "masking.num_groups=3", "audit.num_frames=0"]
    for name, main, words in (
        ("base", train_main, plain), ("semi", consistency_main, [*plain, *semi])
    ):  # fmt: skip
        weights = []
        for cache in ("null", str(tmp_path / "cache")):
            main([*tiny, *words, f"run.name={name}", "resume=never", f"train.cache={cache}"])
            run = tmp_path / "runs" / name
            state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
            weights.append(state["step_module"] | state["network"])
            shutil.rmtree(run)
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    caches = sorted(path.name for path in (tmp_path / "cache").iterdir() if path.is_dir())
    assert len(caches) == 2  # labelled and plain pictures; the second script found both
    about = json.loads((tmp_path / "cache" / caches[0] / "about.json").read_text())
    assert len(about["files"]) == 6 and about["image_size"] == [32, 96]
