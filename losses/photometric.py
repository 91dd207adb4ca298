"""Self-supervision by looking alike: a source picture, warped by the depth, against the target.

Camera geometry: pixel centres are at whole numbers; X right, Y down, Z ahead, in metres; a pose
takes coordinates in the target's camera to coordinates in the source's: X_source = pose X_target.
Everything is computed in float32, whatever the precision of the pass.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SSIM_SHARE = 0.85  # of the error, the rest is L1 (Godard et al., 2017)
C1, C2 = 0.01**2, 0.03**2  # of SSIM, for values in [0, 1]
MIN_DEPTH = 1e-3  # metres; nearer than this to the source camera, or behind it, is not seen


def warp(
    source: Tensor,
    *,
    depth: Tensor,
    intrinsics: Tensor,
    source_intrinsics: Tensor,
    pose: Tensor,
) -> tuple[Tensor, Tensor]:
    """The source picture as the target camera would see it, if the depth were right.

    Args:
        source: (B, C, H', W').
        depth: (B, 1, H, W) metres, of the target.
        intrinsics, source_intrinsics: (B, 3, 3) in pixels of `depth` and of `source`.
        pose: (B, 4, 4), target camera -> source camera, metres.

    Returns:
        (B, C, H, W), bilinear, and (B, 1, H, W) bool: whether the pixel falls into the source.
    """
    with torch.autocast(depth.device.type, enabled=False):
        u, v, ahead = _project(
            depth.float(), intrinsics.float(), source_intrinsics.float(), pose.float()
        )
        height, width = source.shape[-2:]
        # half a pixel around the outer centres still is the picture
        inside = (u >= -0.5) & (u <= width - 0.5) & (v >= -0.5) & (v <= height - 0.5)
        seen = inside & (ahead > MIN_DEPTH)
        # grid_sample counts from -1 to 1, from the centre of the first pixel to that of the last
        places = torch.stack([2 * u / (width - 1) - 1, 2 * v / (height - 1) - 1], -1)
        warped = F.grid_sample(
            source.float(), places, mode="bilinear", padding_mode="border", align_corners=True
        )
    return warped, seen[:, None]


def _project(
    depth: Tensor, intrinsics: Tensor, source_intrinsics: Tensor, pose: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(B, H, W) each: column and row in the source, and the distance ahead of its camera."""
    height, width = depth.shape[-2:]
    rows, columns = torch.meshgrid(
        torch.arange(height, device=depth.device, dtype=depth.dtype),
        torch.arange(width, device=depth.device, dtype=depth.dtype),
        indexing="ij",
    )
    pixels = torch.stack([columns, rows, torch.ones_like(rows)]).flatten(1)  # (3, H * W)
    # inv_ex: inv itself would wait for the GPU to see whether it went well
    points = (
        torch.linalg.inv_ex(intrinsics).inverse @ pixels * depth.flatten(2)
    )  # (B, 3, H * W) metres
    points = pose[:, :3, :3] @ points + pose[:, :3, 3:]
    image = source_intrinsics @ points
    ahead = points[:, 2]
    # what is behind the camera keeps a finite place, which is not looked at
    u, v = image[:, 0] / ahead.clamp(min=MIN_DEPTH), image[:, 1] / ahead.clamp(min=MIN_DEPTH)
    return tuple(x.unflatten(-1, (height, width)) for x in (u, v, ahead))


def ssim_distance(a: Tensor, b: Tensor) -> Tensor:
    """(1 - SSIM) / 2 in 0 to 1, of pictures (B, C, H, W) in [0, 1]; windows of 3 x 3 pixels.

    Wang et al. (2004) with a box instead of a Gaussian window, as Godard et al. (2017).
    """
    a, b = (F.pad(x, (1, 1, 1, 1), mode="reflect") for x in (a, b))
    mean_a, mean_b = F.avg_pool2d(a, 3, 1), F.avg_pool2d(b, 3, 1)
    variance_a = F.avg_pool2d(a * a, 3, 1) - mean_a**2
    variance_b = F.avg_pool2d(b * b, 3, 1) - mean_b**2
    covariance = F.avg_pool2d(a * b, 3, 1) - mean_a * mean_b
    ssim = ((2 * mean_a * mean_b + C1) * (2 * covariance + C2)) / (
        (mean_a**2 + mean_b**2 + C1) * (variance_a + variance_b + C2)
    )
    return ((1 - ssim) / 2).clamp(0, 1)


