"""The synthetic streets: exact depth, one world for both eyes, all frames and both looks."""

import json
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import HOUSE
from PIL import Image

from datasets.frame import DataError
from datasets.synthetic import Synthetic
from datasets.synthetic_files import cameras_at, intrinsics, lidar_mask, scene_of, shader_of
from datasets.synthetic_render import GROUND, SKY, Camera, cast, depth_of
from datasets.synthetic_scene import BASELINE_METRES, FRAMES_PER_SECOND
from datasets.synthetic_tree import SyntheticSettings, write_tree
from datasets.synthetic_world import BACK, CAR, CRATE, CROWN, POLE, Round, Solid, assemble

SIZE = (64, 208)
TINY = SyntheticSettings(3, 2, 1, frames_per_scene=3, image_size=SIZE)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A root with a tiny tree of each look."""
    root = tmp_path_factory.mktemp("synthetic")
    for look in ("look_a", "look_b"):
        write_tree(root / look, look, TINY, workers=1)
    return root


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def level_camera(size=SIZE, height=1.65) -> Camera:
    return Camera(np.eye(3), np.array([0.0, -height, 0.0]), intrinsics(size), size)


def pixels(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    return np.mgrid[: camera.size[0], : camera.size[1]].astype(np.float64)


@pytest.mark.parametrize("size", [(64, 208), (96, 320), (101, 77)])
def test_bare_ground_has_depth_camera_height_times_focal_over_rows_below_the_horizon(size):
    camera = level_camera(size)
    depth = depth_of(cast(assemble([], []), camera, 0.0))
    row, _ = pixels(camera)
    below = np.maximum(row - camera.intrinsics[1, 2], 1e-9)
    expected = 1.65 * camera.intrinsics[1, 1] / below
    seen = (row > camera.intrinsics[1, 2]) & (expected <= 255)
    np.testing.assert_allclose(depth[seen], expected[seen], rtol=1e-5)
    assert (depth[~seen] == 0).all()


def test_box_facing_the_camera_has_its_distance_and_its_outline():
    world = assemble([Solid(CRATE, 0.5, 11.0, 0.0, 1.0, 2.0, 0.0, 2.5, 0.0, 0.0)], [])
    camera = level_camera()
    hits = cast(world, camera, 0.0)
    row, column = pixels(camera)
    x = (column - camera.intrinsics[0, 2]) / camera.intrinsics[0, 0] * 10.0  # where z = 10 m
    y = (row - camera.intrinsics[1, 2]) / camera.intrinsics[1, 1] * 10.0
    inside = (np.abs(x - 0.5) < 2.0) & (y < 1.65) & (y > 1.65 - 2.5)
    assert inside.any()
    np.testing.assert_array_equal(hits.surface == BACK, inside)  # the face towards the camera
    np.testing.assert_allclose(depth_of(hits)[inside], 10.0, rtol=1e-6)


def test_hits_of_turned_solids_and_rounds_lie_on_their_surfaces():
    solid = Solid(CRATE, -3.0, 9.0, 0.6, 1.5, 1.0, 0.0, 2.0, 0.0, 0.0, 0.4, 0.3, 0.2)
    ball = Round(CROWN, 3.0, 9.0, 1.5, 1.0, 3.0, 0.0, 0.0, ellipsoid=True)
    pole = Round(POLE, 0.5, 8.0, 0.3, 0.0, 2.5, 0.0, 0.0)
    world, camera = assemble([solid], [ball, pole]), level_camera((96, 320))
    hits = cast(world, camera, 0.0)
    point = hits.direction * depth_of(hits) + camera.centre[:, None, None]
    for face in range(6):
        on_face = point[:, hits.surface == face].T
        assert (
            np.abs(on_face @ world.normals[0, face] - world.offsets[0, face]).max(initial=0) < 1e-4
        )
        assert (on_face @ world.normals[0].T <= world.offsets[0] + 1e-4).all()
    x, y, z = point[:, hits.surface == 6]
    assert len(x) > 100
    np.testing.assert_allclose(
        (x - 3) ** 2 / 1.5**2 + (y + 2) ** 2 + (z - 9) ** 2 / 1.5**2, 1, atol=1e-4
    )
    x, y, z = point[:, hits.surface == 7]
    np.testing.assert_allclose(np.hypot(x - 0.5, z - 8), 0.3, atol=1e-4)
    assert y.min() >= -2.501 and y.max() <= 0.001


def test_a_low_cylinder_has_no_points_above_its_end():
    world = assemble([], [Round(POLE, 0.0, 9.0, 1.0, 0.0, 0.8, 0.0, 0.0)])
    camera = level_camera((128, 416))
    hits = cast(world, camera, 0.0)
    height = -(hits.direction[1] * depth_of(hits) + camera.centre[1])[hits.surface == 0]
    assert 0.7 < height.max() <= 0.8 + 1e-4
    assert -1e-4 <= height.min() < 0.1


def test_a_camera_that_follows_a_car_sees_the_same_paint():
    scene = scene_of(0, 0, 0, 3)
    car = Solid(
        CAR, 3.0, 8.0, 0.0, 2.0, 0.9, 0.0, 1.5, 0.4, 0.5, speed=7.0, detail=(1.2, 0.3, 0, 0)
    )
    scene = replace(scene, world=assemble([car], []))
    shader = shader_of(scene, "look_a", 0, 0, 0)
    start = level_camera((96, 320))
    pictures = []
    for time_s in (0.0, 2.0):
        camera = start._replace(centre=start.centre + np.array([0, 0, 7 * time_s]))
        hits = cast(scene.world, camera, time_s)
        pictures.append(shader.radiance(camera, hits, time_s)[:, hits.surface >= 0])
    assert pictures[0].shape[1] > 500
    assert np.abs(pictures[0] - pictures[1]).mean() < 2e-3  # texels may round differently


def test_a_moving_car_is_where_its_speed_takes_it():
    world = assemble([Solid(CAR, 0.0, 10.0, 0.0, 2.0, 0.9, 0.0, 1.5, 0.0, 0.0, speed=5.0)], [])
    camera = level_camera()
    centre = (SIZE[0] // 2, SIZE[1] // 2)
    depths = [depth_of(cast(world, camera, time_s))[centre] for time_s in (0.0, 0.1, 1.0)]
    np.testing.assert_allclose(depths, [8.0, 8.5, 13.0], rtol=1e-5)


def at_partner(plane: np.ndarray, column: np.ndarray) -> np.ndarray:
    """`plane` (..., H, W) at fractional columns (H, W), linear between neighbours."""
    row = np.arange(plane.shape[-2])[:, None]
    left = np.clip(np.floor(column).astype(int), 0, plane.shape[-1] - 2)
    share = column - left
    return plane[..., row, left] * (1 - share) + plane[..., row, left + 1] * share


@pytest.mark.parametrize("look", ["look_a", "look_b"])
def test_both_eyes_see_the_same_surfaces_and_paint_at_the_disparity_of_the_depth(look):
    errors = {0.0: [], 4.0: []}
    for number in range(4):
        scene = scene_of(0, 0, number, 3)
        shader = shader_of(scene, look, 0, 0, number)
        left, right = cameras_at(scene, 1, (96, 320)).values()
        hits, other = (cast(scene.world, camera, 0.1) for camera in (left, right))
        here, there = (shader.radiance(c, h, 0.1) for c, h in ((left, hits), (right, other)))
        _, column = pixels(left)
        target = column - left.intrinsics[0, 0] * BASELINE_METRES * hits.inverse_depth
        first = np.floor(target).astype(int)
        inside = (hits.surface != SKY) & (first >= 0)
        row = np.arange(96)[:, None]
        same = inside & (other.surface[row, np.maximum(first, 0)] == hits.surface)
        same &= other.surface[row, np.clip(first + 1, 0, 319)] == hits.surface
        assert same.sum() > 0.85 * inside.sum()  # the others are occluded, or lie on an edge
        flat = same & ((hits.surface == GROUND) | (hits.surface < 6 * scene.world.num_solids))
        # inverse depth is linear on a plane, so interpolation is exact
        expected = at_partner(other.inverse_depth, target)
        np.testing.assert_allclose(hits.inverse_depth[flat], expected[flat], rtol=2e-3)
        for shift, list_ in errors.items():
            list_.append(np.abs(here - at_partner(there, target - shift))[:, same].mean())
    assert np.mean(errors[0.0]) < 0.02
    assert np.mean(errors[0.0]) < 0.5 * np.mean(errors[4.0])


def test_sky_and_anything_beyond_255_metres_have_no_ground_truth(root):
    scene = scene_of(0, 0, 0, 3)
    camera = cameras_at(scene, 0, SIZE)["image_02"]
    hits = cast(scene.world, camera, 0.0)
    stored = Synthetic(root, "train").frame(0).depth()
    assert (hits.surface == SKY).any()
    assert (stored[hits.surface == SKY] == 0).all()
    assert stored.max() <= 255
    np.testing.assert_allclose(stored, depth_of(hits), atol=0.5 / 256 + 1e-6)


def test_poses_carry_points_of_one_frame_onto_the_surfaces_of_the_next(root):
    dataset = Synthetic(root, "train")
    matrix = dataset.frame(0).intrinsics
    errors = {"pose": [], "reversed": [], "none": []}
    for index in range(len(dataset)):
        following = dataset.neighbour_frame(index, 1)
        if following is None:
            assert dataset.relative_pose(index, 1) is None
            continue
        pose, depth = dataset.relative_pose(index, 1), dataset.frame(index).depth()
        row, column = np.nonzero((depth > 0) & (depth < 40))
        ray = np.linalg.inv(matrix) @ np.stack([column, row, np.ones(len(row))])
        for name, motion in zip(errors, (pose, np.linalg.inv(pose), np.eye(4)), strict=True):
            moved = motion[:3, :3] @ (ray * depth[row, column]) + motion[:3, 3:]
            u, v, _ = np.rint(matrix @ moved / moved[2]).astype(int)
            seen = (u >= 0) & (u < SIZE[1]) & (v >= 0) & (v < SIZE[0])
            there = following.depth()[v[seen], u[seen]]
            errors[name].append(np.minimum(np.abs(moved[2][seen] / np.maximum(there, 1) - 1), 1))
    mean = {name: np.concatenate(parts).mean() for name, parts in errors.items()}
    # moving cars, occlusions and rounding to pixels remain
    assert np.median(np.concatenate(errors["pose"])) < 0.01
    assert mean["pose"] < 0.6 * mean["none"] < 0.6 * mean["reversed"], mean


def test_stereo_partner_and_baseline_follow_from_the_files(root):
    dataset = Synthetic(root, "val")
    partner, baseline = dataset.stereo_frame(0)
    assert baseline == pytest.approx(BASELINE_METRES)
    assert partner.frame_id.endswith("image_03")
    np.testing.assert_allclose(partner.intrinsics, intrinsics(SIZE))
    ahead = partner.depth() != dataset.frame(0).depth()
    assert ahead.mean() > 0.1  # the right camera has ground truth of its own


def test_sparse_ground_truth_is_a_subset_of_the_dense_one_up_to_80_metres(root):
    dense, sparse = Synthetic(root, "train"), Synthetic(root, "train", variant="look_a_sparse")
    assert dense.frame_ids == sparse.frame_ids
    for index in range(len(dense)):
        full, few = dense.frame(index).depth(), sparse.frame(index).depth()
        assert few.any() and few.max() <= 80
        np.testing.assert_array_equal(few[few > 0], full[few > 0])


def test_lidar_measures_four_to_five_percent_of_the_pixels_at_kitti_size():
    camera = level_camera((375, 1242))
    units = np.full((375, 1242), 20 * 256, np.uint16)
    share = lidar_mask(units, camera, np.random.default_rng(0)).mean()
    assert 0.04 < share < 0.05


def test_both_looks_share_geometry_and_differ_in_every_picture(root):
    one, other = files_of(root / "look_a"), files_of(root / "look_b")
    assert one.keys() == other.keys()
    for name, content in one.items():
        if name != "settings.json":
            assert (content == other[name]) == (not name.endswith(".jpg")), name


def test_files_do_not_depend_on_the_number_of_workers(root, tmp_path):
    write_tree(tmp_path / "tree", "look_a", TINY, workers=2)
    assert files_of(tmp_path / "tree") == files_of(root / "look_a")


def test_validation_scenes_do_not_depend_on_the_number_of_training_scenes(root, tmp_path):
    fewer = SyntheticSettings(0, 1, 0, frames_per_scene=3, image_size=SIZE)
    write_tree(tmp_path / "tree", "look_a", fewer, workers=1)
    mine, theirs = files_of(tmp_path / "tree"), files_of(root / "look_a")
    names = [name for name in mine if "2026_01_02_drive_0000_sync" in name]
    assert len(names) == 3 * 6 + 2
    assert all(mine[name] == theirs[name] for name in names)


def test_splits_share_no_scene_and_list_every_frame(root):
    scenes = []
    for split, count in (("train", 9), ("val", 6), ("test", 3)):
        dataset = Synthetic(root, split)
        assert len(dataset) == count
        assert dataset.depth_size == SIZE
        scenes.append({dataset.scene_of(frame_id) for frame_id in dataset.frame_ids})
    assert len(set.union(*scenes)) == sum(map(len, scenes)) == 6


# the interrupt may fall between Pillow's opening of a file and the line that would close it
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_interrupted_rendering_leaves_nothing_behind(tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGVTALRM, interrupt)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.4)  # seconds of CPU time
    try:
        with pytest.raises(KeyboardInterrupt):
            write_tree(tmp_path / "tree", "look_a", SyntheticSettings(image_size=SIZE), workers=1)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    assert list(tmp_path.iterdir()) == []


def test_rendering_processes_that_die_are_an_error_not_an_endless_wait(tmp_path):
    """Spawned processes load the calling script, which they cannot where it came from a pipe."""
    script = (
        f"import sys; sys.path.insert(0, {str(HOUSE)!r})\n"
        "from datasets.synthetic_tree import SyntheticSettings, write_tree\n"
        "from pathlib import Path\n"
        f"tree = Path({str(tmp_path / 'tree')!r})\n"
        "write_tree(tree, 'look_a', SyntheticSettings(2, 0, 0), workers=2)\n"
    )
    result = subprocess.run(
        [sys.executable, "-"], input=script, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert "DataError: a process that renders has died" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_two_renderings_at_once_leave_one_whole_tree(root, tmp_path):
    settings = SyntheticSettings(1, 0, 0, frames_per_scene=3, image_size=SIZE)
    failures = []

    def render():
        try:
            write_tree(tmp_path / "tree", "look_a", settings, workers=1)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=render) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]
    mine, theirs = files_of(tmp_path / "tree"), files_of(root / "look_a")
    assert all(mine[name] == theirs[name] for name in mine if "drive_0000" in name)


def test_a_tree_of_another_renderer_or_of_other_settings_is_refused(root, tmp_path):
    write_tree(root / "look_a", "look_a", TINY)  # the same: nothing to do
    with pytest.raises(DataError, match="seed"):
        write_tree(root / "look_a", "look_a", SyntheticSettings(3, 2, 1, 3, SIZE, seed=1))
    folder = tmp_path / "look_a"
    folder.mkdir()
    with pytest.raises(DataError, match="not a tree of synthetic streets"):
        Synthetic(tmp_path, "train")
    settings = json.loads((root / "look_a" / "settings.json").read_text())
    settings["renderer_version"] = -1
    (folder / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match=r"version -1.*delete .*look_a or choose another root"):
        Synthetic(tmp_path, "train")


@pytest.mark.parametrize(
    "settings",
    [SyntheticSettings(0, 0, 0), SyntheticSettings(-1, 5, 5), SyntheticSettings(image_size=(8, 8))],
)
def test_settings_that_render_nothing_are_refused(settings, tmp_path):
    with pytest.raises(DataError):
        write_tree(tmp_path / "tree", "look_a", settings)
    with pytest.raises(DataError, match="look_c"):
        write_tree(tmp_path / "tree", "look_c", TINY)


def test_dataset_refuses_unknown_variants_splits_and_scales(root):
    with pytest.raises(DataError, match="look_a, look_b, look_a_sparse, look_b_sparse"):
        Synthetic(root, "train", variant="dusk")
    with pytest.raises(DataError, match="train, val, test"):
        Synthetic(root, "val_all")
    with pytest.raises(DataError, match="depth_scale"):
        Synthetic(root, "train", depth_scale=256.0)
    assert [p.name for p in Synthetic(root, "train").protocols(80.0)] == ["plain"]


def test_pictures_are_exposed_sensibly_and_streets_differ(root):
    dataset = Synthetic(root, "train")
    pictures = [np.asarray(dataset.frame(i).image, np.float32) for i in range(len(dataset))]
    assert all(picture.shape == (*SIZE, 3) for picture in pictures)
    assert all(60 < picture.mean() < 200 and picture.std() > 20 for picture in pictures)
    depths = [dataset.frame(i).depth() for i in range(0, len(dataset), TINY.frames_per_scene)]
    assert len({depth.tobytes() for depth in depths}) == len(depths)


def test_consecutive_frames_are_a_tenth_of_a_second_of_driving_apart():
    for number in range(10):
        drive = scene_of(0, 0, number, 4).drive
        speed = np.linalg.norm(np.diff(drive.centres, axis=0), axis=1) * FRAMES_PER_SECOND
        assert (speed > 3.9).all() and (speed < 12.1).all()
        assert (np.abs(-drive.centres[:, 1] - 1.65) < 0.15).all()
        np.testing.assert_allclose(
            drive.rotations @ drive.rotations.transpose(0, 2, 1),
            np.tile(np.eye(3), (4, 1, 1)),
            atol=1e-12,
        )


def test_stored_pictures_are_jpeg_and_depth_is_sixteen_bit(root):
    paths = Synthetic(root, "train").paths(0)
    with Image.open(paths["image"]) as image, Image.open(paths["depth"]) as depth:
        assert (image.format, image.mode) == ("JPEG", "RGB")
        assert (depth.format, depth.mode, depth.size) == ("PNG", "I;16", image.size)
