"""Groups by module, a schedule without memory, and an update that refuses what is not finite."""

import math

import pytest
import torch
from torch import nn

from networks import build_network
from utils.averaging import WeightAverage
from utils.optimization import (
    backward,
    build_optimizer,
    learning_rates,
    lr_factor,
    resolve_precision,
    set_learning_rate,
    update,
)
from utils.seeding import seeded
from utils.step_results import StepResults

SCALER = torch.amp.GradScaler("cpu", enabled=False)


def optimizer_of(step_module, encoder, **changes):
    settings = {"name": "adamw", "lr": 1e-2, "encoder_lr": 1e-4, "weight_decay": 0.1}
    return build_optimizer(
        step_module, encoder=encoder, betas=(0.9, 0.999), **{**settings, **changes}
    )


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(3, 3)  # before the encoder: order must not matter
        self.encoder = nn.Linear(3, 3)


def test_every_parameter_is_in_one_group_with_the_rate_of_its_module():
    network = build_network(
        encoder="vit_tiny_patch16_224", image_size=(32, 64), max_depth=10.0, decoder_channels=8
    )
    groups = optimizer_of(network, network.encoder).param_groups
    grouped = [id(p) for group in groups for p in group["params"]]
    assert len(grouped) == len(set(grouped)) == len(list(network.parameters()))
    encoder = {id(p) for p in network.encoder.parameters()}
    for group in groups:
        sides = {id(p) in encoder for p in group["params"]}
        assert sides == {group["name"] == "encoder"}
        assert group["base_lr"] == (1e-4 if group["name"] == "encoder" else 1e-2)


def test_biases_norms_and_positions_do_not_decay():
    network = build_network(
        encoder="vit_tiny_patch16_224", image_size=(32, 64), max_depth=10.0, decoder_channels=8
    )
    decays = {
        id(p): group["weight_decay"] > 0
        for group in optimizer_of(network, network.encoder).param_groups
        for p in group["params"]
    }
    for name, parameter in network.named_parameters():
        wanted = parameter.ndim > 1 and not name.endswith("pos_embed")
        assert decays[id(parameter)] == wanted, name


def test_rates_are_scaled_from_their_own_base_and_stay_apart():
    toy = Toy()
    optimizer = optimizer_of(toy, toy.encoder)
    for factor in (0.5, 0.1, 1.0):
        set_learning_rate(optimizer, factor)
        assert learning_rates(optimizer) == {
            "lr_encoder": pytest.approx(1e-4 * factor),
            "lr_decoder": pytest.approx(1e-2 * factor),
        }


