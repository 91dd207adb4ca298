"""The pose network: exact rotations, which picture is which, and that every parameter learns."""

import math

import pytest
import timm
import torch

from networks import NetworkError
from networks.pose_network import axis_angle_to_matrix, build_pose_network, pose_matrix

NAME, SIZE = "vit_tiny_patch16_224", (32, 64)


def pose_network(seed=0, **changes):
    torch.manual_seed(seed)
    return build_pose_network(**{"encoder": NAME, "image_size": SIZE} | changes)


def pair(size=SIZE, batch=2, seed=0):
    """target and source (batch, 3, H, W) in [0, 1]."""
    return torch.rand(2, batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def cross_matrix(v):
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


ANGLES = [0.0, 1e-12, 1e-6, 1e-3, 0.0099999, 0.0100001, 0.3, 1.0, 3.0, math.pi, 5.0, 20.0]


@pytest.mark.parametrize("angle", ANGLES)
def test_a_rotation_is_the_matrix_exponential_of_its_vector(angle):
    generator = torch.Generator().manual_seed(1)
    axes = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    vectors = angle * axes / axes.norm(dim=1, keepdim=True)
    rotation = axis_angle_to_matrix(vectors)
    expected = torch.linalg.matrix_exp(cross_matrix(vectors))
    torch.testing.assert_close(rotation, expected, atol=1e-13, rtol=0)
    eye = torch.eye(3, dtype=torch.float64).expand(20, 3, 3)
    torch.testing.assert_close(rotation @ rotation.mT, eye, atol=1e-14, rtol=0)


def test_a_turn_to_the_right_is_positive_about_the_axis_that_points_down():
    quarter = axis_angle_to_matrix(torch.tensor([0.0, math.pi / 2, 0.0]))
    ahead, right = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 0.0])
    torch.testing.assert_close(quarter @ ahead, right, atol=1e-6, rtol=0)


