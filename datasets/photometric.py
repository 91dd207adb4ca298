"""Strong photometric augmentation: RandAugment without everything that moves a pixel.

Ours; operations and ranges as the authors' (n = 3, m = 5, level scale 20). Weak and strong view are
compared pixel by pixel, so an operation may change what a pixel looks like, never where it is: most
look at one pixel and statistics of the picture, sharpness at its 3 x 3 and blur at its 7 x 7
neighbours. There is no geometric operation to choose.

What is done to a picture is drawn with its geometry, where it is read; it is done to whole batches,
on any device. A picture comes out as torchvision's functions on it alone would leave it, bit for
bit, whatever else is in the batch. No value of a picture is looked at by the host, so a GPU is
never waited for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from datasets.frame import DataError

try:
    from torchvision.transforms.v2 import functional
except RuntimeError as error:  # torch without CUDA beside a torchvision with it, or the reverse
    print(
        f"torchvision does not fit this torch ({error}); `sh package_install.sh` installs a pair "
        "that fits",
        file=sys.stderr,
    )
    sys.exit(2)  # nothing here works without; a traceback would say no more

MAX_MAGNITUDE = 10.0
LEVEL_SCALE = 20  # the authors' ranges are written for magnitudes up to 20, and half of it is used
BLUR_KERNEL = 7  # pixels: what blur mixes lies at most 3 away


class Operation(NamedTuple):
    """One way to recolour pictures.

    Attributes:
        apply: (n, 3, H, W) uint8 pictures and a strength for each -> (n, 3, H, W) uint8.
        strength: magnitude 0 to 10 and sign +1 or -1 -> what `apply` takes; 0 where it takes none.
    """

    apply: Callable[[Tensor, Sequence[float]], Tensor]
    strength: Callable[[float, int], float] = lambda magnitude, sign: 0.0


def _enhanced(magnitude: float, sign: int) -> float:
    """Factor 0.7 + 1.8 m / 20: from 0.7 (m = 0) to 1.6 (m = 10); 1.15 at the authors' m = 5."""
    return 0.7 + 1.8 * magnitude / LEVEL_SCALE


def _increasing(magnitude: float, sign: int) -> float:
    """Factor 1 +- 0.9 m / 20: nothing at m = 0, 0.55 or 1.45 at m = 10."""
    return 1 + sign * 0.9 * magnitude / LEVEL_SCALE


def _bits(magnitude: float, sign: int) -> float:
    """Keep 8 (m = 0) to 4 (m = 10) bits of every value."""
    return 8 - round(4 * magnitude / MAX_MAGNITUDE)


def _threshold(magnitude: float, sign: int) -> float:
    """Invert the values from 256 (m = 0: none) or 128 (m = 10: the bright half) upwards."""
    return 256 - 128 * magnitude / MAX_MAGNITUDE


def _sigma(magnitude: float, sign: int) -> float:
    """Standard deviation 0.1 (m = 0: nothing visible) to 1.5 pixels (m = 10)."""
    return 0.1 + 1.4 * magnitude / MAX_MAGNITUDE


def _autocontrast(pictures: Tensor, _: Sequence[float]) -> Tensor:
    low = pictures.amin((-2, -1), keepdim=True).float()
    high = pictures.amax((-2, -1), keepdim=True).float()
    flat = high == low  # a channel of one value stays as it is
    scale = torch.where(flat, 1.0, (high - low) * (1 / 255))
    return _rounded_down(pictures.float().sub_(torch.where(flat, 0.0, low)).div_(scale))


def _saturation(pictures: Tensor, factors: Sequence[float]) -> Tensor:
    colours = pictures.float()
    return _blended(colours, _grey(colours), factors)


def _contrast(pictures: Tensor, factors: Sequence[float]) -> Tensor:
    colours = pictures.float()
    # in float64 a sum of whole numbers is exact: no order of summing, no number of threads shows
    mean = _grey(colours).mean((-3, -2, -1), keepdim=True, dtype=torch.float64)
    return _blended(colours, mean.float(), factors)


def _brightness(pictures: Tensor, factors: Sequence[float]) -> Tensor:
    return _rounded_down(pictures.float().mul_(_each(factors, pictures)))


def _sharpness(pictures: Tensor, factors: Sequence[float]) -> Tensor:
    """Away from, or towards, the mean of 3 x 3 pixels whose centre counts five times."""
    colours = pictures.float()
    inner = colours[..., 1:-1, 1:-1]
    rows = colours[..., :-2, :] + colours[..., 1:-1, :] + colours[..., 2:, :]
    blurred = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    blurred = blurred.add_(inner, alpha=4).div_(13).round_()
    others = _each([1 - factor for factor in factors], pictures)
    inner.addcmul_(blurred.sub_(inner), others)
    return _rounded_down(colours)


