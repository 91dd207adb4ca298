"""Strong colours: the ranges of the authors, the arithmetic of Pillow, and no pixel moves."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms.v2 import functional

from datasets.frame import DataError
from datasets.photometric import OPERATIONS, Strong, draw_strong, strong_colours

AUTHORS = Strong(tuple(OPERATIONS)[:10], num_operations=3, magnitude=5, magnitude_std=0.5)
REACH = {"sharpness": 1, "sharpness_increasing": 1, "gaussian_blur": 3}  # pixels
ENHANCERS = {
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "brightness": ImageEnhance.Brightness,
    "sharpness": ImageEnhance.Sharpness,
}
# the same on one picture alone, by torchvision: (picture, magnitude, sign) -> picture
TORCHVISION = {
    "autocontrast": lambda picture, m, sign: functional.autocontrast(picture),
    "invert": lambda picture, m, sign: functional.invert(picture),
    "equalize": lambda picture, m, sign: functional.equalize(picture),
    "posterize": lambda picture, m, sign: functional.posterize(picture, 8 - round(0.4 * m)),
    "solarize": lambda picture, m, sign: torch.where(
        picture >= 256 - 12.8 * m, functional.invert(picture), picture
    ),
    "gaussian_blur": lambda picture, m, sign: functional.gaussian_blur(
        picture, [7, 7], [0.1 + 0.14 * m] * 2
    ),
    "grayscale": lambda picture, m, sign: functional.rgb_to_grayscale(picture, 3),
}
for _name, _adjust in {
    "color": functional.adjust_saturation,
    "contrast": functional.adjust_contrast,
    "brightness": functional.adjust_brightness,
    "sharpness": functional.adjust_sharpness,
}.items():
    TORCHVISION[_name] = lambda picture, m, sign, adjust=_adjust: adjust(picture, 0.7 + 0.09 * m)
    TORCHVISION[f"{_name}_increasing"] = lambda picture, m, sign, adjust=_adjust: adjust(
        picture, 1 + sign * 0.045 * m
    )
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


def operate(name, image, magnitude, sign=1):
    """One operation on one picture."""
    operation = OPERATIONS[name]
    return operation.apply(image[None], [operation.strength(magnitude, sign)])[0]


def recoloured(image, strong, generator):
    """What is drawn from the generator, done to one picture."""
    places, strengths = draw_strong(strong, generator)
    return strong_colours(image[None], places[None], strengths[None])[0]


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
    ordinary = recoloured(image, one(name, magnitude), seeded())
    assert_is_within_rounding_of(ordinary, enhancer.enhance(0.7 + 1.8 * magnitude / 20))
    for sign in (-1, 1):
        increasing = operate(f"{name}_increasing", image, magnitude, sign)
        assert_is_within_rounding_of(increasing, enhancer.enhance(1 + sign * 0.9 * magnitude / 20))


@pytest.mark.parametrize("magnitude", [0, 3.3, 5, 10])
@pytest.mark.parametrize("name", PILLOW)
def test_the_other_operations_are_those_of_pillow(name, magnitude):
    image = picture()
    expected = PILLOW[name](Image.fromarray(image.permute(1, 2, 0).numpy()), magnitude)
    assert_is_within_rounding_of(recoloured(image, one(name, magnitude), seeded()), expected)


def test_blur_grows_with_the_magnitude_and_keeps_the_brightness():
    image = picture()
    deviations = []
    for magnitude in (0, 2.5, 5, 10):
        blurred = recoloured(image, one("gaussian_blur", magnitude), seeded()).float()
        assert abs(blurred.mean() - image.float().mean()) < 1
        deviations.append(blurred.std(dim=(-2, -1)).mean().item())
    assert deviations == sorted(deviations, reverse=True) and deviations[-1] < 0.5 * deviations[0]
    assert torch.equal(recoloured(image, one("gaussian_blur", 0), seeded()), image)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_keeps_type_shape_and_the_picture_it_was_given(name):
    image = picture()
    before = image.clone()
    for magnitude in (0.0, 5.0, 10.0):
        result = operate(name, image, magnitude, -1)
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
        results = [operate(name, either, 10.0, sign) for either in (image, swapped)]
        changed = (results[0] != results[1]).any(0)
        near = torch.zeros_like(changed)
        reach = REACH.get(name, 0)
        for row, column in ((6, 7), (14, 30)):
            near[row - reach : row + reach + 1, column - reach : column + reach + 1] = True
        assert changed[6, 7] and changed[14, 30] and not (changed & ~near).any()


def test_blur_mixes_nothing_that_lies_more_than_three_pixels_away():
    edge = torch.zeros((3, 24, 40), dtype=torch.uint8)
    edge[:, :, 20:] = 255
    changed = (operate("gaussian_blur", edge, 10.0) != edge)[0, 0].nonzero().flatten()
    assert changed.tolist() == list(range(17, 23))


def signed_magnitudes(magnitude, std, count):
    """What was drawn, read off the factor that it became: to 0.07, from what a grey turned into."""
    strong, generator = one("brightness_increasing", magnitude, std), seeded()
    grey = torch.full((3, 4, 4), 170, dtype=torch.uint8)
    values = [recoloured(grey, strong, generator)[0, 0, 0].item() for _ in range(count)]
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
    assert torch.equal(recoloured(image, Strong(("invert",), 3, 5, 0.5), seeded()), 255 - image)
    assert torch.equal(recoloured(image, Strong(("invert",), 2, 5, 0.5), seeded()), image)
    both = Strong(("invert", "grayscale"), 1, 5, 0.5)
    inverted = [
        torch.equal(recoloured(image, both, seeded(seed)), 255 - image) for seed in range(200)
    ]
    assert 70 < sum(inverted) < 130


def test_no_operation_leaves_the_picture_alone():
    image = picture()
    assert torch.equal(recoloured(image, Strong((), 0, 5, 0.5), seeded()), image)


def test_the_generator_alone_decides():
    image = picture()
    torch.manual_seed(1)
    first = recoloured(image, AUTHORS, seeded(3))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert torch.equal(first, recoloured(image, AUTHORS, seeded(3)))
    assert torch.equal(before, torch.get_rng_state())
    others = [recoloured(image, AUTHORS, seeded(seed)) for seed in range(10)]
    assert len({other.numpy().tobytes() for other in others}) == 10


def test_which_operation_was_drawn_does_not_shift_the_draws_that_follow():
    after = []
    for names in (("invert",), ("gaussian_blur",), tuple(OPERATIONS)):
        generator = seeded()
        draw_strong(Strong(names, 3, 5, 0.5), generator)
        after.append(torch.rand((), generator=generator))
    assert after[0] == after[1] == after[2]


def pictures(count, height=24, width=40):
    """Pictures that differ in brightness and contrast; grey, flat and extreme values are in it."""
    images = torch.stack([picture(height, width, seed) for seed in range(count)])
    images[0, :, : height // 2] = images[0, :1, : height // 2]  # grey: colours of equal value
    images[1, 2] = 77  # a channel of one value
    images[2, :, 0], images[2, :, 1] = 0, 255
    images[-1] //= 3
    return images


@pytest.mark.parametrize("size", [(24, 40), (17, 13), (64, 208)])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_on_a_batch_is_torchvisions_on_each_picture_bit_for_bit(name, size):
    images = pictures(9, *size)
    magnitudes = torch.rand(9, generator=seeded(), dtype=torch.float64).mul(10).tolist()
    magnitudes[:4] = [0.0, 10.0, 5.0, 5.0]
    signs = [1, -1] * 4 + [1]
    operation = OPERATIONS[name]
    strengths = [operation.strength(*drawn) for drawn in zip(magnitudes, signs, strict=True)]
    found = operation.apply(images, strengths)
    for image, magnitude, sign, result in zip(images, magnitudes, signs, found, strict=True):
        assert torch.equal(result, TORCHVISION[name](image, magnitude, sign))


@pytest.mark.parametrize("names", [AUTHORS.operations, tuple(OPERATIONS)], ids=["ten", "all"])
def test_chains_on_a_batch_are_torchvisions_on_each_picture_bit_for_bit(names):
    strong = Strong(names, num_operations=3, magnitude=5, magnitude_std=2)
    images = pictures(40)
    drawn = [draw_strong(strong, seeded(seed)) for seed in range(40)]
    found = strong_colours(images, *(torch.stack(part) for part in zip(*drawn, strict=True)))
    for seed, image in enumerate(images):
        generator = seeded(seed)
        for _ in range(3):
            name = names[int(torch.randint(len(names), (), generator=generator))]
            magnitude = 5 + 2 * torch.randn((), generator=generator).item()
            sign = 1 if torch.rand((), generator=generator).item() < 0.5 else -1
            image = TORCHVISION[name](image, min(max(magnitude, 0.0), 10.0), sign)  # noqa: PLW2901
        assert torch.equal(found[seed], image)


def test_a_picture_does_not_depend_on_its_neighbours_nor_on_the_number_of_threads():
    images = pictures(24, 64, 208)
    strong = Strong(tuple(OPERATIONS), num_operations=3, magnitude=5, magnitude_std=2)
    drawn = [draw_strong(strong, seeded(seed)) for seed in range(24)]
    places, strengths = (torch.stack(part) for part in zip(*drawn, strict=True))
    together = strong_colours(images, places, strengths)
    order = torch.randperm(24, generator=seeded())
    assert torch.equal(
        strong_colours(images[order], places[order], strengths[order]), together[order]
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for row in range(24):
            part = slice(row, row + 1)
            alone = strong_colours(images[part], places[part], strengths[part])
            assert torch.equal(alone[0], together[row])
    finally:
        torch.set_num_threads(threads)


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
