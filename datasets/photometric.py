"""Strong photometric augmentation: RandAugment without everything that moves a pixel.

Ours; operations and ranges as the authors' (n = 3, m = 5, level scale 20). Weak and strong view are
compared pixel by pixel, so an operation may change what a pixel looks like, never where it is: most
look at one pixel and statistics of the picture, sharpness at its 3 x 3 and blur at its 7 x 7
neighbours. There is no geometric operation to choose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from datasets.frame import DataError

MAX_MAGNITUDE = 10.0
LEVEL_SCALE = 20  # the authors' ranges are written for magnitudes up to 20, and half of it is used
BLUR_KERNEL = 7  # pixels: what blur mixes lies at most 3 away


def _enhance(adjust: Callable[[Tensor, float], Tensor]) -> Callable:
    """Factor 0.7 + 1.8 m / 20: from 0.7 (m = 0) to 1.6 (m = 10); 1.15 at the authors' m = 5."""
    return lambda image, magnitude, sign: adjust(image, 0.7 + 1.8 * magnitude / LEVEL_SCALE)


def _increasing(adjust: Callable[[Tensor, float], Tensor]) -> Callable:
    """Factor 1 +- 0.9 m / 20: nothing at m = 0, 0.55 or 1.45 at m = 10."""
    return lambda image, magnitude, sign: adjust(image, 1 + sign * 0.9 * magnitude / LEVEL_SCALE)


def _adjust_sharpness(image: Tensor, factor: float) -> Tensor:
    # three grey pictures instead of one in colour: the same bits in a third of the time
    return functional.adjust_sharpness(image[:, None], factor)[:, 0]


def _whole(apply: Callable[[Tensor], Tensor]) -> Callable:
    """No strength to choose: the magnitude is not used."""
    return lambda image, magnitude, sign: apply(image)


def _posterize(image: Tensor, magnitude: float, sign: int) -> Tensor:
    """Keep 8 (m = 0) to 4 (m = 10) bits of every value."""
    return functional.posterize(image, 8 - round(4 * magnitude / MAX_MAGNITUDE))


def _solarize(image: Tensor, magnitude: float, sign: int) -> Tensor:
    """Invert the values from 256 (m = 0: none) or 128 (m = 10: the bright half) upwards."""
    threshold = 256 - 128 * magnitude / MAX_MAGNITUDE
    return torch.where(image >= threshold, 255 - image, image)


def _blur(image: Tensor, magnitude: float, sign: int) -> Tensor:
    """Gaussian of standard deviation 0.1 (m = 0: nothing visible) to 1.5 pixels (m = 10)."""
    sigma = 0.1 + 1.4 * magnitude / MAX_MAGNITUDE
    return functional.gaussian_blur(image, [BLUR_KERNEL, BLUR_KERNEL], [sigma, sigma])


# name -> (image (3, H, W) uint8, magnitude in [0, 10], sign +1 or -1) -> image. Authors' ten first.
OPERATIONS: dict[str, Callable[[Tensor, float, int], Tensor]] = {
    "autocontrast": _whole(functional.autocontrast),
    "invert": _whole(functional.invert),
    "color": _enhance(functional.adjust_saturation),
    "contrast": _enhance(functional.adjust_contrast),
    "brightness": _enhance(functional.adjust_brightness),
    "sharpness": _enhance(_adjust_sharpness),
    "color_increasing": _increasing(functional.adjust_saturation),
    "contrast_increasing": _increasing(functional.adjust_contrast),
    "brightness_increasing": _increasing(functional.adjust_brightness),
    "sharpness_increasing": _increasing(_adjust_sharpness),
    "equalize": _whole(functional.equalize),
    "posterize": _posterize,
    "solarize": _solarize,
    "gaussian_blur": _blur,
    "grayscale": _whole(lambda image: functional.rgb_to_grayscale(image, num_output_channels=3)),
}


@dataclass(frozen=True)
class Strong:
    """What makes the strong view strong.

    Attributes:
        operations: names in `OPERATIONS`; a name given twice is drawn twice as often.
        num_operations: how many are drawn, with replacement, and applied one after the other; 0 is
            none.
        magnitude: 0 to 10, the mean of the strengths; the authors use 5.
        magnitude_std: 0 or more, their standard deviation; the authors use 0.5.
    """

    operations: tuple[str, ...]
    num_operations: int
    magnitude: float
    magnitude_std: float

    def __post_init__(self):
        """Raise DataError on what cannot be drawn from: here, before any frame is read."""
        known = ", ".join(OPERATIONS)
        if unknown := [name for name in self.operations if name not in OPERATIONS]:
            raise DataError(
                f"strong operations {unknown} do not exist; choose from {known}. There are only "
                "photometric ones: weak and strong view must stay pixel-aligned"
            )
        if self.num_operations < 0 or (self.num_operations and not self.operations):
            raise DataError(
                f"{self.num_operations} strong operations of {len(self.operations)} names; ask "
                f"for 0 or more, and name some of {known}"
            )
        if not 0 <= self.magnitude <= MAX_MAGNITUDE or not self.magnitude_std >= 0:
            raise DataError(
                f"strong magnitude {self.magnitude} +- {self.magnitude_std}; choose a mean of 0 to "
                f"{MAX_MAGNITUDE:g} and a standard deviation of 0 or more"
            )


def strong_colours(image: Tensor, strong: Strong, generator: torch.Generator) -> Tensor:
    """(3, H, W) uint8 -> the same picture in other colours, (3, H, W) uint8; sides over 3 pixels.

    Each operation takes three draws from `generator`, whatever it makes of them: which one, its
    magnitude (normal, clipped to 0..10), its sign. Nothing else is random.
    """
    for _ in range(strong.num_operations):
        which = int(torch.randint(len(strong.operations), (), generator=generator))
        noise = torch.randn((), generator=generator).item()
        sign = 1 if torch.rand((), generator=generator).item() < 0.5 else -1
        magnitude = min(max(strong.magnitude + strong.magnitude_std * noise, 0.0), MAX_MAGNITUDE)
        image = OPERATIONS[strong.operations[which]](image, magnitude, sign)
    return image
