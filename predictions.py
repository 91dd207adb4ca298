"""Predictions of frames, one at a time: by a network, or from files that anyone has written.

Both come in the same form, so `evaluate.py` scores them by the same lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from datasets.loading import EvaluationFrames, evaluation_batches
from datasets.prediction_files import PredictionFolder
from networks import DepthNetwork, DepthOutput

Predict = Callable[[Any, Sequence[int]], Iterator["Prediction"]]  # (dataset, indices)


@dataclass(frozen=True)
class Prediction:
    """What was predicted of a frame, at the stored size of its ground truth, all on the CPU.

    Attributes:
        index: of the frame in its dataset.
        frame_id: its name.
        depth: (1, H, W) float32 metres.
        log_uncertainty: (1, H, W) float32, larger = less sure; None where nobody said.
        ground_truths: by kind, the dataset's own first: (1, H, W) float32 metres, 0 = none.
    """

    index: int
    frame_id: str
    depth: Tensor
    log_uncertainty: Tensor | None
    ground_truths: Mapping[str, Tensor]

    @property
    def ground_truth(self) -> Tensor:
        """The dataset's own ground truth."""
        return next(iter(self.ground_truths.values()))


def ground_truth_kinds(dataset: Any, indices: Sequence[int]) -> tuple[str, ...]:
    """Every kind of ground truth that one of the frames has, the dataset's own first."""
    return tuple(dict.fromkeys(kind for index in indices for kind in dataset.ground_truths(index)))


@torch.inference_mode()
def network_predictions(
    network: DepthNetwork,
    dataset: Any,
    indices: Sequence[int],
    *,
    device: torch.device,
    batch_size: int,
    num_workers: int,
    flip: str = "none",
    own_ground_truth_only: bool = False,
) -> Iterator[Prediction]:
    """The network's predictions of the frames, in the order of `indices`.

    It runs in float32 whatever it was trained in, in eval mode, and is given back in the mode it
    came in. Predictions are brought to the size of the ground truth bilinearly, with half-pixel
    corners; ground truth is never touched.

    Args:
        flip: "none", "mean" or "ramp"; see `with_flip`.
        own_ground_truth_only: leave other kinds of ground truth unread.
    """
    frames = EvaluationFrames(
        dataset, indices, image_size=network.image_size, own_ground_truth_only=own_ground_truth_only
    )
    was_training = network.training
    network.eval()
    try:
        for batch in evaluation_batches(frames, batch_size=batch_size, num_workers=num_workers):
            output = with_flip(network, batch["image"].to(device), flip)
            for row, index in enumerate(batch["index"]):
                ground_truths = batch["ground_truths"][row]
                size = next(iter(ground_truths.values())).shape[-2:]
                one = output.of_image(row).resized(tuple(size))
                uncertainty = one.log_uncertainty
                yield Prediction(
                    index=index,
                    frame_id=dataset.frame_ids[index],
                    depth=one.depth[0].cpu(),
                    log_uncertainty=None if uncertainty is None else uncertainty[0].cpu(),
                    ground_truths=ground_truths,
                )
    finally:
        network.train(was_training)


def file_predictions(
    folder: PredictionFolder, dataset: Any, indices: Sequence[int]
) -> Iterator[Prediction]:
    """The predictions of the frames that lie in a folder. No picture of the dataset is opened.

    Raises DataError, naming the file, where one cannot be read or has another size.
    """
    for index in indices:
        name = dataset.frame_ids[index]
        ground_truths = {
            kind: torch.from_numpy(read())[None]
            for kind, read in dataset.ground_truths(index).items()
        }
        size = tuple(next(iter(ground_truths.values())).shape[-2:])
        uncertainty = folder.log_uncertainty(name, size)
        yield Prediction(
            index=index,
            frame_id=name,
            depth=torch.from_numpy(folder.depth(name, size))[None],
            log_uncertainty=None if uncertainty is None else torch.from_numpy(uncertainty)[None],
            ground_truths=ground_truths,
        )


def with_flip(network: DepthNetwork, image: Tensor, flip: str) -> DepthOutput:
    """The network's output for (B, 3, H, W) images, fused with that for the mirrored ones.

    Both fusions are of depth, at the network's resolution; log_uncertainty is fused alike.

    Args:
        flip: "none"; "mean", half of each (AdaBins, ZoeDepth); "ramp", the same in the middle, but
            only the mirrored pass at the left edge and only the plain one at the right, with
            ramps at 5 to 10 % of the width (monodepth's, as NeWCRFs applies it to depth).
    """
    plain = network(image)
    if flip == "none":
        return plain
    mirrored = network(image.flip(-1))
    fuse = {"mean": _mean, "ramp": _ramp}[flip]
    depth, uncertainty = (
        None if here is None else fuse(here, there.flip(-1))
        for here, there in (
            (plain.depth, mirrored.depth),
            (plain.log_uncertainty, mirrored.log_uncertainty),
        )
    )
    return DepthOutput(depth, uncertainty, plain.features)


def _mean(plain: Tensor, mirrored: Tensor) -> Tensor:
    return 0.5 * (plain + mirrored)


def _ramp(plain: Tensor, mirrored: Tensor) -> Tensor:
    x = torch.linspace(0, 1, plain.shape[-1], device=plain.device)
    left = 1 - (20 * (x - 0.05)).clamp(0, 1)  # 1 at the left edge, 0 from a tenth of the width on
    right = left.flip(0)
    return right * plain + left * mirrored + (1 - left - right) * _mean(plain, mirrored)
