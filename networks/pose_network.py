"""The pose network: how the camera moved between two pictures, for self-supervision on video.

A timm ViT on the two pictures stacked along channels, then six numbers (after Zhou et al., 2017,
and Godard et al., 2019, whose networks are convolutions). It is trained beside the depth network
and saved with the training state, but not part of what is deployed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .encoder import NetworkError, check_divisible, create_vit, lay_out_positions
from .pretrained import load_pretrained_encoder

NUM_PICTURES = 2  # target and source
# Of the six numbers that the last layer says; untrained, it says a few centimetres. Godard et al.
# (2019) scale both by 0.01, in a unit of depth in which a car moves some hundredths a frame. That
# learns metres slowly: of 0.87 m a frame (synthetic streets, known depth, no automask), 150 steps
# found 0.07 with 0.01 and 0.71 with 0.1.
RADIANS, METRES = 0.01, 0.1
SMALL_ANGLE = 1e-2  # radians; below, Taylor series are exact to the last digit of float64


class PoseNetwork(nn.Module):
    """target and source (B, 3, H, W) in [0, 1] -> pose (B, 4, 4), target camera -> source camera.

    Attributes:
        image_size: (height, width) that the stored position embedding is laid out for. Other sizes
            that the patch divides work too: the embedding is resampled to their grid.
        patch_size: (height, width) of a patch in pixels.
        taps: the blocks that are read, 0-based: the last alone.
        load_report: of pretrained weights; None without.
    """

    def __init__(self, encoder: str, image_size: tuple[int, int], *, num_pictures: int = 2):
        """`num_pictures` 1 is the form in which weights of a common ViT are read."""
        super().__init__()
        self.vit = create_vit(
            encoder, image_size, keep_prefix=False, in_chans=3 * num_pictures,
            setting="self_supervision.pose_encoder",
        )  # fmt: skip
        self.load_report = None
        self.image_size = image_size
        self.patch_size = self.vit.patch_embed.patch_size
        self.taps = (len(self.vit.blocks) - 1,)
        lay_out_positions(self.vit, self.grid(image_size))
        self.head = nn.Linear(self.vit.embed_dim, 6)
        mean, std = (self.vit.pretrained_cfg[key] for key in ("mean", "std"))
        self.register_buffer("image_mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("image_std", torch.tensor(std).view(1, 3, 1, 1))

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Token grid (h, w) of an image size; NetworkError if the patch does not divide it."""
        check_divisible(image_size, self.patch_size)
        return image_size[0] // self.patch_size[0], image_size[1] // self.patch_size[1]

    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        """X_source = pose X_target in metres, (B, 4, 4) float32 whatever the precision of the pass.

        Raises NetworkError if the patch does not divide the pictures' size.
        """
        self.grid(tuple(target.shape[-2:]))  # timm would pad or cut in silence
        pictures = [(x - self.image_mean) / self.image_std for x in (target, source)]
        tokens = self.vit.forward_features(torch.cat(pictures, 1))  # (B, N, D), after the last norm
        # eight bits of bfloat16 would round a turn of the camera to half a percent
        with torch.autocast(tokens.device.type, enabled=False):
            motion = self.head(tokens.float().mean(1))  # (B, 6)
            return pose_matrix(RADIANS * motion[:, :3], METRES * motion[:, 3:])


def build_pose_network(
    *, encoder: str, image_size: tuple[int, int], pretrained: str = "none"
) -> PoseNetwork:
    """Build the network and, if asked, load an ImageNet (or other) ViT into it.

    Args:
        encoder: name of a timm ViT, e.g. "vit_tiny_patch16_224".
        image_size: (height, width) in pixels that the position embedding is laid out for; the
            patch size must divide both.
        pretrained: "none", "timm" (downloads), or a .safetensors / .pth file with timm's key names.

    Raises:
        NetworkError: unknown or unsupported encoder, image size that the patch does not divide,
            weights that are missing or do not fit.
    """
    network = PoseNetwork(encoder, tuple(image_size))
    if pretrained != "none":
        _load_pretrained(network, encoder, source=pretrained)
    return network


def _load_pretrained(network: PoseNetwork, name: str, *, source: str) -> None:
    """Weights of one picture, for two: each sees half of what the one saw, so that two equal
    pictures give the tokens of one. The same as timm's own adaptation of a patch embedding."""
    single = PoseNetwork(name, network.image_size, num_pictures=1)
    try:
        network.load_report = load_pretrained_encoder(single, name, source=source)
    except NetworkError as error:  # it speaks of the depth network's key
        words = str(error).replace("network.pretrained", "self_supervision.pose_pretrained")
        raise NetworkError(words) from error
    weights = single.vit.state_dict()
    projection = "patch_embed.proj.weight"
    weights[projection] = torch.cat([weights[projection]] * NUM_PICTURES, 1) / NUM_PICTURES
    network.vit.load_state_dict(weights)


def pose_matrix(axis_angle: Tensor, translation: Tensor) -> Tensor:
    """(B, 3) radians and (B, 3) metres -> (B, 4, 4): turn first, then move."""
    top = torch.cat([axis_angle_to_matrix(axis_angle), translation[:, :, None]], 2)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(top), 1, 4)
    return torch.cat([top, bottom], 1)


def axis_angle_to_matrix(axis_angle: Tensor) -> Tensor:
    """(..., 3) radians -> (..., 3, 3): the matrix exponential of [v]x, by Rodrigues' formula.

    R = I + sin t / t [v]x + (1 - cos t) / t^2 [v]x^2, t = |v|, in the precision of `axis_angle`. At
    v = 0, where t has no gradient, the two factors are series in t^2, so R has all of its own.
    """
    squared = axis_angle.square().sum(-1)
    is_small = squared < SMALL_ANGLE**2
    # the branch that is not taken must be finite too, or its gradient is NaN
    angle = torch.where(is_small, 1.0, squared).sqrt()
    half = angle / 2
    sine = torch.where(is_small, 1 - squared / 6 + squared**2 / 120, angle.sin() / angle)
    # 1 - cos t = 2 sin^2 (t / 2), without the cancellation
    cosine = torch.where(
        is_small, 0.5 - squared / 24 + squared**2 / 720, 0.5 * (half.sin() / half).square()
    )
    x, y, z = axis_angle.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    cross = torch.stack(rows, -1).unflatten(-1, (3, 3))  # [v]x w = v x w
    eye = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    return eye + sine[..., None, None] * cross + cosine[..., None, None] * (cross @ cross)
