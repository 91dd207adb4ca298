"""What a run says while it trains: metrics.jsonl, the progress line, wandb.

metrics.jsonl is the record of truth; the screen and wandb repeat it. wandb may be absent, offline
or broken: training goes on, with one line that says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

WANDB_INIT_SECONDS = "30"  # unless the environment variable of wandb says otherwise
FILE_ONLY = frozenset(  # what the line on the screen leaves to metrics.jsonl
    ["lr_encoder", "lr_decoder", "data_wait_fraction", "peak_memory_gib", "skipped_steps",
     "replaced_frames", "sq_rel", "rmse_log", "log10", "d2", "d3", "num_skipped",
     "audit_num_frames", "audit_num_skipped", "audit_mae", "audit_mae_weighted"]
)  # fmt: skip
BINS = re.compile(r".*_\d\.\d+_\d\.\d+$")  # numbers of one bin of many: for the file alone


class RunLog:
    """Writes metrics.jsonl, the progress line, and wandb.

    Args:
        folder: the run folder, already made.
        first_step: step the run goes on from; later lines of an older metrics.jsonl are dropped.
        num_steps: last step, for the ETA.
        enabled: False on all processes but the main one: every method is then silent.
        mode, project: of wandb, as in the config.
        wandb_id: of the run to go on with, or None.
        config: plain dict shown in wandb.
    """

    def __init__(
        self,
        folder: Path,
        *,
        first_step: int,
        num_steps: int,
        enabled: bool,
        mode: str,
        project: str,
        wandb_id: str | None,
        config: dict[str, Any],
    ):
        self.folder = folder
        self.enabled = enabled
        self.num_steps = num_steps
        self.first_step = first_step
        self.started = time.monotonic()
        self.wandb = None
        self.wandb_id = wandb_id
        self.bar = None
        if not enabled:
            return
        self.path = folder / "metrics.jsonl"
        _truncate(self.path, first_step)
        self._size = self.path.stat().st_size if self.path.exists() else 0  # bytes, all whole lines
        self._unwritten: list[str] = []
        if mode != "disabled":
            self.wandb = _start_wandb(folder, mode, project, wandb_id, config)
            self.wandb_id = self.wandb.id if self.wandb else wandb_id
            (folder / "wandb_id").write_text(f"{self.wandb_id or ''}\n")
        if sys.stderr.isatty():
            self.bar = tqdm(total=num_steps, initial=first_step, unit="step", dynamic_ncols=True)

    def advance(self, step: int) -> None:
        """Move the progress bar to `step` finished steps."""
        if self.bar is not None:
            self.bar.update(step - self.bar.n)

    def eta_s(self, step: int) -> float:
        """Seconds left at the mean speed of this session."""
        done = max(1, step - self.first_step)
        return (time.monotonic() - self.started) / done * (self.num_steps - step)

    def log(self, step: int, split: str, values: dict[str, Any]) -> None:
        """Append one line {"step", "split", **values} and repeat it on screen and in wandb."""
        if not self.enabled:
            return
        self._unwritten.append(json.dumps({"step": step, "split": split, **values}) + "\n")
        self._write()
        shown = "  ".join(
            f"{k} {_short(v)}"
            for k, v in values.items()
            if k not in FILE_ONLY and not BINS.match(k)
        )
        self.say(f"step {step}/{self.num_steps}  {split:<5}  {shown}")
        self._to_wandb(
            lambda run: run.log(
                {"global_step": step, **{f"{split}/{key}": value for key, value in values.items()}}
            )
        )

    def flush(self) -> None:
        """See to it that metrics.jsonl is on the disk."""
        if self.enabled and self.path.exists():
            with self.path.open("rb") as file, contextlib.suppress(OSError):
                os.fsync(file.fileno())

    def _write(self) -> None:
        """Write the lines that are not written yet: whole, or (on a full disk) with the next."""
        content = "".join(self._unwritten).encode()
        try:
            with self.path.open("r+b" if self._size else "wb") as file:
                file.seek(self._size)
                file.truncate()  # what a full disk left of a line
                file.write(content)
        except OSError as error:
            self.say(f"{self.path}: could not be written ({error}); tried again with the next line")
            return
        self._size += len(content)
        self._unwritten = []

    def log_picture(self, step: int, path: Path, name: str = "samples") -> None:
        """Show an already written PNG in wandb."""

        def send(run: Any) -> None:
            import wandb  # noqa: PLC0415 - optional dependency

            run.log({"global_step": step, name: wandb.Image(str(path))})

        self._to_wandb(send)

    def say(self, line: str, *, everywhere: bool = False) -> None:
        """A line on the screen, above the bar if there is one.

        `everywhere`: by processes that are not enabled too.
        """
        if not (self.enabled or everywhere):
            return
        if self.bar is not None:
            self.bar.write(line)
        else:
            print(line, flush=True)

    def close(self) -> None:
        """End bar and wandb run."""
        if self.bar is not None:
            self.bar.close()
        self._to_wandb(lambda run: run.finish())

    def _to_wandb(self, send: Any) -> None:
        if self.wandb is None:
            return
        try:
            send(self.wandb)
        except Exception as error:  # whatever its client raises must not cost a run
            self.say(f"wandb stopped working and is left out from now on: {error}")
            self.wandb = None


def _start_wandb(
    folder: Path, mode: str, project: str, wandb_id: str | None, config: dict[str, Any]
) -> Any:
    """A wandb run; offline if the server cannot be reached; None if wandb is absent."""
    try:
        import wandb  # noqa: PLC0415 - optional dependency
    except ImportError:
        print("wandb is not installed: metrics.jsonl has everything", flush=True)
        return None
    for attempt in dict.fromkeys((mode, "offline")):
        try:
            run = wandb.init(
                project=project,
                name=folder.name,
                dir=str(folder),
                id=wandb_id,
                config=config,
                resume="allow" if attempt == "online" else None,
                mode=attempt,
                settings=wandb.Settings(
                    init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", WANDB_INIT_SECONDS)),
                    silent=True,
                ),
            )
            run.define_metric("*", step_metric="global_step")
            return run
        except Exception as error:  # no key, no network, timeout: each has its own class
            print(f"wandb ({attempt}) did not start: {error}", flush=True)
    return None


def _truncate(path: Path, first_step: int) -> None:
    """Drop lines of steps that will be run again, and a last line that was cut off."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= first_step:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError):
            continue
    temporary = path.with_name("metrics.jsonl.tmp")
    temporary.write_text("".join(kept))
    temporary.replace(path)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
