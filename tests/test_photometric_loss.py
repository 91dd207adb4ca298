"""Self-supervision against exact geometry: least where depth, camera and side are right."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.colours import colour_views
from datasets.frame import Frame, SourceView
from datasets.source_views import FramesWithSources, WantedSources
from datasets.synthetic import Synthetic
from datasets.views import Jitter, nearest_resize, unlabeled_view
from losses import photometric_loss, picture_error, smoothness_loss, ssim_distance, warp
from utils.seeding import seeded

SIZE = (64, 208)
ALWAYS, NEVER = 1.0, 0.0
STEREO = WantedSources(stereo=True, offsets=(), given_poses=False)
VIDEO = WantedSources(stereo=False, offsets=(-1, 1), given_poses=True)
BOTH = WantedSources(stereo=True, offsets=(-1, 1), given_poses=True)


def batch_and_depth(streets, wanted, *, flip, split="train", crop=None):
    """A batch of one frame with its sources, and its exact depth (1, 1, H, W); sky is 200 m."""
    dataset = Synthetic(streets, split)
    index = next(
        i for i in range(len(dataset)) if not wanted.offsets or dataset.has_neighbour(i, 1)
    )
    augmentation = Jitter(
        flip=flip, jitter=0, brightness=0, contrast=0, saturation=0, hue=0
    )  # fmt: skip
    frame = FramesWithSources(dataset, wanted).frame(index)
    entry = unlabeled_view(
        frame, image_size=SIZE, augmentation=augmentation, generator=seeded(0, "t"), crop=crop
    )
    depth = nearest_resize(frame.depth(), SIZE)
    depth = np.where(depth > 0, depth, 200.0)
    if flip:
        depth = depth[:, ::-1]
    batch = colour_views({k: v[None] for k, v in entry.items() if isinstance(v, torch.Tensor)})
    return batch, torch.from_numpy(depth.copy()).float()[None, None]


def loss_at(batch, depth, **options):
    return photometric_loss(
        depth=depth, target=batch["target_image"], sources=batch["source_images"],
        intrinsics=batch["intrinsics"], source_intrinsics=batch["source_intrinsics"],
        poses=batch["source_poses"], available=batch["source_available"], **options,
    )[0].item()  # fmt: skip


@pytest.mark.parametrize("flip", [NEVER, ALWAYS])
@pytest.mark.parametrize("wanted", [STEREO, VIDEO, BOTH], ids=["stereo", "video", "both"])
def test_the_loss_is_least_at_the_true_depth_in_metres(streets, wanted, flip):
    batch, depth = batch_and_depth(streets, wanted, flip=flip)
    losses = {s: loss_at(batch, s * depth) for s in (0.25, 0.5, 0.8, 0.9, 1.0, 1.1, 1.25, 2, 4)}
    assert min(losses, key=losses.get) == 1.0
    # and it rises on both sides, step by step: there is a slope to go down
    values = list(losses.values())
    assert values[:5] == sorted(values[:5], reverse=True)
    assert values[4:] == sorted(values[4:])


@pytest.mark.parametrize("flip", [NEVER, ALWAYS])
def test_the_gradient_points_to_the_true_depth(streets, flip):
    batch, depth = batch_and_depth(streets, STEREO, flip=flip)
    for factor, sign in ((0.9, -1), (1.1, 1)):
        scale = torch.tensor(factor, requires_grad=True)
        loss, _ = photometric_loss(
            depth=scale * depth, target=batch["target_image"], sources=batch["source_images"],
            intrinsics=batch["intrinsics"], source_intrinsics=batch["source_intrinsics"],
            poses=batch["source_poses"], available=batch["source_available"],
        )  # fmt: skip
        loss.backward()
        assert sign * scale.grad > 0


@pytest.mark.parametrize("flip", [NEVER, ALWAYS])
@pytest.mark.parametrize(
    ("wanted", "entries"),
    # sideways a shift of both centres is invisible, straight ahead a factor on the focal length
    [(STEREO, [(0, 0)]), (VIDEO, [(0, 2), (1, 2)]), (BOTH, [(0, 0), (0, 2), (1, 2)])],
    ids=["stereo", "video", "both"],
)
def test_only_the_right_camera_explains_the_picture(streets, wanted, entries, flip):
    batch, depth = batch_and_depth(streets, wanted, flip=flip)
    right = loss_at(batch, depth)
    for (row, column), factor in itertools.product(entries, (0.8, 1.25)):
        changed = dict(batch)
        for key in ("intrinsics", "source_intrinsics"):
            changed[key] = batch[key].clone()
            changed[key][..., row, column] *= factor
        assert loss_at(changed, depth) > right, (row, column, factor)


@pytest.mark.parametrize("flip", [NEVER, ALWAYS])
def test_the_wrong_side_and_the_wrong_baseline_are_worse(streets, flip):
    batch, depth = batch_and_depth(streets, STEREO, flip=flip)
    right = loss_at(batch, depth)
    for factor in (-1.0, 0.5, 0.1 / 0.54, 2.0):  # 0.1: monodepth2's nominal baseline
        changed = dict(batch, source_poses=batch["source_poses"].clone())
        changed["source_poses"][..., 0, 3] *= factor
        assert loss_at(changed, depth) > right, factor


def test_a_crop_keeps_the_geometry(streets):
    crop = [0.25, 1.0, 0.1, 0.9]
    batch, _ = batch_and_depth(streets, STEREO, flip=ALWAYS, crop=crop)
    dataset = Synthetic(streets, "train")
    depth = dataset.frame(0).depth()
    top, left, right = (round(crop[i] * depth.shape[i > 1]) for i in (0, 2, 3))
    depth = nearest_resize(depth[top:, left:right], SIZE)[:, ::-1]
    depth = torch.from_numpy(np.where(depth > 0, depth, 200.0).copy()).float()[None, None]
    losses = {s: loss_at(batch, s * depth) for s in (0.8, 0.9, 1.0, 1.1, 1.25)}
    assert min(losses, key=losses.get) == 1.0
    assert torch.equal(batch["source_intrinsics"][:, 0], batch["intrinsics"])  # cut alike


def plane_scene(distance, pose_x, scale=1):
    """Camera matrix, and the picture of a wall `distance` m ahead from a camera at `pose_x` m."""
    focal, right, down = 30.0 * scale, 18.0 * scale, 12.5 * scale
    matrix = torch.tensor([[focal, 0, right], [0, focal, down], [0, 0, 1]])
    v, u = torch.meshgrid(torch.arange(24 * scale), torch.arange(40 * scale), indexing="ij")
    x, y = (u - right) / focal * distance + pose_x, (v - down) / focal * distance
    waves = [torch.sin(3 * x + c) * torch.cos(2 * y - c) for c in (0.0, 1.0, 2.0)]
    return matrix, 0.5 + 0.4 * torch.stack(waves)[None]


def test_a_warped_picture_is_the_picture_from_the_other_place():
    matrix, target = plane_scene(5.0, 0.0)
    _, source = plane_scene(5.0, 0.54)
    pose = torch.eye(4)[None]
    pose[0, 0, 3] = -0.54  # the source camera stands 0.54 m to the right
    warped, seen = warp(
        source, depth=torch.full((1, 1, 24, 40), 5.0), intrinsics=matrix[None],
        source_intrinsics=matrix[None], pose=pose,
    )  # fmt: skip
    disparity = 30.0 * 0.54 / 5.0
    assert torch.equal(seen[0, 0, 0], torch.arange(40) - disparity >= -0.5)
    error = (warped - target).abs().mean(1, keepdim=True)
    assert error[..., 4:][seen[..., 4:]].max() < 0.02  # bilinear; the first is half outside
    assert error[~seen].max() > 0.1


def test_standing_still_warps_to_the_same_picture():
    matrix, target = plane_scene(5.0, 0.0)
    depth = torch.rand(1, 1, 24, 40, generator=seeded(0, "d")) * 50 + 0.1
    warped, seen = warp(
        target, depth=depth, intrinsics=matrix[None], source_intrinsics=matrix[None],
        pose=torch.eye(4)[None],
    )  # fmt: skip
    assert seen.all()
    torch.testing.assert_close(warped, target, atol=1e-4, rtol=0)


def test_a_camera_of_other_size_and_focal_length_is_followed():
    matrix, target = plane_scene(5.0, 0.0)
    big, large = plane_scene(5.0, 0.54, scale=2)
    pose = torch.eye(4)[None]
    pose[0, 0, 3] = -0.54
    warped, seen = warp(
        large, depth=torch.full((1, 1, 24, 40), 5.0), intrinsics=matrix[None],
        source_intrinsics=big[None], pose=pose,
    )  # fmt: skip
    assert seen.any()
    assert (warped - target).abs().mean(1, keepdim=True)[..., 4:][seen[..., 4:]].max() < 0.02


def test_what_is_behind_the_source_camera_is_not_seen():
    matrix, target = plane_scene(5.0, 0.0)
    pose = torch.eye(4)[None]
    pose[0, 2, 3] = -6.0  # the source camera stands a metre behind the wall
    depth = torch.full((1, 1, 24, 40), 5.0, requires_grad=True)
    warped, seen = warp(
        target, depth=depth, intrinsics=matrix[None], source_intrinsics=matrix[None], pose=pose
    )
    assert not seen.any()
    warped.sum().backward()
    assert torch.isfinite(depth.grad).all()


def two_sources(available=(True, True)):
    """A wall at 5 m from the left and from the right, as arguments of the loss."""
    matrix, target = plane_scene(5.0, 0.0)
    poses = torch.eye(4).repeat(1, 2, 1, 1)
    poses[0, :, 0, 3] = torch.tensor([0.54, -0.54])
    sources = torch.stack([plane_scene(5.0, -0.54)[1], plane_scene(5.0, 0.54)[1]], 1)
    return {
        "target": target, "sources": sources, "intrinsics": matrix[None],
        "source_intrinsics": matrix.repeat(1, 2, 1, 1), "poses": poses,
        "available": torch.tensor([available]),
    }  # fmt: skip


def test_the_less_wrong_of_two_sources_counts():
    depth = torch.full((1, 1, 24, 40), 5.0)
    scene = two_sources()
    both, _ = photometric_loss(depth=depth, **scene)
    occluded = dict(scene, sources=scene["sources"].clone())
    # a lorry stands in front of what the target's middle shows, in one source only
    occluded["sources"][0, 0, :, :, 10:25] = 0.0
    one, _ = photometric_loss(depth=depth, **occluded)
    alone = two_sources((True, False))
    alone["sources"] = occluded["sources"]
    assert both < one < 1.5 * both
    assert photometric_loss(depth=depth, **alone)[0] > 3 * one


def test_a_source_that_is_not_there_changes_nothing_whatever_it_holds():
    scene = two_sources((True, False))
    depth = torch.full((1, 1, 24, 40), 4.0, requires_grad=True)
    wanted, _ = photometric_loss(depth=depth, **scene)
    (gradient,) = torch.autograd.grad(wanted, depth)
    for key in ("sources", "source_intrinsics", "poses"):
        scene[key] = scene[key].clone()
        scene[key][:, 1] = torch.nan
    found, _ = photometric_loss(depth=depth, **scene)
    (found_gradient,) = torch.autograd.grad(found, depth)
    assert torch.equal(found, wanted)
    assert torch.equal(found_gradient, gradient)


def test_an_image_without_any_source_does_not_count():
    scene, depth = two_sources(), torch.full((1, 1, 24, 40), 4.0)
    alone, share = photometric_loss(depth=depth, **scene)
    pair = {key: torch.cat([value, value]) for key, value in scene.items()}
    pair["available"] = torch.tensor([[True, True], [False, False]])
    both, share_of_both = photometric_loss(depth=depth.repeat(2, 1, 1, 1), **pair)
    torch.testing.assert_close(both, alone)
    assert share_of_both == share
    pair["intrinsics"] = pair["intrinsics"].clone()
    pair["intrinsics"][1] = torch.nan  # of a camera that nobody knows
    both_depths = depth.repeat(2, 1, 1, 1).requires_grad_()
    again, _ = photometric_loss(depth=both_depths, **pair)
    again.backward()
    assert again == both and torch.isfinite(both_depths.grad).all()
    assert both_depths.grad[0].any() and not both_depths.grad[1].any()
    pair["available"][:] = False
    depth = depth.repeat(2, 1, 1, 1).requires_grad_()
    none, share = photometric_loss(depth=depth, **pair)
    none.backward()
    assert none == 0 and share == 0 and (depth.grad == 0).all()


def test_leaving_the_view_never_pays():
    scene = two_sources((True, False))
    for automask in (True, False):
        right, _ = photometric_loss(
            depth=torch.full((1, 1, 24, 40), 5.0), **scene, automask=automask
        )
        gone, share = photometric_loss(
            depth=torch.full((1, 1, 24, 40), 1e-3), **scene, automask=automask
        )
        assert share == 0
        assert gone > 5 * right


def test_what_moves_with_the_camera_teaches_nothing():
    scene, depth = two_sources(), torch.full((1, 1, 24, 40), 4.0, requires_grad=True)
    scene["sources"] = scene["target"][:, None].repeat(1, 2, 1, 1, 1)
    loss, share = photometric_loss(depth=depth, **scene)
    loss.backward()
    assert loss < 1e-6 and share == 0 and (depth.grad == 0).all()
    _, share = photometric_loss(depth=depth, **scene, automask=False)
    assert share > 0.9


def test_ssim_of_a_picture_with_itself_and_with_its_negative():
    picture = torch.rand(2, 3, 12, 15, generator=seeded(0, "p"))
    assert ssim_distance(picture, picture).abs().max() < 1e-6
    assert (ssim_distance(picture, 1 - picture) > 0.5).float().mean() > 0.9
    torch.testing.assert_close(
        ssim_distance(picture, picture.flip(-1)), ssim_distance(picture.flip(-1), picture)
    )


def test_the_picture_error_by_hand():
    a, b = (torch.full((1, 3, 8, 8), value, dtype=torch.float64) for value in (0.2, 0.6))
    ssim = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)  # the variances are 0
    expected = 0.85 * (1 - ssim) / 2 + 0.15 * 0.4
    torch.testing.assert_close(picture_error(a, b), torch.full_like(a[:, :1], expected))


def test_smoothness_by_hand():
    disparity = torch.tensor([[1.0, 1.0, 3.0], [1.0, 1.0, 3.0]])[None, None]
    image = torch.zeros(1, 3, 2, 3)
    mean = disparity.mean()
    flat = smoothness_loss(depth=1 / disparity, image=image)
    torch.testing.assert_close(flat, 2 / mean / 2)  # one of two steps a row, none between rows
    image[..., 2] = 1.0  # the picture has an edge there as well
    edge = smoothness_loss(depth=1 / disparity, image=image)
    torch.testing.assert_close(edge, flat * np.exp(-1.0).astype(np.float32).item())
    torch.testing.assert_close(smoothness_loss(depth=7 / disparity, image=image), edge)  # no scale
    assert smoothness_loss(depth=torch.full((1, 1, 4, 4), 9.0), image=torch.rand(1, 3, 4, 4)) == 0


def test_half_precision_outside_changes_nothing():
    scene, depth = two_sources(), torch.full((1, 1, 24, 40), 4.9)
    expected, _ = photometric_loss(depth=depth, **scene)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = photometric_loss(depth=depth, **scene)
    assert torch.equal(found, expected)


def test_sources_are_mirrored_with_their_frame():
    rng = np.random.default_rng(0)
    picture, right = (
        Image.fromarray(rng.integers(0, 255, (20, 40, 3), dtype=np.uint8)) for _ in range(2)
    )
    matrix = np.array([[30.0, 0, 15], [0, 31, 9], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, 3] = -0.5, 0.1, 0.2
    angle = np.radians(10)
    pose[0, 0] = pose[2, 2] = np.cos(angle)
    pose[0, 2], pose[2, 0] = np.sin(angle), -np.sin(angle)
    frame = Frame(
        "f", picture, matrix, load_sources=lambda: [SourceView(right, matrix, pose), None]
    )
    still = Jitter(flip=NEVER, jitter=0, brightness=0, contrast=0, saturation=0, hue=0)
    entries = [
        unlabeled_view(
            frame, image_size=(20, 40), augmentation=dataclasses.replace(still, flip=flip),
            generator=seeded(0, "x"),
        )
        for flip in (NEVER, ALWAYS)
    ]  # fmt: skip
    plain, mirrored = entries
    for key in ("picture", "source_pictures"):
        assert torch.equal(plain[key].flip(-1), mirrored[key])
    assert plain["source_available"].tolist() == [True, False]
    point = torch.tensor([1.3, -0.4, 6.0])
    for entry, x in ((plain, point), (mirrored, point * torch.tensor([-1.0, 1, 1]))):
        there = (entry["source_poses"][0] @ torch.cat([x, torch.ones(1)]))[:3]
        u, v, w = entry["source_intrinsics"][0] @ there
        if entry is plain:
            expected = torch.stack([39 - u / w, v / w])
    torch.testing.assert_close(torch.stack([u / w, v / w]), expected)
