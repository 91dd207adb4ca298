"""K-way disjoint masking: groups are a partition, nothing crosses between them, nothing is lost."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from networks import NetworkError, build_network
from networks.masking import DROPPED, GROUP_RULES, assign_groups, pack_groups

SIZE = (48, 80)  # a token grid of 3 x 5: N = 15, which neither 2 nor 4 divides
NUM_TOKENS = 15


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def groups_of(num_groups, *, batch_size=2, rule="equal", seed=0):
    return assign_groups(
        batch_size, NUM_TOKENS, num_groups, generator=generator(seed), rule=rule
    )  # fmt: skip


def tiny_network(encoder="vit_tiny_patch16_224", **changes):
    torch.manual_seed(0)
    settings = {
        "encoder": encoder, "image_size": SIZE, "max_depth": 10.0, "decoder_channels": 16,
        "taps": (0, 1, 2, 3),
    }  # fmt: skip
    return build_network(**settings | changes).eval()


def image(batch_size=2):
    return torch.rand(batch_size, 3, *SIZE, generator=generator(1))


@pytest.mark.parametrize(
    ("num_tokens", "num_groups"), [(480, 64), (1200, 64), (52, 4), (7, 7), (5, 8), (1, 1), (9, 1)]
)
def test_equal_groups_are_a_partition_whose_sizes_differ_by_at_most_one(num_tokens, num_groups):
    groups = assign_groups(3, num_tokens, num_groups, generator=generator())
    assert groups.shape == (3, num_tokens) and groups.dtype == torch.long
    assert groups.min() >= 0 and groups.max() < num_groups
    for row in groups:
        sizes = row.bincount(minlength=num_groups)
        assert sizes.sum() == num_tokens and sizes.max() - sizes.min() <= 1


def test_images_get_partitions_of_their_own_and_every_pair_of_tokens_meets_alike():
    groups = assign_groups(4000, 6, 2, generator=generator())
    assert not torch.equal(groups[0], groups[1])
    together = (groups[:, :, None] == groups[:, None, :]).double().mean(0)
    # a token has 2 companions among the 5 others
    assert (together[~torch.eye(6, dtype=torch.bool)] - 2 / 5).abs().max() < 0.04


def test_random_cuts_have_the_sizes_of_the_authors_code():
    groups = assign_groups(2000, 480, 64, generator=generator(), rule="random_cuts")
    sizes = torch.stack([row.bincount(minlength=64) for row in groups]).double()
    assert (sizes.sum(1) == 480).all()
    # their code, 2,000 draws: 3.9 empty groups, largest 35.5, standard deviation 7.4
    assert (sizes == 0).sum(1).double().mean().item() == pytest.approx(3.9, abs=0.3)
    assert sizes.amax(1).mean().item() == pytest.approx(35.5, abs=1.0)
    assert sizes.std().item() == pytest.approx(7.4, abs=0.2)


def test_naive_masking_keeps_one_group_and_drops_the_others():
    groups = assign_groups(3, 480, 2, generator=generator(), rule="naive")
    assert ((groups == 0).sum(1) == 240).all() and ((groups == DROPPED).sum(1) == 240).all()


@pytest.mark.parametrize("rule", GROUP_RULES)
def test_groups_follow_from_the_generator_and_from_nothing_else(rule):
    torch.manual_seed(1)
    first = groups_of(4, rule=rule, seed=7)
    torch.manual_seed(2)
    assert torch.equal(first, groups_of(4, rule=rule, seed=7))
    assert not torch.equal(first, groups_of(4, rule=rule, seed=8))


@pytest.mark.parametrize("arguments", [(0, 5, 2), (2, 0, 2), (2, 5, 0)])
def test_numbers_below_one_are_refused(arguments):
    with pytest.raises(ValueError, match="at least 1"):
        assign_groups(*arguments, generator=generator())


def test_an_unknown_rule_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"'blocks'.*equal, random_cuts, naive"):
        groups_of(2, rule="blocks")


@pytest.mark.parametrize("tile_size", [4, 8, 64])
@pytest.mark.parametrize("num_prefix", [0, 2])
@pytest.mark.parametrize("rule", GROUP_RULES)
@pytest.mark.parametrize("num_groups", [1, 2, 4, 15, 20])
def test_a_tile_holds_whole_groups_in_order_and_every_token_once(
    num_groups, rule, num_prefix, tile_size
):
    groups = groups_of(num_groups, batch_size=3, rule=rule)
    tiles = pack_groups(groups, num_prefix=num_prefix, tile_size=tile_size)
    owner_of_token = (groups + 100 * torch.arange(3)[:, None]).flatten()
    owner = torch.zeros_like(tiles.source) if tiles.owner is None else tiles.owner
    for source, owners in zip(tiles.source, owner, strict=True):
        for name in owners[owners >= 0].unique():
            slots = source[owners == name]
            prefix, members = slots[:num_prefix], slots[num_prefix:]
            assert prefix.tolist() == list(range(45, 45 + num_prefix))
            assert (members.diff() > 0).all()
            # the whole group, and nothing but this group
            assert (owner_of_token == owner_of_token[members[0]]).nonzero()[:, 0].equal(members)
    slot = tiles.back.flatten()
    kept = (groups != DROPPED).flatten()
    assert torch.equal(tiles.source.flatten()[slot[kept]], kept.nonzero()[:, 0])
    assert (slot[~kept] == tiles.source.numel()).all()
    assert len(slot[kept].unique()) == kept.sum()


@pytest.mark.parametrize(
    ("num_tokens", "num_groups", "rule", "most"),
    [(480, 64, "equal", 0.02), (1200, 64, "equal", 0.06), (480, 16, "equal", 0),
     (480, 4, "equal", 0), (480, 480, "equal", 0.01), (480, 1, "equal", 0),
     (480, 64, "random_cuts", 0.05)],
)  # fmt: skip
def test_tiles_are_nearly_full(num_tokens, num_groups, rule, most):
    groups = assign_groups(56, num_tokens, num_groups, generator=generator(), rule=rule)
    assert pack_groups(groups).source.numel() <= (1 + most) * groups.numel()


ENCODERS = pytest.mark.parametrize(
    ("encoder", "prefix"),
    [
        ("vit_tiny_patch16_224", "drop"),
        ("vit_tiny_patch16_224", "per_group"),
        ("vit_xsmall_patch16_clip_224", "per_group"),  # a norm before the blocks
        ("vit_small_patch16_18x2_224", "drop"),  # parallel blocks
    ],
)


@ENCODERS
def test_one_group_is_the_ordinary_pass_bit_for_bit(encoder, prefix):
    network = tiny_network(encoder, prefix_tokens=prefix)
    plain, grouped = network(image()), network(image(), groups=groups_of(1))
    assert torch.equal(plain.depth, grouped.depth)
    assert torch.equal(plain.log_uncertainty, grouped.log_uncertainty)
    assert all(map(torch.equal, plain.features, grouped.features))


@ENCODERS
def test_a_changed_patch_moves_its_group_and_not_one_bit_elsewhere(encoder, prefix):
    network = tiny_network(encoder, prefix_tokens=prefix)
    for num_groups, rule in ((2, "equal"), (4, "random_cuts"), (15, "equal"), (4, "naive")):
        check_that_nothing_crosses(network, groups_of(num_groups, rule=rule))


def check_that_nothing_crosses(network, groups):
    changed = image()
    changed[1, :, 16:32, 48:64] += 0.3  # the patch in row 1, column 3 of the second image
    token = 1 * 5 + 3
    with torch.no_grad():
        before = network(image(), groups=groups).features
        after = network(changed, groups=groups).features
    own_group = torch.zeros(2, NUM_TOKENS, dtype=torch.bool)
    own_group[1] = (groups[1] == groups[1, token]) & (groups[1] != DROPPED)
    for tap_before, tap_after in zip(before, after, strict=True):
        assert torch.equal((tap_before != tap_after).any(-1), own_group)


def masked_features(encoder, pictures, groups):
    """The same in the dense way: an N x N mask of minus infinity between groups, in every block."""
    vit, taps = encoder.vit, []
    tokens = vit.patch_embed((pictures - encoder.image_mean) / encoder.image_std)
    tokens = vit.norm_pre(vit._pos_embed(tokens))
    same = groups[:, :, None] == groups[:, None, :]
    bias = torch.zeros_like(same, dtype=tokens.dtype).masked_fill(~same, -torch.inf)[:, None]
    for index, block in enumerate(vit.blocks):
        tokens = block(tokens, attn_mask=bias)
        if index in encoder.taps:
            taps.append(tokens)
    return taps


@pytest.mark.parametrize(
    ("num_groups", "rule"), [(1, "equal"), (4, "equal"), (7, "equal"), (4, "random_cuts")]
)
def test_outputs_and_gradients_equal_those_of_a_mask_of_minus_infinity(num_groups, rule):
    encoder = tiny_network().encoder.double()
    pictures = image().double().requires_grad_()
    groups = groups_of(num_groups, rule=rule)
    weights = [torch.rand(2, NUM_TOKENS, 192, dtype=torch.float64) for _ in range(4)]
    parameters = [pictures, *encoder.parameters()]
    found = []
    for features in (encoder(pictures, groups), masked_features(encoder, pictures, groups)):
        total = sum((w * f).sum() for w, f in zip(weights, features, strict=True))
        found.append((features, torch.autograd.grad(total, parameters)))
    (ours, our_gradients), (dense, dense_gradients) = found
    for a, b in zip((*ours, *our_gradients), (*dense, *dense_gradients), strict=True):
        assert (a - b).abs().max() <= 1e-10 * max(1.0, b.abs().max())


def test_tokens_that_naive_masking_drops_are_holes_that_no_pixel_reaches():
    network = tiny_network()
    groups = groups_of(2, rule="naive")
    pictures = image().requires_grad_()
    output = network(pictures, groups=groups)
    output.depth.sum().backward()
    dropped = (groups == DROPPED).view(2, 1, 3, 5)
    pixels = dropped.repeat_interleave(16, 2).repeat_interleave(16, 3).expand(2, 3, *SIZE)
    assert (pictures.grad[pixels] == 0).all() and (pictures.grad[~pixels] != 0).any()
    for tap in output.features:
        assert torch.equal((tap == 0).all(-1), groups == DROPPED)


def test_the_cost_of_attention_falls_with_the_number_of_groups():
    network = tiny_network(image_size=(256, 256)).encoder  # N = 256

    def attention_flops(num_groups):
        groups = assign_groups(1, 256, num_groups, generator=generator())
        # the plain kernel is two batched products, which the counter knows on every device
        with (
            FlopCounterMode(display=False) as counter,
            sdpa_kernel(SDPBackend.MATH),
            torch.no_grad(),
        ):
            network(torch.rand(1, 3, 256, 256), groups)
        counts = counter.get_flop_counts()["Global"]
        return sum(count for op, count in counts.items() if "bmm" in str(op))

    dense = attention_flops(1)
    assert dense > 0 and attention_flops(2) == dense // 2
    # groups of 16 and of 4 share tiles of 64 slots, a quarter of 256
    assert attention_flops(16) == attention_flops(64) == dense // 4


@ENCODERS
def test_groups_that_were_packed_before_give_the_same_bits(encoder, prefix):
    network = tiny_network(encoder, prefix_tokens=prefix)
    groups = groups_of(4)
    tiles = pack_groups(groups, num_prefix=network.encoder.num_prefix)
    assert torch.equal(network(image(), groups=groups).depth, network(image(), groups=tiles).depth)


def test_a_batch_of_copies_gives_copies():
    network, groups = tiny_network(), groups_of(4, batch_size=1)
    alone = network(image()[:1], groups=groups).depth
    thrice = network(image()[:1].repeat(3, 1, 1, 1), groups=groups.repeat(3, 1)).depth
    assert (thrice - alone).abs().max() < 1e-5


def test_groups_of_another_size_are_refused():
    with pytest.raises(NetworkError, match="3 x 5 tokens"):
        tiny_network()(image(), groups=torch.zeros(2, 16, dtype=torch.long))


def test_the_uncertainty_decoder_can_be_spared():
    network = tiny_network()
    spared = network(image(), groups=groups_of(4), with_uncertainty=False)
    assert spared.log_uncertainty is None
    assert torch.equal(spared.depth, network(image(), groups=groups_of(4)).depth)
