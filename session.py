"""A run around its steps: what is logged, validated, drawn and saved, and how it ends.

Both training scripts use it; neither method is in here.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from dotmap import DotMap

from datasets.splits import frame_ids_at
from frames import Stream
from learner import Learner
from monitoring import Monitor
from resuming import Start
from utils import faults
from utils.agreement import Agreement, explained
from utils.checkpoint import CheckpointNotWritten, checkpoint_state, save_checkpoint
from utils.command_line import Diverged
from utils.config import to_yaml
from utils.optimization import learning_rates
from utils.processes import Process, average, summed
from utils.run_folder import environment, write_run_folder
from utils.runlog import RunLog
from utils.signals import Stopped, StopRequest

MAX_FAILED_SAVES = 3  # in a row; then the run ends rather than train for nothing


class Session:
    """One run of training, new or resumed: what it leaves behind, and that nothing is lost.

    Args:
        cfg: the configuration; written to the run folder as it is now.
        start: of `start_network`.
        streams: by name; "labeled" and "validation" are among them.

    Attributes:
        log: the run's `RunLog`.
    """

    def __init__(
        self,
        cfg: DotMap,
        *,
        process: Process,
        start: Start,
        learner: Learner,
        streams: Mapping[str, Stream],
    ):
        self.cfg, self.process, self.learner, self.lock = cfg, process, learner, start.lock
        self.folder = Path(cfg.run.folder) / cfg.run.name
        self.num_steps = cfg.train.num_steps
        self.best = learner.best
        self.logged = learner.first_step  # steps that metrics.jsonl holds, where they are due
        self.failed_saves = 0  # in a row
        self.stop, self.agreement = StopRequest(), Agreement(process)
        if process.is_main:
            write_run_folder(
                self.folder, config_yaml=to_yaml(cfg), environment=environment(process.device),
                splits={name: frame_ids_at(*stream) for name, stream in streams.items()},
            )  # fmt: skip
        self.log = RunLog(
            self.folder, first_step=learner.first_step, num_steps=self.num_steps,
            enabled=process.is_main, wandb_id=start.state and start.state["wandb_id"],
            config=cfg.toDict(), **cfg.wandb.toDict(),
        )  # fmt: skip
        self.monitor = Monitor(
            cfg, network=learner.averaged.network, streams=streams, process=process, log=self.log
        )
        if learner.samples_differ:
            self.log.say(
                "a step had other numbers of images before: no sample is left out or comes twice, "
                "but the result is not that of a run left alone"
            )
        frames = ", ".join(f"{len(indices)} {name}" for name, (_, indices) in streams.items())
        self.log.say(f"frames: {frames}; run folder {self.folder}")
        if learner.network.encoder.load_report is not None:
            self.log.say(f"pretrained encoder: {learner.network.encoder.load_report}")

    @contextlib.contextmanager
    def running(self, *, audit: Callable[[], dict[str, float]] | None = None) -> Iterator[None]:
        """Around the loop: signals are minded, and whatever ends it, what was learned is saved.

        Args:
            audit: further numbers for the line of a validation; called by all processes.

        Raises:
            Stopped: a signal asked for it; everything is saved.
            Diverged: see `log_losses`.
            ProcessLost: another process of the run died or hangs.
        """
        self.audit = audit
        with self.stop, self.learner.loader_deaths:
            try:
                if self.learner.progress.awaits_validation:  # the run was stopped within it
                    self._validate_and_save(self.learner.first_step)
                yield
                self.agreement.any_asked_now(False)
                if self.process.is_main and self.best is not None:
                    self.log.say(self.monitor.summary(self.best))
            except (Stopped, Diverged):
                raise
            except Exception as error:
                self._save_in_emergency(error)
                if isinstance(error, RuntimeError):
                    raise explained(error, self.process) from error
                raise
            finally:
                self.learner.let_go()
                self.log.close()
                if self.lock is not None:
                    self.lock.release()

    def is_due(self, done: int, section: str) -> bool:
        """Whether what `section` of the configuration describes is due after `done` steps."""
        return done == self.num_steps or done % self.cfg[section].every_steps == 0

    def log_losses(self, done: int) -> None:
        """Where due, a line of raw losses (means over processes), rates, speed and counts.

        Raises:
            Diverged: `train.max_skipped_steps` steps in a row were not finite.
        """
        self.log.advance(done)
        if self.is_due(done, "log"):
            means = average(self.learner.losses, self.process)  # here alone the device is awaited
            self._count_skipped(wait=True)
            self.learner.count_replaced()
            progress = self.learner.progress
            self.log.log(done, "train", {
                **means, **learning_rates(self.learner.optimizer),
                **self.learner.speed.report(), "eta_s": self.log.eta_s(done),
                "skipped_steps": progress.skipped_steps,
                "replaced_frames": progress.replaced_frames,
            })  # fmt: skip
        self._count_skipped()
        self.logged = done

    def _count_skipped(self, *, wait: bool = False) -> None:
        progress, several = self.learner.progress, self.process.world_size > 1
        for result in self.learner.results.known(wait=wait):
            if progress.note(result.finite):
                continue
            who = f"rank {self.process.rank}: " if several else ""
            what = "gradient" if result.own_finite else "loss"
            self.log.say(
                f"{who}step {result.step + 1} skipped: {what} not finite on {result.frame_ids}",
                everywhere=not result.own_finite,  # whose loss it is names its frames
            )
            if progress.skipped_in_a_row >= self.cfg.train.max_skipped_steps:
                raise Diverged(
                    f"{progress.skipped_in_a_row} steps in a row were not finite, up to "
                    f"{result.step + 1}; the checkpoints are from before"
                )

    def draw_validate_save(
        self, done: int, *, draw: Mapping[str, Callable[[Path], None]] | None = None
    ) -> None:
        """Pictures, validation and checkpoint, each where it is due after `done` steps.

        In this order: what belongs to a step is there when its checkpoint is.

        Args:
            draw: further pictures by name, and what writes each; called by the main process.

        Raises:
            Stopped: after saving, if any process was asked to stop.
        """
        progress = self.learner.progress
        progress.awaits_validation = self.is_due(done, "evaluation")
        with self.learner.speed.paused():
            if self.process.is_main and self.is_due(done, "samples"):
                self.monitor.draw(self.folder / "samples", done, draw or {})
            faults.reached("step", done)
            stopping = self.agreement.any_asked(self.stop.is_asked)
            if progress.awaits_validation and not stopping:
                self._validate_and_save(done)
            elif stopping or self.is_due(done, "save"):
                self._save(done, must=stopping)
        if stopping:
            raise Stopped(f"stopped as asked: {done} steps are saved, the same command goes on")

    def _validate_and_save(self, done: int) -> None:
        """Score the validation frames; save if they are the best so far (AbsRel), or if it is due.

        Raises Stopped, with `awaits_validation` saved, if that was asked for before the end.
        """
        faults.reached("validation", done)
        scores = self.monitor.scores(lambda: self.stop.is_asked)
        if scores is None:
            self._save(done, must=True)
            raise Stopped(
                f"stopped as asked within a validation: {done} steps are saved, the same command "
                "goes on with it"
            )
        self.log.log(done, "val", {**scores, **(self.audit() if self.audit else {})})
        self.learner.progress.awaits_validation = False
        is_finite = math.isfinite(scores["abs_rel"])
        is_best = is_finite and (self.best is None or scores["abs_rel"] < self.best["abs_rel"])
        before = self.best
        self.best = {"step": done, **scores} if is_best else self.best
        saving = is_best or self.is_due(done, "save")
        if saving and not self._save(done, is_best=is_best):
            self.best = before  # best.pt is still that one

    def _save(self, done: int, *, is_best: bool = False, must: bool = False) -> bool:
        """A checkpoint; one that cannot be written is tried again when the next is due.

        Returns:
            Whether it is there, the same on all processes.

        Raises:
            CheckpointNotWritten: it is not, but it `must` be, or it is the last one, or the third
                one in a row.
        """
        self._count_skipped(wait=True)
        self.learner.count_replaced()
        failure = None
        if self.process.is_main:
            try:
                self._write(done, is_best=is_best)
            except CheckpointNotWritten as error:
                failure = error
        if not summed(int(failure is not None), self.process):
            self.failed_saves = 0
            return True
        self.failed_saves += 1
        failure = failure or CheckpointNotWritten("the main process could not save; see there")
        if must or done == self.num_steps or self.failed_saves >= MAX_FAILED_SAVES:
            raise failure
        self.log.say(f"{failure}. Training goes on")
        return False

    def _write(self, done: int, *, is_best: bool = False) -> None:
        self.log.flush()
        learner = self.learner
        state = checkpoint_state(
            done, config=self.cfg.toDict(), best=self.best, averaged=learner.averaged,
            step_module=learner.step_module, optimizer=learner.optimizer, scaler=learner.scaler,
            wandb_id=self.log.wandb_id, progress=learner.progress.plain(),
        )  # fmt: skip
        save_checkpoint(
            self.folder / "checkpoints", state, keep_last=self.cfg.save.keep_last, best=is_best
        )

    def _save_in_emergency(self, error: Exception) -> None:
        """What was learned until something went wrong, if it is whole and new."""
        done = self.learner.done
        is_whole = done == self.logged and done > self.learner.first_step
        if not (self.process.is_main and is_whole) or isinstance(error, CheckpointNotWritten):
            return
        try:
            self.learner.count_replaced(alone=True)
            self._write(done)
        except Exception as another:  # the first error is the one to tell
            self.log.say(f"no checkpoint could be saved ({another})")
        else:
            self.log.say(f"{done} steps are saved; then came {type(error).__name__}")
