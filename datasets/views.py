"""Views turn a frame into an entry of a batch: geometry first, then colour, then tensors.

A weak and a strong view of one frame share the geometry and differ in colour only, so what lies on
a pixel of one lies on the same pixel of the other.
Depth is only ever sampled (nearest), never interpolated: between two pixels of which one is a hole
there is no depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from .crop import cropped
from .frame import Frame, SourceView
from .photometric import Strong, strong_colours


@dataclass(frozen=True)
class Jitter:
    """Flip and colour jitter of the weak view. Probabilities 0 to 1; ranges as in the config."""

    flip: float
    jitter: float
    brightness: float
    contrast: float
    saturation: float
    hue: float


def labeled_view(
    frame: Frame,
    *,
    image_size: tuple[int, int],
    depth_size: tuple[int, int],
    max_depth: float,
    augmentation: Jitter,
    generator: torch.Generator,
    strong: Strong | None = None,
) -> dict[str, Tensor | str]:
    """The training entry of a labelled frame; its strong view comes with it if `strong` is given.

    Returns:
        image (3, H, W) float32 in [0, 1] at `image_size`; depth (1, H', W') float32 metres at
        `depth_size`, 0 = none; valid_mask (1, H', W') bool, True = measured and nearer than
        `max_depth` metres, which is all that the network can say; intrinsics (3, 3) float32 in
        pixels of `image` (NaN when unknown); frame_id. With `strong` also strong_image, like image
        and pixel for pixel on the same depth; its draws come last, so all else is as without.
    """
    picture, intrinsics, flip = _geometry(frame, augmentation, generator, image_size=image_size)
    depth = nearest_resize(frame.depth(), depth_size)
    if flip:
        depth = depth[:, ::-1]
    depth = torch.from_numpy(np.ascontiguousarray(depth))[None]
    entry = {
        "image": to_tensor(jitter_colours(picture, augmentation, generator)),
        "depth": depth,
        "valid_mask": (depth > 0) & (depth < max_depth),
        "intrinsics": torch.from_numpy(intrinsics).float(),
        "frame_id": frame.frame_id,
    }
    if strong is not None:
        entry["strong_image"] = _strong_image(picture, strong, generator)
    return entry


def unlabeled_view(
    frame: Frame,
    *,
    image_size: tuple[int, int],
    augmentation: Jitter,
    generator: torch.Generator,
    strong: Strong | None = None,
    crop: Sequence[float] | None = None,
) -> dict[str, Tensor | str]:
    """The training entry of a frame whose depth, if it has any, is never read.

    Args:
        frame: with `load_sources` its sources come with it.
        strong: None leaves the strong view out.
        crop: what is kept of every picture, as shares (top, bottom, left, right); None keeps all.

    Returns:
        weak_image and strong_image, (3, H, W) float32 in [0, 1] at `image_size`, pixel for pixel
        the same scene: flipped and resized once, then jittered into the one and, from the
        unjittered picture, strongly recoloured into the other; intrinsics (3, 3) float32 in pixels
        of both (NaN when unknown); frame_id. With sources also target_image, the unjittered
        picture, and what `source_entries` describes, in the same crop and flip.
    """
    shape = {"image_size": image_size, "crop": crop}
    picture, intrinsics, flip = _geometry(frame, augmentation, generator, **shape)
    entry = {
        "weak_image": to_tensor(jitter_colours(picture, augmentation, generator)),
        "intrinsics": torch.from_numpy(intrinsics).float(),
        "frame_id": frame.frame_id,
    }
    if strong is not None:
        entry["strong_image"] = _strong_image(picture, strong, generator)
    if frame.load_sources is not None:
        entry["target_image"] = to_tensor(picture)
        entry |= source_entries(frame.load_sources(), flip=flip, **shape)
    return entry


def source_entries(
    sources: Sequence[SourceView | None],
    *,
    image_size: tuple[int, int],
    crop: Sequence[float] | None,
    flip: bool,
) -> dict[str, Tensor]:
    """S sources placed as their frame is: the world is mirrored with the picture.

    Returns:
        source_images (S, 3, H, W) float32 in [0, 1], source_intrinsics (S, 3, 3) float32 in their
        pixels, source_poses (S, 4, 4) float32 metres, the frame's camera -> theirs (NaN when
        unknown), source_available (S,) bool; where that is False the rest is zero.
    """
    images = torch.zeros(len(sources), 3, *image_size)
    intrinsics, poses = torch.zeros(len(sources), 3, 3), torch.zeros(len(sources), 4, 4)
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
    for place, source in enumerate(sources):
        if source is None:
            continue
        picture, matrix = _placed(source.image, source.intrinsics, image_size, crop, flip)
        images[place] = to_tensor(picture)
        intrinsics[place] = torch.from_numpy(matrix)
        pose = mirror @ source.pose @ mirror if flip else source.pose
        poses[place] = torch.from_numpy(pose)
    available = torch.tensor([source is not None for source in sources])
    return {
        "source_images": images,
        "source_intrinsics": intrinsics,
        "source_poses": poses,
        "source_available": available,
    }


def evaluation_view(frame: Frame, *, image_size: tuple[int, int]) -> dict[str, Tensor | str]:
    """The evaluation entry: the image as the network wants it, ground truth in its stored size.

    Returns:
        image (3, H, W) float32 in [0, 1]; depth (1, H', W') float32 metres in its own size, 0 =
        none; frame_id. Nothing is drawn.
    """
    return {
        "image": evaluation_image(frame, image_size),
        "depth": torch.from_numpy(frame.depth())[None],
        "frame_id": frame.frame_id,
    }


def evaluation_image(
    frame: Frame, image_size: tuple[int, int], crop: Sequence[float] | None = None
) -> Tensor:
    """The picture alone, or its `crop`, (3, H, W) float32 in [0, 1] at `image_size`."""
    image, _ = _placed(frame.image, frame.intrinsics, image_size, crop, flip=False)
    return to_tensor(image)


def nearest_resize(depth: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) -> `size` by taking the pixel whose centre is nearest. No value is invented."""
    if depth.shape == tuple(size):
        return depth
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64)
        for new, old in zip(size, depth.shape, strict=True)
    )
    return depth[rows[:, None], columns]


