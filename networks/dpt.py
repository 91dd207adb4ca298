"""The DPT decoder: token maps become a pyramid, the pyramid is fused from coarse to fine.

Architecture of Ranftl et al., "Vision Transformers for Dense Prediction" (ICCV 2021), as
MaskingDepth uses it: readout ignored, no batch norm.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .recompute import run


class Reassemble(nn.Module):
    """Four token maps (B, N, D) on one grid -> maps (B, C, ., .) at 4, 2, 1 and 1/2 times it.

    `widths` are the four maps' channels before they become C; None takes 1/8, 1/4, 1/2 and all of
    D, the paper's 96, 192, 384 and 768.
    """

    def __init__(self, embed_dim: int, channels: int, widths: Sequence[int] | None = None):
        super().__init__()
        if widths is None:
            widths = [max(8, round(embed_dim * share)) for share in (1 / 8, 1 / 4, 1 / 2, 1)]
        self.project = nn.ModuleList(nn.Conv2d(embed_dim, width, 1) for width in widths)
        self.resample = nn.ModuleList(
            [
                nn.ConvTranspose2d(widths[0], widths[0], 4, stride=4),
                nn.ConvTranspose2d(widths[1], widths[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(widths[3], widths[3], 3, stride=2, padding=1),
            ]
        )
        self.to_channels = nn.ModuleList(
            nn.Conv2d(width, channels, 3, padding=1, bias=False) for width in widths
        )

    def forward(self, features: Sequence[Tensor], grid: tuple[int, int]) -> list[Tensor]:
        maps = []
        for tokens, project, resample, to_channels in zip(
            features, self.project, self.resample, self.to_channels, strict=True
        ):
            # (B, N, D) -> (B, D, h, w); this view is already in channels_last order
            image_like = tokens.transpose(1, 2).unflatten(2, grid)
            maps.append(to_channels(resample(project(image_like))))
        return maps


class ResidualConvUnit(nn.Module):
    """x + conv(relu(conv(relu(x)))), shapes kept."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class FusionBlock(nn.Module):
    """Add the skip (if there is one), refine, bring to `size`.

    The 1x1 convolution stands before the upsampling where the original has it after: bilinear
    weights sum to one, so the two commute exactly, and here it costs a quarter.
    """

    def __init__(self, channels: int, *, has_skip: bool):
        super().__init__()
        self.refine_skip = ResidualConvUnit(channels) if has_skip else None
        self.refine = ResidualConvUnit(channels)
        self.out_conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, skip: Tensor | None, size: tuple[int, int]) -> Tensor:
        if skip is not None:
            x = x + self.refine_skip(skip)
        return upsample(self.out_conv(self.refine(x)), size)


class Fusion(nn.Module):
    """Four maps, fine to coarse -> one map (B, C, 8h, 8w), where h, w is the token grid.

    Attributes:
        recompute: whether the backward pass computes the blocks' activations again.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.recompute = False
        self.blocks = nn.ModuleList(FusionBlock(channels, has_skip=i < 3) for i in range(4))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        # the coarsest block (index 3) starts; each result takes the size of the next finer map
        height, width = maps[0].shape[-2:]
        sizes = [(2 * height, 2 * width), *(tuple(finer.shape[-2:]) for finer in maps[:3])]
        fused, skip = maps[3], None
        for index in (3, 2, 1, 0):
            fused = run(self.blocks[index], fused, skip, sizes[index], recompute=self.recompute)
            skip = maps[index - 1] if index else None
        return fused


class Head(nn.Module):
    """Fused map (B, C, ., .) -> one value a pixel (B, 1, *size), before any activation.

    `widths` are the channels before the upsampling and at full size; None takes C / 2 and C / 8,
    the paper's 128 and 32 for its C of 256.
    """

    def __init__(self, channels: int, widths: tuple[int, int] | None = None):
        super().__init__()
        half, hidden = widths or (channels // 2, max(8, channels // 8))
        self.conv1 = nn.Conv2d(channels, half, 3, padding=1)
        self.conv2 = nn.Conv2d(half, hidden, 3, padding=1)
        self.conv3 = nn.Conv2d(hidden, 1, 1)

    def forward(self, fused: Tensor, size: tuple[int, int]) -> Tensor:
        x = upsample(self.conv1(fused), size)
        return self.conv3(F.relu(self.conv2(x)))


def initialise(decoder: nn.Module) -> None:
    """Start every convolution so that what goes in comes out at about the same size (ours).

    PyTorch's own start shrinks a signal about three-fold at each of the ten-odd convolutions on the
    way, so that biases drown the image and training from random weights begins twice as slowly
    (LOG.md, 2026-11-22). The second convolution of a residual unit starts small: near identity.
    """
    for module in decoder.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            # a transposed convolution with stride = kernel feeds each output from one position
            inputs = module.in_channels
            if isinstance(module, nn.Conv2d):
                inputs *= module.kernel_size[0] * module.kernel_size[1]
            nn.init.normal_(module.weight, std=inputs**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in decoder.modules():
        if isinstance(module, ResidualConvUnit):
            with torch.no_grad():
                module.conv2.weight.mul_(0.5)


def upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) -> (B, C, *size): bilinear with aligned corners, as DPT does between its stages.

    On a GPU by matrix products: under autocast F.interpolate works in float32, its backward pass
    adds up in an order that changes from run to run, and it ends at 2^31 values, which the paper's
    NYU batch has more of. On an H100 the whole step became 1.39 times faster (LOG.md, 2026-11-26).
    """
    if x.is_cuda:
        return upsample_by_products(x, size)
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


def upsample_by_products(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The same, each axis a product with a matrix of bilinear weights; computed in x's precision.

    The result is in channels_last order; with an `x` in that order nothing is copied.
    """
    rows, columns = (
        bilinear_weights(before, after, like=x)
        for before, after in zip(x.shape[-2:], size, strict=True)
    )
    x = columns @ x.permute(0, 2, 3, 1)  # (B, h, W, C)
    batch, _, width, channels = x.shape
    x = rows @ x.flatten(2)  # (B, H, W * C)
    return x.view(batch, size[0], width, channels).permute(0, 3, 1, 2)


def bilinear_weights(before: int, after: int, *, like: Tensor) -> Tensor:
    """(after, before): how much each old place counts at each new one; corners are aligned."""
    old = torch.arange(before, device=like.device, dtype=torch.float32)
    new = torch.arange(after, device=like.device, dtype=torch.float32)
    places = new * ((before - 1) / max(1, after - 1))
    return (1 - (places[:, None] - old).abs()).clamp(min=0).to(like.dtype)
