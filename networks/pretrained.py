"""Pretrained ViT weights as a contract: every encoder tensor is filled, or nothing runs.

Key names: timm's, or those of the authors' ViT file. Position embeddings are
resampled to the encoder's token grid; every other tensor must fit as it is.
"""

from __future__ import annotations

import math
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from huggingface_hub import constants, get_session, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from .encoder import NetworkError, ViTEncoder

PROBE_SECONDS = 4
# what a ViT file holds that a dense encoder without prefix tokens has no use for
NOT_NEEDED = re.compile(
    r"(cls_token|reg_token|dist_token|mask_token|norm\.|fc_norm\.|head|pre_logits)"
)


@dataclass(frozen=True)
class LoadReport:
    """What became of each tensor. `share_loaded` counts encoder parameters, 0 to 1."""

    source: str
    matched: tuple[str, ...]
    resized: tuple[str, ...]
    missing: tuple[str, ...]
    misfits: tuple[str, ...]
    not_needed: tuple[str, ...]
    unexpected: tuple[str, ...]
    share_loaded: float

    def __str__(self) -> str:
        def named(names: tuple[str, ...]) -> str:
            return f"{len(names)}" + (f" ({', '.join(names[:4])}, ...)" if names else "")

        return (
            f"{self.source}: {100 * self.share_loaded:.1f} % of the encoder's parameters; "
            f"matched {len(self.matched)}, resized {named(self.resized)}, "
            f"missing {named(self.missing)}, wrong shape {named(self.misfits)}, "
            f"not needed {len(self.not_needed)}, unexpected {named(self.unexpected)}"
        )


def load_pretrained_encoder(encoder: ViTEncoder, name: str, *, source: str) -> LoadReport:
    """Fill `encoder` from timm's hub weights of `name` (source "timm") or from a file.

    The report is also left as `encoder.load_report`, so that a script can show it.

    Raises:
        NetworkError: no such file, hub unreachable, or an encoder tensor that the source does not
            fill. The encoder is unchanged then.
    """
    file = _hub_file(name) if source == "timm" else Path(source)
    weights = read_vit_weights(file)
    ready, report = _fit(weights, encoder, source=str(file))
    if report.missing or report.misfits:
        raise NetworkError(
            f"pretrained weights do not fill the encoder {name}: {report}. "
            "Is it a file of another model? network.pretrained=none trains from random weights"
        )
    encoder.vit.load_state_dict(ready)
    encoder.load_report = report
    return report


def load_safely(file: str | Path) -> Any:
    """What a .safetensors or PyTorch file holds, on the CPU; NetworkError if it cannot be read."""
    try:
        if Path(file).suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        if zipfile.is_zipfile(file):  # torch.load looks at none of its archive's checksums
            with zipfile.ZipFile(file) as archive:
                if damaged := archive.testzip():
                    raise ValueError(f"{damaged} in it is damaged: its checksum is another")
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # each format fails in ways of its own on damaged bytes
        raise NetworkError(
            f"{file}: not a weight file that can be read safely ({error})"
        ) from error


