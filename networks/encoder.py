"""A timm ViT, read at four depths, whose tokens may be encoded in disjoint groups.

By default patch tokens only: no class token, no registers, no final norm. Then no parameter is left
that never learns, and the authors drop the class token too. Weights that lean on their prefix
tokens may keep them: each group gets a copy of its own, so they never carry anything across.
"""

from __future__ import annotations

import difflib
import sys
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .masking import Tiles, pack_groups
from .recompute import run

try:
    import timm
    from timm.layers import PatchEmbed, build_sincos2d_pos_embed
    from timm.models.vision_transformer import VisionTransformer
except RuntimeError as error:  # torch without CUDA beside a torchvision with it, or the reverse
    print(
        f"torchvision does not fit this torch ({error}); `sh package_install.sh` installs a pair "
        "that fits",
        file=sys.stderr,
    )
    sys.exit(2)  # nothing here works without; a traceback would say no more


class NetworkError(ValueError):
    """A network that cannot be built or loaded. The message names the setting and the remedy."""


class ViTShape(NamedTuple):
    """A plain ViT by its sizes, for weights that no timm name describes; its images stay in [0, 1].

    `patch_size` is the side of a patch in pixels; `num_heads` divides `embed_dim`.
    """

    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    mlp_hidden: int


class ViTEncoder(nn.Module):
    """image (B, 3, H, W) in [0, 1] -> four token maps (B, N, D), N = (H / patch) * (W / patch).

    Attributes:
        image_size: (height, width) that the stored position embedding is laid out for. Other sizes
            that the patch divides work too: the embedding is resampled to their grid.
        patch_size: (height, width) of a patch in pixels.
        taps: the four blocks whose outputs are returned, 0-based.
        embed_dim: token width D.
        num_prefix: P, class and register tokens that stand before the patches of every group.
        recompute: whether the backward pass computes the blocks' activations again.
    """

    def __init__(
        self,
        name: str | ViTShape,
        image_size: tuple[int, int],
        taps: tuple[int, ...] | None = None,
        *,
        prefix_tokens: str = "drop",
    ):
        """`prefix_tokens`: "drop", or "per_group" to give each group a copy of the model's own."""
        super().__init__()
        if isinstance(name, ViTShape):
            vit = _vit_of_shape(name, image_size)
        else:
            vit = create_vit(name, image_size, keep_prefix=prefix_tokens == "per_group")
        self.recompute = False
        self.load_report = None  # set when pretrained weights are loaded
        self.image_size = image_size
        self.patch_size = vit.patch_embed.patch_size
        self.embed_dim = vit.embed_dim
        self.num_prefix = vit.num_prefix_tokens
        self.taps = _checked_taps(taps, depth=len(vit.blocks), name=name)
        # blocks behind the last tap would never learn
        del vit.blocks[self.taps[-1] + 1 :]
        lay_out_positions(vit, self.grid(image_size))
        vit.norm = nn.Identity()
        vit.fc_norm = nn.Identity()
        self.vit = vit
        mean, std = (vit.pretrained_cfg[key] for key in ("mean", "std"))
        self.register_buffer("image_mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("image_std", torch.tensor(std).view(1, 3, 1, 1))

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Token grid (h, w) of an image size; NetworkError if the patch does not divide it."""
        check_divisible(image_size, self.patch_size)
        return image_size[0] // self.patch_size[0], image_size[1] // self.patch_size[1]

    def forward(self, image: Tensor, groups: Tensor | Tiles | None = None) -> list[Tensor]:
        """Four maps (B, N, D). With `groups` (B, N) each token has seen its own group only.

        `groups` may have been packed before, by `pack_groups` with this encoder's `num_prefix`, and
        be on the device already. Prefix tokens are not returned; tokens of a DROPPED group come
        back as zeros.
        """
        h, w = self.grid(tuple(image.shape[-2:]))  # timm would pad or cut in silence
        if isinstance(groups, Tensor):
            self._check_groups(tuple(groups.shape), len(image), (h, w))
            groups = pack_groups(groups, num_prefix=self.num_prefix).to(image.device)
        image = (image - self.image_mean) / self.image_std
        tokens = self.vit.patch_embed(image)  # (B, h, w, D)
        tokens = self.vit.norm_pre(self.vit._pos_embed(tokens))  # (B, P + N, D)
        if groups is None:
            return [tap[:, self.num_prefix :] for tap in self._encode(tokens)]
        self._check_groups(tuple(groups.back.shape), len(image), (h, w))
        # prefix tokens have not seen any image yet: those of the first image are those of all
        prefix, tokens = tokens[0, : self.num_prefix], tokens[:, self.num_prefix :]
        tokens = torch.cat([tokens.flatten(0, 1), prefix])  # (B * N + P, D)
        tiled = tokens.index_select(0, groups.source.flatten()).unflatten(0, groups.source.shape)
        return [_put_back(tap, groups.back) for tap in self._encode(tiled, owner=groups.owner)]

    def _encode(self, tokens: Tensor, owner: Tensor | None = None) -> list[Tensor]:
        """(T, S, D) through all blocks -> the four taps of the same shape.

        `owner` (T, S): slots attend to those of the same owner only; None: to all of their tile.
        """
        same = None if owner is None else owner[:, None, :, None] == owner[:, None, None, :]
        mask = {} if same is None else {"attn_mask": same}  # (T, 1, S, S)
        features = []
        for index, block in enumerate(self.vit.blocks):
            tokens = run(block, tokens, recompute=self.recompute, **mask)
            if index in self.taps:
                features.append(tokens)
        return features

    @staticmethod
    def _check_groups(shape: tuple[int, ...], batch_size: int, grid: tuple[int, int]) -> None:
        if shape != (batch_size, grid[0] * grid[1]):
            raise NetworkError(
                f"groups {shape} for {batch_size} images of {grid[0]} x {grid[1]} tokens"
            )


def _put_back(tiled: Tensor, back: Tensor) -> Tensor:
    """Encoded tiles (T, S, D) -> tokens (B, N, D) at their places; dropped ones are zeros."""
    rows = torch.cat([tiled.flatten(0, 1), tiled.new_zeros(1, tiled.shape[-1])])
    return rows.index_select(0, back.flatten()).unflatten(0, back.shape)


def check_divisible(image_size: tuple[int, int], patch_size: tuple[int, int]) -> None:
    """NetworkError unless the patch divides height and width, with the nearest sizes that work."""
    if all(
        size > 0 and size % patch == 0 for size, patch in zip(image_size, patch_size, strict=True)
    ):
        return
    nearest = [
        max(patch, round(size / patch) * patch)
        for size, patch in zip(image_size, patch_size, strict=True)
    ]
    raise NetworkError(
        f"image size {list(image_size)} (height, width) is not a multiple of the encoder's patch "
        f"{list(patch_size)}; the nearest that is: {nearest}"
    )


def lay_out_positions(vit: VisionTransformer, grid: tuple[int, int]) -> None:
    """Sines and cosines of row and column as the position embedding of the patches, in place.

    Random weights learn streets faster from positions that already know up from down; pretrained
    weights bring their own.
    """
    with torch.no_grad():
        positions = build_sincos2d_pos_embed(grid, vit.embed_dim)
        vit.pos_embed[:, -len(positions) :].copy_(positions)


def _vit_of_shape(shape: ViTShape, image_size: tuple[int, int]) -> VisionTransformer:
    check_divisible(image_size, (shape.patch_size, shape.patch_size))
    vit = VisionTransformer(
        img_size=image_size,
        patch_size=shape.patch_size,
        embed_dim=shape.embed_dim,
        depth=shape.depth,
        num_heads=shape.num_heads,
        mlp_ratio=(shape.mlp_hidden + 0.5) / shape.embed_dim,  # timm cuts the product to an integer
        num_classes=0,
        global_pool="",
        class_token=False,
        dynamic_img_size=True,
    )
    vit.pretrained_cfg = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    return vit


def create_vit(
    name: str,
    image_size: tuple[int, int],
    *,
    keep_prefix: bool,
    in_chans: int = 3,
    setting: str = "network.encoder",
) -> VisionTransformer:
    """timm's plain ViT of that name with random weights: tokens out, no pooling and no classifier.

    Args:
        keep_prefix: whether class and register tokens stay.
        in_chans: channels of its pictures.
        setting: the key that names it, for messages.

    Raises:
        NetworkError: unknown to timm, not a plain ViT, or its patch does not divide `image_size`.
    """
    if not timm.is_model(name.split(".", maxsplit=1)[0]):
        near = difflib.get_close_matches(name, timm.list_models("vit_*"), n=3)
        raise NetworkError(f"{setting}: timm knows no model {name!r}; nearest: {near}")
    patch = timm.get_pretrained_cfg(name)
    if patch is None or not name.startswith(("vit_", "deit")):
        raise NetworkError(f"{setting}: {name!r} is not a plain ViT (vit_*, deit_* of timm)")
    no_prefix = {} if keep_prefix else {"class_token": False, "reg_tokens": 0}
    try:
        vit = timm.create_model(
            name,
            pretrained=False,
            img_size=image_size,
            in_chans=in_chans,
            num_classes=0,
            global_pool="",
            dynamic_img_size=True,
            **no_prefix,
        )
    except (TypeError, AssertionError, ValueError) as error:
        raise NetworkError(f"{setting}: {name!r} cannot be read as a plain ViT: {error}") from error
    if type(vit) is not VisionTransformer:
        raise NetworkError(
            f"{setting}: {name!r} is a {type(vit).__name__}, not a plain VisionTransformer"
        )
    if not isinstance(vit.patch_embed, PatchEmbed):
        raise NetworkError(f"{setting}: {name!r} has convolutions before its patches; none may")
    check_divisible(image_size, vit.patch_embed.patch_size)
    return vit


def _checked_taps(taps: tuple[int, ...] | None, *, depth: int, name: str) -> tuple[int, ...]:
    if taps is None:
        return tuple(depth * (i + 1) // 4 - 1 for i in range(4))  # 12 blocks: 2, 5, 8, 11
    if len(taps) != 4 or sorted(set(taps)) != list(taps) or not 0 <= taps[0] <= taps[-1] < depth:
        raise NetworkError(
            f"network.taps = {list(taps)}: {name} has blocks 0 to {depth - 1}; four in rising order"
        )
    return tuple(taps)
