"""ViT encoder + DPT decoder + depth head + uncertainty decoder, as one module."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental import _config as fx_config

from .dpt import Fusion, Head, Reassemble, initialise
from .encoder import ViTEncoder, ViTShape
from .masking import Tiles


class DepthOutput(NamedTuple):
    """What the network says of a batch. Read by name, never by position.

    Attributes:
        depth: (B, 1, H, W) float32 metres in (0, max_depth).
        log_uncertainty: (B, 1, H, W) float32, >= 0, larger = less sure; confidence is
            exp(-log_uncertainty), in (0, 1). None without an uncertainty decoder.
        features: the four encoder maps, each (B, N, D), in the precision of the pass.
    """

    depth: Tensor
    log_uncertainty: Tensor | None
    features: tuple[Tensor, ...]

    def of_image(self, row: int) -> DepthOutput:
        """The output of one image of the batch, leading dimension 1, without features."""
        uncertainty = self.log_uncertainty
        return DepthOutput(
            depth=self.depth[row : row + 1],
            log_uncertainty=None if uncertainty is None else uncertainty[row : row + 1],
            features=(),
        )

    def without_graph(self) -> DepthOutput:
        """The same numbers, through which no gradient goes."""
        uncertainty = self.log_uncertainty
        return DepthOutput(
            depth=self.depth.detach(),
            log_uncertainty=None if uncertainty is None else uncertainty.detach(),
            features=tuple(feature.detach() for feature in self.features),
        )

    def resized(self, size: tuple[int, int]) -> DepthOutput:
        """Depth and uncertainty brought to `size` (height, width), bilinear, half-pixel corners."""
        if tuple(self.depth.shape[-2:]) == tuple(size):
            return self
        depth, uncertainty = (
            None
            if x is None
            else F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)
            for x in (self.depth, self.log_uncertainty)
        )
        return DepthOutput(depth, uncertainty, self.features)


class DepthNetwork(nn.Module):
    """image (B, 3, H, W) in [0, 1] -> DepthOutput. See `build_network` for the arguments.

    Networks of others (`import_authors`) may also set `reassemble_widths` and `head_widths` (see
    `dpt`), and "relu" for the `uncertainty_activation`, which is "softplus" for ours.
    """

    def __init__(
        self,
        *,
        encoder: str | ViTShape,
        image_size: tuple[int, int],
        max_depth: float,
        decoder_channels: int = 256,
        taps: tuple[int, ...] | None = None,
        uncertainty: bool = True,
        uncertainty_decoder: str = "full",
        uncertainty_shapes_encoder: bool = False,
        prefix_tokens: str = "drop",
        reassemble_widths: tuple[int, ...] | None = None,
        head_widths: tuple[int, int] | None = None,
        uncertainty_activation: str = "softplus",
    ):
        super().__init__()
        self.max_depth = max_depth
        self.uncertainty_shapes_encoder = uncertainty_shapes_encoder
        self.uncertainty_activation = {"softplus": F.softplus, "relu": F.relu}[
            uncertainty_activation
        ]
        self.encoder = ViTEncoder(encoder, image_size, taps, prefix_tokens=prefix_tokens)
        self.reassemble = Reassemble(self.encoder.embed_dim, decoder_channels, reassemble_widths)
        self.depth_fusion = Fusion(decoder_channels)
        self.depth_head = Head(decoder_channels, head_widths)
        self.uncertainty_fusion = self.uncertainty_head = None
        if uncertainty and uncertainty_decoder == "full":
            self.uncertainty_fusion = Fusion(decoder_channels)
            self.uncertainty_head = Head(decoder_channels, head_widths)
        elif uncertainty:
            narrow = max(8, decoder_channels // 8)
            self.uncertainty_head = Head(decoder_channels, (narrow, narrow))
        for part in (self.reassemble, self.depth_fusion, self.depth_head, self.uncertainty_fusion,
                     self.uncertainty_head):  # fmt: skip
            if part is not None:
                initialise(part)
        with torch.no_grad():
            # a start at 0.15 max_depth, 12 m of 80: half of it is farther than nearly everything
            self.depth_head.conv3.weight.mul_(0.5)
            self.depth_head.conv3.bias.fill_(math.log(0.15 / 0.85))

    def recompute_activations(self) -> None:
        """Keep less for the backward pass and compute it again there: about a third more work.

        Of ViT blocks and fusion blocks only their inputs are kept, in masked passes too.
        """
        for part in (self.encoder, self.depth_fusion, self.uncertainty_fusion):
            if part is not None:
                part.recompute = True

    def compile_regions(self, **options: Any) -> None:
        """Compile what repeats, each kind once for all copies: ViT blocks, fusion blocks, heads.

        Batch, number of groups and picture size may change afterwards without compiling again.
        `options` go to torch.compile.
        """
        # with and without skip, mask and gradient a kind has up to six forms, in each precision
        torch._dynamo.config.recompile_limit = max(32, torch._dynamo.config.recompile_limit)
        # sizes that happen to be equal, say batch and height, must not be taken for one size
        fx_config.use_duck_shape = False
        regions = [*self.encoder.vit.blocks, self.depth_head, *self.depth_fusion.blocks]
        if self.uncertainty_fusion is not None:
            regions += self.uncertainty_fusion.blocks
        if self.uncertainty_head is not None:
            regions.append(self.uncertainty_head)
        for region in regions:
            region.compile(dynamic=True, **options)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels that the network was laid out for."""
        return self.encoder.image_size

    def forward(
        self, image: Tensor, groups: Tensor | Tiles | None = None, *, with_uncertainty: bool = True
    ) -> DepthOutput:
        """`groups` (B, N) long, of `masking.assign_groups`: each is encoded alone, all are decoded
        together. None is the ordinary pass, and so, bit for bit, is a single group. Groups that
        were packed before (`masking.pack_groups`) spare the device a wait.
        `with_uncertainty` False spares its decoder where nobody asks how sure the network is."""
        size = tuple(image.shape[-2:])
        features = self.encoder(image, groups)
        maps = self.reassemble(features, self.encoder.grid(size))
        fused = self.depth_fusion(maps)
        logits = self.depth_head(fused, size)
        # float32 from here on: a metre in bf16 is up to 0.5 m coarse at 80 m
        depth = self.max_depth * torch.sigmoid(logits.float())
        log_uncertainty = self._log_uncertainty(maps, fused, size) if with_uncertainty else None
        return DepthOutput(depth, log_uncertainty, tuple(features))

    def _log_uncertainty(
        self, maps: list[Tensor], fused: Tensor, size: tuple[int, int]
    ) -> Tensor | None:
        if self.uncertainty_head is None:
            return None
        if not self.uncertainty_shapes_encoder:
            maps, fused = [fmap.detach() for fmap in maps], fused.detach()
        if self.uncertainty_fusion is not None:
            fused = self.uncertainty_fusion(maps)
        logits = self.uncertainty_head(fused, size)
        # softplus keeps the paper's u >= 0 (confidence at most 1) and, unlike its ReLU, always has
        # a gradient: the ReLU is dead from the first step in half of all random starts
        return self.uncertainty_activation(logits.float())
