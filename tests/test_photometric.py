"""Strong colours: the ranges of the authors, the arithmetic of Pillow, and no pixel moves."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from datasets.frame import DataError
from datasets.photometric import OPERATIONS, Strong, strong_colours

AUTHORS = Strong(tuple(OPERATIONS)[:10], num_operations=3, magnitude=5, magnitude_std=0.5)
REACH = {"sharpness": 1, "sharpness_increasing": 1, "gaussian_blur": 3}  # pixels
ENHANCERS = {
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "brightness": ImageEnhance.Brightness,
    "sharpness": ImageEnhance.Sharpness,
}
PILLOW = {
    "autocontrast": lambda picture, magnitude: ImageOps.autocontrast(picture),
    "invert": lambda picture, magnitude: ImageOps.invert(picture),
    "equalize": lambda picture, magnitude: ImageOps.equalize(picture),
    "posterize": lambda picture, magnitude: ImageOps.posterize(picture, 8 - round(0.4 * magnitude)),
    "solarize": lambda picture, magnitude: ImageOps.solarize(picture, 256 - 12.8 * magnitude),
    "grayscale": lambda picture, magnitude: picture.convert("L").convert("RGB"),
}


def picture(height=24, width=40, seed=0):
    """(3, H, W) uint8 noise of 20 to 229, the red half as bright: every operation has to act."""
    values = np.random.default_rng(seed).integers(20, 230, (3, height, width))
    values[0] //= 2
    return torch.from_numpy(values.astype(np.uint8))


def one(name, magnitude=5.0, std=0.0):
    return Strong((name,), num_operations=1, magnitude=magnitude, magnitude_std=std)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def assert_is_within_rounding_of(ours, pillow):
    difference = ours.int() - torch.from_numpy(np.array(pillow).transpose(2, 0, 1)).int()
    assert difference.abs().max() <= 1


@pytest.mark.parametrize("magnitude", [0, 3.3, 5, 10])
@pytest.mark.parametrize("name", ENHANCERS)
def test_an_enhancement_has_the_factor_of_the_authors(name, magnitude):
    image = picture()
    enhancer = ENHANCERS[name](Image.fromarray(image.permute(1, 2, 0).numpy()))
    ordinary = strong_colours(image, one(name, magnitude), seeded())
    assert_is_within_rounding_of(ordinary, enhancer.enhance(0.7 + 1.8 * magnitude / 20))
    for sign in (-1, 1):
        increasing = OPERATIONS[f"{name}_increasing"](image, magnitude, sign)
        assert_is_within_rounding_of(increasing, enhancer.enhance(1 + sign * 0.9 * magnitude / 20))


@pytest.mark.parametrize("magnitude", [0, 3.3, 5, 10])
@pytest.mark.parametrize("name", PILLOW)
def test_the_other_operations_are_those_of_pillow(name, magnitude):
    image = picture()
    expected = PILLOW[name](Image.fromarray(image.permute(1, 2, 0).numpy()), magnitude)
    assert_is_within_rounding_of(strong_colours(image, one(name, magnitude), seeded()), expected)


def test_blur_grows_with_the_magnitude_and_keeps_the_brightness():
    image = picture()
    deviations = []
    for magnitude in (0, 2.5, 5, 10):
        blurred = strong_colours(image, one("gaussian_blur", magnitude), seeded()).float()
        assert abs(blurred.mean() - image.float().mean()) < 1
        deviations.append(blurred.std(dim=(-2, -1)).mean().item())
    assert deviations == sorted(deviations, reverse=True) and deviations[-1] < 0.5 * deviations[0]
    assert torch.equal(strong_colours(image, one("gaussian_blur", 0), seeded()), image)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_keeps_type_shape_and_the_picture_it_was_given(name):
    image = picture()
    before = image.clone()
    for magnitude in (0.0, 5.0, 10.0):
        result = OPERATIONS[name](image, magnitude, -1)
        assert result.dtype == torch.uint8 and result.shape == image.shape
    assert torch.equal(image, before)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_never_moves_a_pixel(name):
    # black and white in equal number: a swap of two pixels changes no statistic of the picture
    image = torch.zeros((3, 24, 40), dtype=torch.uint8)
    image[:, ::2, ::2] = image[:, 1::2, 1::2] = 200
    image[:, 6, 7], image[:, 14, 30] = 200, 0
    swapped = image.clone()
    swapped[:, 6, 7], swapped[:, 14, 30] = 0, 200
    for sign in (-1, 1):
        results = [OPERATIONS[name](either, 10.0, sign) for either in (image, swapped)]
        changed = (results[0] != results[1]).any(0)
        near = torch.zeros_like(changed)
        reach = REACH.get(name, 0)
        for row, column in ((6, 7), (14, 30)):
            near[row - reach : row + reach + 1, column - reach : column + reach + 1] = True
        assert changed[6, 7] and changed[14, 30] and not (changed & ~near).any()


def test_blur_mixes_nothing_that_lies_more_than_three_pixels_away():
    edge = torch.zeros((3, 24, 40), dtype=torch.uint8)
    edge[:, :, 20:] = 255
    changed = (OPERATIONS["gaussian_blur"](edge, 10.0, 1) != edge)[0, 0].nonzero().flatten()
    assert changed.tolist() == list(range(17, 23))


def signed_magnitudes(magnitude, std, count):
    """What was drawn, read off the factor that it became: to 0.07, from what a grey turned into."""
    strong, generator = one("brightness_increasing", magnitude, std), seeded()
    grey = torch.full((3, 4, 4), 170, dtype=torch.uint8)
    values = [strong_colours(grey, strong, generator)[0, 0, 0].item() for _ in range(count)]
    return ((np.array(values) + 0.5) / 170 - 1) * 20 / 0.9


def test_the_magnitude_is_normal_around_its_mean_and_its_sign_a_toss():
    drawn = signed_magnitudes(5, 0.5, 2000)
    assert abs(np.abs(drawn).mean() - 5) < 0.05 and abs(np.abs(drawn).std() - 0.5) < 0.03
    assert abs(np.sign(drawn).mean()) < 0.1


def test_the_magnitude_stays_in_its_range():
    assert abs(np.abs(signed_magnitudes(9, 4, 200)).max() - 10) < 0.1
    small = np.abs(signed_magnitudes(1, 4, 200))
    assert small.min() < 0.1 and (small < 0.1).sum() > 50  # all below zero became zero


def test_operations_are_drawn_with_replacement_and_applied_in_turn():
    image = picture()
    assert torch.equal(strong_colours(image, Strong(("invert",), 3, 5, 0.5), seeded()), 255 - image)
    assert torch.equal(strong_colours(image, Strong(("invert",), 2, 5, 0.5), seeded()), image)
    both = Strong(("invert", "grayscale"), 1, 5, 0.5)
    inverted = [
        torch.equal(strong_colours(image, both, seeded(seed)), 255 - image) for seed in range(200)
    ]
    assert 70 < sum(inverted) < 130


def test_no_operation_leaves_the_picture_alone():
    image = picture()
    assert torch.equal(strong_colours(image, Strong((), 0, 5, 0.5), seeded()), image)


def test_the_generator_alone_decides():
    image = picture()
    torch.manual_seed(1)
    first = strong_colours(image, AUTHORS, seeded(3))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert torch.equal(first, strong_colours(image, AUTHORS, seeded(3)))
    assert torch.equal(before, torch.get_rng_state())
    others = [strong_colours(image, AUTHORS, seeded(seed)) for seed in range(10)]
    assert len({other.numpy().tobytes() for other in others}) == 10


def test_which_operation_was_drawn_does_not_shift_the_draws_that_follow():
    after = []
    for names in (("invert",), ("gaussian_blur",), tuple(OPERATIONS)):
        generator = seeded()
        strong_colours(picture(), Strong(names, 3, 5, 0.5), generator)
        after.append(torch.rand((), generator=generator))
    assert after[0] == after[1] == after[2]


@pytest.mark.parametrize("name", ["rotate", "shear_x", "translate", "Invert", ""])
def test_only_photometric_operations_exist(name):
    with pytest.raises(DataError, match="do not exist; choose from autocontrast, invert") as error:
        Strong(("invert", name), 3, 5, 0.5)
    assert repr(name) in str(error.value) and "pixel-aligned" in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((("invert",), -1, 5, 0.5), "-1 strong operations of 1 names"),
        (((), 3, 5, 0.5), "3 strong operations of 0 names"),
        ((("invert",), 3, 11, 0.5), "mean of 0 to 10"),
        ((("invert",), 3, -1, 0.5), "mean of 0 to 10"),
        ((("invert",), 3, 5, -0.5), "deviation of 0 or more"),
        ((("invert",), 3, float("nan"), 0.5), "mean of 0 to 10"),
    ],
)
def test_a_strength_that_cannot_be_drawn_is_refused_before_any_frame_is_read(arguments, message):
    with pytest.raises(DataError, match=message):
        Strong(*arguments)
