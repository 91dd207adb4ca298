"""The authors' checkpoint files: imported networks say what the authors' networks say."""

import pytest
import torch
from authors_checkpoints import Authors, bare_vit
from authors_network import AuthorsDepth, AuthorsPredictor, AuthorsUncertainty

from networks.encoder import ViTEncoder, ViTShape, _vit_of_shape
from networks.import_authors import import_checkpoint, import_predictor, import_vit
from networks.masking import assign_groups

VARIANTS = {
    "small": {},
    "upright, other depths and heads": {
        "depth": 4, "hooks": (0, 1, 2, 3), "heads": 4, "image_size": (96, 32), "max_depth": 10.0,
    },
    "widths of the large branch: none is the token width's": {
        "dim": 32, "heads": 2, "widths": (16, 32, 64, 64), "channels": 24, "head": (10, 6),
    },
    "a single hidden layer that is no multiple of the width": {"mlp_hidden": 101, "heads": 1},
}  # fmt: skip


def assert_same(network, theirs, image, groups=None):
    with torch.no_grad():
        ours = network(image, groups)
        predicted = network.imported_predictor(ours.features)
    depth, uncertainty, tokens, keys = theirs(image, groups)
    assert (
        depth.std() > 0.01 * network.max_depth
        and (uncertainty > 0).any()
        and (uncertainty == 0).any()
    )
    torch.testing.assert_close(ours.depth, depth, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.log_uncertainty, uncertainty, rtol=1e-4, atol=1e-4)
    for our_map, their_map in zip(ours.features + tuple(predicted), tokens + keys, strict=True):
        torch.testing.assert_close(our_map, their_map, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_imported_network_says_what_the_authors_says(tmp_path, variant):
    theirs = Authors(tmp_path, **VARIANTS[variant])
    assert_same(theirs.imported(), theirs, theirs.image())


@pytest.mark.parametrize("rule", ["equal", "random_cuts"])
def test_groups_are_the_authors_masking_with_nothing_leaking(tmp_path, rule):
    theirs = Authors(tmp_path)
    generator = torch.Generator().manual_seed(0)
    groups = assign_groups(2, 24, 5, generator=generator, rule=rule)
    image = theirs.image()
    assert_same(theirs.imported(), theirs, image, groups)
    assert (theirs(image, groups)[0] - theirs(image)[0]).abs().max() > 0.1


def test_the_real_sizes_are_those_of_the_facts_and_everything_used_is_filled(tmp_path):
    with torch.device("meta"):
        parts = {
            "depth": AuthorsDepth(), "mlp_head": AuthorsPredictor(),
            "uncert_decoder": AuthorsUncertainty(),
        }  # fmt: skip
    # method facts: 216, 16 and 46 tensors; 106,851,689, 6,298,624 and 10,036,417 parameters
    counts = {
        name: (len(part.state_dict()), sum(p.numel() for p in part.parameters()))
        for name, part in parts.items()
    }
    assert counts == {
        "depth": (216, 106_851_689),
        "mlp_head": (16, 6_298_624),
        "uncert_decoder": (46, 10_036_417),
    }
    files = {name: tmp_path / f"{name}.pth" for name in parts}
    for name, part in parts.items():
        torch.save(part.state_dict(), files[name])  # without storage: a few kilobytes
    network = import_checkpoint(
        **files, image_size=(192, 640), num_heads=12, taps=(2, 5, 8, 11), max_depth=80.0
    )
    used = sum(p.numel() for p in network.parameters())
    # never used: classifier, final norm, class token and its position, and two residual units
    assert used == 106_851_689 + 10_036_417 - 769_000 - 1_536 - 2 * 768 - 2 * 1_180_160
    assert all(p.requires_grad for p in network.parameters())


def test_the_real_key_names_are_those_of_the_facts():
    with torch.device("meta"):
        state = AuthorsDepth().state_dict()
        uncertainty = AuthorsUncertainty().state_dict()
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    facts = {
        "encoder.pos_embedding": (1, 481, 768),
        "encoder.cls_token": (1, 1, 768),
        "encoder.to_patch_embedding.1.weight": (768, 768),
        "encoder.transformer.layers.11.0.norm.weight": (768,),
        "encoder.transformer.layers.0.0.fn.to_qkv.weight": (2304, 768),
        "encoder.transformer.layers.0.0.fn.to_qkv.bias": (2304,),
        "encoder.transformer.layers.0.0.fn.to_out.0.weight": (768, 768),
        "encoder.transformer.layers.0.1.norm.bias": (768,),
        "encoder.transformer.layers.0.1.fn.net.0.weight": (3072, 768),
        "encoder.transformer.layers.0.1.fn.net.3.weight": (768, 3072),
        "encoder.mlp_head.0.weight": (768,),
        "encoder.mlp_head.1.weight": (1000, 768),
        "act_postprocess1.2.weight": (96, 96, 4, 4),
        "act_postprocess2.1.weight": (192, 768, 1, 1),
        "act_postprocess3.1.bias": (384,),
        "act_postprocess4.2.weight": (768, 768, 3, 3),
        "scratch.layer4_rn.weight": (256, 768, 3, 3),
        "scratch.refinenet4.resConfUnit1.conv2.weight": (256, 256, 3, 3),
        "scratch.refinenet1.out_conv.weight": (256, 256, 1, 1),
        "scratch.output_conv.0.weight": (128, 256, 3, 3),
        "scratch.output_conv.2.weight": (32, 128, 3, 3),
        "scratch.output_conv.4.weight": (1, 32, 1, 1),
    }
    assert {key: shapes.get(key) for key in facts} == facts
    second = {k.removeprefix("scratch.") for k in state if "refinenet" in k or "output_conv" in k}
    assert set(uncertainty) == second


def test_the_prefix_of_a_parallel_training_is_accepted(tmp_path):
    theirs = Authors(tmp_path, prefix="module.")
    assert_same(theirs.imported(), theirs, theirs.image())


def test_what_was_never_used_may_be_missing_or_of_any_shape(tmp_path):
    theirs = Authors(tmp_path)
    unit = {key: None for key in theirs.depth.state_dict() if "refinenet4.resConfUnit1" in key}
    assert len(unit) == 4
    theirs.change(
        "depth", **unit, **{"encoder.cls_token": None, "encoder.mlp_head.1.weight": torch.zeros(3)}
    )
    theirs.change("uncert_decoder", **{k.removeprefix("scratch."): None for k in unit})
    with torch.no_grad():  # the class token's position
        positions = theirs.depth.encoder.pos_embedding.clone()
        positions[:, 0] = torch.nan
    theirs.change("depth", **{"encoder.pos_embedding": positions})
    assert_same(theirs.imported(), theirs, theirs.image())


def test_depth_alone_is_enough(tmp_path):
    theirs = Authors(tmp_path)
    network = theirs.imported(mlp_head=None, uncert_decoder=None)
    image = theirs.image()
    with torch.no_grad():
        output = network(image)
    torch.testing.assert_close(output.depth, theirs(image)[0], rtol=1e-4, atol=1e-4)
    assert output.log_uncertainty is None and network.imported_predictor is None
    assert not network.training


def test_the_predictor_stays_out_of_the_networks_parameters_and_can_be_had_alone(tmp_path):
    theirs = Authors(tmp_path)
    network = theirs.imported()
    assert network.state_dict().keys() == theirs.imported(mlp_head=None).state_dict().keys()
    alone = import_predictor(theirs.files["mlp_head"]).state_dict()
    for key, value in theirs.mlp_head.state_dict().items():
        assert torch.equal(alone[key], value)
        assert torch.equal(network.imported_predictor.state_dict()[key], value)


def test_an_imported_network_trains_on(tmp_path):
    theirs = Authors(tmp_path)
    network = theirs.imported().train()
    output = network(theirs.image())
    output.log_uncertainty.mean().backward(retain_graph=True)
    # as in the authors' training, the uncertainty shapes the encoder
    assert all(p.grad is not None for p in network.encoder.parameters())
    output.depth.mean().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []


def test_an_encoder_given_by_its_sizes_takes_the_image_as_it_is_and_any_hidden_width():
    for hidden in range(33, 130):
        shape = ViTShape(patch_size=16, embed_dim=49, depth=1, num_heads=7, mlp_hidden=hidden)
        with torch.device("meta"):
            assert _vit_of_shape(shape, (32, 32)).blocks[0].mlp.fc1.out_features == hidden
    shape = ViTShape(patch_size=16, embed_dim=48, depth=4, num_heads=3, mlp_hidden=100)
    encoder = ViTEncoder(shape, (32, 32))
    assert encoder.image_mean.tolist() == torch.zeros(1, 3, 1, 1).tolist()
    assert encoder.image_std.tolist() == torch.ones(1, 3, 1, 1).tolist()


def test_a_bare_vit_starts_as_the_authors_started(tmp_path):
    vit, file = bare_vit(tmp_path)
    ours = import_vit(file, image_size=(64, 96), num_heads=3, taps=(0, 2, 3, 4))
    image = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        # a bilinear grid without antialiasing: new row i looks at (i + 1/2) 5/4 - 1/2 of the old
        square = vit.pos_embedding[0, 1:].unflatten(0, (5, 5))
        rows = weights_between(5, 4) @ square.flatten(1)
        grid = weights_between(5, 6) @ rows.unflatten(1, (5, 48))
        vit.pos_embedding = torch.nn.Parameter(
            torch.cat([torch.zeros(1, 48), grid.flatten(0, 1)])[None]
        )
        for ours_map, their_map in zip(ours(image), vit(image), strict=True):
            torch.testing.assert_close(ours_map, their_map, rtol=1e-4, atol=1e-4)


def weights_between(old: int, new: int) -> torch.Tensor:
    """(new, old) weights of the old positions in each new one, by hand."""
    weights = torch.zeros(new, old)
    for i in range(new):
        place = min(max((i + 0.5) * old / new - 0.5, 0), old - 1)
        low = min(int(place), old - 2)
        weights[i, low], weights[i, low + 1] = 1 - (place - low), place - low
    return weights
