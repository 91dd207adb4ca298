"""Errors of poses, by hand and by construction; the path of a camera from its steps."""

import math
from itertools import pairwise

import numpy as np
import pytest

from utils.trajectory import (
    TrajectoryError,
    camera_positions,
    consecutive_runs,
    floors,
    pose_errors,
    pose_table,
    scaled,
    score_poses,
    snippet_ate,
)
from utils.trajectory_plot import longest_runs, trajectory_plot


def rotation(vector):
    """Matrix of a small turn (axis-angle), by its power series."""
    x, y, z = vector
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=np.float64)
    total, term = np.eye(3), np.eye(3)
    for power in range(1, 40):
        term = term @ cross / power
        total = total + term
    return total


def pose(move=(0, 0, 0), turn=(0, 0, 0)):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation(turn), move
    return matrix


def drive(n=12, seed=0):
    """(n, 4, 4) steps ahead of a metre or so that wander, as a car's do."""
    generator = np.random.default_rng(seed)
    moves = np.array([0, 0, -1]) + generator.normal(0, 0.1, (n, 3))
    return np.array([pose(m, generator.normal(0, 0.05, 3)) for m in moves])


def test_a_perfect_prediction_has_no_error():
    true = drive()
    errors = pose_errors(true, true)
    length = np.linalg.norm(true[:, :3, 3], axis=1).mean()
    assert errors.pop("true_length_m") == pytest.approx(length)
    assert errors.pop("length_ratio") == 1
    assert all(abs(value) < 1e-6 for value in errors.values())


def test_errors_by_hand():
    true = np.array([pose((0, 0, -1)), pose((0, 0, -2), (0, 0.1, 0))])
    predicted = np.array([pose((0, 0.3, -1.4), (0, 0.02, 0)), pose((0, 2, 0), (0, 0.1, 0))])
    errors = pose_errors(predicted, true)
    assert errors["translation_error_m"] == pytest.approx((0.5 + math.sqrt(8)) / 2)
    assert errors["rotation_error_deg"] == pytest.approx(math.degrees(0.02) / 2)
    angle = math.degrees(math.atan2(0.3, 1.4))
    assert errors["direction_error_deg"] == pytest.approx((angle + 90) / 2)
    assert errors["length_ratio"] == pytest.approx((math.hypot(0.3, 1.4) + 1) / 2)  # of two
    assert errors["true_length_m"] == 1.5


def test_the_translation_error_is_what_is_left_to_move():
    true, predicted = drive(seed=0), drive(seed=1)
    left = np.linalg.inv(true) @ predicted
    expected = np.linalg.norm(left[:, :3, 3], axis=1).mean()
    assert pose_errors(predicted, true)["translation_error_m"] == pytest.approx(expected)


@pytest.mark.parametrize("angle", [1e-7, 1e-4, 0.5, 3.0, math.pi])
def test_small_and_large_turns_are_measured_exactly(angle):
    axis = np.array([2, -1, 2]) / 3
    base = pose((0, 0, -1), (0.3, 0.2, -0.1))
    turned = base.copy()
    turned[:3, :3] = base[:3, :3] @ rotation(angle * axis)
    errors = pose_errors(turned[None], base[None])
    assert errors["rotation_error_deg"] == pytest.approx(math.degrees(angle), rel=1e-6)


def test_scale_is_seen_by_the_ratio_and_not_by_the_direction():
    true = drive()
    errors = pose_errors(scaled(true, 0.25), true)
    assert errors["length_ratio"] == pytest.approx(0.25)
    assert errors["direction_error_deg"] < 1e-5 and errors["rotation_error_deg"] < 1e-5
    assert errors["translation_error_m"] == pytest.approx(0.75 * errors["true_length_m"])
    uneven = np.concatenate([scaled(true[:3], 9), scaled(true[3:], 2)])
    assert pose_errors(uneven, true)["length_ratio"] == pytest.approx(2)  # of most pairs


def test_pairs_in_which_nothing_moves_have_no_direction_and_no_ratio():
    true = np.array([pose((0, 0, -1)), pose((0, 0, -1)), pose((0.001, 0, 0))])
    predicted = np.array([pose((0, 0, -2)), pose(), pose((0, 0, 5))])
    errors = pose_errors(predicted, true)
    assert errors["length_ratio"] == 1 and errors["direction_error_deg"] == 0
    parked = np.array([pose()] * 3)
    errors = pose_errors(predicted, parked)
    assert math.isnan(errors["length_ratio"]) and math.isnan(errors["direction_error_deg"])
    assert errors["translation_error_m"] == pytest.approx(7 / 3)
    assert math.isnan(pose_errors(parked, true)["direction_error_deg"])


