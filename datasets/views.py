"""Views turn a frame into an entry of a batch: its geometry, and which colours it shall have.

This is all that a loader process does. `colours.colour_views` recolours the whole batch on the
device. A weak and a strong view of one frame are made of one picture and differ in colour only, so
what lies on a pixel of one lies on the same pixel of the other.
Depth is only ever sampled (nearest), never interpolated: between two pixels of which one is a hole
there is no depth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from .colours import Jitter, as_image, draw, draw_colour_map
from .crop import cropped
from .frame import Frame, SourceView
from .photometric import Strong, draw_strong

RESIZED_BY = "torch, bilinear, antialiased, in uint8"


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
    """The training entry of a labelled frame, for `colours.colour_views`.

    Returns:
        picture (3, H, W) uint8 at `image_size`; colour_map (3, 4) float32, its weak colours; depth
        (1, H', W') float32 metres at `depth_size`, 0 = none; max_depth () float32 metres, beyond
        which the network can say nothing; intrinsics (3, 3) float32 in pixels of `picture` (NaN
        when unknown); frame_id. With `strong` also strong_operations and strong_strengths, see
        `draw_strong`; these draws come last, so all else is as without.
    """
    depth = nearest_resize(frame.depth(), depth_size)  # first: if it is broken nothing was drawn
    entry, flip = _entry(frame, augmentation, strong, generator, image_size=image_size)
    if flip:
        depth = depth[:, ::-1]
    depth = torch.from_numpy(np.ascontiguousarray(depth))[None]
    return {**entry, "depth": depth, "max_depth": torch.tensor(max_depth, dtype=torch.float32)}


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
        For `colours.colour_views`, which makes weak and strong view of one picture: picture
        (3, H, W) uint8 at `image_size`, colour_map (3, 4) float32, intrinsics (3, 3) float32 in
        pixels (NaN when unknown), frame_id. With `strong` also strong_operations and
        strong_strengths, see `draw_strong`. With sources also what `source_entries` describes, in
        the same crop and flip.
    """
    shape = {"image_size": image_size, "crop": crop}
    entry, flip = _entry(frame, augmentation, strong, generator, **shape)
    if frame.load_sources is not None:
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
        source_pictures (S, 3, H, W) uint8, source_intrinsics (S, 3, 3) float32 in their pixels,
        source_poses (S, 4, 4) float32 metres, the frame's camera -> theirs (NaN when
        unknown), source_available (S,) bool; where that is False the rest is zero.
    """
    pictures = torch.zeros(len(sources), 3, *image_size, dtype=torch.uint8)
    intrinsics, poses = torch.zeros(len(sources), 3, 3), torch.zeros(len(sources), 4, 4)
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
    for place, source in enumerate(sources):
        if source is None:
            continue
        pictures[place], matrix = placed(source.image, source.intrinsics, image_size, crop, flip)
        intrinsics[place] = torch.from_numpy(matrix)
        pose = mirror @ source.pose @ mirror if flip else source.pose
        poses[place] = torch.from_numpy(pose)
    available = torch.tensor([source is not None for source in sources])
    return {
        "source_pictures": pictures,
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
    return as_image(placed(frame.image, frame.intrinsics, image_size, crop)[0])


def nearest_resize(depth: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) -> `size` by taking the pixel whose centre is nearest. No value is invented."""
    if depth.shape == tuple(size):
        return depth
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64)
        for new, old in zip(size, depth.shape, strict=True)
    )
    return depth[rows[:, None], columns]


def to_tensor(image: Image.Image) -> Tensor:
    """RGB picture -> (3, H, W) float32 in [0, 1]."""
    return as_image(_pixels(image).contiguous())


def resized(image: Image.Image, image_size: tuple[int, int]) -> Tensor:
    """RGB picture -> (3, H, W) uint8 at `image_size`; a picture of that size stays as it is.

    Everything that a network sees in training, evaluation or prediction is resized here, by torch's
    antialiased bilinear filter, in uint8. The authors' Lanczos filter takes ten times as long.
    """
    pixels = _pixels(image)
    if tuple(image_size) == (image.height, image.width):
        return pixels.contiguous()
    return functional.interpolate(
        pixels[None], tuple(image_size), mode="bilinear", antialias=True
    )[0].contiguous()  # fmt: skip


def placed(
    image: Image.Image,
    intrinsics: np.ndarray,
    image_size: tuple[int, int],
    crop: Sequence[float] | None,
    flip: bool = False,
) -> tuple[Tensor, np.ndarray]:
    """Picture, (3, H, W) uint8, and (3, 3) intrinsics: cropped, brought to `image_size`, mirrored.

    Neither argument is changed. Raises DataError if `crop` leaves nothing.
    """
    if crop is not None:
        image, intrinsics = cropped(image, intrinsics, crop)
    picture, intrinsics = resized(image, image_size), intrinsics.copy()
    scale_x, scale_y = image_size[1] / image.width, image_size[0] / image.height
    intrinsics[0] *= scale_x
    intrinsics[1] *= scale_y
    # pixel centres are at whole numbers, so the corner of the picture is at -1/2
    intrinsics[0, 2] += (scale_x - 1) / 2
    intrinsics[1, 2] += (scale_y - 1) / 2
    if flip:
        picture = picture.flip(-1)
        # the centre of pixel u lands on W - 1 - u
        intrinsics[0, 2] = image_size[1] - 1 - intrinsics[0, 2]
    return picture, intrinsics


def _entry(
    frame: Frame,
    augmentation: Jitter,
    strong: Strong | None,
    generator: torch.Generator,
    *,
    image_size: tuple[int, int],
    crop: Sequence[float] | None = None,
) -> tuple[dict[str, Tensor | str], bool]:
    """What all views have, and whether it is mirrored. Draws flip, jitter (5), strong (3 each)."""
    flip = draw(generator) < augmentation.flip
    crop = None if frame.is_placed else crop
    picture, intrinsics = placed(frame.image, frame.intrinsics, image_size, crop, flip)
    entry = {
        "picture": picture,
        "colour_map": draw_colour_map(augmentation, generator),
        "intrinsics": torch.from_numpy(intrinsics).float(),
        "frame_id": frame.frame_id,
    }
    if strong is not None:
        drawn = draw_strong(strong, generator)
        entry["strong_operations"], entry["strong_strengths"] = drawn
    return entry, flip


def _pixels(image: Image.Image) -> Tensor:
    """RGB picture -> (3, H, W) uint8, in memory pixel by pixel; a copy."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
