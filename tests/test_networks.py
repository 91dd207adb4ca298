"""The network: shapes, that every parameter learns, and that nothing is cut in silence."""

import pytest
import torch
import torch.nn.functional as F

from networks import NetworkError, build_network
from networks.dpt import upsample_by_products

TINY = {"encoder": "vit_tiny_patch16_224", "max_depth": 10.0, "decoder_channels": 16}


def tiny_network(**changes):
    return build_network(**{**TINY, "image_size": (32, 64), **changes})


@pytest.mark.parametrize(
    ("encoder", "size"),
    [
        ("vit_tiny_patch16_224", (32, 64)),
        ("vit_tiny_patch16_224", (48, 80)),  # an odd token grid: 3 x 5
        ("vit_small_patch32_224", (64, 96)),
        ("vit_small_patch14_dinov2", (28, 70)),
        ("vit_small_patch14_reg4_dinov2", (28, 70)),
    ],
)
def test_output_shapes_follow_the_image(encoder, size):
    network = tiny_network(encoder=encoder, image_size=size)
    output = network(torch.rand(2, 3, *size))
    h, w = network.encoder.grid(size)
    assert output.depth.shape == output.log_uncertainty.shape == (2, 1, *size)
    assert [f.shape for f in output.features] == [(2, h * w, network.encoder.embed_dim)] * 4
    assert output.depth.min() > 0 and output.depth.max() < 10.0
    assert output.log_uncertainty.min() >= 0


@pytest.mark.parametrize("encoder", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"])
@pytest.mark.parametrize("shapes", [False, True])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("decoder", ["full", "light"])
def test_every_parameter_learns(encoder, shapes, precision, decoder):
    size = (28, 56) if "patch14" in encoder else (32, 64)
    torch.manual_seed(0)
    network = tiny_network(encoder=encoder, image_size=size, uncertainty_shapes_encoder=shapes,
                           uncertainty_decoder=decoder)  # fmt: skip
    with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
        output = network(torch.rand(2, 3, *size))
    weights = torch.rand_like(output.depth)
    (output.depth * weights + output.log_uncertainty * weights).mean().backward()
    idle = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert idle == []


@pytest.mark.parametrize("decoder", ["full", "light"])
def test_uncertainty_reaches_the_encoder_only_when_asked(decoder):
    for shapes in (False, True):
        network = tiny_network(uncertainty_shapes_encoder=shapes, uncertainty_decoder=decoder)
        network(torch.rand(1, 3, 32, 64)).log_uncertainty.mean().backward()
        depth_side = [*network.encoder.parameters(), *network.reassemble.parameters()]
        if decoder == "light":  # it stands on the depth decoder's map
            depth_side += network.depth_fusion.parameters()
        shaped = [p.grad is not None for p in depth_side]
        assert all(shaped) if shapes else not any(shaped)
        assert all(p.grad is not None for p in network.uncertainty_head.parameters())


def test_uncertainty_cannot_die():
    network = tiny_network()
    with torch.no_grad():
        network.uncertainty_head.conv3.bias.fill_(-20.0)  # a ReLU would be dead here
    network(torch.rand(1, 3, 32, 64)).log_uncertainty.mean().backward()
    assert network.uncertainty_head.conv3.bias.grad.item() > 0


def test_without_uncertainty_there_is_no_second_decoder():
    network = tiny_network(uncertainty=False)
    assert network(torch.rand(1, 3, 32, 64)).log_uncertainty is None
    assert not any("uncertainty" in name for name, _ in network.named_parameters())


def test_a_network_takes_other_sizes_than_its_own():
    network = tiny_network().eval()
    assert network(torch.rand(1, 3, 64, 96)).depth.shape == (1, 1, 64, 96)


@pytest.mark.parametrize("size", [(33, 64), (32, 60), (16, 8)])
def test_a_size_that_the_patch_does_not_divide_is_refused_never_cut(size):
    with pytest.raises(NetworkError, match="not a multiple of the encoder's patch"):
        tiny_network(image_size=size)
    with pytest.raises(NetworkError, match="not a multiple of the encoder's patch"):
        tiny_network()(torch.rand(1, 3, *size))


def test_the_nearest_size_that_works_is_named():
    with pytest.raises(NetworkError, match=r"the nearest that is: \[352, 1216\]"):
        tiny_network(image_size=(350, 1216))


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("vit_tny_patch16_224", "nearest: .*vit_tiny_patch16_224"),
        ("resnet50", "not a plain ViT"),
        ("vit_relpos_base_patch16_224", "cannot be read as a plain ViT"),
    ],
)
def test_an_encoder_that_is_no_plain_vit_is_refused(encoder, message):
    with pytest.raises(NetworkError, match=message):
        tiny_network(encoder=encoder)


