"""What consistency training lets one see of its pseudo labels: pictures, and how right they are.

Both only look: nothing here draws a random number or touches a weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datasets.splits import evenly, some_of
from datasets.views import evaluation_view
from networks import DepthNetwork
from utils.processes import Process
from utils.pseudo_audit import PseudoLabelAudit
from utils.visualize import consistency_panel, contact_sheet


def frames_to_audit(dataset: Any, indices: Sequence[int], wanted: int) -> list[int]:
    """At most `wanted` of `indices`, evenly spaced, whose depth was withheld but exists.

    Of very long lists only `some_of` the frames are asked whether they have depth.
    """
    if not wanted:
        return []
    return evenly([i for i in some_of(indices) if "depth" in dataset.paths(i)], wanted)


@torch.inference_mode()
def audit(
    dataset: Any, indices: Sequence[int], teacher: DepthNetwork, process: Process
) -> dict[str, float]:
    """True error of the pseudo labels of some frames, by confidence; see `PseudoLabelAudit`.

    Ground truth is read here and only here; pseudo labels come from the unjittered image.
    """
    report = PseudoLabelAudit(max_depth=teacher.max_depth)
    for index in indices[process.rank :: process.world_size]:
        entry = evaluation_view(dataset.frame(index), image_size=teacher.image_size)
        depth = entry["depth"]
        weak = teacher(entry["image"][None].to(process.device)).resized(depth.shape[-2:])
        report.update(
            pseudo_depth=weak.depth[0],
            log_uncertainty=None if weak.log_uncertainty is None else weak.log_uncertainty[0],
            depth=depth,
            valid_mask=depth > 0,
        )
    return report.reduce_over_ranks().report()


@torch.inference_mode()
def write_views(
    unlabeled: dict,
    groups: Tensor,
    network: DepthNetwork,
    teacher: DepthNetwork,
    path: Path,
    *,
    num_images: int,
) -> None:
    """A picture of what a step compared, with the weights as they are after it.

    Args:
        unlabeled: its batch of unlabelled views.
        groups: (B, N) long, of the strong views' tokens.
        path: PNG to write; the first `num_images` of the batch are on it, one panel each.
    """
    weak_image, strong_image = (
        unlabeled[f"{view}_image"][:num_images] for view in ("weak", "strong")
    )
    weak = teacher(weak_image)
    strong = network(strong_image, groups[:num_images], with_uncertainty=False)
    grid = network.encoder.grid(tuple(weak_image.shape[-2:]))
    unsure = (
        [None] * len(weak_image) if weak.log_uncertainty is None else weak.log_uncertainty.cpu()
    )
    panels = [
        consistency_panel(
            weak_image=weak_image[row].cpu(),
            strong_image=strong_image[row].cpu(),
            groups=groups[row].unflatten(0, grid),
            pseudo_depth=weak.depth[row].cpu(),
            strong_depth=strong.depth[row].cpu(),
            log_uncertainty=unsure[row],
            title=unlabeled["frame_id"][row],
        )
        for row in range(len(weak_image))
    ]
    contact_sheet(panels).save(path)