@pytest.mark.parametrize("angle", [0.0, 0.005, 0.02, 2.0])
def test_its_gradient_is_right_also_where_nothing_turns(angle):
    vector = torch.tensor([angle, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(axis_angle_to_matrix, vector, atol=1e-8)


def test_shapes_before_the_last_one_do_not_matter():
    vectors = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    rotations = axis_angle_to_matrix(vectors)
    assert rotations.shape == (2, 5, 3, 3)
    torch.testing.assert_close(rotations[1, 3], axis_angle_to_matrix(vectors[1, 3]))


def test_a_pose_turns_first_and_moves_then():
    vector, move = torch.tensor([[0.1, -0.4, 0.2]]), torch.tensor([[1.0, 2.0, -3.0]])
    point = torch.tensor([0.3, 0.5, 7.0, 1.0])
    moved = pose_matrix(vector, move)[0] @ point
    expected = axis_angle_to_matrix(vector[0]) @ point[:3] + move[0]
    torch.testing.assert_close(moved[:3], expected)
    assert moved[3] == 1


def test_untrained_it_says_hardly_moved():
    for seed in range(3):
        pose = pose_network(seed).eval()(*pair()).detach()
        assert pose.shape == (2, 4, 4) and pose.dtype == torch.float32
        assert pose[:, 3].tolist() == [[0, 0, 0, 1]] * 2
        assert 0 < pose[:, :3, 3].norm(dim=1).max() < 0.2  # metres
        turn = torch.linalg.norm(pose[:, :3, :3] - torch.eye(3), dim=(1, 2)).max()
        assert 0 < turn < math.radians(2)


def test_it_can_say_metres_and_radians():
    """The last layer's numbers are scaled; which six they are is fixed here."""
    network = pose_network()
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.copy_(torch.tensor([0, 20.0, 0, 1.0, 0, -10.0]))
    pose = network(*pair())[0]
    torch.testing.assert_close(pose[:3, 3], torch.tensor([0.1, 0.0, -1.0]))
    turned = axis_angle_to_matrix(torch.tensor([0, 0.2, 0]))
    torch.testing.assert_close(pose[:3, :3], turned)


def test_the_two_pictures_are_not_interchangeable():
    network = pose_network().eval()
    target, source = pair()
    there, back = network(target, source), network(source, target)
    assert (there - back).abs().max() > 1e-4
    # and each image has its own pose
    assert (there[0] - there[1]).abs().max() > 1e-4
    torch.testing.assert_close(network(target[:1], source[:1]), there[:1], atol=1e-6, rtol=0)


def test_both_pictures_reach_the_vit_normalised_and_in_order():
    network = pose_network()
    seen = []
    network.vit.patch_embed.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    target, source = pair()
    network(target, source)
    torch.testing.assert_close(seen[0], torch.cat([(target - 0.5) / 0.5, (source - 0.5) / 0.5], 1))


def test_the_motion_is_read_from_the_mean_of_all_tokens():
    network = pose_network().eval()
    target, source = pair()
    pictures = torch.cat([(target - 0.5) / 0.5, (source - 0.5) / 0.5], 1)
    tokens = network.vit.forward_features(pictures)
    assert tokens.shape == (2, 2 * 4, 192)  # patches alone
    motion = network.head(sum(tokens.unbind(1)) / 8)
    expected = pose_matrix(0.01 * motion[:, :3], 0.1 * motion[:, 3:])
    torch.testing.assert_close(network(target, source), expected, atol=1e-6, rtol=0)


def test_under_autocast_the_rotation_stays_one():
    network = pose_network().eval()
    with torch.no_grad():
        network.head.bias.copy_(torch.tensor([3.0, -70.0, 11.0, 1.0, 0, -10.0]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pose = network(*pair())
    assert pose.dtype == torch.float32
    rotation = pose[:, :3, :3]
    eye = torch.eye(3).expand(2, 3, 3)
    torch.testing.assert_close(rotation @ rotation.mT, eye, atol=1e-6, rtol=0)
    # features are rounded, the numbers made of them are not
    torch.testing.assert_close(pose, network(*pair()), atol=2e-3, rtol=0)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("encoder", [NAME, "vit_small_patch14_reg4_dinov2"])
def test_every_parameter_learns(encoder, precision):
    size = (28, 56) if "patch14" in encoder else SIZE
    network = pose_network(encoder=encoder, image_size=size)
    with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
        pose = network(*pair(size))
    weights = torch.randn(pose.shape, generator=torch.Generator().manual_seed(0))
    (pose * weights).sum().backward()
    idle = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert idle == []


def test_a_camera_that_stands_still_gives_finite_gradients():
    network = pose_network()
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.zero_()
    pose = network(*pair())
    torch.testing.assert_close(pose, torch.eye(4).expand(2, 4, 4), atol=0, rtol=0)
    weights = torch.randn(pose.shape, generator=torch.Generator().manual_seed(0))
    (pose * weights).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
    assert (network.head.bias.grad != 0).all()


def test_other_sizes_work_and_those_that_the_patch_does_not_divide_are_refused():
    network = pose_network().eval()
    assert network(*pair((64, 96))).shape == (2, 4, 4)
    with pytest.raises(NetworkError, match="not a multiple of the encoder's patch"):
        network(*pair((33, 64)))
    with pytest.raises(NetworkError, match="not a multiple of the encoder's patch"):
        pose_network(image_size=(32, 60))


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("vit_tny_patch16_224", "pose_encoder: .*nearest: .*vit_tiny_patch16_224"),
        ("resnet50", "self_supervision.pose_encoder: 'resnet50' is not a plain ViT"),
        ("vit_tiny_r_s16_p8_224", "pose_encoder: .* has convolutions before its patches"),
    ],
)
def test_an_encoder_that_is_no_plain_vit_is_refused_under_its_own_key(encoder, message):
    with pytest.raises(NetworkError, match=message):
        pose_network(encoder=encoder)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A ViT as timm ships it, and its file: class token, 14 x 14 positions, classifier."""
    torch.manual_seed(1)
    vit = timm.create_model(NAME, num_classes=10)
    path = tmp_path_factory.mktemp("weights") / "vit.pth"
    torch.save(vit.state_dict(), path)
    return vit, path


def test_a_file_fills_the_whole_vit_with_its_last_norm(weights):
    vit, path = weights
    network = pose_network(pretrained=str(path))
    report = network.load_report
    assert report.share_loaded == 1 and not report.missing and not report.unexpected
    assert torch.equal(network.vit.norm.weight, vit.norm.weight)
    assert torch.equal(network.vit.blocks[11].mlp.fc2.weight, vit.blocks[11].mlp.fc2.weight)
    random = pose_network()
    assert random.load_report is None
    assert torch.equal(network.head.weight, random.head.weight)


def test_patches_and_positions_are_adapted_as_by_timm(weights):
    """timm's own loader needs the class token for it, and takes a file of any other model."""
    _, path = weights
    theirs = timm.create_model(
        NAME, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, in_chans=6,
        img_size=SIZE, num_classes=0, global_pool="", dynamic_img_size=True,
    )  # fmt: skip
    ours = pose_network(pretrained=str(path)).vit
    assert torch.equal(ours.patch_embed.proj.weight, theirs.patch_embed.proj.weight)
    assert ours.pos_embed.shape == (1, 2 * 4, 192)
    assert torch.equal(ours.pos_embed, theirs.pos_embed[:, 1:])


def test_two_equal_pictures_give_the_tokens_of_one(weights):
    vit, path = weights
    network = pose_network(pretrained=str(path), image_size=(224, 224)).eval()
    image = pair((224, 224), batch=1)[0]
    seen = []
    network.vit.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(image, image)
        tokens = vit.patch_embed((image - 0.5) / 0.5) + vit.pos_embed[:, 1:]
    torch.testing.assert_close(seen[0], tokens, atol=1e-5, rtol=0)


def test_a_missing_or_foreign_file_is_refused_by_name_and_by_the_right_key(tmp_path, weights):
    state = weights[0].state_dict()
    foreign, cut = tmp_path / "foreign.pth", tmp_path / "cut.safetensors"
    torch.save({key.replace("blocks", "layers"): value for key, value in state.items()}, foreign)
    cut.write_bytes(b"<html>quota exceeded</html>")
    for file, message in (
        (tmp_path / "nowhere.pth", r"no such file .*nowhere\.pth"),
        (foreign, r"foreign\.pth: .*missing 14\d .*self_supervision\.pose_pretrained=none"),
        (cut, r"cut\.safetensors: not a weight file"),
    ):
        with pytest.raises(NetworkError, match=message) as caught:
            pose_network(pretrained=str(file))
        assert "network.pretrained" not in str(caught.value)


def test_offline_and_not_cached_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(NetworkError, match=r"self_supervision\.pose_pretrained=/path/to/model"):
        pose_network(pretrained="timm")
