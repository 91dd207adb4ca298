"""Optimiser, learning-rate schedule, precision, and the one update of a step."""

from __future__ import annotations

import contextlib
import math

import torch
from torch import Tensor, nn


def build_optimizer(
    step_module: nn.Module,
    *,
    encoder: nn.Module,
    name: str,
    lr: float,
    encoder_lr: float,
    weight_decay: float,
    betas: tuple[float, float],
) -> torch.optim.Optimizer:
    """AdamW or Adam over every trainable parameter of `step_module`.

    Up to four groups: "encoder" (by module, not by position in a list) and "decoder" (the rest),
    each split into weights and the ones without decay (biases, norms, position embeddings). A group
    remembers its base rate as `base_lr`; `set_learning_rate` scales it.
    """
    in_encoder = {id(parameter) for parameter in encoder.parameters()}
    groups: dict[str, dict] = {}
    for key, parameter in step_module.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = parameter.ndim > 1 and not key.endswith("pos_embed")
        side, rate = ("encoder", encoder_lr) if id(parameter) in in_encoder else ("decoder", lr)
        group = {"params": [], "name": side, "lr": rate, "base_lr": rate}
        group["weight_decay"] = weight_decay if decays else 0.0
        groups.setdefault(f"{side} {decays}", group)["params"].append(parameter)
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[name]
    return kind(list(groups.values()), betas=tuple(betas), fused=True)


def lr_factor(
    step: int, *, name: str, num_steps: int, warmup_steps: int, final_factor: float
) -> float:
    """Share of the base learning rate at 0-based `step`: a pure function, so nothing to resume.

    Linear warm-up over `warmup_steps`, then 1 ("constant") or a cosine that reaches `final_factor`
    at the last step.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if name == "constant":
        return 1.0
    progress = (step - warmup_steps) / max(1, num_steps - 1 - warmup_steps)
    return final_factor + (1 - final_factor) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """lr = base_lr * factor in every group."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def learning_rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Current rate of each side, as "lr_encoder" and "lr_decoder"."""
    return {f"lr_{group['name']}": group["lr"] for group in optimizer.param_groups}


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "auto" -> bf16 on a GPU that computes in it, fp32 elsewhere; other words as they are."""
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Mixed precision for the forward pass; `precision` is fp32, bf16 or fp16."""
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device.type, dtype=dtype) if dtype else contextlib.nullcontext()


def backward(total: Tensor, scaler: torch.amp.GradScaler, *, anchor: Tensor) -> Tensor:
    """Add the gradient of `total`; NaN, in `anchor`'s at least, if `total` is not finite.

    Gradients are averaged over processes: spoiling them tells all that this loss is not finite,
    and nobody waits for the device to see it.

    Args:
        total: scalar loss.
        scaler: loss scaler for fp16; a disabled one otherwise.
        anchor: a trained parameter. What is not finite may be behind a mask that lets no gradient
            through; this one has always a gradient.

    Returns:
        Whether `total` is finite: a scalar bool tensor on the device.
    """
    finite = torch.isfinite(total.detach())
    spoiled = torch.where(finite, 1.0, torch.nan)
    scaler.scale(total + 0 * anchor.sum()).backward(gradient=spoiled.to(total.dtype))
    return finite


def update(
    optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, *, max_grad_norm: float
) -> Tensor:
    """Clip, step; a gradient that is not finite leaves parameters and moments untouched.

    All of it stays on the device: the host does not wait to see how it went.

    Args:
        optimizer: of `build_optimizer`.
        scaler: of `backward`.
        max_grad_norm: total gradient norm above which gradients are scaled down; 0 = never.

    Returns:
        Whether the step was made: a scalar bool tensor on the device, the same on all processes.
    """
    scaler.unscale_(optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    finite = torch.isfinite(norm)
    if max_grad_norm:
        nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, norm)
    # what a loss scaler does too: the fused kernel reads the flag itself and then changes nothing
    optimizer.grad_scale, optimizer.found_inf = None, (~finite).float()
    optimizer.step()
    del optimizer.grad_scale, optimizer.found_inf
    scaler.update()
    return finite
