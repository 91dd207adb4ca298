"""The fault matrix: every guard is taken out of the code once, and a test must notice.

    python tests/guards.py                            # all rows; about an hour on one core
    python tests/guards.py --rows 1 2 --jobs 2        # these rows, two at a time
    python tests/guards.py --out guards.txt           # the lines of the screen in a file too
    python tests/guards.py --into docs/reliability.md   # fill the table in there; runs nothing

Each guard is tried on a copy of the repository, tracked files and new ones, in a temporary folder.
First its test must pass there as it is. Then the guard's text is replaced and the test runs again.
Exit code 1 if it still passes, or anything else goes wrong. A test that runs out of time fails.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from guard import Guard, Row
from guards_checkpoints import ROWS as CHECKPOINTS
from guards_input import ROWS as INPUT
from guards_stops import ROWS as STOPS
from guards_surroundings import ROWS as SURROUNDINGS

ROWS: list[Row] = [*CHECKPOINTS, *STOPS, *INPUT, *SURROUNDINGS]
HOUSE = Path(__file__).parent.parent
LIMIT_S = 240  # seconds for one test; the slowest that hangs without its guard gives up after 120
FAILED, PASSED = 1, 0  # exit codes of pytest; all others mean that the test did not run
BLOCK = re.compile(r"(<!-- tests/guards\.py -->\n).*?(<!-- end -->)", flags=re.DOTALL)
Say = Callable[[str], None]


def copy_of_the_house(folder: Path) -> Path:
    """A copy of tracked and new files, as they are now, without git's own and what git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=HOUSE, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (HOUSE / name).is_file():  # one that was deleted is still tracked
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(HOUSE / name, folder / name)
    return folder


def run_test(house: Path, test: str) -> tuple[int, str]:
    """Exit code of pytest with this one test, and what it printed. Nothing it started is left.

    Exit code 1 includes a fixture that fails: with all guards in place it does not.
    """
    words = ["-n0", "-x", "-p", "no:cacheprovider", f"--timeout={LIMIT_S}", f"tests/{test}"]
    with tempfile.TemporaryFile("w+") as output:  # a pipe would be held by what a test left running
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *words], cwd=house, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
        try:
            code = process.wait(LIMIT_S + 60)
        except subprocess.TimeoutExpired:
            code = FAILED
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return code, output.read()


def try_guard(house: Path, guard: Guard) -> str:
    """What is wrong with a guard, "" if nothing is; the copy is whole again after."""
    file = house / guard.file
    text = file.read_text()
    if text.count(guard.old) != 1:
        return f"{guard.old!r} is {text.count(guard.old)} times in the file, not once"
    file.write_text(text.replace(guard.old, guard.new))
    try:
        code, told = run_test(house, guard.test)
    finally:
        file.write_text(text)
    if code == FAILED:
        return ""
    return "STILL PASSES" if code == PASSED else f"did not run: {told[-600:]}"


def try_test(house: Path, test: str, guards: Sequence[tuple[int, Guard]], say: Say) -> int:
    """Run a test as it is, then without each of its guards (row, guard). How many were in vain."""
    code, told = run_test(house, test)
    if code != PASSED:
        say(f"{test} does not pass as it is: {told[-600:]}")
        return len(guards)
    num_bad = 0
    for row, guard in guards:
        start = time.monotonic()
        wrong = try_guard(house, guard)
        num_bad += bool(wrong)
        seconds = f"{time.monotonic() - start:5.1f} s"
        say(f"row {row:2}  {seconds}  {wrong or 'failed, as it must'}  {guard.file}  {test}")
    return num_bad


def try_all(rows: Sequence[Row], *, jobs: int, say: Say) -> int:
    """Every guard of `rows`, `jobs` tests at a time. How many were in vain."""
    work: dict[str, list[tuple[int, Guard]]] = {}
    for row in rows:
        for guard in row.guards:
            work.setdefault(guard.test, []).append((row.number, guard))
    houses: queue.SimpleQueue[Path] = queue.SimpleQueue()

    def in_a_house(test: str) -> int:
        house = houses.get()
        try:
            return try_test(house, test, work[test], say)
        finally:
            houses.put(house)

    with tempfile.TemporaryDirectory(prefix="guards_") as folder, ThreadPoolExecutor(jobs) as pool:
        for number in range(jobs):
            houses.put(copy_of_the_house(Path(folder) / str(number)))
        return sum(pool.map(in_a_house, work))


def markdown(rows: Sequence[Row]) -> str:
    """The table of the rows for docs/reliability.md."""
    lines = [
        "| | what goes wrong | what happens | tests | seen failing without the guard in |",
        "|---:|---|---|---|---|",
    ]
    for row in rows:
        tests = "<br>".join(f"`{test}`" for test in row.tests)
        files = ", ".join(f"`{file}`" for file in dict.fromkeys(g.file for g in row.guards))
        lines.append(f"| {row.number} | {row.fault} | {row.expected} | {tests} | {files} |")
    return "\n".join(lines)


def filled(text: str, rows: Sequence[Row] = ROWS) -> str:
    """`text` with the table between its two marks."""
    return BLOCK.sub(lambda match: f"{match[1]}{markdown(rows)}\n{match[2]}", text)


def main(arguments: Sequence[str] | None = None) -> int:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("--rows", type=int, nargs="+", metavar="N")
    words.add_argument("--jobs", type=int, default=1, help="tests at a time (default: 1)")
    words.add_argument("--out", type=Path, metavar="FILE")
    words.add_argument("--into", type=Path, metavar="FILE", help="fill the table in FILE only")
    args = words.parse_args(arguments)
    if args.into:
        temporary = args.into.with_name(f".{args.into.name}.part")
        temporary.write_text(filled(args.into.read_text()))
        os.replace(temporary, args.into)
        return 0
    rows = [row for row in ROWS if not args.rows or row.number in args.rows]
    told: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        told.append(line)

    start = time.monotonic()
    num_bad = try_all(rows, jobs=args.jobs, say=say)
    num_guards = sum(len(row.guards) for row in rows)
    say(
        f"{len(rows)} rows, {num_guards} guards, {num_bad} of them in vain; "
        f"{time.monotonic() - start:.0f} s"
    )
    if args.out:
        args.out.write_text("\n".join(told) + "\n")
    return 1 if num_bad else 0


if __name__ == "__main__":
    sys.exit(main())
