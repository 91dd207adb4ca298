"""Supervised training on labelled frames: the paper's baseline rows.

python train.py                                       # synthetic streets: no GPU, no data needed
python train.py --conf conf/base_train_kitti.yaml labeled.root=/kitti validation.root=/kitti
torchrun --standalone --nproc-per-node 4 train.py --conf conf/base_train_nyu.yaml
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from dotmap import DotMap
from torch import Tensor, nn

from datasets.loading import SampleOrder, TrainingSamples, training_batches
from datasets.splits import check_overlap, check_trainable, evenly, frame_ids_at
from datasets.views import Jitter, labeled_view
from evaluate import USER_ERRORS, evaluate, open_frames, trivial_floors, write_samples
from losses import DEPTH_LOSSES, uncertainty_nll, weighted_sum
from networks import DepthNetwork, build_network
from utils.averaging import WeightAverage
from utils.checkpoint import checkpoint_state, find_resume, restore, save_checkpoint
from utils.command_line import Diverged, add_config_arguments, run_script
from utils.config import load_config, to_yaml
from utils.metrics import table
from utils.optimization import (
    autocast,
    build_optimizer,
    learning_rates,
    lr_factor,
    resolve_precision,
    set_learning_rate,
    update,
)
from utils.processes import Process, average, distribute, start_process, stop_process, to_device
from utils.run_folder import environment, write_run_folder
from utils.runlog import RunLog
from utils.seeding import seed_initialisation, seeded
from utils.throughput import Throughput


class SupervisedStep(nn.Module):
    """A labelled batch -> named, unweighted losses. One optimiser step is one forward of this."""

    def __init__(self, network: DepthNetwork, *, depth_loss: str, tolerated_error: float | None):
        """`tolerated_error` in metres; None is the paper's share of the depth range (0.3 of 80)."""
        super().__init__()
        self.network = network
        self.depth_loss = DEPTH_LOSSES[depth_loss]
        self.tolerated_error = tolerated_error or 0.00375 * network.max_depth

    def forward(self, labeled: dict[str, Tensor]) -> dict[str, Tensor]:
        target, valid_mask = labeled["depth"], labeled["valid_mask"]
        output = self.network(labeled["image"]).resized(target.shape[-2:])
        losses = {"depth": self.depth_loss(pred=output.depth, target=target, valid_mask=valid_mask)}
        if output.log_uncertainty is not None:
            losses["uncertainty"] = uncertainty_nll(
                pred=output.depth,
                target=target,
                log_uncertainty=output.log_uncertainty,
                valid_mask=valid_mask,
                tolerated_error=self.tolerated_error,
            )
        return losses


