"""What the scripts' command lines have in common: config words, exit codes, one clear message."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

EXIT_BAD_INPUT = 2
EXIT_DIVERGED = 3


class Diverged(RuntimeError):
    """Training produced non-finite losses or gradients too many times in a row."""


def add_config_arguments(parser: argparse.ArgumentParser, *, default_file: str | None) -> None:
    """`--conf FILE` (where there is a default one) and any number of key=value words."""
    if default_file is not None:
        parser.add_argument("--conf", default=default_file, help="YAML file (default: %(default)s)")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="any key of conf/defaults.yaml"
    )


def run_script(main: Callable[[], int], user_errors: tuple[type[Exception], ...]) -> int:
    """Run `main`; an error that is the user's to mend becomes one message and exit code 2.

    Everything else keeps its traceback: it is ours to mend.
    """
    try:
        return main()
    except user_errors as error:
        print(f"{type(error).__name__}: {_last_message(error)}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except Diverged as error:
        print(f"training diverged: {error}", file=sys.stderr)
        return EXIT_DIVERGED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _last_message(error: Exception) -> str:
    """The message itself, without the traceback that a loader process wraps around it."""
    text = str(error)
    if "Original Traceback" in text:
        text = text.rsplit(f"{type(error).__name__}: ", maxsplit=1)[-1]
    return text.strip()
