"""Configuration that cannot lie: strict YAML layers, checked against conf/defaults.yaml.

Layers: conf/defaults.yaml <- one file <- `key=value` overrides. The result is a DotMap whose
missing keys raise instead of growing (`_dynamic=False`); do not copy it, the copy forgets that.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from dotmap import DotMap

from .config_rules import RULES, check_combinations

DEFAULTS = Path(__file__).parent.parent / "conf" / "defaults.yaml"
MAX_BYTES = 1_000_000


class ConfigError(ValueError):
    """A configuration that cannot be used. The message names key, value, place and remedy."""


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader in which `1e-4` is a number and a repeated key is an error."""


_StrictLoader.yaml_implicit_resolvers = {
    first: list(resolvers) for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),  # YAML 1.1 wants 1.0e-4
    list("-+.0123456789"),
)


def _mapping_without_duplicates(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for (key_node, _), key in zip(node.value, keys, strict=True):
        if not isinstance(key, str):
            raise ConfigError(f"line {key_node.start_mark.line + 1}: key {key!r} is not a word")
        if keys.count(key) > 1:
            raise ConfigError(f"line {key_node.start_mark.line + 1}: key {key!r} is given twice")
    return {
        key: loader.construct_object(value, deep=True)
        for key, (_, value) in zip(keys, node.value, strict=True)
    }


_StrictLoader.add_constructor("tag:yaml.org,2002:map", _mapping_without_duplicates)


def parse_yaml(text: str, *, place: str) -> Any:
    """Parse YAML strictly. `place` (a file name or "command line") leads every message."""
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        tab = " (YAML allows no tab characters: use spaces)" if "\\t" in str(error) else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{place}{line}: not valid YAML: {problem}{tab}") from None


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> DotMap:
    """Read the layers and check them.

    Args:
        path: YAML file on top of the defaults; None for the defaults alone.
        overrides: `section.key=value` words, values written as in YAML.

    Raises:
        ConfigError: unknown key (with the nearest spelling), wrong type, duplicate key, value out
            of range, unreadable file.
    """
    config = _read(DEFAULTS)
    if path is not None:
        _merge(config, _read(Path(path)), place=str(path))
    return _overridden(config, overrides)


def saved_config(saved: dict, overrides: Sequence[str] = (), *, place: str) -> DotMap:
    """A configuration that a checkpoint holds, with `key=value` words on top; checked as any other.

    Args:
        saved: plain nested dict; keys that are newer than it take their defaults.
        place: where it comes from, for messages.
    """
    config = _read(DEFAULTS)
    _merge(config, saved, place=place)
    return _overridden(config, overrides)


def _overridden(config: dict, overrides: Sequence[str]) -> DotMap:
    for word in overrides:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"command line: {word!r} is not of the form key=value")
        nested: Any = parse_yaml(value, place=f"command line, {key}")
        for part in reversed(key.split(".")):
            nested = {part: nested}
        _merge(config, nested, place="command line")
    return _checked(config)


def _checked(config: dict) -> DotMap:
    """The configuration behind a lock, after its ranges, choices and combinations are checked."""
    problems = [
        f"{key} = {_lookup(config, key)!r}: {message}"
        for key, rule in RULES.items()
        if (message := rule(_lookup(config, key)))
    ] or check_combinations(config)
    if problems:
        raise ConfigError("; ".join(problems))
    return DotMap(config, _dynamic=False)


def weights_of(cfg: DotMap, terms: Sequence[str], *, script: str) -> dict[str, float]:
    """Weights of the loss terms that `script` has.

    Raises:
        ConfigError: a weight above zero for a term that it does not have.
    """
    others = [key for key, weight in cfg.loss_weights.items() if weight > 0 and key not in terms]
    if others:
        raise ConfigError(
            f"{script} has no loss {', '.join(others)}: set loss_weights.{others[0]}=0, "
            "or use the script that has it"
        )
    return {key: cfg.loss_weights[key] for key in terms}


def to_yaml(config: DotMap) -> str:
    """The resolved configuration as YAML that `load_config` reads back."""
    return yaml.safe_dump(config.toDict(), sort_keys=False)


def _read(path: Path) -> dict:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes; not a configuration")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    config = parse_yaml(text, place=str(path))
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(config).__name__}")
    return config


def _merge(base: dict, extra: dict, *, place: str, prefix: str = "") -> None:
    """Lay `extra` over `base` in place; `base` says which keys exist and of which type."""
    for key, value in extra.items():
        name = f"{prefix}{key}"
        if key not in base:
            raise ConfigError(f"{place}: unknown key {name!r}{_nearest(name, prefix, base)}")
        if isinstance(base[key], dict):
            if not isinstance(value, dict):
                raise ConfigError(f"{place}: {name} is a section with keys {sorted(base[key])}")
            _merge(base[key], value, place=place, prefix=f"{name}.")
        else:
            base[key] = _as_type_of(base[key], value, name=name, place=place)


def _nearest(name: str, prefix: str, base: dict) -> str:
    siblings = difflib.get_close_matches(name, [f"{prefix}{key}" for key in base], n=1, cutoff=0.6)
    anywhere = difflib.get_close_matches(name, list(RULES), n=1, cutoff=0.6)
    last = [key for key in RULES if key.split(".")[-1] == name.rsplit(".", maxsplit=1)[-1]]
    found = siblings or anywhere or last[:1]
    return f", did you mean {found[0]!r}?" if found else f"; known here: {sorted(base)}"


def _as_type_of(default: Any, value: Any, *, name: str, place: str) -> Any:
    """`value` if it has the type of `default` (an int where a float is wanted becomes one)."""
    if default is None or value is None:
        return value  # the key's rule knows which types it takes, and whether null is one
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if isinstance(default, list) and isinstance(value, list):
        kind = default[0]
        return [
            _as_type_of(kind, item, name=f"{name}[{i}]", place=place)
            for i, item in enumerate(value)
        ]
    if type(value) is not type(default):
        raise ConfigError(
            f"{place}: {name} = {value!r} is {type(value).__name__}, "
            f"expected {type(default).__name__} like the default {default!r}"
        )
    return value


def _lookup(config: dict, key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config
