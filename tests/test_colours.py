"""Colours of a batch: what each number does, that nothing else has a say, that no value is read."""

import dataclasses

import pytest
import torch
from torch.utils.data import default_collate
from torchvision.transforms.v2 import functional

from datasets.colours import (
    LUMA,
    Jitter,
    as_image,
    colour_map,
    colour_views,
    draw_colour_map,
    weak_colours,
)
from datasets.photometric import OPERATIONS, Strong, draw_strong

STILL = Jitter(flip=0, jitter=0, brightness=0.9, contrast=0.9, saturation=0.9, hue=0.5)
LOUD = dataclasses.replace(STILL, jitter=1)
USUAL = Jitter(flip=0.5, jitter=0.5, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1)
ALL = Strong(tuple(OPERATIONS), num_operations=3, magnitude=5, magnitude_std=2)
SAME = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(count, low=0, high=256, size=(24, 40)):
    return torch.randint(low, high, (count, 3, *size), generator=seeded()).to(torch.uint8)


def mapped(picture, **changes):
    """One picture, (3, H, W), by one map."""
    return weak_colours(picture[None], colour_map(**SAME | changes)[None])[0]


def luma(image):
    return torch.einsum("chw,c->hw", image, torch.tensor(LUMA))


def batch_of(count, *, ranges=USUAL, size=(24, 40), labeled=True):
    """A batch as the loader gives it."""
    entries = []
    for number, picture in enumerate(pictures(count, size=size)):
        generator = seeded(number)
        entry = {"picture": picture, "colour_map": draw_colour_map(ranges, generator),
                 "frame_id": str(number), "sample_number": number, "replaced": 0}  # fmt: skip
        entry["strong_operations"], entry["strong_strengths"] = draw_strong(ALL, generator)
        if labeled:
            depth = 100 * torch.rand(1, 12, 20, generator=generator) - 10
            entry |= {"depth": depth.clamp(min=0), "max_depth": torch.tensor(80.0)}
        entries.append(entry)
    return default_collate(entries)


def test_a_picture_that_is_not_jittered_is_its_values_over_255_to_the_bit():
    every = torch.arange(256, dtype=torch.uint8).expand(1, 3, 4, 256)
    expected = torch.arange(256, dtype=torch.float32) / 255
    assert torch.equal(as_image(every), expected.expand(1, 3, 4, 256))
    for seed in range(20):
        still = draw_colour_map(STILL, seeded(seed))[None]
        assert torch.equal(weak_colours(every, still), as_image(every))
    assert torch.equal(mapped(every[0]), as_image(every[0]))


def test_one_in_two_is_jittered_by_factors_in_their_ranges():
    maps = torch.stack([draw_colour_map(USUAL, seeded(seed)) for seed in range(400)])
    changed = (maps != torch.eye(3, 4)).flatten(1).any(1)
    assert 160 < changed.sum() < 240
    only = dataclasses.replace(LOUD, brightness=0.3, contrast=0, saturation=0, hue=0)
    factors = torch.stack([draw_colour_map(only, seeded(seed)) for seed in range(400)])[:, 0, 0]
    assert 0.7 <= factors.min() < 0.72 and 1.28 < factors.max() <= 1.3


@pytest.mark.parametrize("ranges", [STILL, LOUD, USUAL])
def test_a_jitter_takes_five_draws_whatever_becomes_of_it(ranges):
    generator, reference = seeded(), seeded()
    draw_colour_map(ranges, generator)
    torch.rand(5, generator=reference)
    assert torch.equal(generator.get_state(), reference.get_state())


@pytest.mark.parametrize(
    ("name", "adjust"),
    [
        ("brightness", functional.adjust_brightness),
        ("contrast", functional.adjust_contrast),
        ("saturation", functional.adjust_saturation),
        ("hue", functional.adjust_hue),
    ],
)
def test_one_change_alone_is_nearly_that_of_torchvision(name, adjust):
    picture = pictures(1, 90, 160)[0]  # nothing is clipped
    for value in (-0.05, 0.05) if name == "hue" else (0.8, 1.2):
        ours, theirs = mapped(picture, **{name: value}), as_image(adjust(picture, value))
        # torchvision rounds; its hue goes along a hexagon, ours along the circle around it
        most = 0.06 if name == "hue" else 2 / 255
        assert (ours - theirs).abs().max() < most
        assert (as_image(picture) - theirs).abs().max() > most


def test_contrast_spreads_around_the_mean_luma_of_its_picture():
    dark, bright = pictures(1, 0, 100)[0], pictures(1, 150, 256)[0]
    for picture in (dark, bright):
        mean = luma(as_image(picture)).mean()
        torch.testing.assert_close(luma(mapped(picture, contrast=0.6)).mean(), mean)
        flat = mapped(picture, contrast=0.0)
        torch.testing.assert_close(flat, mean.expand_as(flat), atol=1e-6, rtol=0)


