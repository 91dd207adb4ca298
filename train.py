"""Supervised training on labelled frames: the paper's baseline rows, with self-supervision or not.

With loss_weights.photometric above 0 ("Baseline+Self") a step also takes plain images whose stereo
partner or video neighbours, warped by the predicted depth, must look like them.

python train.py                                       # synthetic streets: no GPU, no data needed
python train.py --conf conf/base_train_kitti.yaml labeled.root=/kitti validation.root=/kitti
torchrun --standalone --nproc-per-node 4 train.py --conf conf/base_train_nyu.yaml
"""

from __future__ import annotations

import sys
from functools import partial

from dotmap import DotMap
from torch import Tensor, nn

from datasets.colours import colour_views
from datasets.views import Jitter, labeled_view
from evaluate import USER_ERRORS
from learner import Learner
from losses import supervised_losses, weighted_sum
from networks import DepthNetwork
from planning import print_plan
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
from utils.processes import start_process

TERMS = ("depth", "uncertainty", *SELF_SUPERVISED)
NOTES = ("taught_share",)  # logged beside the losses


class SupervisedStep(nn.Module):
    """A batch -> named, unweighted losses. One optimiser step is one forward of this."""

    def __init__(
        self,
        network: DepthNetwork,
        *,
        depth_loss: str,
        tolerated_error: float | None,
        supervision: SelfSupervision | None = None,
    ):
        """`tolerated_error` in metres; None is the paper's share of the depth range (0.3 of 80)."""
        super().__init__()
        self.network = network
        self.self_supervision = supervision
        self.depth_loss = depth_loss
        self.tolerated_error = tolerated_error or 0.00375 * network.max_depth

    def forward(
        self, labeled: dict[str, Tensor], unlabeled: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        output = self.network(labeled["image"]).resized(labeled["depth"].shape[-2:])
        losses = supervised_losses(
            depth=output.depth, log_uncertainty=output.log_uncertainty,
            target=labeled["depth"], valid_mask=labeled["valid_mask"],
            num_valid=labeled.get("num_valid"), depth_loss=self.depth_loss,
            tolerated_error=self.tolerated_error,
        )  # fmt: skip
        if self.self_supervision is not None:
            plain = self.network(unlabeled["weak_image"], with_uncertainty=False)
            losses |= self.self_supervision(plain.depth, unlabeled)
        return losses


def build_step(cfg: DotMap, network: DepthNetwork, *, resumed: bool = False) -> SupervisedStep:
    """The step that `cfg` describes. `resumed`: a checkpoint will fill all weights."""
    weights_of(cfg, TERMS, script="train.py")  # refuses losses that it does not have
    supervision = build_self_supervision(
        cfg, image_size=unlabeled_size(cfg, network), resumed=resumed
    )
    return SupervisedStep(
        network, depth_loss=cfg.losses.depth_loss, tolerated_error=cfg.losses.tolerated_error,
        supervision=supervision,
    )  # fmt: skip


def train(cfg: DotMap) -> None:
    """Run, or finish, the training that `cfg` describes."""
    weights = weights_of(cfg, TERMS, script="train.py")
    process = start_process(cfg.run.device, timeout_s=cfg.run.timeout_s)
    labeled, validation = open_labels(cfg, process)
    streams = {"labeled": labeled, "validation": validation}
    if weights["photometric"]:
        streams["unlabeled"] = open_unlabeled(cfg, labeled, validation, process)
        sources = describe_sources(cfg, streams["unlabeled"])
    start = start_network(cfg, process)
    network = start.network
    step_module = build_step(cfg, network, resumed=start.state is not None).to(process.device)
    supervision = step_module.self_supervision
    trained = [name for name in streams if name != "validation"]
    run = {"process": process, "start": start}
    learner = Learner(cfg, step_module=step_module, trained=trained, **run)
    session = Session(cfg, learner=learner, streams=streams, **run)
    view = partial(
        labeled_view, image_size=network.image_size, depth_size=labeled[0].depth_size,
        max_depth=network.max_depth, augmentation=Jitter(**cfg.augmentation.toDict()),
    )  # fmt: skip
    place = {"samples": learner.progress.samples, "process": process}
    kept = from_cache(cfg, labeled, image_size=network.image_size)
    batches = {"labeled": endless_batches(cfg, "labeled", kept, view, **place)}
    if supervision is not None:
        session.log.say(sources)
        batches["unlabeled"] = unlabeled_batches(
            cfg, streams["unlabeled"], network, strong=None, **place
        )
    forward = learner.accelerated(step_module)

    with session.running():
        for step in range(learner.first_step, cfg.train.num_steps):
            for fetched in learner.passes(batches):
                batch = {name: colour_views(views) for name, views in fetched.items()}
                with learner.forward_pass(step):
                    losses = forward(**batch)
                notes = {name: losses.pop(name) for name in NOTES if name in losses}
                total = weighted_sum(losses, weights)
                learner.backward(step, total, losses | notes, batch)
            learner.learn(step)
            session.log_losses(step + 1)
            draw = {}
            if supervision is not None:
                draw["warps"] = partial(
                    write_warps, supervision, batch["unlabeled"], network,
                    num_images=cfg.samples.num_images,
                )  # fmt: skip
            session.draw_validate_save(step + 1, draw=draw)


def main(arguments: list[str] | None = None) -> int:
    return training_script(
        train, arguments, description=__doc__, default_file="conf/base_train.yaml",
        plan=partial(print_plan, script="train.py", build_step=build_step, masked=False),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_script(main, USER_ERRORS))
