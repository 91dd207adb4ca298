"""What train.py and consistency_train.py share around their loops; neither method is in here.

The network that a run starts with, and a `Session`: everything that happens to a step's loss after
it was computed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from dotmap import DotMap
from torch import Tensor, nn

from datasets.splits import evenly, frame_ids_at
from evaluate import evaluate, trivial_floors
from evaluation_report import draw_frames
from frames import Stream
from networks import DepthNetwork, build_network
from predictions import Prediction, ground_truth_kinds, network_predictions
from utils.averaging import WeightAverage
from utils.checkpoint import checkpoint_state, find_resume, restore, save_checkpoint
from utils.command_line import Diverged
from utils.config import to_yaml
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
from utils.processes import Process, average, distribute
from utils.run_folder import environment, write_run_folder
from utils.runlog import RunLog
from utils.seeding import seed_initialisation
from utils.step_results import StepResults
from utils.throughput import Throughput
from utils.visualize import contact_sheet


def start_network(cfg: DotMap, process: Process) -> tuple[DepthNetwork, dict[str, Any] | None]:
    """The network on its device, and the checkpoint to go on from, if there is one."""
    state = find_resume(Path(cfg.run.folder) / cfg.run.name / "checkpoints", cfg.resume)
    seed_initialisation(cfg.run.seed)
    # a resumed run has its weights: it must not depend on a hub or a file any more
    settings = cfg.network.toDict() | ({"pretrained": "none"} if state else {})
    return build_network(**settings).to(process.device), state


class Session:
    """One run of training, new or resumed: what is kept between steps, written, and never lost.

    Args:
        cfg: the configuration; written to the run folder as it is now.
        state: checkpoint to go on from, or None.
        network: what is evaluated and saved (or its moving average is).
        step_module: what is trained; holds `network`. Filled from `state`.
        streams: by name; "labeled" and "validation" are among them.
        images_per_step: of this process.

    Attributes:
        log: the run's `RunLog`.
        speed: its `Throughput`; scripts wrap the fetching of batches in `speed.waiting()`.
        averaged: the `WeightAverage` of the network.
        first_step: 0-based step to go on with.
    """

    def __init__(
        self,
        cfg: DotMap,
        *,
        process: Process,
        state: dict[str, Any] | None,
        network: DepthNetwork,
        step_module: nn.Module,
        streams: Mapping[str, Stream],
        images_per_step: int,
    ):
        self.cfg, self.process, self.streams = cfg, process, streams
        self.folder = Path(cfg.run.folder) / cfg.run.name
        self.num_steps = cfg.train.num_steps
        self.step_module = step_module
        self.network = network
        self.averaged = WeightAverage(network, cfg.train.ema_decay)
        self.optimizer = build_optimizer(
            step_module, encoder=network.encoder, name=cfg.optimizer.name,
            lr=cfg.optimizer.lr, encoder_lr=cfg.optimizer.encoder_lr,
            weight_decay=cfg.optimizer.weight_decay, betas=cfg.optimizer.betas,
        )  # fmt: skip
        self.precision = resolve_precision(cfg.train.precision, process.device)
        self.scaler = torch.amp.GradScaler(process.device.type, enabled=self.precision == "fp16")
        self.first_step, self.best = restore(
            state, step_module=step_module, averaged=self.averaged, optimizer=self.optimizer,
            scaler=self.scaler,
        )  # fmt: skip
        self.skipped_in_a_row = self.skipped = self.replaced = 0
        self.results = StepResults()
        if process.is_main:
            write_run_folder(
                self.folder, config_yaml=to_yaml(cfg), environment=environment(process.device),
                splits={name: frame_ids_at(*stream) for name, stream in streams.items()},
            )  # fmt: skip
        self.log = RunLog(
            self.folder, first_step=self.first_step, num_steps=self.num_steps,
            enabled=process.is_main, wandb_id=state and state["wandb_id"], config=cfg.toDict(),
            **cfg.wandb.toDict(),
        )  # fmt: skip
        self.speed = Throughput(images_per_step=images_per_step * process.world_size)
        frames = ", ".join(f"{len(indices)} {name}" for name, (_, indices) in streams.items())
        self.log.say(f"frames: {frames}; run folder {self.folder}")
        if network.encoder.load_report is not None:
            self.log.say(f"pretrained encoder: {network.encoder.load_report}")

    def accelerated(self, step_module: nn.Module) -> nn.Module:
        """What to call for a forward pass: compiled, sparing memory, distributed, as asked for."""
        network = self.network
        if self.cfg.train.activation_checkpointing:
            network.recompute_activations()
        if self.cfg.train.compile:
            network.compile_regions()
        return distribute(step_module, self.process)

    def forward_pass(self, step: int) -> contextlib.AbstractContextManager:
        """Set the learning rate of `step`; compute in the run's precision within."""
        factor = lr_factor(
            step, num_steps=self.num_steps, name=self.cfg.schedule.name,
            warmup_steps=self.cfg.schedule.warmup_steps,
            final_factor=self.cfg.schedule.final_factor,
        )  # fmt: skip
        set_learning_rate(self.optimizer, factor)
        return autocast(self.process.device, self.precision)

    def learn(self, step: int, total: Tensor, *batches: dict) -> None:
        """Backward, clip, step, average; one that is not finite leaves weights and optimiser alone.

        (An average takes in the unchanged weights once more.)

        The device is not waited for, so on a GPU it may be some steps until that is noticed.

        Raises:
            Diverged: after `train.max_skipped_steps` such steps in a row.
        """
        max_grad_norm = self.cfg.optimizer.max_grad_norm
        finite = update(total, self.optimizer, self.scaler, max_grad_norm=max_grad_norm)
        self.averaged.update()
        names = [name for batch in batches for name in batch["frame_id"]]
        self.results.add(step, finite, names)
        self._count_skipped()
        self.replaced += sum(int(batch["replaced"].sum()) for batch in batches)

    def _count_skipped(self, *, wait: bool = False) -> None:
        for result in self.results.known(wait=wait):
            if result.finite:
                self.skipped_in_a_row = 0
                continue
            self.skipped_in_a_row, self.skipped = self.skipped_in_a_row + 1, self.skipped + 1
            self.log.say(
                f"step {result.step + 1} skipped: loss or gradient not finite on {result.frame_ids}"
            )
            if self.skipped_in_a_row >= self.cfg.train.max_skipped_steps:
                raise Diverged(
                    f"{self.skipped_in_a_row} steps in a row were not finite, up to "
                    f"{result.step + 1}"
                )

    def is_due(self, done: int, section: str) -> bool:
        """Whether what `section` of the configuration describes is due after `done` steps."""
        return done == self.num_steps or done % self.cfg[section].every_steps == 0

    def log_losses(self, done: int, losses: Mapping[str, Tensor]) -> None:
        """Where due, a line of raw losses (means over processes), rates, speed and counts."""
        self.log.advance(done)
        if self.is_due(done, "log"):
            means = average(losses, self.process)  # here, and only here, the device is waited for
            self._count_skipped(wait=True)
            self.log.log(done, "train", {
                **means, **learning_rates(self.optimizer),
                **self.speed.report(), "eta_s": self.log.eta_s(done),
                "skipped_steps": self.skipped, "replaced_frames": self.replaced,
            })  # fmt: skip

    def validate_save_draw(
        self,
        done: int,
        *,
        audit: Callable[[], dict[str, float]] | None = None,
        draw: Mapping[str, Callable[[Path], None]] | None = None,
    ) -> None:
        """Validation, checkpoint and pictures, each where it is due after `done` steps.

        Args:
            audit: further numbers for the line of the validation; called by all processes.
            draw: further pictures by name, and what writes each; called by the main process.
        """
        with self.speed.paused():
            is_best = self.is_due(done, "evaluation") and self._validate(done, audit)
            if self.process.is_main and (is_best or self.is_due(done, "save")):
                state = checkpoint_state(
                    done, config=self.cfg.toDict(), best=self.best, averaged=self.averaged,
                    step_module=self.step_module, optimizer=self.optimizer, scaler=self.scaler,
                    wandb_id=self.log.wandb_id,
                )  # fmt: skip
                save_checkpoint(
                    self.folder / "checkpoints", state, keep_last=self.cfg.save.keep_last,
                    best=is_best,
                )  # fmt: skip
            if self.process.is_main and self.is_due(done, "samples"):
                self._draw(done, draw or {})

    def _validate(self, done: int, audit: Callable[[], dict[str, float]] | None) -> bool:
        """Score the validation frames; whether it is the best so far (first protocol, AbsRel)."""
        dataset, indices = self.streams["validation"]
        protocol = dataset.protocols(self.averaged.network.max_depth)[0]
        kind = ground_truth_kinds(dataset, indices[:1])[0]
        share = indices[self.process.rank :: self.process.world_size]
        scores = evaluate(
            self._predict(dataset, share), frame_ids_at(dataset, indices), protocols=[protocol],
            kinds=[kind], scalings=[False],
        )[kind, protocol.name, False].mean()  # fmt: skip
        self.log.log(done, "val", {**scores, **(audit() if audit else {})})
        is_best = self.best is None or scores["abs_rel"] < self.best["abs_rel"]
        self.best = {"step": done, **scores} if is_best else self.best
        return is_best

    def _predict(self, dataset: Any, indices: Sequence[int]) -> Iterator[Prediction]:
        """What the network that is validated and saved says of frames."""
        return network_predictions(
            self.averaged.network, dataset, indices, device=self.process.device,
            batch_size=self.cfg.evaluation.batch_size, num_workers=self.cfg.train.num_workers,
            flip=self.cfg.evaluation.flip, own_ground_truth_only=True,
        )  # fmt: skip

    def _draw(self, done: int, draw: Mapping[str, Callable[[Path], None]]) -> None:
        dataset, indices = self.streams["validation"]
        shown = evenly(indices, self.cfg.samples.num_images)
        if not shown:
            return
        path = self.folder / "samples" / f"step_{done:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(list(draw_frames(self._predict, dataset, shown).values())).save(path)
        self.log.log_picture(done, path)
        for name, write in draw.items():
            path = path.with_name(f"step_{done:06d}_{name}.png")
            write(path)
            if path.is_file():  # there may have been nothing to show
                self.log.log_picture(done, path, name)

    def close(self) -> None:
        """The best validation beside predictions that never look at the image; end of the log."""
        if self.process.is_main:
            protocol = self.streams["validation"][0].protocols(self.averaged.network.max_depth)[0]
            floors = trivial_floors(self.streams["labeled"], self.streams["validation"], protocol)
            rows = {f"floor: {name}": row for name, row in floors.items()}
            self.log.say(table({f"best, step {self.best['step']}": self.best, **rows}))
        self.log.close()
