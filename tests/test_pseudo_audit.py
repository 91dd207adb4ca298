"""What is said of pseudo labels against withheld ground truth, by the confidence they carry."""

import json
import math
from datetime import timedelta

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing

from utils.pseudo_audit import PseudoLabelAudit

LN2 = math.log(2)
BINS = [f"0.{i}_0.{i + 1}" for i in range(9)] + ["0.9_1.0"]


def frame(pseudo, depth, log_uncertainty=None, valid=None):
    """Keyword arguments of one frame, each (1, 1, W), from rows of numbers."""
    rows = {"pseudo_depth": pseudo, "depth": depth, "log_uncertainty": log_uncertainty}
    frame = {
        name: None if row is None else torch.tensor(row, dtype=torch.float64).reshape(1, 1, -1)
        for name, row in rows.items()
    }
    mask = [True] * len(depth) if valid is None else valid
    return frame | {"valid_mask": torch.tensor(mask).reshape(1, 1, -1)}


def audited(*frames, **settings):
    audit = PseudoLabelAudit(**({"max_depth": 80.0} | settings))
    for one in frames:
        audit.update(**one)
    return audit


def random_frame(seed, size=(1, 20, 30)):
    rng = np.random.default_rng(seed)
    depth = rng.uniform(1, 79, size)
    return {
        "pseudo_depth": depth * rng.uniform(0.5, 1.5, size),
        "log_uncertainty": rng.exponential(1, size),
        "depth": depth,
        "valid_mask": rng.random(size) < 0.4,
    }


def test_the_numbers_of_four_pixels_are_those_of_a_calculation_by_hand():
    # confidences 1, 1/2, 1/2, 1/4; relative errors 0.1, 0.5, 0, 1; metres 1, 10, 0, 4
    report = audited(
        frame([11, 10, 5, 8], [10, 20, 5, 4], [0, LN2 - 1e-9, LN2 - 1e-9, 2 * LN2])
    ).report()
    expected = {
        "audit_num_frames": 1,
        "audit_num_skipped": 0,
        "audit_weight_mass": 2.25 / 4,
        "audit_abs_rel": 1.6 / 4,
        "audit_abs_rel_weighted": (0.1 + 0.25 + 0 + 0.25) / 2.25,
        "audit_mae": 15 / 4,
        "audit_mae_weighted": (1 + 5 + 0 + 1) / 2.25,
        "audit_abs_rel_0.2_0.3": 1.0,
        "audit_abs_rel_0.5_0.6": 0.25,
        "audit_abs_rel_0.9_1.0": 0.1,
    }
    shares = dict.fromkeys(BINS, 0.0) | {"0.2_0.3": 0.25, "0.5_0.6": 0.5, "0.9_1.0": 0.25}
    expected |= {f"audit_share_{name}": share for name, share in shares.items()}
    assert report == pytest.approx(expected, abs=1e-8)


def test_a_bin_holds_its_lower_edge_and_the_last_holds_confidence_one():
    edges = [0.0, 2 * LN2, LN2, 800.0]  # confidence 1, 1/4, 1/2, 0: exact in binary
    report = audited(frame([1, 2, 3, 4], [1, 1, 1, 1], edges), num_bins=4).report()
    names = ["0.00_0.25", "0.25_0.50", "0.50_0.75", "0.75_1.00"]
    assert [report[f"audit_share_{name}"] for name in names] == [0.25] * 4
    assert [report[f"audit_abs_rel_{name}"] for name in names] == [3, 1, 2, 0]


def test_shares_of_all_bins_sum_to_one_and_bins_add_up_to_the_whole():
    report = audited(random_frame(0), random_frame(1)).report()
    shares = {name: report[f"audit_share_{name}"] for name in BINS}
    assert math.fsum(shares.values()) == pytest.approx(1, abs=1e-12)
    assert min(shares.values()) > 0
    by_bin = math.fsum(share * report[f"audit_abs_rel_{name}"] for name, share in shares.items())
    assert by_bin == pytest.approx(report["audit_abs_rel"])


