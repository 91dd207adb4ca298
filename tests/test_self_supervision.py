"""Self-supervision in the training scripts: whose poses, who learns, run as users run it."""

import copy
import json

import numpy as np
import pytest
import timm
import torch
from conftest import HOUSE, run_pair, run_script

from consistency_train import ConsistencyStep
from consistency_train import main as consistency_main
from datasets.colours import colour_views
from datasets.frame import DataError
from datasets.source_views import FramesWithSources, WantedSources, check_sources
from datasets.synthetic import Synthetic
from datasets.views import Jitter, unlabeled_view
from evaluate import USER_ERRORS
from losses import photometric_loss
from networks import build_network
from networks.masking import assign_groups, pack_groups
from self_supervision import SelfSupervision
from train import SupervisedStep
from train import main as train_main
from unlabeled import unlabeled_batches
from utils.config import load_config
from utils.processes import Process
from utils.seeding import seeded

SIZE = (32, 96)
SETTINGS = {"image_size": SIZE, "smooth": True, "offsets": (-1, 1), "automask": True,
            "pose_encoder": "vit_tiny_patch16_224", "pose_pretrained": "none"}  # fmt: skip
STILL = Jitter(flip=0.5, jitter=0.5, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1)
SELF = ["loss_weights.photometric=1", "loss_weights.smoothness=0.001", "unlabeled.batch_size=2"]


def plain_batch(streets, wanted, count=2):
    """A batch of unlabelled views with their sources."""
    frames = FramesWithSources(Synthetic(streets, "train"), wanted)
    entries = [
        unlabeled_view(
            frames.frame(i), image_size=SIZE, augmentation=STILL, generator=seeded(0, "v", i)
        )
        for i in range(count)
    ]
    tensors = [key for key, value in entries[0].items() if isinstance(value, torch.Tensor)]
    return colour_views({key: torch.stack([entry[key] for entry in entries]) for key in tensors})


def small_network():
    torch.manual_seed(0)
    return build_network(
        encoder="vit_tiny_patch16_224", image_size=SIZE, max_depth=80.0, decoder_channels=16,
        taps=(0, 1, 2, 3),
    )  # fmt: skip


def test_going_down_the_loss_finds_the_depth_in_metres(streets):
    """No label, no network: pixels alone, from 1.5 times their depth, by stereo."""
    wanted = WantedSources(stereo=True, offsets=(), given_poses=False)
    batch = plain_batch(streets, wanted, count=1)
    dataset = Synthetic(streets, "train")
    depth = torch.from_numpy(dataset.frame(0).depth()[1::2, 1::2][None, None].copy())
    still = Jitter(flip=0, jitter=0, brightness=0, contrast=0, saturation=0, hue=0)
    entry = unlabeled_view(
        FramesWithSources(dataset, wanted).frame(0), image_size=(32, 104), augmentation=still,
        generator=seeded(0, "v"),
    )  # fmt: skip
    batch = colour_views({k: v[None] for k, v in entry.items() if isinstance(v, torch.Tensor)})
    near = (depth > 0) & (depth < 15)  # disparities of two pixels and more
    scale = torch.tensor(1.5, requires_grad=True)
    optimizer = torch.optim.Adam([scale], lr=0.02)
    start = torch.where(depth > 0, depth, 200.0)
    for _ in range(60):
        loss, _ = photometric_loss(
            depth=scale * start, target=batch["target_image"], sources=batch["source_images"],
            intrinsics=batch["intrinsics"], source_intrinsics=batch["source_intrinsics"],
            poses=batch["source_poses"], available=batch["source_available"],
        )  # fmt: skip
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert near.float().mean() > 0.2
    assert abs(scale.item() - 1) < 0.05


