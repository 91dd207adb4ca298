"""The configuration cannot lie: what is written is what runs, or nothing runs."""

import os
import time

import pytest

from utils.config import ConfigError, load_config, parse_yaml, saved_config, to_yaml
from utils.config_rules import RULES


def leaves(config: dict, prefix: str = "") -> set[str]:
    """Dotted names of every value of a nested dict."""
    names = set()
    for key, value in config.items():
        name = f"{prefix}{key}"
        names |= leaves(value, f"{name}.") if isinstance(value, dict) else {name}
    return names


def test_every_default_has_a_rule_and_every_rule_a_default():
    assert leaves(load_config().toDict()) == set(RULES)


def test_the_defaults_of_the_contract_are_there():
    cfg = load_config()
    assert (cfg.run.folder, cfg.run.device, cfg.resume) == ("runs", "auto", "auto")
    assert (cfg.wandb.mode, cfg.labeled.dataset) == ("disabled", "synthetic")


def test_layers_override_in_order(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("optimizer: {lr: 0.5, encoder_lr: 0.25}\n")
    cfg = load_config(file, ["optimizer.lr=1e-4"])
    assert (cfg.optimizer.lr, cfg.optimizer.encoder_lr) == (1e-4, 0.25)
    assert cfg.optimizer.weight_decay == load_config().optimizer.weight_decay


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "+1e-4", "1.e-4", ".1e-3", "1e5"])
def test_scientific_notation_is_a_number(text):
    """(row 52)"""
    assert parse_yaml(f"a: {text}", place="x") == {"a": float(text)}


