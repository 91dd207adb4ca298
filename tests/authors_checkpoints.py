"""The authors' networks at a small size with random weights, and their checkpoint files."""

from __future__ import annotations

import torch
from authors_network import AuthorsDepth, AuthorsPredictor, AuthorsUncertainty, AuthorsViT

from networks.import_authors import import_checkpoint

SMALL = {
    "dim": 48, "depth": 5, "heads": 3, "mlp_hidden": 100, "image_size": (64, 96),
    "hooks": (0, 2, 3, 4),
    "widths": (8, 12, 24, 48), "channels": 16, "head": (8, 4), "max_depth": 80.0, "num_classes": 7,
}  # fmt: skip


class Authors:
    """The authors' three networks with random weights, and their files in a folder."""

    def __init__(self, folder, prefix="", **changes):
        torch.manual_seed(0)
        self.settings = {**SMALL, **changes}
        self.depth = AuthorsDepth(**self.settings)
        decoder = {key: self.settings[key] for key in ("channels", "head")}
        self.uncert_decoder = AuthorsUncertainty(**decoder)
        self.mlp_head = AuthorsPredictor(dim=self.settings["dim"], hidden=40)
        for part in (self.depth, self.uncert_decoder):
            stir(part)
        self._bring_uncertainty_to_life()
        self.files = {
            name: folder / f"{name}.pth" for name in ("depth", "uncert_decoder", "mlp_head")
        }
        for name, file in self.files.items():
            state = getattr(self, name).state_dict()
            torch.save({prefix + key: value for key, value in state.items()}, file)

    @torch.no_grad()
    def _bring_uncertainty_to_life(self):
        """A ReLU with random weights is dead half of the time: move its median to zero."""
        head = self.uncert_decoder.output_conv
        relu, head[5] = head[5], torch.nn.Identity()
        head[4].bias -= self.uncert_decoder(self.depth(self.image())[2]).median()
        head[5] = relu

    def change(self, name, **tensors):
        """Rewrite a file with some tensors set, or removed where None is given."""
        state = torch.load(self.files[name], weights_only=True)
        state |= tensors
        torch.save({k: v for k, v in state.items() if v is not None}, self.files[name])

    def imported(self, **changes):
        arguments = {
            **self.files,
            "image_size": self.settings["image_size"],
            "num_heads": self.settings["heads"],
            "taps": self.settings["hooks"],
            "max_depth": self.settings["max_depth"],
        }
        return import_checkpoint(**{**arguments, **changes})

    @torch.no_grad()
    def __call__(self, image, groups=None):
        depth, tokens, maps = self.depth(image, groups)
        return depth, self.uncert_decoder(maps), tokens, self.mlp_head(tokens)

    def image(self, batch_size=2):
        return torch.rand(batch_size, 3, *self.settings["image_size"])


def stir(network):
    """Move every tensor away from its start, norms too, and let the image reach the output."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "output_conv.4" in name:
                parameter.mul_(4.0)
            elif "norm" in name or name.endswith("bias"):
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif parameter.ndim == 4:
                parameter.mul_(1.5)


def bare_vit(folder, **changes):
    """The authors' ViT at a square 5 x 5 grid, and its file."""
    torch.manual_seed(0)
    settings = {"dim": 48, "depth": 5, "heads": 3, "mlp_hidden": 100, "num_tokens": 25, **changes}
    vit = AuthorsViT(**settings, hooks=(0, 2, 3, 4), num_classes=7)
    torch.save(vit.state_dict(), folder / "vit.pth")
    return vit, folder / "vit.pth"
