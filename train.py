"""Supervised training on labelled frames: the paper's baseline rows.

python train.py                                       # synthetic streets: no GPU, no data needed
python train.py --conf conf/base_train_kitti.yaml labeled.root=/kitti validation.root=/kitti
torchrun --standalone --nproc-per-node 4 train.py --conf conf/base_train_nyu.yaml
"""

from __future__ import annotations

import sys
from functools import partial

import torch
from dotmap import DotMap
from torch import Tensor, nn

from datasets.views import Jitter, labeled_view
from evaluate import USER_ERRORS
from losses import supervised_losses, weighted_sum
from networks import DepthNetwork
from session import Session, endless_batches, open_labels, start_network
from utils.command_line import run_script, training_script
from utils.config import weights_of
from utils.processes import distribute, start_process, to_device

TERMS = ("depth", "uncertainty")


class SupervisedStep(nn.Module):
    """A labelled batch -> named, unweighted losses. One optimiser step is one forward of this."""

    def __init__(self, network: DepthNetwork, *, depth_loss: str, tolerated_error: float | None):
        """`tolerated_error` in metres; None is the paper's share of the depth range (0.3 of 80)."""
        super().__init__()
        self.network = network
        self.depth_loss = depth_loss
        self.tolerated_error = tolerated_error or 0.00375 * network.max_depth

    def forward(self, labeled: dict[str, Tensor]) -> dict[str, Tensor]:
        output = self.network(labeled["image"]).resized(labeled["depth"].shape[-2:])
        return supervised_losses(
            depth=output.depth, log_uncertainty=output.log_uncertainty,
            target=labeled["depth"], valid_mask=labeled["valid_mask"],
            depth_loss=self.depth_loss, tolerated_error=self.tolerated_error,
        )  # fmt: skip


def train(cfg: DotMap) -> None:
    """Run, or finish, the training that `cfg` describes."""
    weights = weights_of(cfg, TERMS, script="train.py")
    process = start_process(cfg.run.device)
    labeled, validation = open_labels(cfg, process)
    network, state = start_network(cfg, process)
    step_module = SupervisedStep(
        network, depth_loss=cfg.losses.depth_loss, tolerated_error=cfg.losses.tolerated_error
    )
    session = Session(
        cfg, process=process, state=state, network=network, step_module=step_module,
        streams={"labeled": labeled, "validation": validation},
        images_per_step=cfg.labeled.batch_size,
    )  # fmt: skip
    view = partial(
        labeled_view, image_size=network.image_size, depth_size=labeled[0].depth_size,
        max_depth=network.max_depth, augmentation=Jitter(**cfg.augmentation.toDict()),
    )  # fmt: skip
    batches = endless_batches(
        cfg, "labeled", labeled, view, first_step=session.first_step, process=process
    )
    forward = distribute(step_module, process)
    if cfg.train.compile:
        forward = torch.compile(forward)

    for step in range(session.first_step, cfg.train.num_steps):
        with session.speed.waiting():
            batch = to_device(next(batches), process.device)
        with session.forward_pass(step):
            losses = forward(batch)
        total = weighted_sum(losses, weights)
        session.learn(step, total, batch)
        session.log_losses(step + 1, {**losses, "total": total})
        session.validate_save_draw(step + 1)

    session.close()


def main(arguments: list[str] | None = None) -> int:
    return training_script(
        train, arguments, description=__doc__, default_file="conf/base_train.yaml"
    )


if __name__ == "__main__":
    sys.exit(run_script(main, USER_ERRORS))
