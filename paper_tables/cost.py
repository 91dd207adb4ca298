"""How long a table takes: measured before it is begun, and estimated while it is made. Ours."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from paper_tables.cells import TRAINING, TableError, Task, read_record
from paper_tables.work import Work, begin, lock_holder, steps_done, stop, take_lock

MEASURED_STEPS, WARM_UP_STEPS = 8, 2
POLL_S = 0.02
SHORT = (  # next to nothing but steps; what falls due after the last one is not measured
    f"train.num_steps={MEASURED_STEPS}", "log.every_steps=1",
    f"evaluation.every_steps={MEASURED_STEPS}", f"samples.every_steps={MEASURED_STEPS}",
    f"save.every_steps={MEASURED_STEPS}", "validation.num_frames=1", "validation.list_sha256=null",
    "samples.num_images=0", "audit.num_frames=0", "wandb.mode=disabled",
)  # fmt: skip


def measured_rate(task: Task, env: Mapping[str, str]) -> float:
    """Seconds a step of a cell, by a short training of its own in a folder that goes away.

    Raises TableError, with the end of its log, if it fails.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / task.cell.name
        short = task._replace(folder=folder, words=(*task.words, *SHORT))
        work = begin(short, take_lock(folder), env)
        try:
            times = _times_of_steps(work)
        finally:
            stop([work])
        if work.process.returncode or MEASURED_STEPS not in times:
            raise TableError(
                f"the trial of {task.cell.name} ended with exit code {work.process.returncode}:\n"
                + log_end(folder / f"{TRAINING}.log")
            )
    warm = min(step for step in times if step >= WARM_UP_STEPS)
    elapsed_s = max(POLL_S, times[MEASURED_STEPS] - times[warm])
    return elapsed_s / max(1, MEASURED_STEPS - warm)


def _times_of_steps(work: Work) -> dict[int, float]:
    """When each step was first seen to be done, until the training has ended."""
    times: dict[int, float] = {}
    has_ended = False
    while not has_ended:
        has_ended = work.process.poll() is not None
        times.setdefault(steps_done(work.task.folder), time.monotonic())
        time.sleep(POLL_S)
    return times


def cost_table(tasks: Sequence[Task], rates: Mapping[str, float], jobs: int) -> str:
    """What the cells take, by method, as plain text. `rates`: seconds a step."""
    total = sum(task.num_steps for task in tasks)
    lines = [f"{len(tasks)} cells, {total:,} optimiser steps, {jobs} side by side",
             f"{'':<16}{'cells':>6}{'s a step':>12}{'a cell':>12}{'all':>12}"]  # fmt: skip
    for method, rate in rates.items():
        own = [task.num_steps for task in tasks if task.cell.method == method]
        each, all_of_it = duration(rate * own[0]), duration(rate * sum(own))
        lines.append(f"{method:<16}{len(own):>6}{rate:>12.3f}{each:>12}{all_of_it:>12}")
    cells = [rates[task.cell.method] * task.num_steps for task in tasks]
    lines.append(f"about {duration(side_by_side(cells, jobs))} for all of them")
    lines.append(
        "Each was measured alone: side by side they may be slower. Not in it: starting, reading "
        "data for the first time, validation, saving, pictures, and the evaluation of each cell"
    )
    return "\n".join(lines)


def side_by_side(seconds: Sequence[float], jobs: int) -> float:
    """Seconds that pieces of work take, `jobs` at a time: no less than the longest of them."""
    return max(sum(seconds) / jobs, max(seconds, default=0.0))


def seconds_left(tasks: Sequence[Task], works: Sequence[Work], jobs: int) -> float | None:
    """Of `tasks`, begun or not; None as long as no step of any has been timed.

    A method that has not been timed yet is taken to be as fast as the mean of the others.
    """
    rates: dict[str, list[float]] = {}
    evaluations = []
    for task in tasks:
        if record := read_record(task):
            rate = record["seconds"] / record["num_steps"]
            rates.setdefault(task.cell.method, []).append(rate)
            evaluations.append(record["evaluation_seconds"])
    for work in works:
        steps = steps_done(work.task.folder) - work.first_step
        if work.stage == TRAINING and steps > 0:
            rate = (time.monotonic() - work.started) / steps
            rates.setdefault(work.task.cell.method, [rate])  # a finished cell knows better
    if not rates:
        return None
    by_method = {method: _mean(values) for method, values in rates.items()}
    others = _mean(list(by_method.values()))
    evaluation = _mean(evaluations) if evaluations else 0.0
    left = [
        max(0, task.num_steps - steps_done(task.folder)) * by_method.get(task.cell.method, others)
        + evaluation
        for task in tasks if read_record(task) is None
    ]  # fmt: skip
    return side_by_side(left, jobs)


def progress_line(
    tasks: Sequence[Task], waiting: Sequence[Task], running: Sequence[Work], num_failed: int,
    jobs: int,
) -> str:  # fmt: skip
    """What is done, what is being done, and how long the rest takes."""
    num_done = sum(read_record(task) is not None for task in tasks)
    parts = [f"{num_done} of {len(tasks)} cells done" + f", {num_failed} failed" * bool(num_failed)]
    steps = ((work.task, steps_done(work.task.folder)) for work in running)
    parts += [", ".join(f"{t.cell.name} step {n}/{t.num_steps}" for t, n in steps)] * bool(running)
    if not running and waiting:
        task = waiting[0]
        parts.append(f"waiting for {lock_holder(task.folder)}, which works on {task.cell.name}")
    left = seconds_left(tasks, running, jobs)
    parts.append("time left not known yet" if left is None else f"about {duration(left)} left")
    return "; ".join(parts)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def duration(seconds: float) -> str:
    """ "50 s", "41 min", "5.3 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def log_end(path: Path, num_lines: int = 5) -> str:
    """The last lines of a log, indented."""
    text = path.read_text(errors="replace") if path.exists() else ""
    lines = [line for line in text.splitlines() if line.strip()]
    return "\n".join(f"    {line[:500]}" for line in lines[-num_lines:]) or "    (nothing was said)"
