"""Networks as others exchange them: a single .safetensors file, or a Hugging Face hub folder.

Both hold the deployed weights and the settings that rebuild the network, and nothing else of the
training state. A hub folder has config.json, model.safetensors and README.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from huggingface_hub import PyTorchModelHubMixin

from .depth_network import DepthNetwork
from .encoder import NetworkError
from .model_card import CARD_DATA

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _wholes(value: Any, count: int) -> bool:
    return isinstance(value, list | tuple) and len(value) == count and all(map(_whole, value))


SETTINGS: dict[str, Callable[[Any], bool]] = {
    "encoder": lambda value: isinstance(value, str),
    "image_size": lambda value: _wholes(value, 2),
    "max_depth": lambda value: isinstance(value, int | float) and value > 0,
    "decoder_channels": lambda value: _whole(value) and value > 0,
    "taps": lambda value: value is None or _wholes(value, 4),
    "uncertainty": lambda value: isinstance(value, bool),
    "uncertainty_decoder": lambda value: value in ("full", "light"),
    "uncertainty_shapes_encoder": lambda value: isinstance(value, bool),
    "prefix_tokens": lambda value: value in ("drop", "per_group"),
}
REQUIRED = ("encoder", "image_size", "max_depth")
# what else a DepthNetwork takes, and only `import_authors` sets
AUTHORS_OWN = {"reassemble_widths", "head_widths", "uncertainty_activation"}


class HubDepthNetwork(
    DepthNetwork,
    PyTorchModelHubMixin,
    **CARD_DATA,
):
    """A `DepthNetwork` with the hub's `save_pretrained`, `from_pretrained` and `push_to_hub`.

    Its arguments are plain values, those of `build_network` without `pretrained`; the hub client
    writes them to config.json and reads them back. Weights that do not fit are an error.
    """

    def __init__(
        self,
        *,
        encoder: str,
        image_size: tuple[int, int],
        max_depth: float,
        decoder_channels: int = 256,
        taps: tuple[int, ...] | None = None,
        uncertainty: bool = True,
        uncertainty_decoder: str = "full",
        uncertainty_shapes_encoder: bool = False,
        prefix_tokens: str = "drop",
    ):
        """See `build_network`. NetworkError for a setting that config.json cannot express."""
        arguments = {key: value for key, value in locals().items() if key in SETTINGS}
        super().__init__(**checked_settings(arguments, place="HubDepthNetwork"))
        self.to(memory_format=torch.channels_last)  # the layout, and so the rounding, of all others

    @classmethod
    def _from_pretrained(cls, *, strict: bool = True, **arguments: Any) -> HubDepthNetwork:
        # the client's own default would leave a tensor that the file lacks at random, in silence
        return super()._from_pretrained(strict=strict, **arguments)


class Exported(NamedTuple):
    """What an exported file says of itself; the last two are None where nobody wrote them."""

    settings: dict[str, Any]
    checkpoint_sha256: str | None
    step: int | None


def checked_settings(settings: Any, *, place: str) -> dict[str, Any]:
    """The arguments of `HubDepthNetwork` in `settings`, with tuples where JSON has lists.

    Args:
        settings: section `network` of a configuration; its `pretrained` is left out, because an
            exported network has every weight.
        place: where it comes from, for messages.

    Raises:
        NetworkError: a setting is missing, of a wrong kind, or one that only networks imported
            from the authors' files have (`import_authors`).
    """
    if not isinstance(settings, Mapping):
        raise NetworkError(f"{place}: no network settings of this project")
    given = {key: value for key, value in settings.items() if key != "pretrained"}
    unknown = sorted(set(given) - set(SETTINGS))
    if AUTHORS_OWN & set(unknown) or not isinstance(given.get("encoder", ""), str):
        raise NetworkError(
            f"{place}: {sorted(AUTHORS_OWN & set(unknown)) or ['encoder']} cannot be expressed. "
            "A network of the authors' own sizes is built from their files alone, by "
            "networks.import_authors.import_checkpoint"
        )
    if unknown:
        raise NetworkError(f"{place}: no network settings of this project, which has no {unknown}")
    missing = [key for key in REQUIRED if key not in given]
    if missing:
        raise NetworkError(f"{place}: network settings without {missing}")
    for key, value in given.items():
        if not SETTINGS[key](value):
            raise NetworkError(f"{place}: network setting {key} = {value!r} is not usable")
    return {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}


def is_hub_folder(folder: Path) -> bool:
    """Whether `folder` has the two files that a network is loaded from."""
    return all((folder / name).is_file() for name in (CONFIG_FILE, WEIGHTS_FILE))


def write_safetensors(
    file: Path,
    network: DepthNetwork,
    settings: Mapping[str, Any],
    *,
    checkpoint_sha256: str | None,
    step: int | None,
) -> None:
    """Weights, and in the metadata {"format": "pt", "network": JSON, "checkpoint_sha256", "step"}.

    Args:
        settings: of `checked_settings`.
        checkpoint_sha256, step: of the checkpoint it comes from; None is left out.
    """
    said = {"checkpoint_sha256": checkpoint_sha256, "step": step}
    metadata = {"format": "pt", "network": json.dumps(settings)}
    metadata |= {key: str(value) for key, value in said.items() if value is not None}
    weights = {key: value.contiguous() for key, value in network.state_dict().items()}
    file.touch()
    mode = file.stat().st_mode
    safetensors.torch.save_file(weights, file, metadata=metadata)
    file.chmod(mode)  # safetensors leaves files that nobody else can read


def write_hub_folder(
    folder: Path,
    network: DepthNetwork,
    settings: Mapping[str, Any],
    *,
    card: str,
    checkpoint_sha256: str | None,
    step: int | None,
) -> None:
    """README.md with `card`, config.json (settings, checkpoint_sha256, step), model.safetensors.

    Nothing is sent anywhere. Other arguments as in `write_safetensors`.
    """
    hub_network = HubDepthNetwork(**settings)
    hub_network.load_state_dict(network.state_dict())
    folder.mkdir(exist_ok=True)
    (folder / CARD_FILE).write_text(card, encoding="utf-8")  # the client leaves it as it is
    said = {"checkpoint_sha256": checkpoint_sha256, "step": step}
    hub_network.save_pretrained(folder, config=dict(settings) | said)
    (folder / WEIGHTS_FILE).chmod((folder / CARD_FILE).stat().st_mode)  # as in write_safetensors


def read_exported(file: Path) -> Exported:
    """What a .safetensors file says in its metadata, or the config.json of a hub folder beside it.

    Raises:
        NetworkError: cannot be read, or was not exported by this project.
    """
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
        config = file.with_name(CONFIG_FILE)
        if "network" in metadata:
            settings, said = json.loads(metadata["network"]), metadata
        elif file.name == WEIGHTS_FILE and config.is_file():
            said = json.loads(config.read_text())
            file = config
            settings = {k: v for k, v in said.items() if k not in ("checkpoint_sha256", "step")}
        else:
            raise NetworkError(
                f"{file}: has no network settings in its metadata, so it was not written by "
                "export.py. ViT weights to start a training from go to network.pretrained"
            )
        step = said.get("step")
        step = None if step is None else int(step)
    except NetworkError:
        raise
    except Exception as error:  # damaged bytes and foreign JSON fail in ways of their own
        raise NetworkError(f"{file}: not a network exported by this project ({error})") from error
    return Exported(
        checked_settings(settings, place=str(file)), said.get("checkpoint_sha256"), step
    )