def test_with_confidence_one_everywhere_the_weighted_means_are_the_plain_ones():
    sure = random_frame(0) | {"log_uncertainty": np.zeros((1, 20, 30))}
    report = audited(sure).report()
    assert report["audit_weight_mass"] == report["audit_share_0.9_1.0"] == 1
    assert report["audit_abs_rel_weighted"] == report["audit_abs_rel"] > 0
    assert report["audit_mae_weighted"] == report["audit_mae"] > 0
    assert audited(random_frame(0) | {"log_uncertainty": None}).report() == report


def test_the_weight_mass_of_u_equal_to_ln_2_is_one_half_and_moves_no_mean():
    half = random_frame(0) | {"log_uncertainty": np.full((1, 20, 30), LN2)}
    report = audited(half).report()
    assert report["audit_weight_mass"] == pytest.approx(0.5)
    assert report["audit_abs_rel_weighted"] == pytest.approx(report["audit_abs_rel"])


def test_confidence_that_knows_the_error_lowers_the_weighted_mean():
    one = random_frame(0)
    error = np.abs(one["pseudo_depth"] - one["depth"])
    knowing = audited(one | {"log_uncertainty": np.log1p(error)}).report()
    assert knowing["audit_mae_weighted"] < 0.5 * knowing["audit_mae"]
    misled = audited(one | {"log_uncertainty": np.log1p(1 / (error + 1e-3))}).report()
    assert misled["audit_mae_weighted"] > misled["audit_mae"]


def test_frame_by_frame_equals_all_pixels_at_once():
    frames = [random_frame(seed) for seed in range(3)]
    at_once = {name: np.concatenate([f[name] for f in frames], axis=1) for name in frames[0]}
    expected = audited(at_once).report() | {"audit_num_frames": 3}
    audit = audited(*frames)
    assert audit.report() == pytest.approx(expected, rel=1e-12)
    assert audit.reduce_over_ranks().report() == audit.report()  # one process: its own frames


def test_every_pixel_counts_the_same_however_many_its_frame_has():
    one_pixel, three_pixels = frame([2], [1]), frame([1, 1, 1], [1, 1, 1])
    assert audited(one_pixel, three_pixels).report()["audit_abs_rel"] == 0.25


def test_what_is_outside_the_mask_has_no_influence():
    inside = frame([11, 10], [10, 20], [0, LN2])
    nan, inf = math.nan, math.inf
    outside = frame(
        [11, nan, 10, inf], [10, 0, 20, nan], [0, nan, LN2, -3], [True, False, True, False]
    )
    assert audited(outside).report() == audited(inside).report()


def test_ground_truth_from_the_maximal_depth_on_does_not_count():
    near = frame([11], [10], [0.5])
    far = frame([11, 79, 79, 79], [10, 80, 200, math.inf], [0.5, 0, 0, 0])
    assert audited(far).report() == audited(near).report()
    assert audited(far, max_depth=100.0).report()["audit_share_0.9_1.0"] == 0.5


def test_a_frame_without_a_pixel_that_counts_is_skipped_and_counted():
    empty = frame([math.nan], [5], [0], [False])
    beyond = frame([5], [90])
    one = random_frame(0)
    report = audited(empty, one, beyond).report()
    assert report == audited(one).report() | {"audit_num_skipped": 2}
    assert audited(empty).report() == {"audit_num_frames": 0, "audit_num_skipped": 1}


