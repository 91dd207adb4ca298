"""Views: the picture, its depth and its intrinsics move together, and depth is never invented."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import default_collate

from datasets.colours import colour_views
from datasets.frame import UNKNOWN_INTRINSICS, DataError, Frame
from datasets.photometric import OPERATIONS, Strong
from datasets.views import (
    Jitter,
    evaluation_view,
    labeled_view,
    nearest_resize,
    unlabeled_view,
)

PLAIN = Jitter(flip=0, jitter=0, brightness=0, contrast=0, saturation=0, hue=0)
FLIPPED = Jitter(flip=1, jitter=0, brightness=0, contrast=0, saturation=0, hue=0)
AUTHORS = Strong(tuple(OPERATIONS)[:10], num_operations=3, magnitude=5, magnitude_std=0.5)
COLOURFUL = Jitter(flip=0.5, jitter=1, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)


def frame(height=40, width=60, marker=(10, 15)):
    """Grey, with a white 2 x 2 marker at 5 m; the rest is at 20 m, the left third a hole."""
    image = np.full((height, width, 3), 100, np.uint8)
    depth = np.full((height, width), 20, np.float32)
    depth[:, : width // 3] = 0
    row, column = marker
    image[row : row + 2, column : column + 2] = 255
    depth[row : row + 2, column : column + 2] = 5
    intrinsics = np.array([[30.0, 0, column + 0.5], [0, 31.0, row + 0.5], [0, 0, 1]])
    return Frame("f", Image.fromarray(image), intrinsics, lambda: depth)


def coloured(entry):
    """What a step takes of a batch of this entry alone."""
    return {key: value[0] for key, value in colour_views(default_collate([entry])).items()}


def view(
    one, augmentation, image_size=(40, 60), depth_size=(40, 60), seed=0, strong=None, max_depth=80.0
):
    generator = torch.Generator().manual_seed(seed)
    entry = labeled_view(
        one, image_size=image_size, depth_size=depth_size, max_depth=max_depth,
        augmentation=augmentation, generator=generator, strong=strong,
    )  # fmt: skip
    return coloured(entry)


def pair(one, augmentation, image_size=(40, 60), seed=0, strong=AUTHORS):
    generator = torch.Generator().manual_seed(seed)
    entry = unlabeled_view(
        one, image_size=image_size, augmentation=augmentation, strong=strong, generator=generator
    )
    return coloured(entry)


def colourful_frame():
    """Noise of every colour, with depth everywhere: every operation has something to act on."""
    values = np.random.default_rng(0).integers(20, 230, (40, 60, 3)).astype(np.uint8)
    depth = np.full((40, 60), 7, np.float32)
    return Frame("c", Image.fromarray(values), UNKNOWN_INTRINSICS.copy(), lambda: depth)


def sealed(one):
    """The same frame, but whoever reads its depth fails."""

    def read():
        raise AssertionError("the depth of an unlabelled frame was read")

    return Frame(one.frame_id, one.image, one.intrinsics, read)


def marker_centre(image):
    """(row, column) of the marker, whatever was done to the colours: it differs from the grey."""
    grey = image.flatten(1).median(dim=1).values[:, None, None]
    return ((image - grey).abs().amax(0) > 0.1).nonzero().float().mean(0)


@pytest.mark.parametrize("augmentation", [PLAIN, FLIPPED])
@pytest.mark.parametrize("image_size", [(40, 60), (80, 120), (20, 30)])
def test_marker_depth_and_principal_point_stay_together(augmentation, image_size):
    entry = view(frame(), augmentation, image_size=image_size)
    bright = (entry["image"].mean(0) > 0.5).nonzero().float()
    scale = image_size[0] / 40
    centre = bright.mean(0) / scale + (1 / scale - 1) / 2  # back in stored pixels
    near = (entry["depth"][0] == 5).nonzero().float().mean(0)
    assert torch.allclose(centre, near, atol=0.3)
    principal = entry["intrinsics"][[1, 0], [2, 2]]
    assert torch.allclose(bright.mean(0), principal, atol=0.3)
    assert entry["intrinsics"][0, 0] == 30 * scale and entry["intrinsics"][1, 1] == 31 * scale


def test_a_flip_mirrors_both():
    plain, flipped = view(frame(), PLAIN), view(frame(), FLIPPED)
    assert torch.equal(plain["image"].flip(-1), flipped["image"])
    assert torch.equal(plain["depth"].flip(-1), flipped["depth"])
    assert torch.equal(plain["valid_mask"].flip(-1), flipped["valid_mask"])


@pytest.mark.parametrize("size", [(40, 60), (37, 64), (80, 31), (13, 17), (100, 200)])
def test_depth_is_sampled_never_interpolated(size):
    depth = frame().depth()
    resized = nearest_resize(depth, size)
    assert resized.shape == size
    assert set(np.unique(resized)) <= {0.0, 5.0, 20.0}


def test_nearest_resize_takes_the_pixel_under_the_centre():
    depth = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert np.array_equal(nearest_resize(depth, (3, 4)), depth)
    assert np.array_equal(nearest_resize(depth, (1, 2)), [[5, 7]])
    assert np.array_equal(nearest_resize(depth, (6, 8))[::2, ::2], depth)


def test_holes_are_not_valid():
    entry = view(frame(), PLAIN)
    assert entry["valid_mask"].dtype == torch.bool
    assert torch.equal(entry["valid_mask"], entry["depth"] > 0)
    assert not entry["valid_mask"][:, 20:, :20].any()


def test_what_lies_beyond_the_reach_of_the_network_is_not_valid():
    entry = view(frame(), PLAIN, max_depth=20.0)
    assert torch.equal(entry["valid_mask"], entry["depth"] == 5)


def test_the_image_is_float_between_zero_and_one():
    entry = view(frame(), COLOURFUL)
    assert entry["image"].dtype == torch.float32 and entry["image"].shape == (3, 40, 60)
    assert entry["image"].min() >= 0 and entry["image"].max() <= 1


def test_the_same_generator_gives_the_same_view_and_another_another():
    one, again = view(frame(), COLOURFUL, seed=3), view(frame(), COLOURFUL, seed=3)
    assert torch.equal(one["image"], again["image"])
    others = [view(frame(), COLOURFUL, seed=seed)["image"] for seed in range(5)]
    assert sum(torch.equal(one["image"], other) for other in others) <= 1


def test_a_view_draws_nothing_from_global_state():
    before = (torch.get_rng_state(), np.random.get_state()[1].copy())
    view(frame(), COLOURFUL)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


def test_every_view_uses_the_same_number_of_draws():
    for augmentation in (PLAIN, FLIPPED, COLOURFUL):
        generator = torch.Generator().manual_seed(0)
        labeled_view(
            frame(), image_size=(40, 60), depth_size=(40, 60), max_depth=80.0,
            augmentation=augmentation, generator=generator,
        )  # fmt: skip
        following = torch.rand((), generator=generator)
        reference = torch.Generator().manual_seed(0)
        torch.rand(6, generator=reference)
        assert torch.equal(following, torch.rand((), generator=reference))


def test_evaluation_leaves_ground_truth_in_its_own_size():
    entry = evaluation_view(frame(), image_size=(16, 32))
    assert entry["image"].shape == (3, 16, 32) and entry["depth"].shape == (1, 40, 60)


def test_a_frame_without_depth_cannot_be_a_labelled_one():
    unlabelled = Frame("u", Image.new("RGB", (8, 8)), UNKNOWN_INTRINSICS.copy())
    with pytest.raises(DataError, match="'u' has no ground-truth depth"):
        view(unlabelled, PLAIN)


def test_unknown_intrinsics_stay_unknown_and_the_frame_keeps_its_own():
    depth = np.ones((40, 60), np.float32)
    one = Frame("f", Image.new("RGB", (60, 40)), UNKNOWN_INTRINSICS, lambda: depth)
    assert view(one, FLIPPED)["intrinsics"][:2].isnan().all()
    kept = frame()
    before = kept.intrinsics.copy()
    view(kept, FLIPPED, image_size=(80, 120))
    assert np.array_equal(kept.intrinsics, before)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("flip", [0, 1])
def test_a_marker_lies_on_the_same_pixels_of_weak_strong_and_depth(flip, seed):
    jitter = Jitter(flip=flip, jitter=1, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1)
    at = torch.tensor([10.5, 59 - 15.5 if flip else 15.5])
    unlabelled = pair(frame(), jitter, seed=seed)
    assert torch.equal(marker_centre(unlabelled["weak_image"]), at)
    assert torch.equal(marker_centre(unlabelled["strong_image"]), at)
    labelled = view(frame(), jitter, seed=seed, strong=AUTHORS)
    assert torch.equal(marker_centre(labelled["strong_image"]), at)
    assert torch.equal((labelled["depth"][0] == 5).nonzero().float().mean(0), at)
    for entry in (unlabelled, labelled):
        assert torch.equal(entry["intrinsics"][[1, 0], [2, 2]], at)


@pytest.mark.parametrize("image_size", [(40, 60), (80, 120), (20, 30)])
@pytest.mark.parametrize("augmentation", [PLAIN, FLIPPED])
def test_without_strong_colours_both_views_are_one_picture(augmentation, image_size):
    nothing = Strong((), num_operations=0, magnitude=5, magnitude_std=0.5)
    entry = pair(frame(), augmentation, image_size, strong=nothing)
    assert entry["weak_image"].shape == (3, *image_size)
    assert torch.equal(entry["weak_image"], entry["strong_image"])


def test_an_unlabelled_frame_never_reads_its_depth():
    entry = pair(sealed(frame()), COLOURFUL)
    assert set(entry) == {"weak_image", "strong_image", "intrinsics", "frame_id"}
    assert entry["frame_id"] == "f"


def test_an_unlabelled_frame_needs_neither_depth_nor_intrinsics():
    unlabelled = Frame("u", Image.new("RGB", (60, 40)), UNKNOWN_INTRINSICS.copy())
    assert pair(unlabelled, FLIPPED)["intrinsics"][:2].isnan().all()


def test_the_weak_image_is_what_a_labelled_frame_would_show():
    for seed in range(10):
        labelled = view(colourful_frame(), COLOURFUL, seed=seed, strong=AUTHORS)
        unlabelled = pair(colourful_frame(), COLOURFUL, seed=seed)
        assert torch.equal(unlabelled["weak_image"], labelled["image"])
        assert torch.equal(unlabelled["strong_image"], labelled["strong_image"])


def test_a_strong_view_changes_nothing_else_of_a_labelled_entry():
    for seed in range(10):
        without = view(colourful_frame(), COLOURFUL, seed=seed)
        entry = view(colourful_frame(), COLOURFUL, seed=seed, strong=AUTHORS)
        assert entry.keys() - without.keys() == {"strong_image"}
        assert entry["frame_id"] == without["frame_id"]
        for name in ("image", "depth", "valid_mask"):
            assert torch.equal(entry[name], without[name])


def test_strong_colours_start_from_the_unjittered_picture():
    inverted = Strong(("invert",), num_operations=1, magnitude=5, magnitude_std=0.5)
    loud = Jitter(flip=1, jitter=1, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    plain = view(colourful_frame(), FLIPPED)["image"]
    entry = pair(colourful_frame(), loud, strong=inverted)
    assert torch.allclose(entry["strong_image"], 1 - plain, atol=1e-6)
    assert not torch.allclose(entry["weak_image"], plain, atol=0.01)


def test_strong_differs_from_weak_and_from_sample_to_sample():
    entries = [pair(colourful_frame(), PLAIN, seed=seed) for seed in range(20)]
    for entry in entries:
        assert (entry["strong_image"] - entry["weak_image"]).abs().mean() > 0.01
        assert entry["strong_image"].dtype == torch.float32
        assert entry["strong_image"].min() >= 0 and entry["strong_image"].max() <= 1
    assert len({entry["strong_image"].numpy().tobytes() for entry in entries}) == 20


def test_both_views_follow_from_their_generator_and_nothing_global():
    torch.manual_seed(1)
    first = pair(colourful_frame(), COLOURFUL, seed=3)
    torch.manual_seed(2)
    np.random.seed(2)
    before = (torch.get_rng_state(), np.random.get_state()[1].copy())
    again = pair(colourful_frame(), COLOURFUL, seed=3)
    for name in ("weak_image", "strong_image"):
        assert torch.equal(first[name], again[name])
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
