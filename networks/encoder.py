"""A timm ViT, read at four depths. Patch tokens only: no class token, no registers, no final norm.

Without prefix tokens nothing can carry information between groups of tokens, and no parameter is
left that never learns. The authors drop the class token too.
"""

from __future__ import annotations

import difflib

import timm
import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


class NetworkError(ValueError):
    """A network that cannot be built or loaded. The message names the setting and the remedy."""


class ViTEncoder(nn.Module):
    """image (B, 3, H, W) in [0, 1] -> four token maps (B, N, D), N = (H / patch) * (W / patch).

    Attributes:
        image_size: (height, width) that the stored position embedding is laid out for. Other sizes
            that the patch divides work too: the embedding is resampled to their grid.
        patch_size: (height, width) of a patch in pixels.
        taps: the four blocks whose outputs are returned, 0-based.
        embed_dim: token width D.
    """

    def __init__(self, name: str, image_size: tuple[int, int], taps: tuple[int, ...] | None = None):
        super().__init__()
        vit = _create_vit(name, image_size)
        self.load_report = None  # set when pretrained weights are loaded
        self.image_size = image_size
        self.patch_size = vit.patch_embed.patch_size
        self.embed_dim = vit.embed_dim
        self.taps = _checked_taps(taps, depth=len(vit.blocks), name=name)
        # blocks behind the last tap would never learn
        del vit.blocks[self.taps[-1] + 1 :]
        # random weights learn streets faster from positions that already know up from down;
        # pretrained weights bring their own
        with torch.no_grad():
            vit.pos_embed.copy_(build_sincos2d_pos_embed(self.grid(image_size), vit.embed_dim))
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

    def forward(self, image: Tensor) -> list[Tensor]:
        self.grid(tuple(image.shape[-2:]))  # timm would pad or cut in silence
        image = (image - self.image_mean) / self.image_std
        tokens = self.vit.patch_embed(image)  # (B, h, w, D)
        tokens = self.vit._pos_embed(tokens)  # (B, N, D)
        tokens = self.vit.norm_pre(tokens)
        features = []
        for index, block in enumerate(self.vit.blocks):
            tokens = block(tokens)
            if index in self.taps:
                features.append(tokens)
        return features


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


def _create_vit(name: str, image_size: tuple[int, int]) -> VisionTransformer:
    if not timm.is_model(name.split(".", maxsplit=1)[0]):
        near = difflib.get_close_matches(name, timm.list_models("vit_*"), n=3)
        raise NetworkError(f"network.encoder: timm knows no model {name!r}; nearest: {near}")
    patch = timm.get_pretrained_cfg(name)
    if patch is None or not name.startswith(("vit_", "deit")):
        raise NetworkError(f"network.encoder: {name!r} is not a plain ViT (vit_*, deit_* of timm)")
    try:
        vit = timm.create_model(
            name,
            pretrained=False,
            img_size=image_size,
            num_classes=0,
            global_pool="",
            class_token=False,
            reg_tokens=0,
            dynamic_img_size=True,
        )
    except (TypeError, AssertionError, ValueError) as error:
        raise NetworkError(
            f"network.encoder: {name!r} cannot be read as a plain ViT: {error}"
        ) from error
    if type(vit) is not VisionTransformer:
        raise NetworkError(
            f"network.encoder: {name!r} is a {type(vit).__name__}, not a plain VisionTransformer"
        )
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