def test_confidence_zero_everywhere_has_no_weighted_mean():
    report = audited(frame([1, 2], [1, 1], [math.inf, math.inf])).report()
    assert report["audit_weight_mass"] == 0
    assert report["audit_share_0.0_0.1"] == 1
    assert report["audit_abs_rel"] == 0.5
    assert not [name for name in report if name.endswith("_weighted")]
    assert json.loads(json.dumps(report, allow_nan=False)) == report


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pseudo_depth": [math.nan, 1]}, "pseudo depth is NaN or infinite at 1 of 2"),
        ({"pseudo_depth": [math.inf, math.inf]}, "pseudo depth is NaN or infinite at 2 of 2"),
        ({"log_uncertainty": [0, math.nan]}, "log uncertainty is NaN or negative at 1 of 2"),
        ({"log_uncertainty": [0, -1e-3]}, "log uncertainty is NaN or negative at 1 of 2"),
        ({"depth": [0, 1]}, "ground truth is zero"),
        ({"depth": [math.nan, 1]}, "ground truth is zero, negative or NaN"),
        ({"depth": [1, 1, 1]}, r"shapes differ.*\(1, 1, 2\).*bring the prediction"),
        ({"log_uncertainty": [0]}, r"log_uncertainty \(1, 1, 1\)"),
        ({"valid_mask": [1, 1]}, "must be bool, got .*float64"),
    ],
)
def test_a_frame_that_is_no_frame_is_refused_and_leaves_no_trace(change, message):
    good = frame([2, 3], [1, 2], [0, 1])
    wrong = {
        name: torch.tensor(row, dtype=torch.float64).reshape(1, 1, -1)
        for name, row in change.items()
    }
    audit = audited(good)
    before = audit.report()
    with pytest.raises(ValueError, match=message):
        audit.update(**(good | wrong))
    assert audit.report() == before


def test_a_batch_is_refused():
    batch = {name: array.repeat(2, axis=0) for name, array in random_frame(0).items()}
    with pytest.raises(ValueError, match=r"one frame at a time.*\(2, 20, 30\)"):
        audited(batch)


@pytest.mark.parametrize("settings", [{"max_depth": 0.0}, {"num_bins": 0}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match="need max_depth > 0, num_bins >= 1"):
        audited(**settings)


def test_tensors_of_low_precision_are_summed_in_float64():
    many = 300  # bfloat16 itself cannot count further than 256
    pixels = {
        "pseudo_depth": torch.full((1, 1, 1, many), 3.0, dtype=torch.bfloat16, requires_grad=True),
        "log_uncertainty": torch.zeros(1, 1, 1, many, dtype=torch.bfloat16),
        "depth": torch.full((1, 1, 1, many), 2.0),
        "valid_mask": torch.ones(1, 1, 1, many, dtype=torch.bool),
    }
    audit = audited(pixels)
    assert audit.sums[:, -1].tolist() == [many, many, many / 2, many / 2, many, many]


def test_a_frame_is_left_as_it_was_and_no_random_number_is_drawn():
    one = {name: torch.from_numpy(array) for name, array in random_frame(0).items()}
    copies = {name: values.clone() for name, values in one.items()}
    before = torch.get_rng_state(), np.random.get_state()[2]
    audited(one).report()
    assert all(torch.equal(values, copies[name]) for name, values in one.items())
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[2]


def test_names_of_bins_are_all_different():
    for num_bins in (1, 3, 10, 20, 64):
        report = audited(random_frame(0), num_bins=num_bins).report()
        assert sum(name.startswith("audit_share_") for name in report) == num_bins


def audit_share(_child, rank, folder):
    """One of two ranks, with its unequal share of the frames."""
    place, limit = f"file://{folder / 'rendezvous'}", timedelta(seconds=120)
    distributed.init_process_group("gloo", place, rank=rank, world_size=2, timeout=limit)
    mine = audited(*SHARES[rank])
    alone = mine.report()
    torch.save(mine.reduce_over_ranks().report(), folder / f"{rank}.pt")
    assert mine.report() == alone
    distributed.destroy_process_group()


SHARES = (
    [random_frame(0), random_frame(1), frame([1], [90])],
    [random_frame(2), frame([1], [1], [1], [False])],
)


def test_two_ranks_report_the_frames_of_both(tmp_path):
    other = multiprocessing.spawn(audit_share, (1, tmp_path), nprocs=1, join=False)
    audit_share(0, 0, tmp_path)
    other.join()
    expected = audited(*SHARES[0], *SHARES[1]).report()
    assert (expected["audit_num_frames"], expected["audit_num_skipped"]) == (3, 2)
    reports = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert reports[0] == reports[1] == pytest.approx(expected, rel=1e-12)
