"""The paper's tables: methods x label budgets x seeds, each cell a training that can go on.

    python reproduce.py --table synthetic --dry-run           # what it would cost
    python reproduce.py --table synthetic                     # no GPU, no data needed
    python reproduce.py --table kitti --budgets 10 100 full --seeds 3 \\
        labeled.root=/kitti unlabeled.root=/kitti validation.root=/kitti
    python reproduce.py --table kitti --report                # from the cells that are finished

Every key=value word goes to every training. A cell is the run folder OUT/<method>_<budget>_s<seed>,
finished once cell.json is in it. The same command goes on wherever it was stopped, by whatever, and
repeats nothing; several machines may work on one OUT. Cells of one budget and seed have the same
labelled frames, all take as many steps, and all are scored by their last checkpoint: to choose the
best one would take labels beyond the budget.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from evaluate import USER_ERRORS
from paper_tables.cells import (
    TableError,
    Task,
    check_alike,
    check_data,
    check_unchanged,
    open_tasks,
    read_record,
)
from paper_tables.cost import cost_table, log_end, measured_rate, progress_line
from paper_tables.report import write_report
from paper_tables.rows import TABLES
from paper_tables.work import (
    Work,
    advance,
    begin,
    note_seconds,
    places,
    steps_done,
    stop,
    take_lock,
)
from utils.command_line import EXIT_BAD_INPUT, add_config_arguments, run_script
from utils.evaluations import ComparisonError
from utils.published import PublishedError

POLL_S, SPEAK_S = 0.5, 60.0
Failure = tuple[Task, str, int]  # the stage that failed, its exit code


def work_through(tasks: Sequence[Task], envs: Sequence[dict[str, str]]) -> list[Failure]:
    """Work on all cells that are not finished, as many side by side as there are `envs`.

    Those that someone else works on come last, and are waited for. A failing cell does not stop the
    others, unless the first cells of all methods say that configuration or data are wrong.
    """
    waiting = [task for task in tasks if read_record(task) is None]
    running: list[Work] = []
    failures: list[Failure] = []
    num_before, speak_at = len(tasks) - len(waiting), time.monotonic()
    try:
        while waiting or running:
            for work in list(running):
                if (code := advance(work)) is None:
                    continue
                running.remove(work)
                print(f"{work.task.cell.name}: {'failed' if code else 'done'}", flush=True)
                if code:
                    failures.append((work.task, work.stage, code))
                check_alike(tasks)
            if (waiting or running) and is_hopeless(tasks, running, failures, num_before):
                print("stopped: the first cells of all methods say that this cannot work")
                break
            while (env := free_env(envs, running)) and (work := begin_next(waiting, env)):
                running.append(work)
                print(f"{work.task.cell.name}: from step {work.first_step}", flush=True)
            if (waiting or running) and time.monotonic() >= speak_at:
                speak_at = time.monotonic() + SPEAK_S
                print(progress_line(tasks, waiting, running, len(failures), len(envs)), flush=True)
                for work in running:
                    note_seconds(work)
            time.sleep(POLL_S)
    finally:
        stop(running)
    return failures


def begin_next(waiting: list[Task], env: dict[str, str]) -> Work | None:
    """Begin the first cell that nobody works on, and take it out of `waiting`; None without one."""
    for task in list(waiting):
        if (lock := take_lock(task.folder)) is None:
            continue
        waiting.remove(task)
        if read_record(task) is None:
            return begin(task, lock, env)
        os.close(lock)  # someone else has finished it meanwhile
    return None


def free_env(envs: Sequence[dict[str, str]], running: Sequence[Work]) -> dict[str, str] | None:
    """The first of `envs` that no running cell has."""
    free = list(envs)
    for work in running:
        free.remove(work.env)
    return free[0] if free else None


def is_hopeless(
    tasks: Sequence[Task], running: Sequence[Work], failures: Sequence[Failure], num_before: int
) -> bool:
    """Whether a cell of each method was refused (exit code 2) and no other one got anywhere."""
    refused = {task.cell.method for task, _, code in failures if code == EXIT_BAD_INPUT}
    num_done = sum(read_record(task) is not None for task in tasks) - num_before
    moves = any(steps_done(work.task.folder) > work.first_step for work in running)
    asked_for = {task.cell.method for task in tasks}
    return refused == asked_for and not (num_done or moves)


def list_cells(tasks: Sequence[Task], numbers: Sequence[int]) -> None:
    """A line a cell: its number, its name, how far it is."""
    for number in numbers:
        task = tasks[number]
        done = steps_done(task.folder)
        state = f"step {done}/{task.num_steps}" if done else "not begun"
        print(f"{number:>4}  {task.cell.name:<32} {'finished' if read_record(task) else state}")


def tell_failures(failures: Sequence[Failure], num_cells: int) -> None:
    """Which cells failed, and the ends of their logs, on stderr."""
    print(f"{len(failures)} of {num_cells} cells failed:", file=sys.stderr)
    for task, stage, code in failures:
        log = task.folder / f"{stage}.log"
        print(f"{task.cell.name}: exit code {code}; {log} ends in\n{log_end(log)}", file=sys.stderr)


def tell_report(args: argparse.Namespace, tasks: Sequence[Task]) -> None:
    """Write the report of the finished cells, and print it. TableError if there is none."""
    check_alike(tasks)
    if not any(read_record(task) for task in tasks):
        raise TableError(f"{args.out}: none of the {len(tasks)} cells asked for is finished")
    print(write_report(args.table, TABLES[args.table], [task.cell for task in tasks], args.out))


def tell_cost(tasks: Sequence[Task], envs: Sequence[dict[str, str]]) -> None:
    """Measure a step of each method, and print what all the cells take."""
    rates = {}
    for task in tasks:
        if task.cell.method not in rates:
            print(f"measuring {task.cell.method} ...", file=sys.stderr, flush=True)
            rates[task.cell.method] = measured_rate(task, envs[0])
    print(cost_table(tasks, rates, len(envs)))


def budget(word: str) -> int | None:
    """A label budget: a number of frames, or "full" for all, which is None."""
    if word == "full":
        return None
    if (count := int(word)) < 1:
        raise ValueError(word)
    return count


def positive(word: str) -> int:
    """A whole number from 1."""
    if (number := int(word)) < 1:
        raise ValueError(word)
    return number


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; see --help."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", required=True, choices=sorted(TABLES))
    parser.add_argument("--budgets", nargs="+", default=[], metavar="B", help="frames, or full")
    parser.add_argument("--methods", nargs="+", default=[], metavar="M", help="default: all rows")
    parser.add_argument("--seeds", type=positive, default=3, metavar="N", help="seeds 0 to N-1")
    parser.add_argument("--out", type=Path, help="default: runs/<table>_table")
    parser.add_argument("--jobs", type=positive, help="side by side; default: one a GPU or core")
    parser.add_argument("--cell", type=int, metavar="N", help="only number N of --list")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="cells by number and their state")
    what.add_argument("--report", action="store_true", help="from the cells that are finished")
    what.add_argument("--dry-run", action="store_true", help="measure what it would cost")
    add_config_arguments(parser, default_file=None)
    arguments = sys.argv[1:] if arguments is None else arguments
    args = parser.parse_intermixed_args(arguments)
    table = TABLES[args.table]
    said = set(args.overrides)
    for name in ("budgets", "methods"):  # they also swallow the key=value words behind them
        words = dict.fromkeys(getattr(args, name))
        said |= {word for word in words if "=" in word}
        setattr(args, name, [word for word in words if "=" not in word])
    args.overrides = [word for word in arguments if word in said]  # in order: later ones win
    try:
        budgets = dict.fromkeys(budget(word) for word in args.budgets)
    except ValueError:
        parser.error(f"--budgets {' '.join(args.budgets)}: numbers of frames from 1, or full")
    args.budgets = list(budgets or table.budgets)
    args.methods = args.methods or list(table.rows)
    if unknown := [method for method in args.methods if method not in table.rows]:
        parser.error(f"--methods {unknown[0]}: the rows of this table are {', '.join(table.rows)}")
    args.out = (args.out or Path("runs") / f"{args.table}_table").absolute()
    return args


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    tasks = open_tasks(
        TABLES[args.table], methods=args.methods, budgets=args.budgets, seeds=args.seeds,
        out=args.out, words=args.overrides,
    )  # fmt: skip
    if args.cell is not None and args.cell not in range(len(tasks)):
        raise TableError(f"--cell {args.cell}: there are {len(tasks)} cells, from 0; see --list")
    numbers = range(len(tasks)) if args.cell is None else [args.cell]
    chosen = [tasks[number] for number in numbers]
    failures: list[Failure] = []
    if args.list:
        list_cells(tasks, numbers)
    elif args.dry_run:
        check_data(chosen)
        tell_cost(chosen, places(args.jobs, chosen))
    elif args.report:
        tell_report(args, tasks)
    else:
        check_unchanged(chosen)
        check_alike(chosen)
        check_data(task for task in chosen if read_record(task) is None)
        failures = work_through(chosen, places(args.jobs, chosen))
        if args.cell is None and any(read_record(task) for task in tasks):
            tell_report(args, tasks)
        if failures:
            tell_failures(failures, len(chosen))
    return failures[0][2] if failures else 0


def end_as_asked(number: int, _: FrameType | None) -> None:
    """SIGTERM ends the table as Ctrl-C does, its commands with it."""
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end_as_asked)
    sys.exit(run_script(main, (*USER_ERRORS, TableError, ComparisonError, PublishedError)))
