"""The picture before or after one in a folder, told by the number in its name. Ours."""

from __future__ import annotations

import re
from pathlib import Path

# The 8 of leftImg8bit is a word's, not the frame's: no letter may follow.
_NUMBER = re.compile(r"[0-9]+(?![^\W_])")


def neighbour_path(path: Path, offset: int) -> Path | None:
    """The file of the same folder and suffix whose frame number is `offset` (signed) larger.

    The frame number is the last run of digits in the stem that no letter follows: 000100.jpg,
    rgb_00007.jpg, frame9.png, and the 19 of aachen_000000_000019_leftImg8bit.png. In a name that
    ends with the number of a camera (000100_1.png) it is that one, so keep cameras in folders of
    their own. It is written with as many digits (000100 -> 000101), or, where it does not start
    with 0, plainly if there is such a file (frame10 -> frame9). The suffix is compared with case.
    None if the name has no number or there is no such file; opens none.
    """
    numbers = list(_NUMBER.finditer(path.stem))
    if not numbers:
        return None
    digits, (start, end) = numbers[-1][0], numbers[-1].span()
    number = int(digits) + offset
    if number < 0:
        return None
    written = [f"{number:0{len(digits)}d}"]
    if not digits.startswith("0"):
        written.append(str(number))
    names = (f"{path.stem[:start]}{text}{path.stem[end:]}{path.suffix}" for text in written)
    return next((other for name in names if (other := path.with_name(name)).is_file()), None)
