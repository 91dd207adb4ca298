"""wandb is a guest: an offline run holds what metrics.jsonl holds; its absence costs nothing."""

import json
import struct
from pathlib import Path

import pytest
from conftest import run_script

BLOCK, HEADER = 32768, struct.Struct("<IHB")  # of the LevelDB log that a .wandb file is


def payloads(content: bytes) -> list[bytes]:
    """Records of a .wandb file: 32 KiB blocks of (checksum, length, kind) + data, after 7 bytes."""
    found, parts, place = [], b"", 7
    while place + HEADER.size <= len(content):
        if BLOCK - place % BLOCK < HEADER.size:
            place += BLOCK - place % BLOCK  # what is too short for a header is padding
            continue
        _, length, kind = HEADER.unpack_from(content, place)
        place += HEADER.size
        parts += content[place : place + length]
        place += length
        if kind in (1, 4):  # whole, or the last part
            found.append(parts)
            parts = b""
    return found


def history(folder: Path) -> list[dict]:
    """Every logged row of the one offline run below `folder`, as name -> value."""
    wandb_internal_pb2 = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    (file,) = folder.rglob("offline-run-*/run-*.wandb")
    rows = []
    for payload in payloads(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(payload)
        if record.HasField("history"):
            items = record.history.item
            rows.append({".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
    return rows


def test_an_offline_run_reads_back_as_metrics_jsonl_says(tiny, tmp_path):
    run_script("train.py", *tiny, "wandb.mode=offline", "train.num_steps=2")
    folder = tmp_path / "runs" / "run"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = history(folder)
    for line in lines:
        name = "total" if line["split"] == "train" else "abs_rel"
        key = f"{line['split']}/{name}"
        values = [row[key] for row in rows if key in row and row["global_step"] == line["step"]]
        assert values == pytest.approx([line[name]])
    assert (folder / "wandb_id").read_text().strip()


def test_a_resumed_run_keeps_its_wandb_id(tiny, tmp_path):
    """(row 50)"""
    run_script("train.py", *tiny, "wandb.mode=offline", "train.num_steps=2")
    first = (tmp_path / "runs" / "run" / "wandb_id").read_text()
    run_script("train.py", *tiny, "wandb.mode=offline", "train.num_steps=4")
    assert (tmp_path / "runs" / "run" / "wandb_id").read_text() == first


def test_without_wandb_training_runs_and_says_so(tiny, tmp_path):
    """(row 47)"""
    absent = tmp_path / "absent"
    absent.mkdir()
    (absent / "wandb.py").write_text("raise ImportError('no wandb here')\n")
    result = run_script("train.py", *tiny, "wandb.mode=online", PYTHONPATH=str(absent))
    assert "wandb is not installed" in result.stdout
    assert (tmp_path / "runs" / "run" / "checkpoints" / "best.pt").is_file()


def test_a_server_that_cannot_be_reached_turns_the_run_offline(tiny, tmp_path):
    """(row 48)"""
    result = run_script(
        "train.py", *tiny, "wandb.mode=online", "train.num_steps=2",
        WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY="0" * 40, WANDB_INIT_TIMEOUT="5",
    )  # fmt: skip
    assert "wandb (online) did not start" in result.stdout
    assert history(tmp_path / "runs" / "run")


def test_a_wandb_that_breaks_while_logging_is_left_out(tiny, tmp_path):
    """(row 49)"""
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "wandb.py").write_text(
        "class Settings:\n    def __init__(self, **_): pass\n"
        "class Run:\n    id = 'abc'\n    def define_metric(self, *a, **k): pass\n"
        "    def log(self, row): raise RuntimeError('socket gone')\n    def finish(self): pass\n"
        "def init(**_): return Run()\n"
    )
    result = run_script("train.py", *tiny, "wandb.mode=online", PYTHONPATH=str(fake))
    assert result.stdout.count("wandb stopped working and is left out") == 1