def test_without_saturation_only_luma_is_left():
    picture = pictures(1)[0]
    expected = luma(as_image(picture)).expand(3, -1, -1)
    torch.testing.assert_close(mapped(picture, saturation=0.0), expected, atol=1e-6, rtol=0)


def test_hue_turns_red_to_green_to_blue_and_leaves_greys():
    red, green, blue = torch.eye(3, dtype=torch.uint8).mul(200)[..., None, None]
    torch.testing.assert_close(mapped(red, hue=1 / 3), as_image(green), atol=1e-6, rtol=0)
    torch.testing.assert_close(mapped(green, hue=1 / 3), as_image(blue), atol=1e-6, rtol=0)
    grey = torch.full((3, 2, 2), 90, dtype=torch.uint8)
    for hue in (-0.5, -0.1, 0.3):
        torch.testing.assert_close(mapped(grey, hue=hue), as_image(grey), atol=1e-6, rtol=0)


def test_brightness_comes_first_and_hue_last_and_one_map_is_all_four():
    values = {"brightness": 0.9, "contrast": 0.7, "saturation": 1.3, "hue": 0.07}
    image = as_image(pictures(1, 60, 190)[0]).double()
    for name, value in values.items():
        part = colour_map(**SAME | {name: value}).double()
        mean = luma(image.float()).double().mean()
        image = torch.einsum("ij,jhw->ihw", part[:, :3], image) + part[:, 3, None, None] * mean
    found = mapped(pictures(1, 60, 190)[0], **values)
    torch.testing.assert_close(found, image.float(), atol=2e-6, rtol=0)


def test_colours_are_clipped_at_both_ends():
    image = mapped(pictures(1)[0], brightness=1.9, contrast=1.9)
    assert image.min() == 0 and image.max() == 1


@pytest.mark.parametrize("size", [(24, 40), (64, 208), (192, 640)])
def test_a_row_does_not_depend_on_its_neighbours_nor_on_the_number_of_threads(size):
    together = colour_views(batch_of(5, size=size))
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for row in range(5):
            part = {key: value[row : row + 1] for key, value in batch_of(5, size=size).items()}
            for key, value in colour_views(part).items():
                assert key == "frame_id" or torch.equal(value[0], together[key][row])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("labeled", [True, False])
def test_only_the_numbers_of_the_batch_decide_and_it_stays_as_it_was(labeled):
    batch, before = batch_of(4, labeled=labeled), batch_of(4, labeled=labeled)
    torch.manual_seed(1)
    first = colour_views(batch)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = colour_views(batch)
    assert torch.equal(state, torch.get_rng_state())
    for key in first.keys() - {"frame_id"}:
        assert torch.equal(first[key], again[key])
    for key in before.keys() - {"frame_id"}:
        assert torch.equal(batch[key], before[key])


@pytest.mark.parametrize("labeled", [True, False])
def test_no_value_on_the_device_is_looked_at_by_the_host(labeled):
    """Tensors on `meta` have no values: who asks for one fails."""
    host = ("strong_operations", "strong_strengths", "sample_number", "replaced", "frame_id")
    batch = batch_of(8, labeled=labeled)
    moved = {key: value if key in host else value.to("meta") for key, value in batch.items()}
    moved["source_pictures"] = torch.zeros(8, 2, 3, 24, 40, dtype=torch.uint8, device="meta")
    views = colour_views(moved)
    name = "image" if labeled else "weak_image"
    for key in (name, "strong_image", "target_image", "source_images"):
        assert views[key].is_meta and views[key].dtype == torch.float32
        assert views[key].shape[-3:] == (3, 24, 40)
    with pytest.raises((RuntimeError, NotImplementedError)):
        views[name].mean().item()


def test_a_step_gets_what_it_expects():
    labelled, plain = colour_views(batch_of(3)), colour_views(batch_of(3, labeled=False))
    always = {"strong_image", "frame_id", "sample_number", "replaced"}
    assert labelled.keys() == always | {"image", "depth", "valid_mask"}
    assert plain.keys() == always | {"weak_image"}
    depth = labelled["depth"]
    assert torch.equal(labelled["valid_mask"], (depth > 0) & (depth < 80))
    assert 0 < labelled["valid_mask"].float().mean() < 1
    for image in (labelled["image"], labelled["strong_image"], plain["weak_image"]):
        assert image.dtype == torch.float32 and image.shape == (3, 3, 24, 40)
        assert image.min() >= 0 and image.max() <= 1
