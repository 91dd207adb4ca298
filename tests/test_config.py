"""The configuration cannot lie: what is written is what runs, or nothing runs."""

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
    ],
)
def test_a_wrong_word_is_refused_and_the_message_names_the_remedy(word, message):
    with pytest.raises(ConfigError) as caught:
        load_config(None, [word])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:\n  num_steps: 1\n  num_steps: 2\n", "'num_steps' is given twice"),
        ("train:\n\tnum_steps: 1\n", "no tab characters"),
        ("train:\n  num_steps: 1\t# note\n  x:\t- y", "tab"),
        ("train: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
        ("- a\n- b\n", "expected keys and values"),
        ("1: 2\n", "is not a word"),
        ("traning: {num_steps: 1}\n", "did you mean 'train'"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name(tmp_path, text, message):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert message in str(caught.value) and "bad.yaml" in str(caught.value)


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
