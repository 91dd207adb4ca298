"""Which frame comes when: endless, seeded, indifferent to workers, batch size and resume."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.colours import Jitter, colour_views
from datasets.frame import UNKNOWN_INTRINSICS, DataError, Frame
from datasets.loading import (
    FOR_THE_HOST,
    EvaluationFrames,
    TrainingSamples,
    evaluation_batches,
    on_device,
    training_batches,
)
from datasets.order import SampleOrder
from datasets.photometric import OPERATIONS, Strong
from datasets.views import evaluation_image, labeled_view, unlabeled_view
from utils.seeding import seeded

SHUFFLE = partial(seeded, 0, "order")
DRAWS = partial(seeded, 0, "view")
CPU = torch.device("cpu")
COLOURS = {
    "augmentation": Jitter(0.5, 0.7, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.1),
    "strong": Strong(tuple(OPERATIONS), num_operations=3, magnitude=5, magnitude_std=2),
}
VIEW = partial(labeled_view, image_size=(8, 8), depth_size=(8, 8), max_depth=80.0, **COLOURS)


class Frames:
    """`size` tiny frames in memory; of some the picture is broken, of some the depth."""

    def __init__(self, size, broken=(), broken_depth=()):
        self.frame_ids = tuple(str(i) for i in range(size))
        self.broken, self.broken_depth = broken, broken_depth

    def frame(self, index):
        if index in self.broken:
            raise DataError(f"frame {index} is broken")
        values = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        read = partial(self.depth, index)
        return Frame(str(index), Image.fromarray(values), UNKNOWN_INTRINSICS, read)

    def depth(self, index):
        if index in self.broken_depth:
            raise DataError(f"the depth of frame {index} is broken")
        return np.ones((8, 8), np.float32)

    def ground_truths(self, index):
        return {
            "own": lambda: np.ones((8, 8), np.float32),
            "other": lambda: np.full((8, 8), 2, np.float32),
        }


def batches(frames, *, workers=0, steps=6, first_sample=0, replacements=None, view=VIEW, size=3):
    """What the steps would take."""
    samples = TrainingSamples(frames, view=view, generator_for=DRAWS, replacements=replacements)
    chosen = SampleOrder(
        range(len(frames.frame_ids)), batch_size=size, first_sample=first_sample,
        generator_for=SHUFFLE,
    )  # fmt: skip
    loaded = training_batches(samples, chosen, num_workers=workers, device=CPU)
    return [colour_views(batch) for batch in itertools.islice(loaded, steps)]


def check_same(one, other):
    assert one.keys() == other.keys() and one["frame_id"] == other["frame_id"]
    for key in one.keys() - {"frame_id"}:
        assert torch.equal(one[key].nan_to_num(-1), other[key].nan_to_num(-1)), key


def test_batches_do_not_depend_on_the_number_of_workers_or_on_where_one_starts():
    frames = Frames(5)
    reference = batches(frames)
    assert {"image", "strong_image", "depth", "valid_mask"} <= reference[0].keys()
    for one, same in zip(reference, batches(frames, workers=2), strict=True):
        check_same(one, same)
    for one, same in zip(reference[3:], batches(frames, steps=3, first_sample=9), strict=True):
        check_same(one, same)


@pytest.mark.parametrize("size", [1, 2, 6])
def test_a_sample_does_not_depend_on_the_batch_that_it_is_in(size):
    rows = [
        {key: value[row] for key, value in batch.items()}
        for either in (batches(Frames(5), size=3, steps=4), batches(Frames(5), size=size, steps=12))
        for batch in either
        for row in range(len(batch["frame_id"]))
    ]
    for one, same in zip(rows[:12], rows[12:24], strict=True):
        check_same(one, same)


def test_a_replaced_sample_does_not_depend_on_its_strong_view():
    """The strong draws come last, also where the frame turns out to be broken."""
    frames = Frames(5, broken_depth={2})
    with_strong = batches(frames, replacements=range(5))
    without = batches(frames, replacements=range(5), view=partial(VIEW, strong=None))
    assert sum(int(batch["replaced"].sum()) for batch in with_strong) >= 3
    for one, other in zip(with_strong, without, strict=True):
        check_same({key: value for key, value in one.items() if key != "strong_image"}, other)


def test_pictures_travel_as_bytes_and_one_serves_both_views():
    view = partial(unlabeled_view, image_size=(8, 8), **COLOURS)
    samples = TrainingSamples(Frames(5), view=view, generator_for=DRAWS)
    batch = samples[0, 0]
    large = {key: value for key, value in batch.items() if isinstance(value, torch.Tensor)
             and value.numel() > 12}  # fmt: skip
    assert list(large) == ["picture"] and large["picture"].dtype == torch.uint8


def test_on_a_cpu_batches_pass_as_they_are():
    given = [{"picture": torch.zeros(1)}, {"picture": torch.ones(1)}]
    passed = list(on_device(given, CPU))
    assert all(one is same for one, same in zip(given, passed, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_nobody_waits_and_the_colours_are_those_of_the_cpu():
    frames, device = Frames(5), torch.device("cuda")
    samples = TrainingSamples(frames, view=VIEW, generator_for=DRAWS)
    order = SampleOrder(range(5), batch_size=3, first_sample=0, generator_for=SHUFFLE)
    loaded = training_batches(samples, order, num_workers=0, device=device)
    found = []
    for _ in range(6):
        batch = next(loaded)
        assert not any(batch[key].is_cuda for key in FOR_THE_HOST)
        torch.cuda.set_sync_debug_mode("error")
        try:
            found.append(colour_views(batch))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for one, same in zip(found, batches(frames), strict=True):
        for key in ("image", "strong_image", "depth", "valid_mask"):
            assert one[key].is_cuda
            torch.testing.assert_close(one[key].cpu(), same[key], atol=1.01 / 255, rtol=0)


def test_a_broken_frame_is_an_error_that_names_it():
    """(row 36)"""
    with pytest.raises(DataError, match="frame 2 is broken"):
        batches(Frames(5, broken={2}))


def test_a_broken_frame_is_replaced_and_counted_when_asked_always_by_the_same(capsys):
    """(row 36)"""
    frames = Frames(5, broken={2})
    loaded = batches(frames, replacements=range(5))
    names = [name for batch in loaded for name in batch["frame_id"]]
    assert "2" not in names
    assert sum(int(batch["replaced"].sum()) for batch in loaded) >= 3  # once a pass
    assert capsys.readouterr().out.count("frame 2 is broken") == 1
    again = [name for batch in batches(frames, replacements=range(5)) for name in batch["frame_id"]]
    assert names == again


def test_a_dataset_with_many_broken_frames_is_refused_even_then():
    """(row 36)"""
    with pytest.raises(DataError, match="2 of 5 frames are broken"):
        batches(Frames(5, broken={2, 3}), replacements=range(5))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_takes_each_frame_once_in_order(workers):
    frames = Frames(7)
    loader = evaluation_batches(
        EvaluationFrames(frames, [6, 0, 3, 2, 5], image_size=(4, 8)),
        batch_size=2,
        num_workers=workers,
    )
    collected = list(loader)
    assert [index for batch in collected for index in batch["index"]] == [6, 0, 3, 2, 5]
    assert [len(batch["image"]) for batch in collected] == [2, 2, 1]
    assert collected[0]["image"].shape[1:] == (3, 4, 8)
    expected = evaluation_image(frames.frame(6), (4, 8))
    assert torch.equal(collected[0]["image"][0], expected)


def test_evaluation_reads_every_ground_truth_or_only_the_own_one():
    for own_only, kinds in ((False, ["own", "other"]), (True, ["own"])):
        frames = EvaluationFrames(Frames(3), [1], image_size=(4, 8), own_ground_truth_only=own_only)
        depths = frames[0]["ground_truths"]
        assert list(depths) == kinds and depths["own"].shape == (1, 8, 8)


def test_a_frame_without_ground_truth_still_says_its_size():
    frames = Frames(3)
    frames.ground_truths = lambda index: {}
    entry = EvaluationFrames(frames, [0], image_size=(4, 8))[0]
    assert list(entry["ground_truths"]) == ["size"]
    assert torch.equal(entry["ground_truths"]["size"], torch.zeros(1, 8, 8))
