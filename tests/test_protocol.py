"""Which pixels of a frame are scored."""

import numpy as np
import pytest
import torch

from datasets.frame import DataError
from datasets.protocol import bts, nyu_eigen, plain

# height, width -> top, bottom, left, right for the five native sizes of KITTI
GARG_BOXES = {
    (375, 1242): (153, 371, 44, 1197),
    (370, 1226): (151, 366, 44, 1181),
    (370, 1224): (151, 366, 43, 1180),
    (374, 1238): (152, 370, 44, 1193),
    (376, 1241): (153, 372, 44, 1196),
}


@pytest.mark.parametrize("size", GARG_BOXES)
def test_garg_crop_is_truncated_on_the_full_ground_truth_size(size):
    top, bottom, left, right = GARG_BOXES[size]
    expected = np.zeros(size, dtype=bool)
    expected[top:bottom, left:right] = True
    assert np.array_equal(bts().valid_mask(np.ones(size, np.float32)), expected)


def test_nyu_box_keeps_rows_45_to_470_and_columns_41_to_600():
    valid = nyu_eigen().valid_mask(np.ones((480, 640), np.float32))
    rows, columns = np.nonzero(valid)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (45, 470, 41, 600)
    assert valid.sum() == 426 * 560


def test_nyu_box_is_refused_on_another_size():
    with pytest.raises(DataError, match=r"480 x 640.*240 x 320"):
        nyu_eigen().valid_mask(np.ones((240, 320), np.float32))


@pytest.mark.parametrize("protocol", [bts(), bts(50), nyu_eigen(), plain(10)])
def test_bounds_are_strict_on_both_sides(protocol):
    depth = np.full((480, 640), 2.0, np.float32)
    low, high = np.float32(protocol.min_depth), np.float32(protocol.max_depth)
    values = [0, low, np.nextafter(low, high), np.nextafter(high, low), high, np.nan, np.inf]
    depth[300, 300:307] = values
    expected = [False, False, True, True, False, False, False]
    assert protocol.valid_mask(depth)[300, 300:307].tolist() == expected
    assert protocol.valid_mask(torch.from_numpy(depth))[300, 300:307].tolist() == expected


def test_plain_scores_the_border():
    assert plain(10).valid_mask(torch.ones(1, 1, 3, 4)).all()


def test_tensors_and_arrays_with_leading_dimensions_give_the_mask_of_each_frame():
    depth = np.random.default_rng(0).uniform(0, 100, (2, 1, 375, 1242)).astype(np.float32)
    batched = bts().valid_mask(torch.from_numpy(depth))
    assert batched.dtype == torch.bool and batched.shape == depth.shape
    for index in range(2):
        assert np.array_equal(batched[index, 0].numpy(), bts().valid_mask(depth[index, 0]))


def test_the_ground_truth_itself_is_left_alone():
    depth = np.full((375, 1242), 5.0)
    bts().valid_mask(depth)
    assert (depth == 5.0).all()


def test_names_and_caps_are_those_of_the_metrics_file():
    assert [(p.name, p.max_depth) for p in (bts(), nyu_eigen(), plain(30))] == [
        ("bts", 80),
        ("nyu_eigen", 10),
        ("plain", 30),
    ]