def test_a_way_and_the_way_back_are_inverse(streets):
    torch.manual_seed(0)
    supervision = SelfSupervision(sources="video", poses="predicted", **SETTINGS)
    torch.nn.init.normal_(supervision.pose_network.head.weight)
    a, b = torch.rand(2, 1, 3, *SIZE, generator=seeded(0, "ab"))
    known = torch.full((1, 2, 4, 4), torch.nan)
    of_a = supervision.poses(
        {"target_image": a, "source_images": torch.stack([b, b], 1), "source_poses": known}
    )
    of_b = supervision.poses(
        {"target_image": b, "source_images": torch.stack([a, a], 1), "source_poses": known}
    )
    # a is the earlier one where b is its source at +1, and then b's source at -1 is a
    torch.testing.assert_close(of_a[0, 1] @ of_b[0, 0], torch.eye(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(of_a[0, 0] @ of_b[0, 1], torch.eye(4), atol=1e-5, rtol=0)
    assert (of_a[0, 0] - of_a[0, 1]).abs().max() > 1e-4  # and the direction of time counts


def test_known_poses_stand_before_predicted_ones(streets):
    wanted = WantedSources(stereo=True, offsets=(-1, 1), given_poses=False)
    batch = plain_batch(streets, wanted)
    supervision = SelfSupervision(sources="both", poses="predicted", **SETTINGS)
    poses = supervision.poses(batch)
    assert torch.equal(poses[:, 0], batch["source_poses"][:, 0])
    assert torch.isfinite(poses).all() and not torch.isfinite(batch["source_poses"]).all()


def test_given_poses_are_those_of_the_dataset(streets):
    wanted = WantedSources(stereo=False, offsets=(1,), given_poses=True)
    dataset = Synthetic(streets, "train")
    sources = FramesWithSources(dataset, wanted).frame(0).load_sources()
    np.testing.assert_array_equal(sources[0].pose, dataset.relative_pose(0, 1))
    supervision = SelfSupervision(
        **SETTINGS | {"offsets": (1,)}, sources="video", poses="given"
    )  # fmt: skip
    assert supervision.pose_network is None and not list(supervision.parameters())


@pytest.mark.parametrize("sources", ["stereo", "video"])
def test_the_weak_view_and_the_pose_network_learn_from_it(streets, sources):
    wanted = WantedSources(sources == "stereo", () if sources == "stereo" else (-1, 1), False)
    batch = plain_batch(streets, wanted)
    network = small_network()
    supervision = SelfSupervision(sources=sources, poses="predicted", **SETTINGS)
    step = SupervisedStep(network, depth_loss="l1", tolerated_error=None, supervision=supervision)
    depth = torch.full((2, 1, *SIZE), 5.0)
    labeled = {"image": batch["weak_image"], "depth": depth, "valid_mask": depth < 0}
    losses = step(labeled, batch)
    (losses["photometric"] + losses["smoothness"]).backward()
    assert losses["depth"] == 0  # there is no label in it
    assert 0 < losses["taught_share"] <= 1
    for name, parameter in step.named_parameters():
        unsure = "uncertainty" in name
        assert (parameter.grad is None or not parameter.grad.any()) == unsure, name


def consistency_step(supervision):
    weights = {"depth_consistency": 1.0, "feature_consistency": 1.0, "strong_depth": 0.0}
    losses = {"depth_loss": "l1", "tolerated_error": None, "consistency_error": "metres",
              "confidence_weighted": True, "min_confidence": 0.0, "max_pseudo_depth": None,
              "feature_reduction": "sum"}  # fmt: skip
    torch.manual_seed(1)
    return ConsistencyStep(small_network(), weights=weights, supervision=supervision, **losses)


@pytest.mark.parametrize("own_teacher", [True, False])
def test_pseudo_labels_stay_without_gradient_beside_it(streets, own_teacher):
    """The weak pass now has a graph, for the photometric term; consistency must not use it."""
    batch = plain_batch(streets, WantedSources(True, (), False))
    batch["strong_image"] = batch["weak_image"].flip(1)
    tiles = {"unlabeled": pack_groups(assign_groups(2, 12, 3, generator=seeded(0, "g")))}
    depth = torch.full((2, 1, *SIZE), 5.0)
    labeled = {"image": batch["weak_image"], "depth": depth, "valid_mask": depth > 0}
    gradients = []
    for supervision in (None, SelfSupervision(sources="stereo", poses="given", **SETTINGS)):
        step = consistency_step(supervision)
        teacher = step.network if own_teacher else copy.deepcopy(step.network)
        losses = step(labeled, batch, tiles, teacher)
        (losses["depth_consistency"] + losses["feature_consistency"]).backward()
        gradients.append({name: p.grad for name, p in step.named_parameters()})
    plain, beside = gradients
    assert plain.keys() == beside.keys()
    for name in plain:
        same = plain[name] is beside[name] or torch.equal(plain[name], beside[name])
        assert same, name
    assert "photometric" in losses and losses["photometric"].requires_grad


def test_frames_without_what_is_asked_for_are_refused(streets):
    class Plain:
        frame_ids = ("a",)

    with pytest.raises(DataError, match="Plain has no stereo partners"):
        check_sources(Plain(), [0], WantedSources(True, (), False))
    far = WantedSources(False, (7,), False)
    with pytest.raises(DataError, match="none of the 6 unlabelled frames"):
        check_sources(Synthetic(streets, "train"), range(6), far)
    both = WantedSources(True, (-1, 1), True)
    assert check_sources(Synthetic(streets, "train"), range(6), both) == [6, 3, 3]


def words_of(tiny, streets, *more):
    return [*tiny, f"unlabeled.root={streets}", *SELF, *more]


def lines_of(tmp_path, name="run"):
    text = (tmp_path / "runs" / name / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_train_py_takes_stereo_pairs_and_draws_them(tiny, streets, tmp_path):
    train_main(words_of(tiny, streets))
    first = lines_of(tmp_path)[0]
    assert 0 < first["photometric"] < 1 and first["smoothness"] > 0
    assert 0 < first["taught_share"] <= 1
    run = tmp_path / "runs" / "run"
    assert (run / "samples" / "step_000004_warps.png").stat().st_size > 1000
    assert len((run / "splits" / "unlabeled.txt").read_text().splitlines()) == 6


def test_the_crop_of_the_configuration_reaches_the_batches(tiny, streets):
    words = words_of(tiny, streets, "augmentation.flip=0", "unlabeled.batch_size=1")
    focal = []
    for crop in ("null", "[0, 0.5, 0, 1]"):
        cfg = load_config(None, [*words, f"unlabeled.crop={crop}"])
        stream = Synthetic(streets, "train"), [0]
        process = Process(rank=0, world_size=1, device=torch.device("cpu"))
        batches = unlabeled_batches(
            cfg, stream, small_network(), strong=None, samples={"unlabeled": 0}, process=process
        )
        batch = next(batches)
        assert torch.equal(batch["intrinsics"], batch["source_intrinsics"][:, 0])
        focal.append(batch["intrinsics"][0, 1, 1].item())
    # the upper half of the picture, brought to the same height
    assert focal[1] == pytest.approx(2 * focal[0])


def test_without_its_weight_no_plain_image_is_opened(tiny, tmp_path):
    train_main([*tiny, "unlabeled.root=/nowhere", "unlabeled.dataset=images", "train.num_steps=1"])
    assert "photometric" not in lines_of(tmp_path)[0]


def test_a_stopped_video_run_goes_on_bit_for_bit(tiny, streets, tmp_path):
    words = words_of(tiny, streets, "self_supervision.sources=both", "unlabeled.batch_size=1",
                     "loss_weights.depth_consistency=1", "masking.num_groups=3",
                     "labeled.num_frames=null", "audit.num_frames=0")  # fmt: skip
    states = []
    for name, stops in (("whole", [4]), ("halves", [2, 4])):
        for steps in stops:
            # the schedule must not know that the run stops early
            more = [f"run.name={name}", f"train.num_steps={steps}", "schedule.name=constant"]
            consistency_main([*words, *more])
        file = tmp_path / "runs" / name / "checkpoints" / "last.pt"
        states.append(torch.load(file, weights_only=True)["step_module"])
    whole, halves = states
    assert any(key.startswith("self_supervision.pose_network.") for key in whole)
    assert all(torch.equal(whole[key], halves[key]) for key in whole)


def test_a_resumed_run_needs_no_pretrained_poses_any_more(tiny, streets, tmp_path):
    weights = tmp_path / "vit.pth"
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    torch.save(vit.state_dict(), weights)
    words = words_of(tiny, streets, "self_supervision.sources=video", "schedule.name=constant",
                     f"self_supervision.pose_pretrained={weights}")  # fmt: skip
    train_main([*words, "train.num_steps=1"])
    weights.unlink()
    with pytest.raises(USER_ERRORS, match="pose_pretrained"):
        train_main([*words, "run.name=other"])
    train_main([*words, "train.num_steps=2"])
    assert lines_of(tmp_path)[-1]["step"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["unlabeled.dataset=images", "unlabeled.split=all", "unlabeled.may_share=frames"],
            "ImageFolder has no stereo",
        ),
        (["self_supervision.sources=video", "self_supervision.offsets=[0]"], "other than 0"),
        (["loss_weights.photometric=0"], "loss_weights.smoothness"),
        (["unlabeled.crop=[0.5, 0.2, 0, 1]"], "top < bottom"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tiny, streets, words, message):
    with pytest.raises(USER_ERRORS, match=message):
        train_main(words_of(tiny, streets, *words))


def test_two_processes_with_a_pose_network_learn_like_one(tiny, streets, tmp_path):
    words = words_of(tiny, streets, "self_supervision.sources=both", "train.num_steps=2",
                     "validation.num_frames=1")  # fmt: skip
    halves = ["labeled.batch_size=1", "unlabeled.batch_size=1", "run.name=two"]
    run_pair(str(HOUSE / "train.py"), *words, *halves)
    train_main([*words, "run.name=one"])
    one, two = (
        next(line for line in lines_of(tmp_path, name) if line["split"] == "train")
        for name in ("one", "two")
    )
    # means over processes of means over images; each process has its own valid pixels
    for term in ("photometric", "smoothness"):
        assert one[term] == pytest.approx(two[term], rel=1e-4)


def test_the_commands_of_the_readme_have_it(tiny, streets):
    words = words_of(tiny, streets, "loss_weights.depth_consistency=1", "labeled.num_frames=null",
                     "masking.num_groups=3", "audit.num_frames=0")  # fmt: skip
    out = run_script("consistency_train.py", *words, "--dry-run")
    assert "6 the stereo partner" in out.stdout and "dry run done" in out.stdout