def train(cfg: DotMap) -> None:
    """Run, or finish, the training that `cfg` describes."""
    process = start_process(cfg.run.device)
    precision = resolve_precision(cfg.train.precision, process.device)
    folder = Path(cfg.run.folder) / cfg.run.name
    (labeled, labeled_indices), (validation, val_indices) = open_streams(cfg)
    state = find_resume(folder / "checkpoints", cfg.resume)
    seed_initialisation(cfg.run.seed)
    # a resumed run has its weights: it must not depend on a hub or a file any more
    settings = cfg.network.toDict() | ({"pretrained": "none"} if state else {})
    network = build_network(**settings).to(process.device)
    step_module = SupervisedStep(network, **cfg.losses.toDict())
    averaged = WeightAverage(network, cfg.train.ema_decay)
    optimizer = build_optimizer(
        step_module, encoder=network.encoder, name=cfg.optimizer.name,
        lr=cfg.optimizer.lr, encoder_lr=cfg.optimizer.encoder_lr,
        weight_decay=cfg.optimizer.weight_decay, betas=cfg.optimizer.betas,
    )  # fmt: skip
    scaler = torch.amp.GradScaler(process.device.type, enabled=precision == "fp16")
    first_step, best = restore(
        state, step_module=step_module, averaged=averaged, optimizer=optimizer, scaler=scaler
    )

    if process.is_main:
        splits = {
            "labeled": frame_ids_at(labeled, labeled_indices),
            "validation": frame_ids_at(validation, val_indices),
        }
        write_run_folder(
            folder, config_yaml=to_yaml(cfg), environment=environment(process.device), splits=splits
        )
    log = RunLog(
        folder, first_step=first_step, num_steps=cfg.train.num_steps, enabled=process.is_main,
        wandb_id=state and state["wandb_id"], config=cfg.toDict(), **cfg.wandb.toDict(),
    )  # fmt: skip
    log.say(
        f"{len(labeled_indices)} labelled frames, {len(val_indices)} for validation; "
        f"run folder {folder}"
    )
    if network.encoder.load_report is not None:
        log.say(f"pretrained encoder: {network.encoder.load_report}")

    protocols = validation.protocols(network.max_depth)  # the first one chooses the best
    score = partial(
        evaluate, averaged.network, validation, protocols=protocols,
        process=process, batch_size=cfg.evaluation.batch_size, num_workers=cfg.train.num_workers,
    )  # fmt: skip
    batches = labeled_batches(cfg, labeled, labeled_indices, first_step=first_step, process=process)
    forward = distribute(step_module, process)
    if cfg.train.compile:
        forward = torch.compile(forward)
    speed = Throughput(images_per_step=cfg.labeled.batch_size * process.world_size)
    skipped_in_a_row = skipped = replaced = 0

    for step in range(first_step, cfg.train.num_steps):
        factor = lr_factor(step, num_steps=cfg.train.num_steps, **cfg.schedule.toDict())
        set_learning_rate(optimizer, factor)
        with speed.waiting():
            batch = to_device(next(batches), process.device)
        with autocast(process.device, precision):
            losses = forward(batch)
        total = weighted_sum(losses, cfg.loss_weights)
        if update(total, optimizer, scaler, max_grad_norm=cfg.optimizer.max_grad_norm):
            averaged.update()
            skipped_in_a_row = 0
        else:
            skipped_in_a_row, skipped = skipped_in_a_row + 1, skipped + 1
            log.say(f"step {step + 1} skipped: loss or gradient not finite on {batch['frame_id']}")
            if skipped_in_a_row >= cfg.train.max_skipped_steps:
                raise Diverged(
                    f"{skipped_in_a_row} steps in a row were not finite, up to {step + 1}"
                )
        replaced += int(batch["replaced"].sum())

        done = step + 1
        last = done == cfg.train.num_steps
        log.advance(done)
        if last or done % cfg.log.every_steps == 0:
            values = average({**losses, "total": total}, process)
            log.log(done, "train", {
                **values, **learning_rates(optimizer), **speed.report(), "eta_s": log.eta_s(done),
                "skipped_steps": skipped, "replaced_frames": replaced,
            })  # fmt: skip
        with speed.paused():
            is_best = False
            if last or done % cfg.evaluation.every_steps == 0:
                scores = score(val_indices)[protocols[0].name, False].mean()
                log.log(done, "val", scores)
                is_best = best is None or scores["abs_rel"] < best["abs_rel"]
                best = {"step": done, **scores} if is_best else best
            if process.is_main and (last or is_best or done % cfg.save.every_steps == 0):
                state = checkpoint_state(
                    done, config=cfg.toDict(), best=best, averaged=averaged,
                    step_module=step_module, optimizer=optimizer, scaler=scaler,
                    wandb_id=log.wandb_id,
                )  # fmt: skip
                save_checkpoint(
                    folder / "checkpoints", state, keep_last=cfg.save.keep_last, best=is_best
                )
            shown = evenly(val_indices, cfg.samples.num_images)
            if process.is_main and shown and (last or done % cfg.samples.every_steps == 0):
                path = folder / "samples" / f"step_{done:06d}.png"
                write_samples(path, averaged.network, validation, shown, device=process.device)
                log.log_picture(done, path)

    if process.is_main:
        summarise(
            log, best, (labeled, labeled_indices), (validation, val_indices), network.max_depth
        )
    log.close()
    stop_process()


