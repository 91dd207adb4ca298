"""What the scripts' command lines have in common: config words, exit codes, one clear message."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable

from dotmap import DotMap

from .advice import advice, is_silent_worker
from .config import load_config, to_yaml
from .processes import ProcessLost, stop_process
from .screen import lasting_output
from .signals import Stopped

EXIT_FAILED = 1  # a process, a disk or a memory failed
EXIT_BAD_INPUT = 2
EXIT_DIVERGED = 3
EXIT_INTERRUPTED = 130  # as a shell counts Ctrl-C
EXIT_STOPPED = 143  # as a shell counts SIGTERM


class Diverged(RuntimeError):
    """Training produced non-finite losses or gradients too many times in a row."""


def add_config_arguments(parser: argparse.ArgumentParser, *, default_file: str | None) -> None:
    """`--conf FILE` (where there is a default one) and any number of key=value words."""
    if default_file is not None:
        parser.add_argument("--conf", default=default_file, help="YAML file (default: %(default)s)")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="any key of conf/defaults.yaml"
    )


def training_script(
    train: Callable[[DotMap], None],
    arguments: list[str] | None,
    *,
    description: str,
    default_file: str,
    plan: Callable[..., None],
) -> int:
    """The command line of a training script: its configuration goes to `train`. Returns 0.

    `plan`: for --plan, see `planning.print_plan`.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser, default_file=default_file)
    parser.add_argument("--print-config", action="store_true", help="resolved config, then exit")
    parser.add_argument("--dry-run", action="store_true", help="two steps of everything, then exit")
    parser.add_argument(
        "--plan", action="store_true", help="what fits on how many GPUs, then exit; opens no data"
    )
    parser.add_argument(
        "--memory", type=float, metavar="GIB", help="of a GPU, for --plan (default: this machine's)"
    )
    args = parser.parse_intermixed_args(arguments)
    if args.memory is not None and not args.plan:
        parser.error("--memory is for --plan")
    cfg = load_config(args.conf, args.overrides)
    if args.print_config:
        print(to_yaml(cfg), end="")
    elif args.plan:
        plan(cfg, words=["--conf", args.conf, *args.overrides], memory_gib=args.memory)
    elif args.dry_run:
        dry_run(train, cfg)
    else:
        train(cfg)
    return 0


def dry_run(train: Callable[[DotMap], None], cfg: DotMap) -> None:
    """Two steps of everything, one save, one resume, one validation, in a folder that goes away."""
    with tempfile.TemporaryDirectory() as folder:
        cfg.run.folder, cfg.wandb.mode = folder, "disabled"
        cfg.log.every_steps = cfg.evaluation.every_steps = cfg.samples.every_steps = 1
        cfg.validation.num_frames = min(2, cfg.validation.num_frames or 2)
        cfg.validation.list_sha256 = None
        cfg.audit.num_frames = min(2, cfg.audit.num_frames)
        cfg.train.num_steps, cfg.resume = 1, "never"
        train(cfg)
        cfg.train.num_steps, cfg.resume = 2, "must"
        train(cfg)
    print("dry run done: trained, saved, resumed, validated; nothing was kept")


def run_script(main: Callable[[], int], user_errors: tuple[type[Exception], ...]) -> int:
    """Run `main`; an error that somebody can mend becomes one message and an exit code.

    Everything else keeps its traceback: it is ours to mend. No child process is left behind.
    """
    try:
        with lasting_output():
            code = _exit_code(main, user_errors)
    finally:
        _end_children()
    stop_process()  # here, where neither a local variable nor a traceback holds the module any more
    return code


def _exit_code(main: Callable[[], int], user_errors: tuple[type[Exception], ...]) -> int:
    try:
        return main()
    except user_errors as error:
        return _told(f"{type(error).__name__}: {_last_message(error)}", EXIT_BAD_INPUT)
    except Diverged as error:
        return _told(f"training diverged: {error}", EXIT_DIVERGED)
    except Stopped as error:
        return _told(str(error), EXIT_STOPPED)
    except KeyboardInterrupt:
        code = _told("interrupted", EXIT_INTERRUPTED)
        _leave_at_once(code)
        return code
    except Exception as error:
        words = advice(error)
        if words is None:
            raise
        if is_silent_worker(error):
            _show_where_children_stand()
        code = _told(words, EXIT_FAILED)
        if isinstance(error, ProcessLost):
            _leave_at_once(code)
        return code


def _told(message: str, code: int) -> int:
    print(message, file=sys.stderr, flush=True)
    return code


def _leave_at_once(code: int) -> None:
    """In a group of processes: without a farewell, which would wait for those that are gone."""
    if "WORLD_SIZE" in os.environ:
        _end_children()
        sys.stdout.flush()
        os._exit(code)


def _show_where_children_stand() -> None:
    """Loader processes print their stacks when they get SIGUSR2 (`datasets.loading`)."""
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGUSR2)
    time.sleep(0.5)


def _end_children() -> None:
    """Loader processes have no ear for SIGTERM, with which Python would end, and await, them."""
    for child in multiprocessing.active_children():
        child.kill()


def _last_message(error: Exception) -> str:
    """The message itself, without the traceback that a loader process wraps around it."""
    text = str(error)
    if "Original Traceback" in text:
        text = text.rsplit(f"{type(error).__name__}: ", maxsplit=1)[-1]
    return text.strip()
