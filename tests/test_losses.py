"""Losses against ground truth, with numbers done by hand."""

import math

import pytest
import torch

from losses import berhu, l1, silog, uncertainty_nll, weighted_sum

PRED = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
TARGET = torch.tensor([[[[2.0, 2.0], [1.0, 9.0]]]])
VALID = torch.tensor([[[[True, True], [True, False]]]])
ALL_LOSSES = pytest.mark.parametrize("loss", [l1, silog, berhu])


def nll(**tensors):
    """The uncertainty likelihood in the signature of the depth losses, at u = 0.5."""
    u = torch.full_like(tensors["pred"], 0.5)
    return uncertainty_nll(**tensors, log_uncertainty=u, tolerated_error=0.3)


def test_l1_is_the_mean_over_measured_pixels():
    assert l1(pred=PRED, target=TARGET, valid_mask=VALID).item() == pytest.approx((1 + 0 + 2) / 3)


def test_berhu_by_hand():
    # largest valid error 2, so c = 0.4; errors 1, 0, 2 -> (1 + .16) / .8, 0, (4 + .16) / .8
    expected = (1.16 / 0.8 + 0 + 4.16 / 0.8) / 3
    assert berhu(pred=PRED, target=TARGET, valid_mask=VALID).item() == pytest.approx(expected)


def test_silog_by_hand():
    errors = [math.log(1 / 2), 0.0, math.log(3)]
    mean = sum(errors) / 3
    expected = math.sqrt(sum(e * e for e in errors) / 3 - 0.85 * mean**2)
    value = silog(pred=PRED, target=TARGET, valid_mask=VALID).item()
    assert value == pytest.approx(expected, abs=2e-4)


def test_silog_forgives_most_of_a_common_factor():
    everything = torch.ones_like(VALID)
    doubled = silog(pred=2 * TARGET, target=TARGET, valid_mask=everything).item()
    assert doubled == pytest.approx(math.sqrt(0.15) * math.log(2), rel=1e-3)


def test_uncertainty_likelihood_by_hand():
    u = torch.tensor([[[[0.0, 1.0], [2.0, 5.0]]]])
    expected = (1 * 1 + 0 + 2 * math.exp(-2) + 0.3 * (0 + 1 + 2)) / 3
    value = uncertainty_nll(
        pred=PRED, target=TARGET, log_uncertainty=u, valid_mask=VALID, tolerated_error=0.3
    )
    assert value.item() == pytest.approx(expected)


@pytest.mark.parametrize("error", [0.1, 0.3, 1.0, 5.0])
def test_the_best_confidence_is_tolerated_error_over_error_and_at_most_one(error):
    u = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([u], lr=0.05)
    target = torch.full((1, 1, 1, 1), error)
    for _ in range(400):
        optimizer.zero_grad()
        uncertainty_nll(
            pred=torch.zeros_like(target),
            target=target,
            log_uncertainty=u.clamp(min=0).view(1, 1, 1, 1),
            valid_mask=torch.ones_like(target, dtype=torch.bool),
            tolerated_error=0.3,
        ).backward()
        optimizer.step()
    confidence = (-u.clamp(min=0)).exp().item()
    assert confidence == pytest.approx(min(1.0, 0.3 / error), abs=0.03)


def test_uncertainty_never_moves_the_depth():
    pred = PRED.clone().requires_grad_()
    u = torch.zeros_like(PRED, requires_grad=True)
    uncertainty_nll(
        pred=pred, target=TARGET, log_uncertainty=u, valid_mask=VALID, tolerated_error=0.3
    ).backward()
    assert pred.grad is None and u.grad.any()


@pytest.mark.parametrize("loss", [l1, silog, berhu, nll])
@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), 0.0, -5.0])
def test_what_stands_where_nothing_was_measured_changes_nothing(loss, rubbish):
    def value_and_gradient(target):
        pred = PRED.clone().requires_grad_()
        u = torch.full_like(PRED, 0.5, requires_grad=True)
        if loss is nll:
            value = uncertainty_nll(
                pred=pred, target=target, log_uncertainty=u, valid_mask=VALID, tolerated_error=0.3
            )
        else:
            value = loss(pred=pred, target=target, valid_mask=VALID)
        value.backward()
        return value, (u if loss is nll else pred).grad

    clean, clean_gradient = value_and_gradient(TARGET)
    dirty, dirty_gradient = value_and_gradient(torch.where(VALID, TARGET, rubbish))
    assert torch.equal(clean, dirty)
    assert torch.equal(clean_gradient, dirty_gradient)
    assert (clean_gradient[~VALID] == 0).all()


@pytest.mark.parametrize("loss", [l1, silog, berhu, nll])
def test_nothing_measured_is_zero_with_zero_gradient_not_nan(loss):
    pred = PRED.clone().requires_grad_()
    nothing = torch.zeros_like(VALID)
    value = loss(pred=pred, target=torch.full_like(TARGET, float("nan")), valid_mask=nothing)
    assert value.item() == 0
    if value.requires_grad:
        value.backward()
        assert (pred.grad == 0).all()


@ALL_LOSSES
def test_a_perfect_prediction_has_no_loss_and_a_finite_gradient(loss):
    pred = TARGET.clone().requires_grad_()
    value = loss(pred=pred, target=TARGET, valid_mask=VALID)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6) and torch.isfinite(pred.grad).all()


def test_weighted_sum_joins_by_name():
    losses = {"depth": torch.tensor(2.0), "uncertainty": torch.tensor(3.0)}
    assert weighted_sum(losses, {"depth": 1.0, "uncertainty": 0.5}).item() == 3.5


@pytest.mark.parametrize("weights", [{"depth": 1.0}, {"depth": 1.0, "uncertainty": 1.0, "x": 0.1}])
def test_a_loss_without_weight_or_a_weight_without_loss_is_refused(weights):
    losses = {"depth": torch.tensor(2.0), "uncertainty": torch.tensor(3.0)}
    with pytest.raises(KeyError, match=r"losses without a weight"):
        weighted_sum(losses, weights)