def open_streams(cfg: DotMap) -> tuple[tuple[Any, list[int]], tuple[Any, list[int]]]:
    """Labelled and validation frames, each a dataset and the indices that are used.

    Raises DataError if a file is missing, a test scene would be trained on, or the two share more
    than `validation.may_share` allows.
    """
    labeled, labeled_indices = open_frames(cfg.labeled, seed=cfg.run.seed, shuffled=True)
    validation, val_indices = open_frames(cfg.validation, seed=cfg.run.seed, shuffled=False)
    labeled_ids = frame_ids_at(labeled, labeled_indices)
    check_trainable(labeled_ids, labeled)
    check_overlap(
        labeled_ids,
        frame_ids_at(validation, val_indices),
        labeled.scene_of,
        cfg.validation.may_share,
    )
    return (labeled, labeled_indices), (validation, val_indices)


def labeled_batches(
    cfg: DotMap, dataset: Any, indices: list[int], *, first_step: int, process: Process
) -> Iterator[dict]:
    """Endless labelled batches; order and augmentation follow from seed and step."""
    view = partial(
        labeled_view,
        image_size=tuple(cfg.network.image_size),
        depth_size=dataset.depth_size,
        max_depth=cfg.network.max_depth,
        augmentation=Jitter(**cfg.augmentation.toDict()),
    )
    samples = TrainingSamples(
        dataset,
        view=view,
        generator_for=partial(seeded, cfg.run.seed, "labeled view"),
        replacements=indices if cfg.train.on_bad_sample == "skip" else None,
    )
    order = SampleOrder(
        indices,
        batch_size=cfg.labeled.batch_size,
        first_step=first_step,
        generator_for=partial(seeded, cfg.run.seed, "labeled order"),
        rank=process.rank,
        world_size=process.world_size,
    )
    return training_batches(
        samples,
        order,
        num_workers=cfg.train.num_workers,
        pin_memory=process.device.type == "cuda",
    )


def summarise(
    log: RunLog,
    best: dict[str, float],
    labeled: tuple[Any, list[int]],
    validation: tuple[Any, list[int]],
    max_depth: float,
) -> None:
    """The best validation beside predictions that never look at the image."""
    protocol = validation[0].protocols(max_depth)[0]
    rows = {f"best, step {best['step']}": best}
    for name, row in trivial_floors(labeled, validation, protocol).items():
        rows[f"floor: {name}"] = row
    log.say(table(rows))


def dry_run(cfg: DotMap) -> None:
    """Two steps of everything, one save, one resume, one validation, in a folder that goes away."""
    with tempfile.TemporaryDirectory() as folder:
        cfg.run.folder, cfg.wandb.mode = folder, "disabled"
        cfg.log.every_steps = cfg.evaluation.every_steps = cfg.samples.every_steps = 1
        cfg.validation.num_frames = min(2, cfg.validation.num_frames or 2)
        cfg.validation.list_sha256 = None
        cfg.train.num_steps, cfg.resume = 1, "never"
        train(cfg)
        cfg.train.num_steps, cfg.resume = 2, "must"
        train(cfg)
    print("dry run done: trained, saved, resumed, validated; nothing was kept")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser, default_file="conf/base_train.yaml")
    parser.add_argument("--print-config", action="store_true", help="resolved config, then exit")
    parser.add_argument("--dry-run", action="store_true", help="two steps of everything, then exit")
    args = parser.parse_intermixed_args(arguments)
    cfg = load_config(args.conf, args.overrides)
    if args.print_config:
        print(to_yaml(cfg), end="")
    elif args.dry_run:
        dry_run(cfg)
    else:
        train(cfg)
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main, USER_ERRORS))
