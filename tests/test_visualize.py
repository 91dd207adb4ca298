"""What a panel shows, read back from its pixels."""

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from utils import page
from utils.visualize import colorize, consistency_panel, contact_sheet, panel

HEIGHT, WIDTH = 120, 160
RNG = np.random.default_rng(0)
IMAGE = RNG.random((3, HEIGHT, WIDTH))
DEPTH = np.tile(np.geomspace(1, 40, WIDTH), (HEIGHT, 1))
GRID = np.asarray([[0, 1, 2, 3]])


def tiles(picture, columns, aspect=WIDTH / HEIGHT, rows=1):
    """(height, width, 3) pixels of every place for a tile of an untitled panel, row by row."""
    width = (picture.width - 2 * page.MARGIN - (columns - 1) * page.GAP) // columns
    height, first = round(width / aspect), page.MARGIN // 2 + page.LABEL_HEIGHT
    stride = page.LABEL_HEIGHT + height + page.BAR_HEIGHT + page.TICKS_HEIGHT
    pixels = np.asarray(picture)
    lefts = [page.MARGIN + column * (width + page.GAP) for column in range(columns)]
    tops = [first + row * stride for row in range(rows)]
    return [pixels[top : top + height, left : left + width] for top in tops for left in lefts]


def consistency(**maps):
    """A consistency panel of one frame; `maps` replace or add to its arguments."""
    frame = {"weak_image": IMAGE, "strong_image": 1 - IMAGE, "groups": GRID}
    return consistency_panel(**(frame | {"pseudo_depth": DEPTH, "strong_depth": DEPTH} | maps))


def color(colormap, position):
    return matplotlib.colormaps[colormap](position, bytes=True)[:3]


def test_colorize_clips_and_marks_invalid_pixels_grey():
    values = np.asarray([[-9.0, 0.0, 2.0, 4.0, 9.0, np.inf, np.nan, 2.0]])
    invalid = np.asarray([[False] * 7 + [True]])
    colors = colorize(values, low=0, high=4, colormap="viridis", invalid_mask=invalid)
    low, middle, high = matplotlib.colormaps["viridis"]([0.0, 0.5, 1.0], bytes=True)[:, :3].tolist()
    grey = list(page.INVALID)
    assert colors.dtype == np.uint8
    assert colors[0].tolist() == [low, low, middle, high, high, high, grey, grey]


def test_equal_prediction_and_ground_truth_look_equal_and_have_no_error():
    _, truth, prediction, error = tiles(panel(image=IMAGE, depth=DEPTH, prediction=DEPTH), 4)
    assert np.array_equal(truth, prediction)
    assert (error == matplotlib.colormaps["magma"](0.0, bytes=True)[:3]).all()
    assert len(np.unique(truth.reshape(-1, 3), axis=0)) > 100


def test_prediction_is_coloured_on_the_scale_of_the_ground_truth():
    depth = np.where(np.arange(WIDTH) < 80, 2.0, 8.0) * np.ones((HEIGHT, 1))
    far = np.full((HEIGHT, WIDTH), 8.0)
    _, truth, prediction, _ = tiles(panel(image=IMAGE, depth=depth, prediction=far), 4)
    assert (prediction == truth[0, -1]).all()
    assert (prediction != truth[0, 0]).any()


def test_error_is_relative_to_depth_and_ends_at_one_half():
    near_and_far = np.where(np.arange(WIDTH) < 80, 2.0, 20.0) * np.ones((HEIGHT, 1))
    for ratio, position in ((1.25, 0.5), (1.5, 1.0), (3.0, 1.0)):
        error = tiles(panel(image=IMAGE, depth=near_and_far, prediction=ratio * near_and_far), 4)[3]
        expected = matplotlib.colormaps["magma"](position, bytes=True)[:3]
        assert (error == expected).all(axis=-1).all()


def test_pixels_without_ground_truth_are_grey_in_truth_and_error_only():
    depth = DEPTH.copy()
    depth[:, :80] = 0
    picture = panel(image=IMAGE, depth=depth, prediction=DEPTH)
    is_grey = [(tile[:, :100] == page.INVALID).all() for tile in tiles(picture, 4)]
    assert is_grey == [False, True, False, True]


def test_sparse_ground_truth_is_enlarged_and_dense_is_not():
    sparse = np.zeros((375, 1242))
    sparse[::10, ::10] = RNG.uniform(5, 50, sparse[::10, ::10].shape)
    wide = RNG.random((3, 375, 1242))
    truth = tiles(panel(image=wide, depth=sparse), 2, aspect=1242 / 375)[1]
    shown = 1 - (truth == page.INVALID).all(axis=-1).mean()
    assert shown > 8 * (sparse > 0).mean()
    holed = DEPTH.copy()
    holed[60, 80] = 0
    tile = tiles(panel(image=IMAGE, depth=holed), 2)[1]
    assert (tile == page.INVALID).all(axis=-1).any()