def test_a_whole_number_where_a_float_is_wanted_becomes_one():
    value = load_config(None, ["optimizer.lr=1"]).optimizer.lr
    assert value == 1.0 and isinstance(value, float)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optimizer.lrr=1", "did you mean 'optimizer.lr'"),
        ("traning.num_steps=1", "did you mean 'train"),
        ("lr=1", "did you mean 'optimizer.lr'"),
        ("optimizer.lr='1e-4'", "is str, expected float"),
        ("train.compile=1", "is int, expected bool"),
        ("optimizer.lr=-1", "must be a number above 0"),
        ("optimizer.lr=.nan", "must be a number above 0"),
        ("labeled.batch_size=0", "whole number >= 1"),
        ("labeled.num_frames=ten", "whole number >= 1"),
        ("labeled.dataset=kity", "must be one of"),
        ("network.image_size=[192]", "list of 2 values"),
        ("network.image_size=[192.5, 640]", "is float, expected int"),
        ("network.taps=[2, 2, 5, 8]", "four different blocks"),
        ("augmentation.hue=0.6", "from 0 to 0.5"),
        ("train.num_steps=null", "whole number >= 1"),
        ("run.name=a/b", "plain folder name"),
        ("run.name=..", "plain folder name"),
        ("labeled.dataset=rgbd", "labeled.depth_scale: an rgbd dataset needs it"),
        ("network.uncertainty=false", "loss_weights.uncertainty"),
        ("train=5", "is a section"),
        ("train.num_steps", "not of the form key=value"),
        ("train.num_steps=[1", "not valid YAML"),
        ("train.num_steps=010", "is str, expected int"),
        ("train.num_steps=1:30", "is str, expected int"),
        ("train.num_steps=0x10", "is str, expected int"),
        ("train.num_steps=1" + "0" * 5000, "is str, expected int"),
        ("train.num_steps" + ".x" * 3000 + "=1", "is dict, expected int"),
        ("loss_weights.depth=.inf", "must be a number from 0 (and finite)"),
        ("labeled.depth_scale=1e999", "must be a number above 0 (and finite)"),
        ("network.image_size=[192, 64000]", "<= 10,000"),
        ('labeled.root="\\0"', "without NUL"),
        ('run.folder="\\ud800"', "lone surrogates"),
        ("run.name=" + "x" * 300, "plain folder name"),
        ("labeled.root=!!python/object/apply:os.getcwd []", "is a tag"),
        ("network.taps=[&a 1, *a, 3, 4]", "*a is an alias"),
    ],
)
def test_a_wrong_word_is_refused_and_the_message_names_the_remedy(word, message):
    """(rows 51 and 53)"""
    with pytest.raises(ConfigError) as caught:
        load_config(None, [word])
    assert message in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:\n  num_steps: 1\n  num_steps: 2\n", "'num_steps' is given twice"),
        ("train:\n\tnum_steps: 1\n", "no tab characters"),
        ("train:\n  num_steps: 1\t# note\n  x:\t- y", "tab"),
        ("train: !!python/object/apply:os.system ['true']\n", "os.system' is a tag"),
        ("train: {<<: {num_steps: 1}}\n", "unknown key 'train.<<'"),
        ("- a\n- b\n", "expected keys and values"),
        ("1: 2\n", "is not a word"),
        ("traning: {num_steps: 1}\n", "did you mean 'train'"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name(tmp_path, text, message):
    """(rows 51 and 52)"""
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert message in str(caught.value) and "bad.yaml" in str(caught.value)


@pytest.mark.parametrize("text", ["010", "0x1f", "1:30", "2026-01-31", "2026-13-45", "="])
def test_what_yaml_1_1_reads_as_something_else_is_the_word_that_is_written(text):
    assert parse_yaml(f"a: {text}", place="x") == {"a": text}


def test_a_tag_runs_no_code(tmp_path):
    """(row 52)"""
    file, sentinel = tmp_path / "bad.yaml", tmp_path / "ran"
    file.write_text(f"run: !!python/object/apply:os.mkdir ['{sentinel}']\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml: line 1: .* is a tag"):
        load_config(file)
    assert not sentinel.exists()


NINE = ", ".join("x" * 9)
BOMBS = {
    "laughs": "\n".join(f"{b}: &{b} [{', '.join(['*' + a] * 9)}]" if a else f"{b}: &{b} [{NINE}]"
                        for a, b in zip(["", *"abcdefgh"], "abcdefghi", strict=True)),
    "large": "# nothing\n" * 2_000_000,
    "deep lists": "[" * 90_000,
    "deep sections": "\n".join(" " * depth + "a:" for depth in range(400)),
    "many keys": "\n".join(f"k{number}:" for number in range(12_000)),
    "many values": "seed: [" + "1," * 45_000 + "]",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_what_would_fill_memory_or_stack_is_refused_quickly(tmp_path, name):
    """(row 52) A few lines of aliases are gigabytes; nesting is recursion."""
    file = tmp_path / "bomb.yaml"
    file.write_text(BOMBS[name])
    start = time.process_time()
    with pytest.raises(ConfigError, match=r"bomb\.yaml") as caught:
        load_config(file)
    assert time.process_time() - start < 5 and len(str(caught.value)) < 2000


def test_a_file_without_end_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="larger than 100,000 bytes"):
        load_config("/dev/zero")
    with open(tmp_path / "sparse.yaml", "wb") as file:
        os.truncate(file.fileno(), 10**12)
    with pytest.raises(ConfigError, match="larger than 100,000 bytes"):
        load_config(tmp_path / "sparse.yaml")


@pytest.mark.parametrize("name", ["1e-4", "010", "1e3", "null", "2026-01-31", "yes", "a: b", "#"])
def test_a_word_that_looks_like_something_else_reads_back_as_the_word(tmp_path, name):
    cfg = load_config(None, [f"run.name='{name}'"])
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(cfg))
    assert load_config(file).run.name == name


def test_a_missing_key_raises_instead_of_growing():
    cfg = load_config()
    with pytest.raises(AttributeError):
        _ = cfg.train.num_step
    assert "num_step" not in cfg.train.toDict()


def test_the_resolved_configuration_reads_back_as_itself(tmp_path):
    cfg = load_config(None, ["optimizer.lr=1e-5", "network.taps=[1, 3, 5, 7]"])
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(cfg))
    assert load_config(file).toDict() == cfg.toDict()


def test_a_checkpoint_of_an_older_version_takes_new_defaults_but_no_unknown_keys():
    old = load_config().toDict()
    del old["train"]["ema_decay"]
    assert saved_config(old, place="x.pt").train.ema_decay == 0.0
    old["train"]["gone"] = 1
    with pytest.raises(ConfigError, match=r"x\.pt: unknown key 'train\.gone'"):
        saved_config(old, place="x.pt")
