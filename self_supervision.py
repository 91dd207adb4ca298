"""The photometric term as both training scripts have it: its sources, whose poses, what is drawn.

The formulas are in losses/photometric.py, the sources in datasets/source_views.py, the network that
guesses how a camera moved in networks/pose_network.py. Stereo makes depth metric by its baseline.
Video has no scale of its own: the labelled images give the depth one, and through it the poses.
"""

from __future__ import annotations

from pathlib import Path

import torch
from dotmap import DotMap
from torch import Tensor, nn

from datasets.source_views import WantedSources, check_sources
from frames import Stream
from losses import photometric_loss, picture_error, smoothness_loss, warp
from networks import DepthNetwork
from networks.pose_network import build_pose_network
from utils.visualize import contact_sheet, warp_panel

SELF_SUPERVISED = ("photometric", "smoothness")


class SelfSupervision(nn.Module):
    """Depth of an unlabelled batch -> its unweighted terms, and the share of pixels they teach.

    Args:
        image_size: (height, width) of the pictures.
        smooth: whether the smoothness term is asked for.
        sources, offsets, poses, automask, pose_encoder, pose_pretrained: the section
            `self_supervision` of the configuration.

    Attributes:
        pose_network: None where poses are known (stereo, or given by the dataset).
    """

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        smooth: bool,
        sources: str,
        offsets: tuple[int, ...],
        poses: str,
        automask: bool,
        pose_encoder: str,
        pose_pretrained: str,
    ):
        super().__init__()
        self.smooth, self.automask = smooth, automask
        self.offsets = () if sources == "stereo" else tuple(offsets)  # of the last sources
        back = torch.tensor([offset < 0 for offset in self.offsets])
        self.register_buffer("_is_earlier", back, persistent=False)
        self.pose_network = None
        if self.offsets and poses == "predicted":
            self.pose_network = build_pose_network(
                encoder=pose_encoder, image_size=image_size, pretrained=pose_pretrained
            )

    def forward(self, depth: Tensor, unlabeled: dict) -> dict[str, Tensor]:
        """`depth` (B, 1, H, W) metres; `unlabeled`: a batch of `unlabeled_view` with sources."""
        loss, taught = photometric_loss(
            depth=depth, target=unlabeled["target_image"], sources=unlabeled["source_images"],
            intrinsics=unlabeled["intrinsics"],
            source_intrinsics=unlabeled["source_intrinsics"], poses=self.poses(unlabeled),
            available=unlabeled["source_available"], automask=self.automask,
        )  # fmt: skip
        losses = {"photometric": loss, "taught_share": taught}
        if self.smooth:
            losses["smoothness"] = smoothness_loss(depth=depth, image=unlabeled["target_image"])
        return losses

    def poses(self, unlabeled: dict) -> Tensor:
        """(B, S, 4, 4) metres, target camera -> source camera: known ones, then predicted ones."""
        known = unlabeled["source_poses"]
        if self.pose_network is None:
            return known
        target, sources = unlabeled["target_image"], unlabeled["source_images"]
        first = sources.shape[1] - len(self.offsets)
        earlier, later = [], []
        for place, offset in enumerate(self.offsets, start=first):
            pair = (target, sources[:, place])
            # always forward in time: cars seldom go backwards
            earlier.append(pair[offset < 0])
            later.append(pair[offset > 0])
        motion = self.pose_network(torch.cat(earlier), torch.cat(later))
        motion = motion.unflatten(0, (len(self.offsets), len(target))).transpose(0, 1)
        back = self._is_earlier[:, None, None]
        predicted = torch.where(back, torch.linalg.inv_ex(motion).inverse, motion)
        return torch.cat([known[:, :first], predicted.to(known.dtype)], 1)


def build_self_supervision(
    cfg: DotMap, *, image_size: tuple[int, int], resumed: bool
) -> SelfSupervision | None:
    """The term that the configuration asks for; None where loss_weights.photometric is 0.

    `image_size`: (height, width) of plain images. `resumed`: a checkpoint will fill the pose
    network, so its pretrained weights are not needed.
    """
    if not cfg.loss_weights.photometric:
        return None
    smooth = cfg.loss_weights.smoothness > 0
    settings = cfg.self_supervision.toDict() | ({"pose_pretrained": "none"} if resumed else {})
    return SelfSupervision(image_size=image_size, smooth=smooth, **settings)


def wanted_sources(cfg: DotMap) -> WantedSources | None:
    """Which sources unlabelled frames shall come with; None where nobody asks for any."""
    if not cfg.loss_weights.photometric:
        return None
    section = cfg.self_supervision
    video = section.sources != "stereo"
    return WantedSources(
        stereo=section.sources != "video",
        offsets=tuple(section.offsets) if video else (),
        given_poses=video and section.poses == "given",
    )


def describe_sources(cfg: DotMap, unlabeled: Stream) -> str | None:
    """How many frames have which source, a sentence for the log; None where nobody asks for any.

    Raises DataError if no frame has any.
    """
    wanted = wanted_sources(cfg)
    if wanted is None:
        return None
    names = ["the stereo partner"] * wanted.stereo + [f"frame {o:+d}" for o in wanted.offsets]
    counts = check_sources(*unlabeled, wanted)
    found = ", ".join(f"{n} {name}" for n, name in zip(counts, names, strict=True))
    return f"sources: of {len(unlabeled[1])} unlabelled frames have {found}"


@torch.inference_mode()
def write_warps(
    supervision: SelfSupervision,
    unlabeled: dict,
    network: DepthNetwork,
    path: Path,
    *,
    num_images: int,
) -> None:
    """A picture of what the term compares: each target beside its sources, before and after.

    `path`: PNG to write; the first `num_images` of the batch are on it, a panel each source.
    """
    part = {
        key: value[:num_images].cpu() if isinstance(value, Tensor) else value[:num_images]
        for key, value in unlabeled.items()
    }
    device = network.encoder.image_mean.device
    depth = network(part["weak_image"].to(device), with_uncertainty=False).depth.cpu()
    poses = supervision.poses({k: v[:num_images] for k, v in unlabeled.items()}).cpu()
    panels = []
    for row, source in part["source_available"].nonzero().tolist():
        target = part["target_image"][row][None]
        warped, seen = warp(
            part["source_images"][row, source][None], depth=depth[row][None],
            intrinsics=part["intrinsics"][row][None],
            source_intrinsics=part["source_intrinsics"][row, source][None],
            pose=poses[row, source][None],
        )  # fmt: skip
        left = torch.where(seen, picture_error(warped, target), torch.nan)
        panels.append(
            warp_panel(
                target=target[0],
                source=part["source_images"][row, source],
                warped=warped[0],
                error=left[0, 0],
                depth=depth[row, 0],
                title=part["frame_id"][row],
            )
        )
    if panels:
        contact_sheet(panels).save(path)