def test_what_is_no_pose_is_refused():
    true = drive(4)
    bad = true.copy()
    bad[2, 0, 3] = np.nan
    with pytest.raises(TrajectoryError, match="1 of 4 predicted poses are not finite, number 2"):
        pose_errors(bad, true)
    with pytest.raises(TrajectoryError, match="1 of 4 true"):
        snippet_ate(true, bad)
    for wrong in (true[:3], true[:, :3], true[:0]):
        with pytest.raises(TrajectoryError, match=r"\(n, 4, 4\)"):
            pose_errors(wrong, true if len(wrong) else wrong)


def test_steps_add_up_to_where_the_camera_is():
    generator = np.random.default_rng(3)
    world = [pose(generator.normal(0, 5, 3), generator.normal(0, 1, 3)) for _ in range(9)]
    steps = [np.linalg.inv(after) @ before for before, after in pairwise(world)]
    expected = [(np.linalg.inv(world[0]) @ camera)[:3, 3] for camera in world]
    np.testing.assert_allclose(camera_positions(np.array(steps)), expected, atol=1e-12)


def test_a_round_trip_ends_where_it_began():
    step = np.linalg.inv(pose((0, 0, 1), (0, math.radians(10), 0)))
    positions = camera_positions(np.array([step] * 36))
    np.testing.assert_allclose(positions[-1], 0, atol=1e-12)
    assert positions[1][2] == pytest.approx(1)  # ahead
    assert positions[9][0] > 1  # and, turning about the axis that points down, to the right


def straight(lengths):
    return np.array([pose((0, 0, -length)) for length in lengths])


def test_the_error_of_a_snippet_by_hand():
    result = snippet_ate(straight([3, 3, 3, 3]), straight([1, 1, 1, 1]))
    assert result["num_snippets"] == 1
    assert result["scaled_ate_m"] == pytest.approx(0, abs=1e-12)
    # off by 0, 2, 4, 6, 8 metres; published scripts divide by the frames outside of the root
    assert result["ate_m"] == pytest.approx(math.sqrt(120) / 5)
    # 2 of 5 positions are off by 1 from a straight line of the right length
    bent = np.array([pose((0, 0, -1)), pose((1, 0, -1)), pose((0, 0, -1)), pose((-1, 0, -1))])
    result = snippet_ate(bent, straight([1, 1, 1, 1]))
    assert result["ate_m"] == pytest.approx(math.sqrt(2) / 5)
    scale = 30 / 32  # p . g / p . p with p = g + 1 aside, twice
    left = 30 * (1 - scale) ** 2 + 2 * scale**2
    assert result["scaled_ate_m"] == pytest.approx(math.sqrt(left) / 5)


def test_no_other_scale_is_better():
    true, predicted = drive(4, seed=0), drive(4, seed=1)
    best = snippet_ate(predicted, true)["scaled_ate_m"]
    others = [snippet_ate(scaled(predicted, s), true)["ate_m"] for s in np.linspace(0.8, 1.2, 801)]
    assert best <= min(others) and min(others) == pytest.approx(best, rel=1e-4)


def test_every_snippet_counts_once_and_alike():
    true, predicted = drive(10, seed=0), drive(10, seed=1)
    single = [snippet_ate(predicted[i : i + 4], true[i : i + 4]) for i in range(7)]
    result = snippet_ate(predicted, true)
    assert result["num_snippets"] == 7  # of 11 frames, 5 each
    for key in ("ate", "scaled_ate"):
        values = [one[f"{key}_m"] for one in single]
        assert result[f"{key}_m"] == pytest.approx(np.mean(values))
        assert result[f"{key}_std_m"] == pytest.approx(np.std(values)) and np.std(values) > 0
    assert snippet_ate(predicted, true, length=3)["num_snippets"] == 9
    assert snippet_ate(predicted, true, length=2)["scaled_ate_m"] < result["scaled_ate_m"]


def test_no_snippet_reaches_over_two_runs():
    true, predicted = drive(11, seed=0), drive(11, seed=1)
    runs = [0] * 5 + [1] * 6
    parts = [snippet_ate(predicted[:5], true[:5]), snippet_ate(predicted[5:], true[5:])]
    result = snippet_ate(predicted, true, runs=runs)
    counts = [part["num_snippets"] for part in parts]
    assert counts == [2, 3] and result["num_snippets"] == 5
    mean = np.average([part["ate_m"] for part in parts], weights=counts)
    assert result["ate_m"] == pytest.approx(mean)
    with pytest.raises(TrajectoryError, match="no run of consecutive frames has the 5"):
        snippet_ate(predicted[:6], true[:6], runs=[0, 0, 0, 1, 1, 1])


def test_who_stands_still_is_as_far_off_as_the_camera_goes():
    result = snippet_ate(np.array([pose()] * 4), straight([1, 1, 1, 1]))
    assert result["ate_m"] == result["scaled_ate_m"] == pytest.approx(math.sqrt(30) / 5)


