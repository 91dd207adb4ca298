"""Semi-supervised training: few labelled images, many plain ones (MaskingDepth, Baek et al. 2024).

A weak view of a plain image goes through the whole network and gives a pseudo depth with its
uncertainty. A strong view has its tokens split into disjoint groups, each encoded alone, put back
and decoded once. Strong depth and tokens must agree with the weak ones where the network is sure.
With loss_weights.photometric above 0 ("Ours+Self") stereo partner or video neighbours of the plain
image, warped by the weak view's depth, must also look like it.

python consistency_train.py                           # synthetic streets: no GPU, no data needed
python consistency_train.py --conf conf/consistency_train_kitti.yaml labeled.num_frames=100 ...
torchrun --standalone --nproc-per-node 4 consistency_train.py --conf ...
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from dotmap import DotMap
from torch import Tensor, nn

from datasets import DataError
from datasets.colours import colour_views
from datasets.photometric import Strong
from datasets.views import Jitter, labeled_view
from evaluate import USER_ERRORS
from frames import Stream
from learner import Learner
from losses import (
    DEPTH_LOSSES,
    depth_consistency,
    feature_consistency,
    pixel_weight,
    ramp,
    supervised_losses,
    weighted_sum,
)
from networks import DepthNetwork
from networks.masking import Tiles, assign_groups, pack_groups
from networks.predictor import FeaturePredictor
from planning import print_plan
from pseudo_labels import audit, frames_to_audit, write_views
from resuming import start_network
from self_supervision import (
    SELF_SUPERVISED,
    SelfSupervision,
    build_self_supervision,
    describe_sources,
    write_warps,
)
from session import Session
from streams import endless_batches, from_cache, open_labels
from unlabeled import open_unlabeled, unlabeled_batches, unlabeled_size
from utils.command_line import run_script, training_script
from utils.config import weights_of
from utils.processes import Process, start_process
from utils.seeding import seeded

RAMPED = ("depth_consistency", "feature_consistency")
TERMS = ("depth", "uncertainty", *RAMPED, "strong_depth", *SELF_SUPERVISED)
NOTES = ("weight_mass", "taught_share")  # logged beside the losses


class ConsistencyStep(nn.Module):
    """Labelled and unlabelled batch -> named, unweighted losses; those of weight 0 are left out."""

    def __init__(
        self,
        network: DepthNetwork,
        *,
        weights: dict[str, float],
        depth_loss: str,
        tolerated_error: float | None,
        consistency_error: str,
        confidence_weighted: bool,
        min_confidence: float,
        max_pseudo_depth: float | None,
        feature_reduction: str,
        supervision: SelfSupervision | None = None,
        small_size: tuple[int, int] | None = None,
    ):
        """The arguments behind `weights` are the section `losses` of the configuration;
        `small_size` (height, width): labelled images are learned from in this size too."""
        super().__init__()
        self.network = network
        self.self_supervision = supervision
        self.small_size = small_size
        compares_features = weights["feature_consistency"] > 0
        self.predictor = FeaturePredictor(network.encoder.embed_dim) if compares_features else None
        self.compares_depth = weights["depth_consistency"] > 0
        self.labels_strong_view = weights["strong_depth"] > 0
        self.supervised = partial(
            supervised_losses, depth_loss=depth_loss,
            tolerated_error=tolerated_error or 0.00375 * network.max_depth,
        )  # fmt: skip
        self.depth_loss = DEPTH_LOSSES[depth_loss]
        self.consistency_error = consistency_error
        self.pixel_weight = partial(
            pixel_weight, confidence_weighted=confidence_weighted, min_confidence=min_confidence,
            max_pseudo_depth=max_pseudo_depth,
        )  # fmt: skip
        self.feature_reduction = feature_reduction

    def forward(
        self, labeled: dict, unlabeled: dict, tiles: dict[str, Tiles], teacher: DepthNetwork
    ) -> dict[str, Tensor]:
        """`tiles`: packed groups of the strong views' tokens, by stream. `teacher` may be the
        network itself.

        Labelled images come last: the backward pass then begins with them, and through the long
        rest of it finished gradients are averaged over processes (docs/scaling.md).
        """
        strong = self.network(  # every token sees its own group only
            unlabeled["strong_image"], tiles["unlabeled"], with_uncertainty=False
        )
        losses = {}
        if self.self_supervision is not None:
            teaches = teacher is self.network
            weak = self.network(unlabeled["weak_image"], with_uncertainty=teaches)
            losses |= self.self_supervision(weak.depth, unlabeled)
        if self.self_supervision is None or teacher is not self.network:
            with torch.no_grad():
                weak = teacher(unlabeled["weak_image"])
        weak = weak.without_graph()  # a pseudo label teaches, it does not learn
        weight = self.pixel_weight(pseudo_depth=weak.depth, log_uncertainty=weak.log_uncertainty)
        if self.compares_depth:
            losses["depth_consistency"] = depth_consistency(
                pred=strong.depth, pseudo_depth=weak.depth, weight=weight,
                error=self.consistency_error,
            )  # fmt: skip
        if self.predictor is not None:
            losses["feature_consistency"] = feature_consistency(
                pred=self.predictor(strong.features), target=weak.features,
                encoded=tiles["unlabeled"].encoded, reduction=self.feature_reduction,
            )  # fmt: skip
        losses["weight_mass"] = weight.mean()  # not a loss: how much the pseudo labels count

        size = labeled["depth"].shape[-2:]
        truth = {
            "target": labeled["depth"], "valid_mask": labeled["valid_mask"],
            "num_valid": labeled.get("num_valid"),
        }  # fmt: skip
        if self.labels_strong_view:
            strong = self.network(
                labeled["strong_image"], tiles["labeled"], with_uncertainty=False
            ).resized(size)
            losses["strong_depth"] = self.depth_loss(pred=strong.depth, **truth)
        return losses | self._labeled_losses(labeled["image"], size, truth)

    def _labeled_losses(self, image: Tensor, size: tuple[int, int], truth: dict) -> dict:
        """Of the ordinary pass; the mean of two sizes where pseudo labels come from smaller images.

        A network that has seen depth in one size only is off by a scale in another.
        """
        images = [image]
        if self.small_size is not None:
            images.append(F.interpolate(image, self.small_size, mode="bilinear", antialias=True))
        terms = []
        for each in images:
            output = self.network(each).resized(size)
            terms.append(self.supervised(
                depth=output.depth, log_uncertainty=output.log_uncertainty, **truth
            ))  # fmt: skip
        return {name: sum(term[name] for term in terms) / len(terms) for name in terms[0]}


def build_step(cfg: DotMap, network: DepthNetwork, *, resumed: bool = False) -> ConsistencyStep:
    """The step that `cfg` describes. `resumed`: a checkpoint will fill all weights."""
    weights = weights_of(cfg, TERMS, script="consistency_train.py")
    size = unlabeled_size(cfg, network)
    return ConsistencyStep(
        network, weights=weights,
        supervision=build_self_supervision(cfg, image_size=size, resumed=resumed),
        small_size=size if cfg.labeled.at_both_sizes else None,
        **cfg.losses.toDict(),
    )  # fmt: skip


def train(cfg: DotMap) -> None:
    """Run, or finish, the training that `cfg` describes."""
    weights = weights_of(cfg, TERMS, script="consistency_train.py")
    process = start_process(cfg.run.device, timeout_s=cfg.run.timeout_s)
    labeled, validation = open_labels(cfg, process)
    unlabeled = open_unlabeled(cfg, labeled, validation, process)
    audited = open_audited(cfg, unlabeled)
    sources = describe_sources(cfg, unlabeled)
    start = start_network(cfg, process)
    network = start.network
    step_module = build_step(cfg, network, resumed=start.state is not None).to(process.device)
    supervision = step_module.self_supervision
    streams = {"labeled": labeled, "unlabeled": unlabeled, "validation": validation}
    run = {"process": process, "start": start}
    learner = Learner(cfg, step_module=step_module, trained=("labeled", "unlabeled"), **run)
    session = Session(cfg, learner=learner, streams=streams, **run)
    if sources is not None:
        session.log.say(sources)
    teacher = learner.averaged.network if cfg.train.teacher == "average" else network
    batches = open_batches(cfg, labeled, unlabeled, network, learner.progress.samples, process)
    masked = {"unlabeled": unlabeled_size(cfg, network)}
    if weights["strong_depth"]:
        masked["labeled"] = network.image_size
    num_tokens = {name: math.prod(network.encoder.grid(size)) for name, size in masked.items()}
    check = partial(audit, unlabeled[0], audited, teacher, process) if audited else None
    forward = learner.accelerated(step_module)

    with session.running(audit=check):
        for step in range(learner.first_step, cfg.train.num_steps):
            share = ramp(step, ramp_steps=cfg.schedule.consistency_ramp_steps)
            shares = {k: w * share if k in RAMPED else w for k, w in weights.items()}
            for fetched in learner.passes(batches):
                batch = {name: colour_views(views) for name, views in fetched.items()}
                groups = {
                    name: draw_groups(cfg, name, batch[name]["sample_number"], num_tokens=count)
                    for name, count in num_tokens.items()
                }
                num_prefix = network.encoder.num_prefix
                tiles = {
                    name: pack_groups(drawn, num_prefix=num_prefix).to(process.device)
                    for name, drawn in groups.items()
                }
                with learner.forward_pass(step):
                    losses = forward(batch["labeled"], batch["unlabeled"], tiles, teacher)
                notes = {name: losses.pop(name) for name in NOTES if name in losses}
                total = weighted_sum(losses, shares)
                learner.backward(step, total, losses | notes, batch)
            learner.learn(step)
            session.log_losses(step + 1)
            plain, shown = batch["unlabeled"], {"num_images": cfg.samples.num_images}
            draw = {"views": partial(
                write_views, plain, groups["unlabeled"], network, teacher, **shown
            )}  # fmt: skip
            if supervision is not None:
                draw["warps"] = partial(write_warps, supervision, plain, network, **shown)
            session.draw_validate_save(step + 1, draw=draw)


def open_audited(cfg: DotMap, unlabeled: Stream) -> list[int]:
    """Frames to check pseudo labels on. DataError if some are asked for and none has depth."""
    audited = frames_to_audit(*unlabeled, cfg.audit.num_frames)
    if cfg.audit.num_frames and not audited:
        raise DataError("audit.num_frames: no unlabelled frame has depth to check by; set it to 0")
    return audited


def open_batches(
    cfg: DotMap,
    labeled: Stream,
    unlabeled: Stream,
    network: DepthNetwork,
    samples: Mapping[str, int],
    process: Process,
) -> dict[str, Iterator[dict]]:
    """The two endless streams of batches, by name, from sample number `samples` on."""
    strong = Strong(**cfg.strong.toDict())
    place = {"samples": samples, "process": process}
    view = partial(
        labeled_view, image_size=network.image_size, depth_size=labeled[0].depth_size,
        max_depth=network.max_depth, augmentation=Jitter(**cfg.augmentation.toDict()),
        strong=strong if cfg.loss_weights.strong_depth else None,
    )  # fmt: skip
    kept = from_cache(cfg, labeled, image_size=network.image_size)
    return {
        "labeled": endless_batches(cfg, "labeled", kept, view, **place),
        "unlabeled": unlabeled_batches(cfg, unlabeled, network, strong=strong, **place),
    }


def draw_groups(cfg: DotMap, stream: str, sample_numbers: Tensor, *, num_tokens: int) -> Tensor:
    """(B, N) groups for the strong views of a batch; a sample's follow from its number alone."""
    return torch.cat(
        [
            assign_groups(
                1, num_tokens, cfg.masking.num_groups, rule=cfg.masking.rule,
                generator=seeded(cfg.run.seed, f"{stream} groups", number),
            )
            for number in sample_numbers.tolist()
        ]
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    return training_script(
        train, arguments, description=__doc__, default_file="conf/consistency_train.yaml",
        plan=partial(print_plan, script="consistency_train.py", build_step=build_step, masked=True),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_script(main, USER_ERRORS))
