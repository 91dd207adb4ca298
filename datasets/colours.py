"""Colours of the views: drawn where a picture is read, applied to whole batches on the device.

A loader process decodes, resizes and flips, and draws the numbers that say how a picture shall
look; pictures travel as uint8. `colour_views` then makes of a batch what a training step takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .photometric import strong_colours

CPU_VALUES = 2**19  # numbers of float32 at once: 2 MiB
LUMA = (0.299, 0.587, 0.114)  # of red, green, blue; ITU-R BT.601, as Pillow's and torchvision's


@dataclass(frozen=True)
class Jitter:
    """Flip and colour jitter of the weak view. Probabilities 0 to 1; ranges as in the config."""

    flip: float
    jitter: float
    brightness: float
    contrast: float
    saturation: float
    hue: float


def draw(generator: torch.Generator) -> float:
    """A number in [0, 1)."""
    return torch.rand((), generator=generator).item()


def draw_colour_map(ranges: Jitter, generator: torch.Generator) -> Tensor:
    """(3, 4) float32, see `colour_map`; with probability 1 - `ranges.jitter` that of no change.

    Five draws, whatever becomes of them.
    """
    chosen = draw(generator) < ranges.jitter
    brightness, contrast, saturation, hue = (2 * draw(generator) - 1 for _ in range(4))
    if not chosen:
        return torch.eye(3, 4)
    return colour_map(
        brightness=1 + ranges.brightness * brightness, contrast=1 + ranges.contrast * contrast,
        saturation=1 + ranges.saturation * saturation, hue=ranges.hue * hue,
    )  # fmt: skip


def colour_map(*, brightness: float, contrast: float, saturation: float, hue: float) -> Tensor:
    """Brightness, contrast, saturation and hue, in this order, as one affine map of colours. Ours.

    torchvision rounds to 8 bits after each of the four, clips, and turns the hue in HSV; one map
    does not, and clips once, at the end. Greys are what HSV keeps, and turning about their axis by
    a third takes red to green here as there; in between, colours differ.

    Args:
        brightness, contrast, saturation: factors, 0 or more; 1 is no change.
        hue: turns, from red over green to blue; 0 is no change.

    Returns:
        (3, 4) float32: what red, green, blue and the mean luma of the picture, around which
        contrast spreads, contribute to red, green and blue.
    """
    luma = torch.tensor(LUMA, dtype=torch.float64)
    one = torch.eye(3, dtype=torch.float64)
    faded = saturation * one + (1 - saturation) * luma
    angle = 2 * math.pi * hue
    across = torch.tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turned = math.cos(angle) * one + (1 - math.cos(angle)) / 3 + math.sin(angle) * across
    grey = torch.full((3, 1), brightness * (1 - contrast), dtype=torch.float64)
    return torch.cat([brightness * contrast * (turned @ faded), grey], dim=1).float()


def weak_colours(picture: Tensor, colour_maps: Tensor) -> Tensor:
    """A map for each picture, clipped at the end; the map of no change changes not one bit.

    Args:
        picture: (B, 3, H, W) uint8.
        colour_maps: (B, 3, 4) float32, see `colour_map`.

    Returns:
        (B, 3, H, W) float32 in [0, 1].
    """
    of_red, of_green, of_blue, of_mean = colour_maps[..., None, None].unbind(2)  # (B, 3, 1, 1)
    red, green, blue = as_image(picture).split(1, dim=1)
    coloured = torch.addcmul(of_mean * _mean_luma(picture), of_red, red)
    return coloured.addcmul_(of_green, green).addcmul_(of_blue, blue).clamp_(0, 1)


def colour_views(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What a training step takes, of a batch of `labeled_view` or `unlabeled_view`.

    Nothing is drawn here, and no row depends on its neighbours. Values of tensors on the device are
    never read by the host, so a GPU is not waited for.

    Args:
        batch: collated entries. `picture` and `colour_map` are on one device, strong_operations and
            strong_strengths, if there are any, on the CPU.

    Returns:
        The batch, with picture and colour parameters replaced. Labelled: image (B, 3, H, W) float32
        in [0, 1]; valid_mask (B, 1, H', W') bool, True = measured and nearer than the network's
        reach; strong_image, like image, if there are strong colours. Unlabelled: weak_image and,
        likewise, strong_image; with sources also target_image, the picture as it is, and
        source_images (B, S, 3, H, W), all float32 in [0, 1].
    """
    rest = dict(batch)
    picture, colour_maps = rest.pop("picture"), rest.pop("colour_map")
    at_once = _rows_at_once(picture)
    weak = torch.empty_like(picture, dtype=torch.float32)
    together = (tensor.split(at_once) for tensor in (weak, picture, colour_maps))
    for out, part, maps in zip(*together, strict=True):
        out.copy_(weak_colours(part, maps))
    if "strong_operations" in rest:
        drawn = (picture, rest.pop("strong_operations"), rest.pop("strong_strengths"))
        parts = zip(*(tensor.split(at_once) for tensor in drawn), strict=True)
        rest["strong_image"] = as_image(torch.cat([strong_colours(*part) for part in parts]))
    if "source_pictures" in rest:
        rest["target_image"] = as_image(picture)
        rest["source_images"] = as_image(rest.pop("source_pictures"))
    if "depth" not in rest:
        return {"weak_image": weak, **rest}
    valid_mask = valid_pixels(rest["depth"], rest.pop("max_depth"))
    return {"image": weak, "valid_mask": valid_mask, **rest}


def valid_pixels(depth: Tensor, max_depth: Tensor) -> Tensor:
    """(B, 1, H, W) bool: measured, and nearer than the network's reach `max_depth` (B,), metres."""
    return (depth > 0) & (depth < max_depth[:, None, None, None])


def as_image(picture: Tensor) -> Tensor:
    """uint8 -> float32 in [0, 1], of any shape: value / 255, to the bit alike on every device."""
    # by a tensor: a GPU multiplies by the reciprocal of a number
    return picture.float().div_(picture.new_full((), 255, dtype=torch.float32))


def _mean_luma(picture: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 -> (B, 1, 1, 1) float32 in [0, 1]. Whole numbers: exact in any order."""
    red, green, blue = picture.sum((-2, -1), keepdim=True, dtype=torch.int64).split(1, dim=1)
    total = LUMA[0] * red.double() + LUMA[1] * green.double() + LUMA[2] * blue.double()
    return (total / (255 * picture.shape[-2] * picture.shape[-1])).float()


def _rows_at_once(picture: Tensor) -> int:
    """A GPU takes the batch whole; a CPU is faster with what its cache holds as float32."""
    values = picture[0].numel()
    return len(picture) if picture.device.type != "cpu" else max(1, CPU_VALUES // values)
