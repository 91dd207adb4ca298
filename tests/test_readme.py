"""What the README tells people to type exists: files, scripts, keys, sub-commands."""

import re
import shlex

import pytest
from conftest import HOUSE

import evaluate
import evaluate_pose
import export
import label_next
import predict
import reproduce
from datasets.prepare import parser
from paper_tables.rows import TABLES
from utils.config_rules import RULES

README = (HOUSE / "README.md").read_text()
BLOCKS = "\n".join(re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL))
INLINE = " ".join(re.findall(r"`([^`\n]+)`", README))


@pytest.mark.parametrize("name", sorted(set(re.findall(r"conf/\w+\.yaml", README))))
def test_every_configuration_named_is_there(name):
    assert (HOUSE / name).is_file()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"python ([\w/]+\.py)", README))))
def test_every_script_named_is_there(name):
    assert (HOUSE / name).is_file()


@pytest.mark.parametrize("key", sorted(set(re.findall(r"\b([a-z]+\.[a-z_]+)=", BLOCKS + INLINE))))
def test_every_key_set_is_one(key):
    assert key in RULES


def test_the_data_commands_parse():
    lines = re.findall(r"python -m datasets\.prepare (\w+ [^\n`]*)", BLOCKS)
    assert lines
    for line in lines:
        assert parser().parse_args(line.split("#")[0].split()).run


@pytest.mark.parametrize("script", [evaluate, evaluate_pose, export, label_next, predict])
def test_the_commands_of_a_finished_network_parse(script):
    name = script.__name__
    lines = re.findall(rf"python {name}\.py ([^\n`]*)", BLOCKS)
    assert lines
    for line in lines:
        words = shlex.split(line, comments=True)
        given = vars(script.parse_arguments([word for word in words if word != "…"]))
        assert given["ckpt"] or given.get("predictions"), line


def test_the_commands_of_the_tables_parse():
    lines = re.findall(r"python reproduce\.py ([^\n`]*)", BLOCKS)
    assert lines
    for line in lines:
        assert reproduce.parse_arguments(shlex.split(line, comments=True)).table in TABLES


def test_the_two_commands_are_those_of_the_installer_and_of_ci():
    assert "sh package_install.sh && .venv/bin/python train.py" in BLOCKS
    test_command = "sh package_install.sh --dev && .venv/bin/python -m pytest"
    assert test_command in BLOCKS and test_command in (HOUSE / ".ci" / "run").read_text()


def test_the_tree_names_only_files_that_exist():
    tree = README.split("## The house")[1].split("```")[1]
    for line in tree.splitlines():
        folder = re.match(r"(\w+)/", line)
        if folder:
            assert (HOUSE / folder[1]).is_dir(), line
    for name in re.findall(r"\b(\w+\.py)\b", tree):
        assert list(HOUSE.glob(name)) or list(HOUSE.glob(f"*/{name}")), name
