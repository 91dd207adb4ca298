"""What each value of the configuration may be; conf/defaults.yaml says what it means.

A rule takes the value and returns what is wrong with it in words, or "" if nothing is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

Rule = Callable[[Any], str]


def number(low: float, high: float = float("inf"), *, above: bool = False) -> Rule:
    """Any number from `low` to `high`, not infinity; `above` leaves `low` itself out."""

    def rule(value: Any) -> str:
        wrong_type = isinstance(value, bool) or not isinstance(value, int | float)
        if wrong_type or not low <= value <= high or value == math.inf or (above and value == low):
            end = "(and finite)" if high == math.inf else f"to {high:g}"
            return f"must be a number {'above' if above else 'from'} {low:g} {end}"
        return ""

    return rule


def count(low: int, high: int | None = None) -> Rule:
    """A whole number, at least `low`, at most `high` if there is one."""

    def rule(value: Any) -> str:
        if type(value) is int and low <= value and (high is None or value <= high):
            return ""
        return f"must be a whole number >= {low}" + (f" and <= {high:,}" if high else "")

    return rule


def nonzero(value: Any) -> str:
    """A whole number other than 0."""
    return "" if type(value) is int and value != 0 else "must be a whole number other than 0"


def one_of(*choices: str) -> Rule:
    """One of these words."""
    return lambda value: "" if value in choices else f"must be one of {', '.join(choices)}"


def text(value: Any) -> str:
    """Any non-empty string that can be the name of a file: no NUL, no lone surrogate."""
    if not isinstance(value, str) or not value.strip():
        return "must be a non-empty string"
    is_odd = re.search("[\0\ud800-\udfff]", value)
    return "must be without NUL and lone surrogates" if is_odd else ""


def boolean(value: Any) -> str:
    """true or false."""
    return "" if isinstance(value, bool) else "must be true or false"


def several(rule: Rule, length: int | None = None) -> Rule:
    """A list of exactly `length` values (None: one or more) that each obey `rule`."""

    def check(value: Any) -> str:
        wrong_length = not isinstance(value, list) or len(value) != (length or max(1, len(value)))
        if wrong_length or any(rule(item) for item in value):
            return f"must be a list of {length or 'some'} values, each of which {rule(None)}"
        return ""

    return check


def optional(rule: Rule) -> Rule:
    """null, or what `rule` allows."""
    return lambda value: "" if value is None else (rule(value) and f"{rule(value)} (or null)")


PIXELS = count(1, 10_000)  # of a side: a larger one is a slip, and its network fills the memory


def folder_name(value: Any) -> str:
    """A name for one folder: no path separators, not hidden, printable, at most 200 bytes."""
    bad = text(value) or "/" in value or "\\" in value or value.startswith(".")
    bad = bad or not value.isprintable() or len(value.encode()) > 200
    return "must be a plain folder name without slashes" if bad else ""


_STREAM: dict[str, Rule] = {
    "root": text,
    "split": text,
    "variant": optional(text),
    "depth_scale": optional(number(0, above=True)),
    "num_frames": optional(count(1)),
    "list_sha256": optional(text),
}
_LABELED_DATASETS = ("synthetic", "kitti", "nyu", "virtual_kitti", "rgbd")

RULES: dict[str, Rule] = {
    "run.name": folder_name,
    "run.folder": text,
    "run.seed": count(0),
    "run.device": one_of("auto", "cpu", "cuda"),
    "run.timeout_s": number(0, above=True),
    "labeled.dataset": one_of(*_LABELED_DATASETS),
    **{f"labeled.{key}": rule for key, rule in _STREAM.items()},
    "labeled.budget": one_of("frames", "scenes"),
    "labeled.batch_size": count(1),
    "labeled.at_both_sizes": boolean,
    "unlabeled.dataset": one_of(*_LABELED_DATASETS, "images"),
    **{f"unlabeled.{key}": rule for key, rule in _STREAM.items()},
    "unlabeled.batch_size": count(1),
    "unlabeled.exclude_labeled": boolean,
    "unlabeled.may_share": one_of("nothing", "scenes", "frames"),
    "unlabeled.image_size": optional(several(PIXELS, 2)),
    "unlabeled.crop": optional(several(number(0, 1), 4)),
    "validation.dataset": one_of(*_LABELED_DATASETS),
    **{f"validation.{key}": rule for key, rule in _STREAM.items()},
    "validation.may_share": one_of("nothing", "scenes", "frames"),
    "network.encoder": text,
    "network.pretrained": text,
    "network.image_size": several(PIXELS, 2),
    "network.max_depth": number(0, 1000, above=True),
    "network.decoder_channels": count(8),
    "network.taps": optional(several(count(0), 4)),
    "network.uncertainty": boolean,
    "network.uncertainty_decoder": one_of("full", "light"),
    "network.uncertainty_shapes_encoder": boolean,
    "network.prefix_tokens": one_of("drop", "per_group"),
    "augmentation.flip": number(0, 1),
    "augmentation.jitter": number(0, 1),
    "augmentation.brightness": number(0, 1),
    "augmentation.contrast": number(0, 1),
    "augmentation.saturation": number(0, 1),
    "augmentation.hue": number(0, 0.5),
    "strong.operations": several(text),
    "strong.num_operations": count(0),
    "strong.magnitude": number(0, 10),
    "strong.magnitude_std": number(0),
    "masking.num_groups": count(1),
    "masking.rule": one_of("equal", "random_cuts", "naive"),
    "self_supervision.sources": one_of("stereo", "video", "both"),
    "self_supervision.offsets": several(nonzero),
    "self_supervision.poses": one_of("predicted", "given"),
    "self_supervision.automask": boolean,
    "self_supervision.pose_encoder": text,
    "self_supervision.pose_pretrained": text,
    "losses.depth_loss": one_of("l1", "silog", "berhu"),
    "losses.tolerated_error": optional(number(0, above=True)),
    "losses.consistency_error": one_of("metres", "log", "log_shape"),
    "losses.confidence_weighted": boolean,
    "losses.min_confidence": number(0, 1),
    "losses.max_pseudo_depth": optional(number(0, above=True)),
    "losses.feature_reduction": one_of("sum", "mean"),
    "loss_weights.depth": number(0),
    "loss_weights.uncertainty": number(0),
    "loss_weights.depth_consistency": number(0),
    "loss_weights.feature_consistency": number(0),
    "loss_weights.photometric": number(0),
    "loss_weights.smoothness": number(0),
    "loss_weights.strong_depth": number(0),
    "optimizer.name": one_of("adamw", "adam"),
    "optimizer.lr": number(0, 1, above=True),
    "optimizer.encoder_lr": number(0, 1, above=True),
    "optimizer.weight_decay": number(0, 1),
    "optimizer.betas": several(number(0, 0.99999), 2),
    "optimizer.max_grad_norm": number(0),
    "schedule.name": one_of("cosine", "constant"),
    "schedule.warmup_steps": count(0),
    "schedule.final_factor": number(0, 1),
    "schedule.consistency_ramp_steps": count(0),
    "train.num_steps": count(1),
    "train.accumulation": count(1),
    "train.precision": one_of("auto", "fp32", "bf16", "fp16"),
    "train.compile": boolean,
    "train.activation_checkpointing": boolean,
    "train.num_workers": count(0),
    "train.worker_timeout_s": number(0),
    "train.cache": optional(text),
    "train.ema_decay": number(0, 0.999999),
    "train.teacher": one_of("weights", "average"),
    "train.on_bad_sample": one_of("error", "skip"),
    "train.max_skipped_steps": count(1),
    "evaluation.every_steps": count(1),
    "evaluation.batch_size": count(1),
    "evaluation.num_panels": count(0),
    "evaluation.precision": one_of("fp32", "bf16"),
    "evaluation.flip": one_of("none", "mean", "ramp"),
    "audit.num_frames": count(0),
    "log.every_steps": count(1),
    "samples.every_steps": count(1),
    "samples.num_images": count(0),
    "save.every_steps": count(1),
    "save.keep_last": count(1),
    "resume": text,
    "wandb.mode": one_of("disabled", "offline", "online"),
    "wandb.project": text,
}


def check_combinations(config: dict) -> list[str]:
    """What is wrong with values that are each fine alone."""
    problems = []
    for stream in ("labeled", "unlabeled", "validation"):
        section = config[stream]
        if section["dataset"] == "rgbd" and section["depth_scale"] is None:
            problems.append(
                f"{stream}.depth_scale: an rgbd dataset needs it (1000 for depth in millimetres)"
            )
    if config["loss_weights"]["uncertainty"] > 0 and not config["network"]["uncertainty"]:
        problems.append(
            "loss_weights.uncertainty: network.uncertainty=false leaves nothing to train with it; "
            "set it to 0"
        )
    if config["train"]["teacher"] == "average" and not config["train"]["ema_decay"]:
        problems.append("train.teacher=average: there is none without train.ema_decay (0.99, say)")
    weights = config["loss_weights"]
    compares = weights["depth_consistency"] > 0 or weights["feature_consistency"] > 0
    if config["labeled"]["at_both_sizes"] and not (config["unlabeled"]["image_size"] and compares):
        problems.append(
            "labeled.at_both_sizes: goes with unlabeled.image_size and consistency weights; "
            "without them labelled images have one size"
        )
    if weights["smoothness"] > 0 and not weights["photometric"]:
        problems.append("loss_weights.smoothness: goes with loss_weights.photometric, which is 0")
    offsets = config["self_supervision"]["offsets"]
    if len(set(offsets)) < len(offsets):
        problems.append(f"self_supervision.offsets = {offsets}: each neighbour once")
    crop = config["unlabeled"]["crop"]
    if crop is not None and not (crop[0] < crop[1] and crop[2] < crop[3]):
        problems.append(
            f"unlabeled.crop = {crop}: [top, bottom, left, right] with top < bottom, left < right"
        )
    taps = config["network"]["taps"]
    if taps is not None and sorted(set(taps)) != taps:
        problems.append(f"network.taps = {taps}: must be four different blocks in rising order")
    if config["optimizer"]["name"] == "adam" and config["optimizer"]["weight_decay"]:
        problems.append(
            "optimizer.weight_decay: adam takes none (its decay is not decoupled); use adamw or 0"
        )
    return problems
