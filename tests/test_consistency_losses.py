"""Consistency between two views: numbers by hand, and that teaching has one direction only."""

import math
from itertools import pairwise

import pytest
import torch

from losses import depth_consistency, feature_consistency, pixel_weight, ramp

PSEUDO = torch.tensor([[[[2.0, 4.0], [8.0, 60.0]]]])
PRED = torch.tensor([[[[3.0, 4.0], [4.0, 30.0]]]])
UNSURE = torch.tensor([[[[0.0, math.log(2), math.log(4), 50.0]]]]).view(1, 1, 2, 2)
ONE = torch.ones_like(PSEUDO)


def weight(**changes):
    return pixel_weight(**{"pseudo_depth": PSEUDO, "log_uncertainty": UNSURE} | changes)


def test_a_pixel_weighs_as_much_as_the_weak_view_is_sure_of_it():
    assert weight().flatten().tolist() == pytest.approx([1, 0.5, 0.25, 0], abs=1e-6)
    assert weight(confidence_weighted=False).flatten().tolist() == [1, 1, 1, 1]
    assert weight(log_uncertainty=None).flatten().tolist() == [1, 1, 1, 1]


def test_a_threshold_leaves_out_what_is_less_sure_with_or_without_weights():
    assert weight(min_confidence=0.4).flatten().tolist() == pytest.approx([1, 0.5, 0, 0])
    hard = weight(min_confidence=0.4, confidence_weighted=False)
    assert hard.flatten().tolist() == [1, 1, 0, 0]


def test_pseudo_depths_beyond_the_limit_teach_nothing():
    limited = weight(confidence_weighted=False, max_pseudo_depth=8.0)
    assert limited.flatten().tolist() == [1, 1, 1, 0]


def test_depth_consistency_by_hand_is_a_mean_over_all_pixels_not_over_the_weight():
    value = depth_consistency(pred=PRED, pseudo_depth=PSEUDO, weight=weight())
    assert value.item() == pytest.approx((1 * 1 + 0.5 * 0 + 0.25 * 4 + 0 * 30) / 4)
    value = depth_consistency(pred=PRED, pseudo_depth=PSEUDO, weight=ONE, error="log")
    assert value.item() == pytest.approx((math.log(1.5) + 0 + math.log(2) + math.log(2)) / 4)


def test_log_shape_leaves_the_scale_of_each_image_to_the_labels():
    pred, pseudo = torch.cat([PRED, PSEUDO]), torch.cat([PSEUDO, PSEUDO * 3])
    pull = torch.cat([weight(), weight()])
    both = depth_consistency(pred=pred, pseudo_depth=pseudo, weight=pull, error="log_shape")
    # the second image is right but for its scale; of the first, log ratios under weights 1, .5, .25
    ratios, weights = (math.log(1.5), 0.0, -math.log(2)), (1.0, 0.5, 0.25)
    mean = sum(w * r for w, r in zip(weights, ratios, strict=True)) / sum(weights)
    first = sum(w * abs(r - mean) for w, r in zip(weights, ratios, strict=True)) / 4
    assert both.item() == pytest.approx(first / 2, rel=1e-5)


def test_the_weight_of_a_pixel_has_no_graph():
    pseudo, unsure = (x.clone().requires_grad_() for x in (PSEUDO, UNSURE))
    assert not pixel_weight(pseudo_depth=pseudo, log_uncertainty=unsure).requires_grad


@pytest.mark.parametrize("error", ["metres", "log", "log_shape"])
def test_the_strong_view_learns_and_the_weak_one_teaches(error):
    pred, pseudo, unsure = (x.clone().requires_grad_() for x in (PRED, PSEUDO, UNSURE))
    pull = pixel_weight(pseudo_depth=pseudo, log_uncertainty=unsure)
    depth_consistency(pred=pred, pseudo_depth=pseudo, weight=pull, error=error).backward()
    assert pseudo.grad is None and unsure.grad is None
    # at (0, 0) the strong depth is too large, at (1, 0) too small; (1, 1) is not trusted
    assert pred.grad[0, 0, 0, 0] > 0 > pred.grad[0, 0, 1, 0]
    assert pred.grad[0, 0, 1, 1].abs() < 1e-20


def test_nothing_sure_is_zero_and_not_nan():
    pred = PRED.clone().requires_grad_()
    nothing = weight(min_confidence=1.0, log_uncertainty=ONE)
    value = depth_consistency(pred=pred, pseudo_depth=PSEUDO, weight=nothing)
    value.backward()
    assert value.item() == 0 and (pred.grad == 0).all()


def features(*values):
    return [torch.tensor(values, dtype=torch.float32).view(1, -1, 2)]


def test_feature_consistency_is_two_minus_two_cosines():
    same, opposite, square = (3.0, 4.0), (-6.0, -8.0), (-4.0, 3.0)
    for direction, expected in ((same, 0), (square, 2), (opposite, 4)):
        value = feature_consistency(pred=features(direction), target=features((0.6, 0.8)))
        assert value.item() == pytest.approx(expected, abs=1e-6)


def test_the_authors_mean_over_channels_is_smaller_by_the_width():
    pred, target = [torch.rand(2, 5, 768)], [torch.rand(2, 5, 768)]
    ours = feature_consistency(pred=pred, target=target)
    theirs = feature_consistency(pred=pred, target=target, reduction="mean")
    assert ours.item() == pytest.approx(768 * theirs.item(), rel=1e-5) and theirs < 0.0053


def test_all_four_taps_count_alike():
    taps = [torch.rand(1, 3, 4) for _ in range(4)]
    for tap in range(4):
        pred = [t if i != tap else -t for i, t in enumerate(taps)]
        assert feature_consistency(pred=pred, target=taps).item() == pytest.approx(1.0, abs=1e-5)


def test_tokens_that_were_not_encoded_do_not_count():
    pred, target = features((1.0, 0.0), (-1.0, 0.0)), features((1.0, 0.0), (1.0, 0.0))
    first = torch.tensor([[True, False]])
    assert feature_consistency(pred=pred, target=target).item() == pytest.approx(2)
    assert feature_consistency(pred=pred, target=target, encoded=first).item() == 0
    none = torch.zeros(1, 2, dtype=torch.bool)
    assert feature_consistency(pred=pred, target=target, encoded=none).item() == 0


def test_no_gradient_reaches_the_teachers_tokens_and_holes_give_none_that_is_nan():
    pred = [torch.zeros(1, 3, 4, requires_grad=True)]  # all holes
    target = [torch.rand(1, 3, 4, requires_grad=True)]
    encoded = torch.tensor([[False, True, False]])
    feature_consistency(pred=pred, target=target, encoded=encoded).backward()
    assert target[0].grad is None and pred[0].grad.isfinite().all()


def test_the_ramp_rises_to_one_and_stays():
    shares = [ramp(step, ramp_steps=10) for step in range(20)]
    assert shares[0] == pytest.approx(math.exp(-5 * 0.81)) and shares[9:] == [1.0] * 11
    assert all(a < b for a, b in pairwise(shares[:10]))
    assert ramp(0, ramp_steps=0) == 1.0
