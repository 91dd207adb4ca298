"""Configuration that cannot lie: strict YAML layers, checked against conf/defaults.yaml.

Layers: conf/defaults.yaml <- one file <- `key=value` overrides. The result is a DotMap whose
missing keys raise instead of growing (`_dynamic=False`); do not copy it, the copy forgets that.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from dotmap import DotMap

from .config_rules import RULES, check_combinations

DEFAULTS = Path(__file__).parent.parent / "conf" / "defaults.yaml"
MAX_BYTES = 100_000  # ten times conf/defaults.yaml; pure Python parses as much in half a second
MAX_DEPTH = 20  # sections and lists within one another
_SHORT = reprlib.Repr()  # values in messages: of a huge one, some
_SHORT.maxlist, _SHORT.maxstring = 20, 200


class ConfigError(ValueError):
    """A configuration that cannot be used. The message names key, value, place and remedy."""


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader for plain values alone: what is written is what is meant.

    `1e-4` is a number; `010`, `1:30` and `2026-01-31` are words, which YAML 1.1 reads as 8, 90 and
    a date. Refused are repeated keys, tags (`!!python/...`), aliases (`*name`; a few lines of them
    are gigabytes) and deep nesting.
    """

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        event = self.peek_event()
        where = f"line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"{where}: *{event.anchor} is an alias; write the value out")
        if event.tag is not None:
            raise ConfigError(f"{where}: {event.tag!r} is a tag; values are written without")
        if self.depth == MAX_DEPTH:
            raise ConfigError(f"{where}: nested deeper than {MAX_DEPTH} sections or lists")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _StrictDumper(yaml.SafeDumper):
    """SafeDumper that quotes every word that `_StrictLoader` would read as a number."""


_DIGITS = "[0-9][0-9_]*"
_NUMBERS = {
    # 18 digits: no float overflows, and Python parses no more than 4,300
    "int": "[-+]?(0|[1-9][0-9_]{0,17})",
    "float": rf"[-+]?({_DIGITS}\.[0-9_]*|\.{_DIGITS})|"
    rf"[-+]?({_DIGITS}\.?[0-9_]*|\.{_DIGITS})[eE][-+]?[0-9]+|"
    r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag.endswith((":bool", ":null"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, _form in _NUMBERS.items():
    for _class in (_StrictLoader, _StrictDumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_kind}", re.compile(f"^({_form})$"), list("-+.0123456789")
        )


def _mapping_without_duplicates(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict:
    values: dict[str, Any] = {}
    for key_node, value in node.value:
        key = loader.construct_object(key_node, deep=True)
        where = f"line {key_node.start_mark.line + 1}: key {_SHORT.repr(key)}"
        if not isinstance(key, str):
            raise ConfigError(f"{where} is not a word")
        if key in values:
            raise ConfigError(f"{where} is given twice")
        values[key] = loader.construct_object(value, deep=True)
    return values


_StrictLoader.add_constructor("tag:yaml.org,2002:map", _mapping_without_duplicates)


def parse_yaml(text: str, *, place: str) -> Any:
    """Parse YAML strictly. `place` (a file name or "command line") leads every message."""
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{place}: larger than {MAX_BYTES:,} bytes; not a configuration")
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
        f"{key} = {_SHORT.repr(_lookup(config, key))}: {message}"
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
    return yaml.dump(config.toDict(), Dumper=_StrictDumper, sort_keys=False)


def _read(path: Path) -> dict:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)  # no more, also of what has no size or no end
        text = content.decode("utf-8-sig", "ignore" if len(content) > MAX_BYTES else "strict")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the path
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
            near = _nearest(name, prefix, base)
            raise ConfigError(f"{place}: unknown key {_SHORT.repr(name)}{near}")
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
    if isinstance(default, float) and type(value) is int and abs(value) < 10**18:
        return float(value)
    if isinstance(default, list) and isinstance(value, list):
        kind = default[0]
        return [
            _as_type_of(kind, item, name=f"{name}[{i}]", place=place)
            for i, item in enumerate(value)
        ]
    if type(value) is not type(default):
        raise ConfigError(
            f"{place}: {name} = {_SHORT.repr(value)} is {type(value).__name__}, "
            f"expected {type(default).__name__} like the default {default!r}"
        )
    return value


def _lookup(config: dict, key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config
