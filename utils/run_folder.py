"""What a run folder says of itself before the first step: configuration, machine, frame lists."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


def write_run_folder(
    folder: Path,
    *,
    config_yaml: str,
    environment: Mapping[str, Any],
    splits: Mapping[str, Sequence[str]],
) -> None:
    """Write config.yaml, environment.json and splits/<name>.txt, one frame id a line.

    There may be millions of ids: they are written as they come, and a list is whole or not there.
    """
    (folder / "splits").mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(config_yaml)
    (folder / "environment.json").write_text(json.dumps(environment, indent=2) + "\n")
    for name, frame_ids in splits.items():
        path = folder / "splits" / f"{name}.txt"
        part = path.with_suffix(".part")
        with open(part, "w", encoding="utf-8", errors="surrogateescape") as file:
            # a list's reader takes a line that begins with # for a comment
            file.writelines(f"{'./' * id_.startswith('#')}{id_}\n" for id_ in frame_ids)
        part.replace(path)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    packages = ("torch", "torchvision", "timm", "numpy", "pillow")
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in packages
    }


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, device and git commit, as plain values."""
    is_cuda = device.type == "cuda"
    return {
        **versions(),
        "cuda": torch.version.cuda if is_cuda else None,
        "device": torch.cuda.get_device_name(device) if is_cuda else _cpu_name(),
        "threads": torch.get_num_threads(),
        "git_commit": _git_commit(),
        "command": " ".join(sys.argv),
    }


def _cpu_name() -> str:
    """The processor as Linux names it; what Python knows of it elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _git_commit() -> str:
    """Commit of this source, with "-dirty" where it was edited; "unknown" without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        found = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"