def test_tiles_without_a_map_are_left_out():
    def width(**maps):
        return panel(image=IMAGE, **maps).width

    narrow = np.ones((HEIGHT, WIDTH))
    tall = {"image": RNG.random((3, 400, 100))}
    widths = [
        panel(**tall).width,
        panel(**tall, prediction=narrow).width,
        panel(**tall, depth=narrow, prediction=narrow).width,
        panel(**tall, depth=narrow, prediction=narrow, log_uncertainty=narrow).width,
    ]
    step = 90 + page.GAP  # tiles of 360 x 90 pixels
    assert np.diff(widths).tolist() == [step, 2 * step, step]
    assert width(depth=narrow) < width(depth=narrow, prediction=narrow) <= page.MAX_WIDTH


@pytest.mark.parametrize("size", [(375, 1242), (480, 640), (64, 96), (400, 200), (50, 900)])
def test_every_aspect_fits_the_width_with_all_tiles(size):
    maps = np.exp(RNG.normal(size=size))
    grid = np.arange(24).reshape(4, 6) % 3
    picture = panel(
        image=RNG.random((3, *size)),
        depth=maps,
        prediction=maps * 1.1,
        log_uncertainty=np.log(maps),
        groups=grid,
        title="a title",
    )
    assert picture.mode == "RGB"
    assert 300 < picture.width <= page.MAX_WIDTH
    assert picture.height < 1000


def test_wide_frames_take_two_rows():
    wide = np.ones((375, 1242))
    picture = panel(image=RNG.random((3, 375, 1242)), depth=wide, prediction=wide)
    tile_width = (page.MAX_WIDTH - 2 * page.MARGIN - page.GAP) // 2  # two of four in a row
    assert picture.height > 2 * tile_width * 375 / 1242


def test_maps_of_other_sizes_and_tensors_with_leading_ones_are_taken():
    as_array = panel(image=IMAGE, depth=DEPTH, prediction=DEPTH[::2, ::2])
    as_tensor = panel(
        image=torch.from_numpy(IMAGE)[None],
        depth=torch.from_numpy(DEPTH)[None, None],
        prediction=torch.from_numpy(DEPTH[::2, ::2].copy())[None, None],
    )
    assert np.array_equal(np.asarray(as_array), np.asarray(as_tensor))
    assert tiles(as_array, 4)[3].max() < 40  # the same scene at half the size: hardly any error