def test_taps_choose_the_blocks_and_blocks_behind_the_last_are_gone():
    network = tiny_network(taps=(0, 2, 3, 5))
    assert len(network.encoder.vit.blocks) == 6
    assert tiny_network().encoder.taps == (2, 5, 8, 11)
    with pytest.raises(NetworkError, match="blocks 0 to 11"):
        tiny_network(taps=(2, 5, 8, 12))


def test_the_one_by_one_convolution_commutes_with_the_upsampling():
    from networks.dpt import FusionBlock, upsample  # noqa: PLC0415 - internals of one test

    torch.manual_seed(0)
    block = FusionBlock(8, has_skip=True).double()
    x, skip = torch.randn(2, 1, 8, 5, 7, dtype=torch.float64)
    ours = block(x, skip, (10, 14))
    papers = block.out_conv(upsample(block.refine(x + block.refine_skip(skip)), (10, 14)))
    assert torch.allclose(ours, papers, atol=1e-12)


def test_the_base_network_has_the_size_of_the_authors_one():
    network = build_network(
        encoder="vit_base_patch16_384", image_size=(192, 640), max_depth=80.0, uncertainty=True
    )
    count = {
        name: sum(p.numel() for p in module.parameters())
        for name, module in network.named_children()
    }
    # method facts: 106,851,689 with 769,000 classifier, 1,536 final norm, 1,536 class token and its
    # position, and 1,180,160 of a residual unit that never runs, none of which we build
    depth = count["encoder"] + count["reassemble"] + count["depth_fusion"] + count["depth_head"]
    assert depth == 106_851_689 - 769_000 - 1_536 - 2 * 768 - 1_180_160
    assert count["uncertainty_fusion"] + count["uncertainty_head"] == 10_036_417 - 1_180_160


def test_resized_interpolates_both_maps_and_keeps_the_range():
    output = tiny_network()(torch.rand(1, 3, 32, 64)).resized((50, 71))
    assert output.depth.shape == output.log_uncertainty.shape == (1, 1, 50, 71)
    assert output.depth.min() > 0 and output.depth.max() < 10.0


def test_random_weights_let_the_image_through_to_the_depth():
    torch.manual_seed(0)
    network = tiny_network(decoder_channels=64).eval()
    with torch.no_grad():
        depth = network(torch.rand(8, 3, 32, 64)).depth
    # PyTorch's own start gives 0.0005 here: an image that biases drown
    between_images = depth.std(dim=0).mean() / depth.mean()
    assert between_images > 0.02
    assert depth.median().item() == pytest.approx(1.5, rel=0.5)


def test_positions_of_an_untrained_encoder_know_up_from_down():
    positions = tiny_network(image_size=(64, 64)).encoder.vit.pos_embed[0].unflatten(0, (4, 4))
    assert not torch.allclose(positions[0], positions[1])
    assert not torch.allclose(positions[:, 0], positions[:, 1])
    assert len({tuple(p.tolist()) for p in positions.flatten(0, 1)}) == 16


def test_the_light_uncertainty_decoder_leaves_depth_alone_and_is_a_fraction_of_the_full_one():
    networks = []
    for decoder in ("full", "light"):
        torch.manual_seed(0)
        networks.append(tiny_network(uncertainty_decoder=decoder))
    full, light = networks
    size = lambda part: sum(p.numel() for p in part.parameters())  # noqa: E731
    assert light.uncertainty_fusion is None
    assert size(light.uncertainty_head) < 0.2 * (
        size(full.uncertainty_head) + size(full.uncertainty_fusion)
    )
    light.eval()
    image = torch.rand(1, 3, 32, 64)
    before = light(image).depth
    with torch.no_grad():
        light.uncertainty_head.conv3.bias.add_(1)
    assert torch.equal(light(image).depth, before)


@pytest.mark.parametrize(
    ("before", "after"), [((3, 5), (6, 10)), ((4, 1), (7, 3)), ((6, 8), (6, 8))]
)
def test_upsampling_by_products_is_bilinear_interpolation(before, after):
    """Of values and gradients; a constant map stays constant in half precision too."""
    x = torch.randn(2, 3, *before, dtype=torch.float64, requires_grad=True)
    upsampled = [
        upsample_by_products(x, after),
        F.interpolate(x, size=after, mode="bilinear", align_corners=True),
    ]
    torch.testing.assert_close(*upsampled, rtol=0, atol=1e-6)
    upstream = torch.randn_like(upsampled[0])
    gradients = [torch.autograd.grad(each, x, upstream)[0] for each in upsampled]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-5)
    half = upsample_by_products(torch.ones(1, 1, *before, dtype=torch.bfloat16), after)
    torch.testing.assert_close(half.float(), torch.ones(1, 1, *after), rtol=0, atol=2**-7)
