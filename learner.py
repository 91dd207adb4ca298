"""From a step's losses to new weights: passes, gradients over processes, optimiser, average.

Both training scripts use it; neither method is in here.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from dotmap import DotMap
from torch import Tensor, nn

from datasets.colours import valid_pixels
from resuming import Start
from utils import faults
from utils.agreement import report
from utils.averaging import WeightAverage
from utils.checkpoint import restore
from utils.optimization import (
    autocast,
    backward,
    build_optimizer,
    lr_factor,
    resolve_precision,
    set_learning_rate,
    update,
)
from utils.processes import Process, distribute, mean_count, summed
from utils.run_progress import RunProgress
from utils.signals import LoaderDeaths
from utils.step_results import StepResults
from utils.throughput import Throughput


class Learner:
    """What a run learns with, new or as its checkpoint left it.

    Args:
        start: of `start_network`.
        step_module: what is trained; holds the network. Filled from the checkpoint.
        trained: sections of the configuration whose images a step takes.

    Attributes:
        averaged: the `WeightAverage` of the network.
        progress: counts that a checkpoint keeps, `RunProgress`.
        first_step: 0-based step to go on with.
        done: finished steps, as the weights have them; NaN while they change.
        losses: of the last step, by name, means over its passes, on the device.
        results: whether steps were made, `StepResults`.
        speed: `Throughput`.
        loader_deaths: `LoaderDeaths`.
    """

    def __init__(
        self,
        cfg: DotMap,
        *,
        process: Process,
        start: Start,
        step_module: nn.Module,
        trained: Sequence[str],
    ):
        self.cfg, self.process = cfg, process
        self.num_passes = cfg.train.accumulation
        self.step_module, self.network = step_module, start.network
        self.averaged = WeightAverage(self.network, cfg.train.ema_decay)
        self.optimizer = build_optimizer(
            step_module, encoder=self.network.encoder, name=cfg.optimizer.name,
            lr=cfg.optimizer.lr, encoder_lr=cfg.optimizer.encoder_lr,
            weight_decay=cfg.optimizer.weight_decay, betas=cfg.optimizer.betas,
        )  # fmt: skip
        self.precision = resolve_precision(cfg.train.precision, process.device)
        self.scaler = torch.amp.GradScaler(process.device.type, enabled=self.precision == "fp16")
        self.first_step, self.best = restore(
            start.state, step_module=step_module, averaged=self.averaged,
            optimizer=self.optimizer, scaler=self.scaler,
        )  # fmt: skip
        self.done: float = self.first_step
        passes = self.num_passes * process.world_size
        self.samples_per_step = {name: passes * cfg[name].batch_size for name in trained}
        self.progress = RunProgress.of_checkpoint(
            start.state and start.state["progress"], self.samples_per_step, step=self.first_step
        )
        self.results = StepResults()
        self.speed = Throughput(images_per_step=sum(self.samples_per_step.values()))
        self.loader_deaths = LoaderDeaths()
        self.losses: dict[str, Tensor] = {}
        trained_values = (p for p in step_module.parameters() if p.requires_grad)
        self._anchor = min(trained_values, key=torch.Tensor.numel)
        self._replaced = 0  # by this process, not counted in `progress` yet

    @property
    def samples_differ(self) -> bool:
        """Whether a step had other numbers of images before, by processes, batches or passes."""
        before = {name: self.first_step * count for name, count in self.samples_per_step.items()}
        return any(self.progress.samples[name] != before[name] for name in before)

    def accelerated(self, step_module: nn.Module) -> nn.Module:
        """What to call for a forward pass: compiled, sparing memory, distributed, as asked for."""
        if self.cfg.train.activation_checkpointing:
            self.network.recompute_activations()
        if self.cfg.train.compile:
            self.network.compile_regions()
        self._distributed = distribute(step_module, self.process)
        return self._distributed

    def passes(self, batches: Mapping[str, Iterator[dict]]) -> Iterator[dict[str, dict]]:
        """The batches of one step by stream, `train.accumulation` times.

        Labelled ones also say by how many valid pixels to divide, so that the mean over passes and
        processes is the mean over all valid pixels.
        """
        with self.speed.waiting(), self.loader_deaths.heard():
            fetched = [
                {name: next(stream) for name, stream in batches.items()}
                for _ in range(self.num_passes)
            ]
        labeled = [each["labeled"] for each in fetched]
        valid = sum(valid_pixels(each["depth"], each["max_depth"]).sum() for each in labeled)
        num_valid = mean_count(valid, self.process, num_passes=self.num_passes)
        self._own_finite, self._frame_ids, self.losses = [], [], {}
        self.optimizer.zero_grad(set_to_none=True)
        for number, each in enumerate(fetched, start=1):
            self._is_last_pass = number == self.num_passes
            each["labeled"]["num_valid"] = num_valid
            yield each

    @contextlib.contextmanager
    def forward_pass(self, step: int) -> Iterator[None]:
        """Set the learning rate of `step`; compute in the run's precision within."""
        factor = lr_factor(
            step, num_steps=self.cfg.train.num_steps, name=self.cfg.schedule.name,
            warmup_steps=self.cfg.schedule.warmup_steps,
            final_factor=self.cfg.schedule.final_factor,
        )  # fmt: skip
        set_learning_rate(self.optimizer, factor)
        with contextlib.ExitStack() as within:
            within.enter_context(autocast(self.process.device, self.precision))
            if self.process.world_size > 1 and not self._is_last_pass:
                within.enter_context(self._distributed.no_sync())  # averaged once, with the last
            yield

    def backward(
        self, step: int, total: Tensor, losses: Mapping[str, Tensor], batch: Mapping[str, dict]
    ) -> None:
        """Gradients of one pass of `step`. `losses`: what to log of it beside `total`."""
        if self._is_last_pass:
            faults.reached("backward", step + 1)
            report(self.process, step + 1)
        total = faults.spoiled(total, step + 1)
        total_of_pass = total / self.num_passes
        self._own_finite.append(backward(total_of_pass, self.scaler, anchor=self._anchor))
        for views in batch.values():
            self._frame_ids += views["frame_id"]
            self._replaced += int(views["replaced"].sum())
        for name, loss in {**losses, "total": total}.items():
            self.losses[name] = self.losses.get(name, 0) + loss.detach() / self.num_passes

    def learn(self, step: int) -> None:
        """Clip, step, average; gradients that are not finite change neither weights nor average.

        The device is not waited for: `results` tells later how it went.
        """
        self.done = math.nan
        finite = update(self.optimizer, self.scaler, max_grad_norm=self.cfg.optimizer.max_grad_norm)
        self.averaged.update(finite)
        self.progress.count(self.samples_per_step)
        self.done = step + 1
        own_finite = torch.stack(self._own_finite).all()
        self.results.add(step, finite, own_finite, self._frame_ids)

    def count_replaced(self, *, alone: bool = False) -> None:
        """Bring `progress.replaced_frames` up to date; all processes together, or one `alone`."""
        number = self._replaced if alone else summed(self._replaced, self.process)
        self.progress.replaced_frames += number
        self._replaced = 0

    def let_go(self) -> None:
        """Forget the distributed module, which must be gone when the processes part."""
        self._distributed = None
