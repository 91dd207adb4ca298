"""A crop moves the picture and the camera matrix together."""

import numpy as np
import pytest
from PIL import Image

from datasets.crop import cropped
from datasets.frame import UNKNOWN_INTRINSICS, DataError

HEIGHT, WIDTH = 41, 67
CAMERA = np.array([[50.3, 0.0, 32.7], [0.0, 48.9, 19.2], [0.0, 0.0, 1.0]])


@pytest.fixture
def picture():
    """No two pixels are alike: red is the row, green the column."""
    rows, columns = np.indices((HEIGHT, WIDTH))
    return Image.fromarray(np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8))


def seen(image, intrinsics, points):
    """What each 3-D point shows, (N, 3), and which points lie inside the picture, (N,)."""
    u, v, _ = np.rint(intrinsics @ (points / points[:, 2:]).T).astype(int)
    inside = (u >= 0) & (u < image.width) & (v >= 0) & (v < image.height)
    array = np.asarray(image)
    return array[v.clip(0, image.height - 1), u.clip(0, image.width - 1)], inside


@pytest.mark.parametrize(
    "shares", [(0, 0.75, 0, 1), (0.3, 1, 0.2, 0.9), (0.11, 0.52, 0.47, 0.93), (0.49, 0.52, 0, 1)]
)
def test_a_point_in_space_shows_the_same_before_and_after(picture, shares):
    draw = np.random.default_rng(0)
    rows, columns = np.indices((HEIGHT, WIDTH)).reshape(2, -1)
    rays = np.stack([columns, rows, np.ones(rows.size)])
    rays[:2] += draw.uniform(-0.4, 0.4, (2, rows.size))  # somewhere in each pixel
    points = (np.linalg.inv(CAMERA) @ rays * draw.uniform(1, 60, rows.size)).T
    part, intrinsics = cropped(picture, CAMERA, shares)
    before, _ = seen(picture, CAMERA, points)
    after, inside = seen(part, intrinsics, points)
    assert np.array_equal(before[inside], after[inside])
    assert inside.sum() == part.width * part.height


def test_the_part_that_is_kept_is_the_one_asked_for(picture):
    array = np.asarray(picture)
    part, _ = cropped(picture, CAMERA, (0, 0.75, 0, 1))  # 30.75 rows
    assert np.array_equal(np.asarray(part), array[:31])
    part, _ = cropped(picture, CAMERA, (0.2, 0.9, 0.1, 0.5))  # rows 8.2 to 36.9, 6.7 to 33.5
    assert np.array_equal(np.asarray(part), array[8:37, 7:34])


def test_the_whole_picture_is_the_identity(picture):
    part, intrinsics = cropped(picture, CAMERA, [0, 1, 0, 1])
    assert np.array_equal(np.asarray(part), np.asarray(picture))
    assert np.array_equal(intrinsics, CAMERA)


def test_its_arguments_stay_as_they_are(picture):
    camera = CAMERA.copy()
    cropped(picture, camera, (0.5, 1, 0.5, 1))
    assert np.array_equal(camera, CAMERA) and picture.size == (WIDTH, HEIGHT)


def test_an_unknown_camera_stays_unknown(picture):
    _, intrinsics = cropped(picture, UNKNOWN_INTRINSICS, (0.5, 1, 0, 1))
    assert np.isnan(intrinsics).all() and np.isnan(UNKNOWN_INTRINSICS).all()


@pytest.mark.parametrize("shares", [(0.51, 0.52, 0, 1), (0, 1, 0.999, 1), (0, 0.001, 0, 1)])
def test_an_empty_rest_is_an_error_that_names_the_key_and_the_size(picture, shares):
    with pytest.raises(DataError, match=r"unlabeled\.crop = .*41 x 67 pixels"):
        cropped(picture, CAMERA, shares)