def test_the_schedule_warms_up_and_ends_where_it_says():
    shape = {"name": "cosine", "num_steps": 100, "warmup_steps": 9, "final_factor": 0.05}
    factors = [lr_factor(step, **shape) for step in range(100)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == pytest.approx(1.0)
    assert factors[:10] == sorted(factors[:10])
    assert factors[9:] == sorted(factors[9:], reverse=True)
    assert factors[-1] == pytest.approx(0.05)
    assert lr_factor(54, **shape) == pytest.approx(0.525, abs=0.01)
    assert lr_factor(99, **{**shape, "name": "constant"}) == 1.0


def learn(total, optimizer, *, scaler=SCALER, max_grad_norm=1.0):
    """One step; whether it was made."""
    optimizer.zero_grad(set_to_none=True)
    backward(total, scaler, anchor=optimizer.param_groups[0]["params"][0])
    return update(optimizer, scaler, max_grad_norm=max_grad_norm)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_touches_nothing(bad):
    """(row 30)"""
    toy = Toy()
    optimizer = optimizer_of(toy, toy.encoder)
    good = sum(p.square().sum() for p in toy.parameters())
    assert learn(good, optimizer)
    before = {key: value.clone() for key, value in toy.state_dict().items()}
    state = optimizer.state_dict()["state"]
    moments = {k: (v["exp_avg"].clone(), v["step"].clone()) for k, v in state.items()}
    loss = sum(p.square().sum() for p in toy.parameters()) * bad
    assert not learn(loss, optimizer)
    assert all(torch.equal(before[key], value) for key, value in toy.state_dict().items())
    after = optimizer.state_dict()["state"]
    for key, (moment, count) in moments.items():
        assert torch.equal(moment, after[key]["exp_avg"]) and count == after[key]["step"] == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_noticed_though_its_gradient_is(bad):
    toy = nn.Linear(3, 3)
    before = toy.weight.detach().clone()
    optimizer = optimizer_of(toy, nn.Identity())
    assert not backward(toy.weight.sum() + bad, SCALER, anchor=toy.bias)
    assert not update(optimizer, SCALER, max_grad_norm=0.0)
    assert torch.equal(before, toy.weight)


def test_a_loss_that_is_not_finite_behind_a_mask_is_noticed_too():
    """Row 30: nothing of its gradient comes through the mask."""
    toy = nn.Linear(3, 3)
    masked = torch.where(torch.zeros(3, 3, dtype=torch.bool), toy.weight, torch.nan)
    optimizer = optimizer_of(toy, nn.Identity())
    assert not backward(masked.sum(), SCALER, anchor=toy.bias)
    assert not update(optimizer, SCALER, max_grad_norm=0.0)


def test_after_a_bad_step_the_next_good_one_is_as_if_it_had_never_been():
    """(row 30)"""
    weights = []
    for losses in ((1.0, 1.0), (1.0, float("nan"), 1.0)):
        toy = Toy()
        for parameter in toy.parameters():
            nn.init.constant_(parameter, 0.5)
        optimizer = optimizer_of(toy, toy.encoder)
        for factor in losses:
            total = factor * sum(p.square().sum() for p in toy.parameters())
            learn(total, optimizer)
        weights.append(toy.decoder.weight.detach())
    assert torch.equal(*weights)


def test_results_of_steps_come_in_order_and_once():
    true, false = torch.tensor(True), torch.tensor(False)
    results = StepResults()
    results.add(3, true, true, ["a"])
    results.add(4, false, true, ["b", "c"])
    results.add(5, false, false, ["d"])
    assert results.known() == [
        (3, True, True, ["a"]), (4, False, True, ["b", "c"]), (5, False, False, ["d"])
    ]  # fmt: skip
    assert results.known(wait=True) == []


def test_an_average_is_a_copy_at_first_and_then_follows_slowly():
    true = torch.tensor(True)
    network = nn.Linear(2, 2)
    averaged = WeightAverage(network, 0.9)
    first = nn.init.constant_(network.weight, 1.0).detach().clone()
    averaged.update(true)
    assert torch.equal(averaged.network.weight, first)
    nn.init.constant_(network.weight, 2.0)
    averaged.update(true)
    assert averaged.network.weight.flatten().tolist() == pytest.approx([1.1] * 4)
    assert not averaged.network.weight.requires_grad
    assert WeightAverage(network, 0.0).network is network


def test_an_average_takes_nothing_in_of_a_step_that_was_not_made():
    """(row 30)"""
    network = nn.Linear(2, 2)
    averaged = WeightAverage(network, 0.9)
    averaged.update(torch.tensor(True))
    before = averaged.network.weight.clone()
    nn.init.constant_(network.weight, 2.0)
    averaged.update(torch.tensor(False))
    assert torch.equal(averaged.network.weight, before)


def test_gradients_of_passes_add_up():
    toy = nn.Linear(3, 3)
    optimizer = optimizer_of(toy, nn.Identity())
    for factor in (1.0, 2.0):
        assert backward(factor * toy.weight.sum(), SCALER, anchor=toy.bias)
    assert torch.equal(toy.weight.grad, torch.full((3, 3), 3.0))
    assert update(optimizer, SCALER, max_grad_norm=0.0)


def test_the_gradient_norm_is_clipped_and_zero_means_never():
    for bound, expected in ((0.5, 0.5), (0.0, 2 * math.sqrt(12))):
        toy = nn.Linear(3, 3)
        nn.init.ones_(toy.weight)
        nn.init.ones_(toy.bias)
        optimizer = optimizer_of(toy, nn.Identity())
        learn(sum(p.square().sum() for p in toy.parameters()), optimizer, max_grad_norm=bound)
        norm = math.sqrt(sum(p.grad.square().sum().item() for p in toy.parameters()))
        assert norm == pytest.approx(expected, rel=1e-4)


def test_a_loss_scaler_halves_its_scale_after_an_overflow():
    """(row 32)"""
    toy = nn.Linear(3, 3)
    optimizer = optimizer_of(toy, nn.Identity())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = toy.weight.detach().clone()
    loss = toy.weight.square().sum() * float("inf")
    assert not learn(loss, optimizer, scaler=scaler)
    assert torch.equal(before, toy.weight) and scaler.get_scale() == 512.0


def test_auto_precision_is_single_on_a_cpu():
    assert resolve_precision("auto", torch.device("cpu")) == "fp32"
    assert resolve_precision("bf16", torch.device("cpu")) == "bf16"


def test_draws_depend_on_every_word_and_on_nothing_else():
    def draw(*words):
        return torch.rand(4, generator=seeded(*words)).tolist()

    reference = draw(0, "view", 7)
    torch.manual_seed(123)
    assert draw(0, "view", 7) == reference
    others = [draw(1, "view", 7), draw(0, "order", 7), draw(0, "view", 8), draw(0, "view", 7, 0)]
    assert reference not in others and len({tuple(other) for other in others}) == 4
