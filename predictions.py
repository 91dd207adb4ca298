"""Predictions of frames, one at a time: by a network, or from files that anyone has written.

Both come in the same form, so `evaluate.py` scores them by the same lines.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.loading import EvaluationFrames, evaluation_batches
from datasets.prediction_files import PredictionFolder
from datasets.protocol import MIN_DEPTH
from datasets.splits import evenly
from datasets.views import evaluation_image
from networks import DepthNetwork, DepthOutput, NetworkError
from utils.optimization import autocast

MAX_PRECISION_GAP = 0.01  # mean |ln ratio| of depth in bf16 and in fp32: below it, abs_rel stands

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
    precision: str = "fp32",
    own_ground_truth_only: bool = False,
) -> Iterator[Prediction]:
    """The network's predictions of the frames, in the order of `indices`.

    It runs in `precision` whatever it was trained in, in eval mode, and is given back in the mode
    it came in. Predictions are brought to the size of the ground truth bilinearly, with half-pixel
    corners; ground truth is never touched. A GPU has the next batch to work on while this one is
    copied and scored.

    Args:
        flip: "none", "mean" or "ramp"; see `with_flip`.
        precision: "fp32" or "bf16"; see `precision_gap`.
        own_ground_truth_only: leave other kinds of ground truth unread.
    """
    frames = EvaluationFrames(
        dataset, indices, image_size=network.image_size, own_ground_truth_only=own_ground_truth_only
    )
    was_training = network.training
    network.eval()
    under_way: deque = deque()
    try:
        for batch in evaluation_batches(frames, batch_size=batch_size, num_workers=num_workers):
            with autocast(device, precision):
                output = with_flip(network, batch["image"].to(device, non_blocking=True), flip)
            under_way.append(_copied(batch, output, dataset.frame_ids))
            if len(under_way) > 1:
                yield from _arrived(*under_way.popleft())
        while under_way:
            yield from _arrived(*under_way.popleft())
    finally:
        network.train(was_training)


def _copied(
    batch: dict, output: DepthOutput, frame_ids: Sequence[str]
) -> tuple[list[Prediction], torch.cuda.Event | None]:
    """A batch's predictions, of which a GPU may still be at work, and what says that they came."""
    predictions = []
    for row, (index, ground_truths) in enumerate(
        zip(batch["index"], batch["ground_truths"], strict=True)
    ):
        size = next(iter(ground_truths.values())).shape[-2:]
        one = output.of_image(row).resized(tuple(size))
        depth, uncertainty = (
            None if x is None else x[0].to("cpu", non_blocking=True)
            for x in (one.depth, one.log_uncertainty)
        )
        predictions.append(Prediction(index, frame_ids[index], depth, uncertainty, ground_truths))
    if output.depth.device.type != "cuda":
        return predictions, None
    event = torch.cuda.Event()
    event.record()
    return predictions, event


def _arrived(predictions: list[Prediction], event: torch.cuda.Event | None) -> Iterator[Prediction]:
    if event is not None:
        event.synchronize()
    yield from predictions


@torch.inference_mode()
def precision_gap(network: DepthNetwork, image: Tensor) -> dict[str, float]:
    """How far bfloat16 moves the network's depth from that of float32 (ours).

    Args:
        network: in eval mode.
        image: (B, 3, H, W) in [0, 1], on the network's device.

    Returns:
        "mean" and "p99", the 99th percentile, of |ln(depth in bf16 / depth in fp32)| over all
        pixels: relative errors, as abs_rel is one.

    Raises:
        NetworkError: the mean is above MAX_PRECISION_GAP, or not a number.
    """
    outputs = []
    for precision in ("fp32", "bf16"):
        with autocast(image.device, precision):
            depth = network(image, with_uncertainty=False).depth.double().cpu().numpy()
        outputs.append(depth.clip(min=MIN_DEPTH))  # as every evaluator does: it may be 0
    gaps = np.abs(np.log(outputs[1] / outputs[0]))
    gap = {"mean": float(gaps.mean()), "p99": float(np.percentile(gaps, 99))}
    if not gap["mean"] <= MAX_PRECISION_GAP:
        raise NetworkError(
            f"bf16 moves this network's depth by {gap['mean']:.2%} on average, more than the "
            f"{MAX_PRECISION_GAP:.0%} that its numbers would bear: use evaluation.precision=fp32 "
            "(of predict.py, --precision fp32)"
        )
    return gap


def precision_words(gap: Mapping[str, float]) -> str:
    """`precision_gap` for the screen."""
    return (
        f"bf16 moves depth by {gap['mean']:.3%} on average, 1 % of the pixels by more than "
        f"{gap['p99']:.3%}"
    )


def precision_gap_of_frames(
    network: DepthNetwork, dataset: Any, indices: Sequence[int],
    *, device: torch.device, batch_size: int,
) -> dict[str, float]:  # fmt: skip
    """`precision_gap` on one batch of the frames, evenly over them."""
    chosen = evenly(indices, batch_size)
    images = [evaluation_image(dataset.frame(index), network.image_size) for index in chosen]
    return precision_gap(network, torch.stack(images).to(device))


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