def picture_error(a: Tensor, b: Tensor) -> Tensor:
    """0.85 (1 - SSIM) / 2 + 0.15 |a - b|, mean over channels: (B, C, H, W) -> (B, 1, H, W)."""
    error = SSIM_SHARE * ssim_distance(a, b) + (1 - SSIM_SHARE) * (a - b).abs()
    return error.mean(1, keepdim=True)


def photometric_loss(
    *,
    depth: Tensor,
    target: Tensor,
    sources: Tensor,
    intrinsics: Tensor,
    source_intrinsics: Tensor,
    poses: Tensor,
    available: Tensor,
    automask: bool = True,
) -> tuple[Tensor, Tensor]:
    """How unlike the target its warped sources are: the least error of a pixel, then the mean.

    Godard et al. (2019): the minimum over sources forgives occlusion; with `automask` so does the
    minimum with the unwarped sources, which a pixel that moves with the camera wins. Ours: a pixel
    that no source sees costs what its unwarped error is. So no depth gains by leaving the view.

    Args:
        depth: (B, 1, H, W) metres.
        target: (B, 3, H, W) in [0, 1].
        sources: (B, S, 3, H, W) in [0, 1].
        intrinsics, source_intrinsics: (B, 3, 3) and (B, S, 3, 3), pixels.
        poses: (B, S, 4, 4), target camera -> source camera, metres.
        available: (B, S) bool; the other sources are not looked at and may hold anything. An image
            without any source does not count, and its intrinsics may be unknown.

    Returns:
        The loss, a scalar without unit; 0 if there is no source at all. And the share of pixels
        whose depth it teaches, without gradient.
    """
    num_sources = sources.shape[1]
    # a source that is not there must not bring a NaN into the gradient of those that are
    counts = available.any(1)  # (B,)
    eye = torch.eye(4, device=poses.device, dtype=poses.dtype)
    poses = torch.where(available[..., None, None], poses, eye)
    intrinsics = torch.where(counts[:, None, None], intrinsics, eye[:3, :3])
    sources = torch.where(available[..., None, None, None], sources, 0.0)
    source_intrinsics = torch.where(
        available[..., None, None], source_intrinsics, intrinsics[:, None]
    )
    repeated = (x.repeat_interleave(num_sources, 0) for x in (depth, target, intrinsics))
    depth, target, intrinsics = repeated  # (B * S, ...)
    sources, source_intrinsics, poses = (
        x.flatten(0, 1) for x in (sources, source_intrinsics, poses)
    )
    with torch.autocast(depth.device.type, enabled=False):
        warped, seen = warp(
            sources, depth=depth, intrinsics=intrinsics, source_intrinsics=source_intrinsics,
            pose=poses,
        )  # fmt: skip
        target = target.float()
        split = (-1, num_sources)
        error = picture_error(warped, target).unflatten(0, split)  # (B, S, 1, H, W)
        unwarped = picture_error(sources.float(), target).unflatten(0, split)
    there = available[..., None, None, None]
    error = torch.where(seen.unflatten(0, split) & there, error, torch.inf).amin(1)  # (B, 1, H, W)
    unwarped = torch.where(there, unwarped, torch.inf).amin(1)
    taught = error < (unwarped if automask else torch.inf)
    loss = torch.where(taught, error, unwarped)
    loss = torch.where(counts[:, None, None, None], loss, 0.0).mean((1, 2, 3))
    share = taught.float().mean((1, 2, 3))
    number = counts.sum().clamp(min=1)
    return loss.sum() / number, share.sum().detach() / number


def smoothness_loss(*, depth: Tensor, image: Tensor) -> Tensor:
    """Mean of |d x| exp(-|I x|) + |d y| exp(-|I y|): disparity bends where the picture does.

    d = 1 / depth over its mean in the image, so that it does not pay to be far (Godard et al.,
    2019); I x, I y are means over channels of the picture's differences. No unit.

    Args:
        depth: (B, 1, H, W) metres.
        image: (B, 3, H, W) in [0, 1].
    """
    disparity = 1 / depth.float().clamp(min=MIN_DEPTH)
    disparity = disparity / disparity.mean((2, 3), keepdim=True)
    total = depth.new_zeros((), dtype=torch.float32)
    for dim in (2, 3):
        edges = image.float().diff(dim=dim).abs().mean(1, keepdim=True)
        total = total + (disparity.diff(dim=dim).abs() * (-edges).exp()).mean()
    return total