def read_vit_weights(file: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors or PyTorch file under timm's ViT key names."""
    if not file.is_file():
        raise NetworkError(f"network.pretrained: no such file {file}")
    weights = load_safely(file)
    for wrapper in ("state_dict", "model"):
        if isinstance(weights.get(wrapper), dict):
            weights = weights[wrapper]
    weights = {key.removeprefix("module."): value for key, value in weights.items()}
    if "to_patch_embedding.1.weight" in weights:
        weights = authors_vit_to_timm(weights)
    return weights


def authors_vit_to_timm(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The authors' ViT key names -> timm's.

    Values are equal but for the patch projection: its flattened (row, column, channel) becomes a
    convolution's (channel, row, column).
    """
    renames = [
        (r"^pos_embedding$", "pos_embed"),
        (r"^to_patch_embedding\.1\.", "patch_embed.proj."),
        (r"^transformer\.layers\.(\d+)\.0\.norm\.", r"blocks.\1.norm1."),
        (r"^transformer\.layers\.(\d+)\.0\.fn\.to_qkv\.", r"blocks.\1.attn.qkv."),
        (r"^transformer\.layers\.(\d+)\.0\.fn\.to_out\.0\.", r"blocks.\1.attn.proj."),
        (r"^transformer\.layers\.(\d+)\.1\.norm\.", r"blocks.\1.norm2."),
        (r"^transformer\.layers\.(\d+)\.1\.fn\.net\.0\.", r"blocks.\1.mlp.fc1."),
        (r"^transformer\.layers\.(\d+)\.1\.fn\.net\.3\.", r"blocks.\1.mlp.fc2."),
        (r"^mlp_head\.0\.", "norm."),
        (r"^mlp_head\.1\.", "head."),
    ]
    renamed = {}
    for old, value in weights.items():
        key = old
        for pattern, replacement in renames:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    flat = renamed["patch_embed.proj.weight"]
    patch = round((flat.shape[1] // 3) ** 0.5)
    renamed["patch_embed.proj.weight"] = flat.unflatten(1, (patch, patch, 3)).permute(0, 3, 1, 2)
    return renamed


def _fit(
    weights: dict[str, Tensor], encoder: ViTEncoder, *, source: str
) -> tuple[dict[str, Tensor], LoadReport]:
    """The encoder's new state, and what became of each tensor."""
    target = encoder.vit.state_dict()
    matched, resized, misfits = [], [], []
    ready = {}
    for key, wanted in target.items():
        value = weights.get(key)
        if value is None:
            continue
        if key == "pos_embed":
            grid = encoder.grid(encoder.image_size)
            prefix, patches, resampled = _patch_positions(value, grid=grid, source=source)
            num_prefix = wanted.shape[1] - patches.shape[1]
            if num_prefix and prefix.shape[1] != num_prefix:
                misfits.append(f"{key}: {prefix.shape[1]} prefix positions for {num_prefix}")
                continue
            value = torch.cat([prefix[:, :num_prefix], patches], dim=1)
            (resized if resampled else matched).append(key)
        elif value.shape != wanted.shape:
            misfits.append(f"{key} {tuple(value.shape)} for {tuple(wanted.shape)}")
            continue
        else:
            matched.append(key)
        ready[key] = value.to(wanted.dtype)
    extra = [key for key in weights if key not in target]
    last_block = encoder.taps[-1]
    deeper = {k for k in extra if (m := re.match(r"blocks\.(\d+)\.", k)) and int(m[1]) > last_block}
    not_needed = [key for key in extra if NOT_NEEDED.match(key) or key in deeper]
    return ready, LoadReport(
        source=source,
        matched=tuple(matched),
        resized=tuple(resized),
        missing=tuple(key for key in target if key not in weights),
        misfits=tuple(misfits),
        not_needed=tuple(not_needed),
        unexpected=tuple(key for key in extra if key not in set(not_needed)),
        share_loaded=sum(v.numel() for v in ready.values())
        / sum(v.numel() for v in target.values()),
    )


def _patch_positions(
    positions: Tensor, *, grid: tuple[int, int], source: str
) -> tuple[Tensor, Tensor, bool]:
    """(1, P + n, D) -> P prefix positions, (1, N, D) on `grid`, whether it was resampled."""
    total = positions.shape[1]
    for num_prefix in (0, 1, 2, 5):  # none, class, class + distillation, class + 4 registers
        side = math.isqrt(total - num_prefix)
        prefix, patches = positions[:, :num_prefix], positions[:, num_prefix:]
        is_square = side**2 == total - num_prefix
        if grid == (side, side) and is_square:
            return prefix, patches, False
        if is_square:
            resampled = resample_abs_pos_embed(
                patches, new_size=list(grid), old_size=[side, side], num_prefix_tokens=0
            )
            return prefix, resampled, True
        if total - num_prefix == grid[0] * grid[1]:
            return prefix, patches, False  # an encoder of ours, or one laid out for this very grid
    raise NetworkError(
        f"{source}: {total} position embeddings fit no square grid, nor {list(grid)}"
    )


def _hub_file(name: str) -> Path:
    """timm's weight file of model `name`, from the local cache or downloaded."""
    settings = timm.get_pretrained_cfg(name)
    repository = settings.hf_hub_id if settings is not None else None
    if not repository:
        raise NetworkError(f"network.pretrained: timm has no hub weights for {name!r}; give a file")
    for local_files_only in (True, False):
        if not local_files_only:
            _require_hub(name, repository)
        for filename in ("model.safetensors", "pytorch_model.bin"):
            try:
                path = hf_hub_download(repository, filename, local_files_only=local_files_only)
            except EntryNotFoundError:  # also raised for "not in the cache"
                continue
            return Path(path)
    raise NetworkError(f"network.pretrained: {repository} has no weight file that can be read")


def _require_hub(name: str, repository: str) -> None:
    """Fail in seconds where the hub cannot be reached; its client would retry for a minute."""
    try:
        get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS)
    except Exception as error:  # its transport library, and so its errors, change by version
        raise NetworkError(
            f"network.pretrained=timm: the weights of {name} are not in the local cache and "
            f"the hub cannot be reached ({type(error).__name__}). Remedy: get model.safetensors of "
            f"{repository} elsewhere and set network.pretrained=/path/to/model.safetensors, or "
            "network.pretrained=none to train from random weights"
        ) from error
