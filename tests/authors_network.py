"""The authors' network once more, written from the facts alone: what an import is compared with.

Dense attention, groups by an explicit N x N mask, the 1x1 convolution behind the upsampling, fixed
doublings; parameters are called what the authors' files call them. Slow and plain on purpose.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTHS = (96, 192, 384, 768)


class Parts(nn.Module):
    """Modules under names of their own; `call` runs none of them."""

    def __init__(self, **parts: nn.Module):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


class AuthorsViT(nn.Module):
    """raw image -> the residual stream behind each hook; class token and classifier lie idle."""

    def __init__(self, dim, depth, heads, mlp_hidden, num_tokens, hooks, num_classes=1000):
        super().__init__()
        self.heads, self.hooks = heads, hooks
        self.pos_embedding = nn.Parameter(torch.randn(1, num_tokens + 1, dim))
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.to_patch_embedding = nn.Sequential(nn.Identity(), nn.Linear(16 * 16 * 3, dim))
        self.transformer = Parts(
            layers=nn.ModuleList(self._layer(dim, mlp_hidden) for _ in range(depth))
        )
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))

    @staticmethod
    def _layer(dim: int, hidden: int) -> nn.ModuleList:
        attention = Parts(
            to_qkv=nn.Linear(dim, 3 * dim),
            to_out=nn.Sequential(nn.Linear(dim, dim), nn.Dropout(0.0)),
        )
        drop = nn.Dropout(0.0)
        net = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), drop, nn.Linear(hidden, dim), drop)
        return nn.ModuleList(
            Parts(norm=nn.LayerNorm(dim, eps=1e-6), fn=fn) for fn in (attention, Parts(net=net))
        )

    def forward(self, image: Tensor, groups: Tensor | None = None) -> list[Tensor]:
        batch, _, height, width = image.shape
        patches = image.reshape(batch, 3, height // 16, 16, width // 16, 16)
        patches = patches.permute(0, 2, 4, 3, 5, 1)  # B h w, then row, column, channel of a patch
        x = self.to_patch_embedding(patches.reshape(batch, -1, 16 * 16 * 3))
        x = x + self.pos_embedding[:, 1:]
        if groups is None:
            groups = torch.zeros(x.shape[:2], dtype=torch.long)
        foreign = groups[:, :, None] != groups[:, None, :]  # (B, N, N)
        hooked = []
        for index, (first, second) in enumerate(self.transformer.layers):
            x = x + self._attend(first.norm(x), first.fn, foreign)
            x = x + second.fn.net(second.norm(x))
            if index in self.hooks:
                hooked.append(x)
        return hooked

    def _attend(self, x: Tensor, attention: nn.Module, foreign: Tensor) -> Tensor:
        batch, num_tokens, dim = x.shape
        per_head = attention.to_qkv(x).reshape(batch, num_tokens, 3, self.heads, dim // self.heads)
        query, key, value = per_head.permute(2, 0, 3, 1, 4)  # each B heads N dim/heads
        logits = query @ key.transpose(-2, -1) * (dim // self.heads) ** -0.5
        share = logits.masked_fill(foreign[:, None], float("-inf")).softmax(dim=-1)
        return attention.to_out((share @ value).transpose(1, 2).reshape(x.shape))


class Unit(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(torch.relu(self.conv1(torch.relu(x))))


def double(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def fusion_and_head(channels: int, head: tuple[int, int], last: nn.Module) -> dict[str, nn.Module]:
    """The parts that depth and uncertainty each have."""
    parts = {
        f"refinenet{i}": Parts(
            out_conv=nn.Conv2d(channels, channels, 1),
            resConfUnit1=Unit(channels),
            resConfUnit2=Unit(channels),
        )
        for i in (1, 2, 3, 4)
    }
    first = nn.Conv2d(channels, head[0], 3, padding=1)
    second = nn.Conv2d(head[0], head[1], 3, padding=1)
    up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
    output = nn.Sequential(first, up, second, nn.ReLU(), nn.Conv2d(head[1], 1, 1), last)
    return {**parts, "output_conv": output}


def decode(parts: nn.Module, maps: list[Tensor]) -> Tensor:
    """Four maps, fine to coarse, -> what `output_conv` makes of their fusion."""
    x = None
    for i in (4, 3, 2, 1):
        block = getattr(parts, f"refinenet{i}")
        skip = maps[i - 1]
        x = skip if x is None else x + block.resConfUnit1(skip)
        x = block.out_conv(double(block.resConfUnit2(x)))
    return parts.output_conv(x)


class AuthorsDepth(nn.Module):
    """What depth.pth is the state of. forward: depth in metres, hooked tokens, the four maps."""

    def __init__(
        self, *, dim=768, depth=12, heads=12, mlp_hidden=3072, image_size=(192, 640),
        hooks=(2, 5, 8, 11), widths=WIDTHS, channels=256, head=(128, 32), max_depth=80.0,
        num_classes=1000,
    ):  # fmt: skip
        super().__init__()
        self.grid = (image_size[0] // 16, image_size[1] // 16)
        self.max_depth = max_depth
        num_tokens = self.grid[0] * self.grid[1]
        self.encoder = AuthorsViT(dim, depth, heads, mlp_hidden, num_tokens, hooks, num_classes)
        resample = [
            [nn.ConvTranspose2d(widths[0], widths[0], 4, stride=4)],
            [nn.ConvTranspose2d(widths[1], widths[1], 2, stride=2)],
            [],
            [nn.Conv2d(widths[3], widths[3], 3, stride=2, padding=1)],
        ]
        for i, width in enumerate(widths):
            layers = [nn.Identity(), nn.Conv2d(dim, width, 1), *resample[i]]
            self.add_module(f"act_postprocess{i + 1}", nn.Sequential(*layers))
        to_channels = {
            f"layer{i + 1}_rn": nn.Conv2d(width, channels, 3, padding=1, bias=False)
            for i, width in enumerate(widths)
        }
        self.scratch = Parts(**to_channels, **fusion_and_head(channels, head, nn.Sigmoid()))

    def forward(self, image, groups=None):
        tokens = self.encoder(image, groups)
        maps = []
        for i, hooked in enumerate(tokens, start=1):
            grid_map = hooked.transpose(1, 2).reshape(len(image), -1, *self.grid)
            grid_map = getattr(self, f"act_postprocess{i}")(grid_map)
            maps.append(getattr(self.scratch, f"layer{i}_rn")(grid_map))
        return decode(self.scratch, maps) * self.max_depth, tokens, maps


class AuthorsUncertainty(Parts):
    """What uncert_decoder.pth is the state of: the depth network's four maps -> u >= 0."""

    def __init__(self, *, channels=256, head=(128, 32)):
        super().__init__(**fusion_and_head(channels, head, nn.ReLU()))

    def forward(self, maps):
        return decode(self, maps)


class AuthorsPredictor(nn.Module):
    """What mlp_head.pth is the state of."""

    def __init__(self, *, dim=768, hidden=1024):
        super().__init__()
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))
            for _ in range(4)
        )

    def forward(self, tokens):
        return [mlp(x) for mlp, x in zip(self.mlps, tokens, strict=True)]