def jitter_colours(image: Image.Image, ranges: Jitter, generator: torch.Generator) -> Image.Image:
    """Brightness, contrast, saturation, hue, with probability `ranges.jitter`; five draws."""
    chosen = _draw(generator) < ranges.jitter
    brightness, contrast, saturation, hue = (2 * _draw(generator) - 1 for _ in range(4))
    if not chosen:
        return image
    image = functional.adjust_brightness(image, 1 + ranges.brightness * brightness)
    image = functional.adjust_contrast(image, 1 + ranges.contrast * contrast)
    image = functional.adjust_saturation(image, 1 + ranges.saturation * saturation)
    return functional.adjust_hue(image, ranges.hue * hue) if ranges.hue else image


def to_tensor(image: Image.Image) -> Tensor:
    """RGB picture -> (3, H, W) float32 in [0, 1]."""
    array = np.asarray(image, dtype=np.float32) / 255
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def _geometry(
    frame: Frame,
    augmentation: Jitter,
    generator: torch.Generator,
    *,
    image_size: tuple[int, int],
    crop: Sequence[float] | None = None,
) -> tuple[Image.Image, np.ndarray, bool]:
    """Picture and intrinsics at `image_size`, flipped or not, and which; one draw."""
    flip = _draw(generator) < augmentation.flip
    picture, intrinsics = _placed(frame.image, frame.intrinsics, image_size, crop, flip)
    return picture, intrinsics, flip


def _placed(
    image: Image.Image,
    intrinsics: np.ndarray,
    image_size: tuple[int, int],
    crop: Sequence[float] | None,
    flip: bool,
) -> tuple[Image.Image, np.ndarray]:
    """Picture and intrinsics cropped, brought to `image_size`, and mirrored if asked for."""
    if crop is not None:
        image, intrinsics = cropped(image, intrinsics, crop)
    picture, intrinsics = _resized(image, intrinsics, image_size)
    if flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        # the centre of pixel u lands on W - 1 - u
        intrinsics[0, 2] = image_size[1] - 1 - intrinsics[0, 2]
    return picture, intrinsics


def _strong_image(picture: Image.Image, strong: Strong, generator: torch.Generator) -> Tensor:
    """RGB picture -> its strong view, (3, H, W) float32 in [0, 1]."""
    array = np.array(picture).transpose(2, 0, 1)  # a copy: the picture's own memory is read-only
    colours = torch.from_numpy(np.ascontiguousarray(array))
    return strong_colours(colours, strong, generator).float() / 255


def _resized(
    image: Image.Image, intrinsics: np.ndarray, image_size: tuple[int, int]
) -> tuple[Image.Image, np.ndarray]:
    """Picture and intrinsics brought to `image_size`. Antialiased, as a camera would."""
    height, width = image_size
    scale_x, scale_y = width / image.width, height / image.height
    if (image.height, image.width) != tuple(image_size):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    intrinsics = intrinsics.copy()
    intrinsics[0] *= scale_x
    intrinsics[1] *= scale_y
    # pixel centres are at whole numbers, so the corner of the picture is at -1/2
    intrinsics[0, 2] += (scale_x - 1) / 2
    intrinsics[1, 2] += (scale_y - 1) / 2
    return image, intrinsics


def _draw(generator: torch.Generator) -> float:
    return torch.rand((), generator=generator).item()