def test_floors_know_no_pictures():
    true = drive(200)
    rows = floors(true)
    velocity = rows["constant_velocity"]
    assert (velocity == velocity[0]).all() and velocity.shape == true.shape
    np.testing.assert_allclose(velocity[0, :3, 3], true[:, :3, 3].mean(0))
    np.testing.assert_allclose(velocity[0, :3, :3] @ velocity[0, :3, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(velocity[0, :3, :3]) == pytest.approx(1)
    assert np.array_equal(rows["standing_still"], np.broadcast_to(np.eye(4), true.shape))
    # no other turn is nearer to all of them, in squares of what matrices differ by
    turns = [(0, 0, 0), *np.random.default_rng(0).normal(0, 1e-3, (50, 3))]
    squares = [
        ((true[:, :3, :3] - velocity[0, :3, :3] @ rotation(turn)) ** 2).sum() for turn in turns
    ]
    assert min(squares[1:]) > squares[0]


def test_scores_beside_the_floors():
    true = drive(30)
    predicted = scaled(drive(30, seed=1), 0.1)
    scores = score_poses(predicted, true, runs=[0] * 10 + [1] * 20)
    assert list(scores) == ["predicted", "median_scaled", "constant_velocity", "standing_still"]
    assert scores["predicted"] == {
        **pose_errors(predicted, true), **snippet_ate(predicted, true, runs=[0] * 10 + [1] * 20)
    }  # fmt: skip
    assert scores["median_scaled"]["length_ratio"] == pytest.approx(1)
    for key in ("direction_error_deg", "rotation_error_deg", "scaled_ate_m"):
        assert scores["median_scaled"][key] == pytest.approx(scores["predicted"][key])
    assert scores["median_scaled"]["ate_m"] < 0.5 * scores["predicted"]["ate_m"]
    still = scores["standing_still"]
    assert still["translation_error_m"] == still["true_length_m"] and still["length_ratio"] == 0
    short = score_poses(predicted[:6], true[:6], runs=[0, 0, 0, 1, 1, 1])
    assert "ate_m" not in short["predicted"] and "length_ratio" in short["predicted"]
    assert "median_scaled" not in score_poses(floors(true)["standing_still"], true, runs=[0] * 30)


def test_the_table_has_every_row_and_dashes():
    scores = score_poses(drive(3, seed=1), drive(3), runs=[0, 0, 0])
    lines = pose_table(scores).splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == [n.replace("_", " ") for n in scores]
    assert f"{scores['predicted']['translation_error_m']:.4f}" in lines[1]
    assert [line.count("–") for line in lines[1:]] == [2, 2, 2, 3]  # no ATE, and no direction


def test_runs_are_found_in_any_order():
    pairs = [("c", "d"), ("x", "y"), ("a", "b"), ("b", "c"), ("m", "n")]
    assert consecutive_runs(pairs) == [[1], [2, 3, 0], [4]]
    frames = [str(i) for i in range(20)]
    pairs = list(pairwise(frames))
    assert consecutive_runs(pairs) == [list(range(19))]
    assert consecutive_runs(pairs[::-1]) == [list(range(18, -1, -1))]
    del pairs[7]
    assert [len(run) for run in consecutive_runs(pairs)] == [7, 11]


def test_the_longest_runs_are_drawn_true_and_predicted():
    true, predicted = drive(12, seed=0), drive(12, seed=1)
    runs = [[0], [3, 1, 2], [4, 5], [6, 7, 8, 9, 10, 11]]
    names = [(f"f{place}", "next") for place in range(12)]
    drives = longest_runs(predicted, true, runs=runs, names=names, ratio=0.5)
    assert list(drives) == ["f6: 7 frames", "f3: 4 frames", "f4: 3 frames"]
    paths = drives["f3: 4 frames"]
    np.testing.assert_array_equal(paths["true"], camera_positions(true[[3, 1, 2]]))
    np.testing.assert_array_equal(paths["predicted"], camera_positions(predicted[[3, 1, 2]]))
    np.testing.assert_allclose(
        paths["median-scaled"], camera_positions(scaled(predicted[[3, 1, 2]], 2))
    )
    unscaled = longest_runs(predicted, true, runs=runs[:1], names=names, ratio=math.nan)
    assert list(unscaled["f0: 2 frames"]) == ["true", "predicted"]
    picture, wide = trajectory_plot({"a": paths}), trajectory_plot(drives)
    assert picture.mode == "RGB" and wide.width > 2 * picture.width
    # the path itself is on it: another one gives another picture
    moved = {**paths, "predicted": paths["predicted"] * 2}
    assert not np.array_equal(np.asarray(trajectory_plot({"a": moved})), np.asarray(picture))
    with pytest.raises(ValueError, match="trajectory_plot draws"):
        trajectory_plot({})
