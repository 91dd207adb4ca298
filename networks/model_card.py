"""The card of an exported network: README.md of a folder for the Hugging Face Hub (ours).

Front matter for the hub's search, then for people: how to load it, what it was trained on, how good
it is and where it comes from. Nothing in it tells of the machine that wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

CARD_DATA = {
    "library_name": "maskingdepth",
    "license": "mit",  # of the code; see the card's text
    "pipeline_tag": "depth-estimation",
    "tags": ["monocular-depth-estimation", "vision-transformer", "dpt", "semi-supervised"],
}
CARD = """\
---
{front_matter}
---

# Monocular depth from one image

From one RGB image: depth in metres{uncertainty}.
A timm `{encoder}` encoder with a DPT decoder, laid out for {height} x {width} pixels (height x
width; other multiples of the patch work too), depth up to {max_depth:g} m. Trained with a new
implementation of [MaskingDepth](https://arxiv.org/abs/2212.10806).

## Loading

From a checkout of the project, offline; PATH is this folder:

```python
from networks.hub import HubDepthNetwork
network = HubDepthNetwork.from_pretrained("PATH")   # or the name of the repository on the hub

from networks import load_network
network = load_network("PATH")

output = network(image)          # (B, 3, H, W) float32, RGB in [0, 1]
output.depth                     # (B, 1, H, W) metres
output.log_uncertainty           # (B, 1, H, W), or None
```

## Training data

{training}

## Evaluation

{evaluation}

## Origin

- checkpoint SHA-256: `{sha256}`
- optimiser steps: {step}

## Licence

The code is MIT. The terms of the training data, and of the weights that the encoder started from,
hold beside it.
"""


def model_card(
    settings: Mapping[str, Any],
    *,
    config: Mapping[str, Any] | None,
    scores: Mapping[str, Any] | None,
    checkpoint_sha256: str | None,
    step: int | None,
) -> str:
    """README.md of a hub folder: front matter, what it is, how to load it, data and scores.

    Args:
        settings: of `checked_settings`.
        config: resolved configuration of the training, None if it is not known.
        scores: metrics.json of this very checkpoint, None if it was not evaluated.
    """
    return CARD.format(
        front_matter=ModelCardData(**CARD_DATA).to_yaml(),
        uncertainty=" and log_uncertainty (larger = less sure)"
        if settings.get("uncertainty", True)
        else "",
        encoder=settings["encoder"],
        height=settings["image_size"][0],
        width=settings["image_size"][1],
        max_depth=settings["max_depth"],
        training=_training_text(config),
        evaluation=_scores_text(scores),
        sha256=checkpoint_sha256 or "not recorded",
        step="not recorded" if step is None else step,
    )


def _training_text(config: Mapping[str, Any] | None) -> str:
    if config is None:
        return "Not recorded in the file that this folder was exported from."
    weights = config["loss_weights"]
    consistent = weights["depth_consistency"] > 0 or weights["feature_consistency"] > 0
    lines = ["| | dataset | split | frames | SHA-256 of the list |", "|---|---|---|---|---|"]
    for stream in ["labeled"] + ["unlabeled"] * consistent:
        given = config[stream]
        # the last part alone: a path would tell of the machine
        split = Path(given["split"]).name
        variant = f" ({given['variant']})" if given["variant"] else ""
        lines.append(
            f"| {stream} | {given['dataset']}{variant} | {split} | {given['num_frames'] or 'all'} "
            f"| `{given['list_sha256'] or 'not recorded'}` |"
        )
    start = config["network"]["pretrained"]
    told = {"none": "random weights", "timm": "timm's pretrained weights"}
    encoder = told.get(start, f"the file `{Path(start).name}`")
    return "\n".join([*lines, "", f"The encoder started from {encoder}."])


def _scores_text(scores: Mapping[str, Any] | None) -> str:
    if scores is None:
        return "This checkpoint was not evaluated."
    kinds = {"protocols": "", "median_scaled": ", median-scaled"}
    rows = {
        f"{name}{kind}": row
        for section, kind in kinds.items()
        for name, row in scores[section].items()
    }
    columns = [name for name in next(iter(rows.values())) if not name.startswith("num_")]
    lines = [
        f"{scores['dataset']}, split {Path(scores['split']).name}, {scores['num_images']} images "
        f"(list SHA-256 `{scores['list_sha256']}`); {scores['resize']}. Depth in metres; one row a "
        "protocol of the project's evaluate.py.",
        "",
        f"| protocol | {' | '.join(columns)} |",
        "|---" + "|---:" * len(columns) + "|",
    ]
    lines += [
        f"| {name} | {' | '.join(f'{row[column]:.4f}' for column in columns)} |"
        for name, row in rows.items()
    ]
    return "\n".join(lines)
