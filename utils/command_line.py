"""What the scripts' command lines have in common: config words, exit codes, one clear message."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable

from dotmap import DotMap

from .config import load_config, to_yaml
from .processes import stop_process

EXIT_BAD_INPUT = 2
EXIT_DIVERGED = 3
EXIT_INTERRUPTED = 130  # as a shell counts Ctrl-C


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
) -> int:
    """The command line of a training script: its configuration goes to `train`. Returns 0."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser, default_file=default_file)
    parser.add_argument("--print-config", action="store_true", help="resolved config, then exit")
    parser.add_argument("--dry-run", action="store_true", help="two steps of everything, then exit")
    args = parser.parse_intermixed_args(arguments)
    cfg = load_config(args.conf, args.overrides)
    if args.print_config:
        print(to_yaml(cfg), end="")
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
    """Run `main`; an error that is the user's to mend becomes one message and exit code 2.

    Everything else keeps its traceback: it is ours to mend.
    """
    try:
        code = main()
    except user_errors as error:
        print(f"{type(error).__name__}: {_last_message(error)}", file=sys.stderr)
        code = EXIT_BAD_INPUT
    except Diverged as error:
        print(f"training diverged: {error}", file=sys.stderr)
        code = EXIT_DIVERGED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = EXIT_INTERRUPTED
    stop_process()  # here, where neither a local variable nor a traceback holds the module any more
    return code


def _last_message(error: Exception) -> str:
    """The message itself, without the traceback that a loader process wraps around it."""
    text = str(error)
    if "Original Traceback" in text:
        text = text.rsplit(f"{type(error).__name__}: ", maxsplit=1)[-1]
    return text.strip()