def test_groups_are_told_apart():
    grid = np.asarray([[0, 1, 2, 3]])
    tile = tiles(panel(image=np.full((3, 100, 100), 0.5), groups=grid), 2, aspect=1)[1]
    width = tile.shape[1]
    colors = {tuple(tile[50, (2 * index + 1) * width // 8]) for index in range(4)}
    assert len(colors) == 4


def test_dropped_tokens_are_black_and_the_others_keep_their_colour():
    grey = np.full((3, 100, 100), 0.5)
    kept = tiles(panel(image=grey, groups=GRID), 2, aspect=1)[1]
    tile = tiles(panel(image=grey, groups=np.where(GRID == 1, -1, GRID)), 2, aspect=1)[1]
    quarter = tile.shape[1] // 4
    inside = [slice(index * quarter + 15, (index + 1) * quarter - 15) for index in range(4)]
    assert [(tile[:, part] == 0).all() for part in inside] == [False, True, False, False]
    assert all(np.array_equal(tile[:, inside[i]], kept[:, inside[i]]) for i in (0, 2, 3))


def test_weak_and_strong_view_and_the_groups_on_the_strong_one_are_shown():
    white = np.ones((3, HEIGHT, WIDTH))
    weak, strong, groups, *_ = tiles(consistency(weak_image=white, strong_image=0 * white), 6)
    assert (weak == 255).all()
    assert (strong == 0).all()
    over_black = tiles(panel(image=0 * white, groups=GRID), 2)[1]
    assert groups.mean() == pytest.approx(over_black.mean(), abs=1)
    assert groups.min(axis=(0, 1)).max() < 20  # half colour over black, not over white


def test_confidence_is_exp_of_minus_u_on_a_fixed_scale():
    for u, confidence in ((0.0, 1.0), (np.log(2), 0.5), (np.log(4), 0.25), (50.0, 0.0)):
        shown = consistency(log_uncertainty=np.full((HEIGHT, WIDTH), u))
        tile = tiles(shown, 4, rows=2)[4]
        assert (tile == color("viridis", confidence)).all()


def test_disagreement_is_relative_to_the_pseudo_depth_and_ends_at_one_half():
    for ratio, position in ((1.0, 0.0), (1.3, 0.6), (0.7, 0.6), (3.0, 1.0)):
        *_, tile = tiles(consistency(strong_depth=ratio * DEPTH), 6)
        assert (tile == color("magma", position)).all()


def test_all_depths_of_a_consistency_panel_share_the_scale_of_the_ground_truth():
    depth = np.where(np.arange(WIDTH) < 80, 2.0, 32.0) * np.ones((HEIGHT, 1))
    at_40_percent = 2.0 * 16.0**0.4  # of the logarithmic bar
    maps = {"pseudo_depth": depth * 0 + at_40_percent, "strong_depth": depth * 0 + 32.0}
    u = np.zeros_like(depth)
    shown = tiles(consistency(depth=depth, log_uncertainty=u, **maps), 4, rows=2)
    pseudo, strong, truth = shown[3], shown[5], shown[7]
    assert (pseudo == color("Spectral", 0.4)).all()
    assert (strong == color("Spectral", 1.0)).all()
    assert (truth[:, 0] == color("Spectral", 0.0)).all()
    assert (truth[:, -1] == color("Spectral", 1.0)).all()


def test_without_ground_truth_the_strong_depth_is_on_the_scale_of_the_pseudo_depth():
    *_, pseudo, strong, _ = tiles(consistency(strong_depth=np.full_like(DEPTH, 40.0)), 6)
    assert (strong == color("Spectral", 1.0)).all()
    assert len(np.unique(pseudo.reshape(-1, 3), axis=0)) > 100


def test_a_consistency_panel_leaves_out_what_is_none_and_wraps_above_six_tiles():
    u = np.zeros((HEIGHT, WIDTH))
    six, seven = consistency(), consistency(log_uncertainty=u)
    assert seven.height > 2 * tiles(seven, 4)[0].shape[0] > 2 * tiles(six, 6)[0].shape[0]
    *_, last = tiles(seven, 4, rows=2)
    assert (last == page.PAPER).all()
    *_, last = tiles(consistency(log_uncertainty=u, depth=DEPTH), 4, rows=2)
    assert len(np.unique(last.reshape(-1, 3), axis=0)) > 100


def test_a_consistency_panel_takes_tensors_with_leading_ones_and_maps_of_other_sizes():
    maps = {"pseudo_depth": DEPTH, "strong_depth": DEPTH[::2, ::2], "depth": DEPTH * 1.1}
    as_array = consistency(log_uncertainty=DEPTH / 40, **maps)
    maps = {name: torch.from_numpy(values.copy())[None, None] for name, values in maps.items()}
    u = torch.from_numpy(DEPTH / 40)[None, None]
    as_tensor = consistency(log_uncertainty=u, groups=torch.from_numpy(GRID), **maps)
    assert np.array_equal(np.asarray(as_array), np.asarray(as_tensor))
    disagreement = tiles(as_array, 4, rows=2)[6]
    assert disagreement.max() < 40  # the same scene at half the size


def test_a_consistency_panel_of_maps_that_say_nothing_is_drawn_without_a_warning():
    nothing = np.full((8, 9), np.nan)
    silent = consistency(
        pseudo_depth=nothing,
        strong_depth=nothing,
        log_uncertainty=np.full((8, 9), -1e4),
        depth=np.zeros((8, 9)),
        groups=np.full((1, 4), -1),
    )
    assert silent.width > WIDTH


@pytest.mark.parametrize(
    "maps",
    [
        {"depth": np.zeros((8, 9))},
        {"depth": np.zeros((8, 9)), "prediction": np.zeros((8, 9))},
        {"prediction": np.full((8, 9), np.nan)},
        {"prediction": np.full((8, 9), 7.0), "log_uncertainty": np.zeros((8, 9))},
        {"prediction": np.asarray([[np.inf, 1.0, np.nan, 3.0]])},
        {"log_uncertainty": np.full((8, 9), -np.inf)},
    ],
)
def test_maps_that_say_nothing_are_drawn_without_a_warning(maps):
    assert panel(image=IMAGE, **maps).width > IMAGE.shape[1]


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (page.Scale(0.0, 0.5, "magma"), [0, 0.1, 0.2, 0.3, 0.4, 0.5]),
        (page.Scale(-3.2, -0.1, "magma"), [-3, -2, -1]),
        (page.Scale(3.0, 78.0, "magma", logarithmic=True), [5, 10, 20, 50]),
        (page.Scale(1.2, 2.6, "magma", logarithmic=True), [1.5, 2, 2.5]),
    ],
)
def test_ticks_are_round_numbers_inside_the_scale(scale, expected):
    assert scale.ticks() == pytest.approx(expected)


def test_doubling_the_depth_is_the_same_step_anywhere_on_a_logarithmic_bar():
    scale = page.Scale(1.0, 64.0, "magma", logarithmic=True)
    assert np.diff(scale.position(np.asarray([1, 2, 4, 32, 64]))) == pytest.approx(
        [1 / 6, 1 / 6, 1 / 2, 1 / 6]
    )


def test_a_contact_sheet_holds_every_panel():
    panels = [Image.new("RGB", size, "red") for size in ((40, 10), (60, 20))]
    sheet = contact_sheet(panels)
    assert sheet.size == (60, 30)
    assert (np.asarray(sheet) == (255, 0, 0)).all(axis=-1).sum() == 40 * 10 + 60 * 20
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])


def test_global_plotting_settings_are_left_alone():
    before = matplotlib.rcParams.copy()
    panel(image=IMAGE, depth=DEPTH, prediction=DEPTH, log_uncertainty=DEPTH)
    assert matplotlib.rcParams.copy() == before