def _posterize(pictures: Tensor, bits: Sequence[float]) -> Tensor:
    masks = _each([256 - 2 ** (8 - int(count)) for count in bits], pictures, torch.uint8)
    return pictures & masks


def _solarize(pictures: Tensor, thresholds: Sequence[float]) -> Tensor:
    return torch.where(pictures >= _each(thresholds, pictures), 255 - pictures, pictures)


def _blur(pictures: Tensor, sigmas: Sequence[float]) -> Tensor:
    kernel = [BLUR_KERNEL, BLUR_KERNEL]
    return torch.stack(
        [
            functional.gaussian_blur(picture, kernel, [sigma, sigma])
            for picture, sigma in zip(pictures, sigmas, strict=True)
        ]
    )


def _blended(colours: Tensor, others: Tensor, factors: Sequence[float]) -> Tensor:
    """factor * colours + (1 - factor) * others, as uint8. `colours` is overwritten."""
    colours.mul_(_each(factors, colours))
    # the second product is not rounded before it is added, as in torch's add with alpha
    colours.addcmul_(others, _each([1 - factor for factor in factors], colours))
    return _rounded_down(colours)


def _grey(colours: Tensor) -> Tensor:
    """(n, 3, H, W) float of whole numbers -> (n, 1, H, W), luma in whole numbers."""
    red, green, blue = colours.split(1, dim=1)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()


def _rounded_down(colours: Tensor) -> Tensor:
    return colours.clamp_(0, 255).to(torch.uint8)


def _each(values: Sequence[float], like: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """A value for each picture, (n, 1, 1, 1), beside the pictures."""
    column = torch.tensor(values, dtype=dtype)[:, None, None, None]
    return column.to(like.device, non_blocking=True)


OPERATIONS: dict[str, Operation] = {  # the authors' ten first
    "autocontrast": Operation(_autocontrast),
    "invert": Operation(lambda pictures, _: functional.invert(pictures)),
    "color": Operation(_saturation, _enhanced),
    "contrast": Operation(_contrast, _enhanced),
    "brightness": Operation(_brightness, _enhanced),
    "sharpness": Operation(_sharpness, _enhanced),
    "color_increasing": Operation(_saturation, _increasing),
    "contrast_increasing": Operation(_contrast, _increasing),
    "brightness_increasing": Operation(_brightness, _increasing),
    "sharpness_increasing": Operation(_sharpness, _increasing),
    "equalize": Operation(lambda pictures, _: functional.equalize(pictures)),
    "posterize": Operation(_posterize, _bits),
    "solarize": Operation(_solarize, _threshold),
    "gaussian_blur": Operation(_blur, _sigma),
    "grayscale": Operation(lambda pictures, _: functional.rgb_to_grayscale(pictures, 3)),
}
_NAMES = tuple(OPERATIONS)


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


def draw_strong(strong: Strong, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What to do to one picture: (n,) int64 places in `OPERATIONS`, (n,) float64 strengths.

    Each operation takes three draws from `generator`, whatever it makes of them: which one, its
    magnitude (normal, clipped to 0..10), its sign. Nothing else is random.
    """
    places, strengths = [], []
    for _ in range(strong.num_operations):
        which = int(torch.randint(len(strong.operations), (), generator=generator))
        noise = torch.randn((), generator=generator).item()
        sign = 1 if torch.rand((), generator=generator).item() < 0.5 else -1
        magnitude = min(max(strong.magnitude + strong.magnitude_std * noise, 0.0), MAX_MAGNITUDE)
        name = strong.operations[which]
        places.append(_NAMES.index(name))
        strengths.append(OPERATIONS[name].strength(magnitude, sign))
    return torch.tensor(places, dtype=torch.long), torch.tensor(strengths, dtype=torch.float64)


def strong_colours(pictures: Tensor, operations: Tensor, strengths: Tensor) -> Tensor:
    """The same pictures in other colours; sides over 3 pixels.

    Args:
        pictures: (B, 3, H, W) uint8 on any device.
        operations, strengths: (B, n) on the CPU, rows of `draw_strong`, applied in turn.

    Returns:
        (B, 3, H, W) uint8 on the device of `pictures`.
    """
    rows = list(pictures)
    known = [operation.apply for operation in OPERATIONS.values()]
    for places, factors in zip(operations.T.tolist(), strengths.T.tolist(), strict=True):
        members: dict[Callable, list[int]] = {}  # what is done -> the rows it is done to
        for row, place in enumerate(places):
            members.setdefault(known[place], []).append(row)
        for apply, chosen in members.items():
            part = torch.stack([rows[row] for row in chosen])
            recoloured = apply(part, [factors[row] for row in chosen])
            for row, picture in zip(chosen, recoloured, strict=True):
                rows[row] = picture
    return torch.stack(rows)
