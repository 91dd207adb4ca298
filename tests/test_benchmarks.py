"""What the benchmarks claim: the reference computes our step, FLOPs add up, every script runs."""

import json
import re

import pytest
import torch
from conftest import HOUSE

from benchmarks import agreement, attention, communication, scaling, step_time, tables
from benchmarks.attention_ways import put_back, sequences, tiles
from benchmarks.ranks import measure_ranks
from benchmarks.step_floor import calls_of, measure_floor
from benchmarks.step_flops import counted_flops, step_flops
from benchmarks.step_setup import TimedStep, build_step, random_batch, reference_of, total_loss
from benchmarks.step_variants import build_variant
from networks.masking import assign_groups, pack_groups

SMALL = ["--encoder", "vit_tiny_patch16_224", "--image-size", "64", "96"]
TINY_STEP = [*SMALL, "--decoder-channels", "16", "--labeled", "1", "--unlabeled", "2",
             "--num-groups", "6"]  # fmt: skip


@pytest.fixture(autouse=True)
def _own_random_numbers():
    with torch.random.fork_rng():
        yield


@pytest.fixture(scope="module")
def step():
    with torch.random.fork_rng():
        return build_step(
            encoder="vit_tiny_patch16_224", image_size=(64, 96), decoder_channels=16
        )  # fmt: skip


def batch(step, *, unlabeled=2, rule="equal"):
    return random_batch(step.network, labeled=1, unlabeled=unlabeled, num_groups=6, rule=rule)


def run(script, tmp_path, *words):
    """The JSON that a benchmark writes."""
    out = tmp_path / "results" / "result.json"
    assert script.main([*map(str, words), "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert {"torch", "device", "git_commit"} <= set(result["environment"])
    return result


@pytest.mark.parametrize("rule", ["equal", "random_cuts"])
def test_the_reference_has_our_losses_and_gradients_with_disjoint_groups(tmp_path, rule):
    words = [*TINY_STEP, "--rule", rule, "--sharper", "100"]
    result = run(agreement, tmp_path, *words)
    assert set(result["losses"]) == {
        "depth", "uncertainty", "depth_consistency", "feature_consistency", "total",
    }  # fmt: skip
    exact, leaking = result["minus_infinity"], result["minus_ten"]
    assert max(exact["loss_differences"].values()) < 1e-5
    assert exact["largest_gradient_difference"] < 1e-4
    # their -10 lets groups see each other, a little
    assert leaking["loss_differences"]["depth"] < 1e-6
    assert leaking["largest_gradient_difference"] > 10 * exact["largest_gradient_difference"]


def test_a_graph_or_another_memory_layout_in_the_reference_changes_no_number(step):
    data = batch(step)
    losses = [
        total_loss(reference_of(step, **changes), data).item()
        for changes in (
            {},
            {"graph_in_weak_pass": False},
            {"contiguous": True},
            {"labeled_last": True},
        )
    ]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-6)


@pytest.mark.parametrize("unlabeled", [2, 0])
@pytest.mark.parametrize("kind", ["ours", "reference"])
def test_the_formula_of_the_flops_is_what_pytorch_counts(step, kind, unlabeled):
    data = batch(step, unlabeled=unlabeled)
    subject = step if kind == "ours" else reference_of(step)
    hidden = step.predictor.mlps[0][0].out_features
    formula = step_flops(
        step.network, labeled=1, groups=data["groups"], hidden=hidden, kind=kind
    )  # fmt: skip
    counted = counted_flops(lambda: total_loss(subject, data).backward())
    assert sum(formula.values()) == counted
    method = step_flops(
        step.network, labeled=1, groups=data["groups"], hidden=hidden, kind="method"
    )  # fmt: skip
    assert sum(method.values()) <= sum(
        step_flops(
            step.network, labeled=1, groups=data["groups"], hidden=hidden, kind="reference"
        ).values()
    )


def test_a_light_uncertainty_decoder_is_counted_too():
    light = build_step(
        encoder="vit_tiny_patch16_224", image_size=(64, 96), decoder_channels=16,
        uncertainty_decoder="light",
    )  # fmt: skip
    data = batch(light)
    formula = step_flops(
        light.network, labeled=1, groups=data["groups"], kind="ours",
        hidden=light.predictor.mlps[0][0].out_features,
    )  # fmt: skip
    assert sum(formula.values()) == counted_flops(lambda: total_loss(light, data).backward())


def test_the_floor_has_every_product_but_attention_and_padding(step):
    data = batch(step)
    floor = measure_floor(step, labeled=1, unlabeled=2, dtype=torch.float32, repeats=1)
    formula = step_flops(
        step.network, labeled=1, groups=data["groups"], kind="ours",
        hidden=step.predictor.mlps[0][0].out_features,
    )  # fmt: skip
    padding = pack_groups(data["groups"]).source.numel() - data["groups"].numel()
    per_token = sum(
        call.flops for call in calls_of(step) if call.kind == "linear" and call.part == "all"
    ) / (4 * 6)
    expected = sum(formula.values()) - formula["attention"] - 3 * padding * per_token
    assert floor["flops"] == pytest.approx(expected, rel=1e-9)
    assert floor["seconds"] == pytest.approx(
        sum(kind["seconds"] for kind in floor["by_kind"].values())
    )
    assert set(floor["by_kind"]) == {"linear", "conv 1x1", "conv 3x3", "conv other"}


def test_a_timed_step_trains_and_its_stages_add_up_to_it(step):
    subject = build_step(
        encoder="vit_tiny_patch16_224", image_size=(64, 96), decoder_channels=16
    )  # fmt: skip
    for kind in (subject, reference_of(subject)):
        before = [p.detach().clone() for p in kind.parameters()]
        timed = TimedStep(kind, batch(subject), precision="fp32")
        losses = [timed().item() for _ in range(3)]
        assert losses[2] < losses[0]
        assert all(
            not torch.equal(old, new) for old, new in zip(before, kind.parameters(), strict=True)
        )
        stages = timed.stage_seconds(last=2)
        assert {name: len(values) for name, values in stages.items()} == {
            "forward": 2, "backward": 2, "optimiser": 2,
        }  # fmt: skip
        assert all(value > 0 for values in stages.values() for value in values)


def test_every_variant_of_the_step_is_timed_beside_the_first(tmp_path):
    variants = [name for name in step_time.VARIANTS if name != "ours_compiled"]  # needs a compiler
    result = run(
        step_time, tmp_path, *TINY_STEP, "--unlabeled", 1, "--rounds", 1, "--no-memory",
        "--device", "cpu", "--variants", *variants,
    )  # fmt: skip
    rows = result["variants"]
    assert set(rows) == {f"{name} fp32" for name in variants}
    assert rows["reference fp32"]["times_faster"]["median"] == 1
    for name, row in rows.items():
        stages = sum(stage["median"] for stage in row["stages"].values())
        assert stages == pytest.approx(row["seconds"]["median"], rel=0.2), name
        assert row["images_per_s"] == pytest.approx(2 / row["seconds"]["median"])
    # the same arithmetic: a pass without its graph, another layout; more of it; less of it
    flops = {name.split()[0]: row["flops_counted"] for name, row in rows.items()}
    assert flops["reference"] == flops["reference_no_grad"] == flops["reference_nchw"]
    assert flops["ours"] == flops["ours_nchw"] < flops["ours_recompute"]
    assert flops["ours"] > flops["ours_light"] > flops["ours_fast"]
    assert rows["ours_light fp32"]["share_of_floor"] is None  # another network, another floor
    ours = rows["ours fp32"]
    assert ours["share_of_floor"] == pytest.approx(
        result["floor"]["fp32"]["seconds"] / ours["seconds"]["median"]
    )


def test_the_peak_memory_is_that_of_one_step_whatever_this_process_holds():
    held = torch.ones(2**27)  # 0.5 GiB
    words = step_time.parser().parse_args([*TINY_STEP, "--device", "cpu"])
    peak = step_time.peak_of_one_step(words, None, "ours", "fp32", torch.device("cpu"))
    weights = sum(p.numel() for p in build_variant("ours", words, held.device).parameters())
    assert 4 * 4 * weights / 2**30 < peak < 0.5  # weights, gradients and two moments at least


def test_a_supervised_step_is_timed_without_unlabelled_images(tmp_path):
    result = run(
        step_time, tmp_path, *TINY_STEP, "--unlabeled", 0, "--rounds", 1, "--no-memory",
        "--device", "cpu", "--variants", "reference", "ours", "--precision", "bf16", "fp32",
    )  # fmt: skip
    assert set(result["variants"]) == {
        f"{name} {kind}" for name in ("reference", "ours") for kind in ("bf16", "fp32")
    }
    assert set(result["floor"]) == {"bf16", "fp32"}


@pytest.mark.parametrize("rule", ["equal", "random_cuts"])
def test_every_way_to_attend_is_exact_but_the_authors(tmp_path, rule):
    result = run(
        attention, tmp_path, "--num-tokens", 30, "--num-groups", 1, 5, "--batch-size", 2,
        "--checked", 2, "--heads", 2, "--rounds", 1, "--rule", rule, "--device", "cpu",
    )  # fmt: skip
    for point in result["points"]:
        assert set(point["ways"]) >= {"authors", "dense", "sequences", "tiles"}
        for name, way in point["ways"].items():
            if name != "authors" or point["num_groups"] == 1:
                assert max(way["largest_error"].values()) < 1e-5, name
    assert result["points"][1]["ways"]["authors"]["largest_error"]["output"] > 1e-4
    blocks = run(
        attention, tmp_path, "--num-tokens", 30, "--num-groups", 5, "--batch-size", 1, "--heads", 1,
        "--rounds", 1, "--rule", rule, "--device", "cpu", "--blocks", 1, "--precision", "bf16",
    )  # fmt: skip
    assert blocks["settings"]["blocks"] == 1


def test_sequences_and_tiles_hold_every_token_once_and_come_back_in_order():
    groups = assign_groups(2, 30, 4, generator=torch.Generator().manual_seed(0), rule="random_cuts")
    tokens = torch.arange(60.0)[:, None]
    for plan in (sequences, tiles):
        chunks = plan(groups)
        places = torch.cat([chunk.places.flatten() for chunk in chunks])
        assert sorted(places[places >= 0].tolist()) == list(range(60))
        parts = [tokens[chunk.places.clamp(min=0)] for chunk in chunks]
        assert torch.equal(put_back(parts, chunks), tokens)


def test_scaling_measures_its_tables(tmp_path, monkeypatch):
    points = {
        "num_groups": [{"num_groups": 1}, {"num_groups": 4}],
        "batch": [{"labeled": 1, "unlabeled": 1}, {"labeled": 1, "unlabeled": 3}],
    }
    monkeypatch.setattr(scaling, "POINTS", points)
    result = run(
        scaling, tmp_path, *SMALL, "--decoder-channels", 8, "--ranks", "--rounds", 1,
        "--no-memory", "--device", "cpu", "--tables", "num_groups", "batch",
    )  # fmt: skip
    one, four = result["tables"]["batch"]
    assert four["flops"] > 1.5 * one["flops"]
    whole, split = result["tables"]["num_groups"]
    assert split["flops"] != whole["flops"]
    assert "| labeled | unlabeled | s a step |" in scaling.markdown(result)


@pytest.mark.slow
def test_two_ranks_are_measured_in_a_process_each():
    words = [*SMALL, "--decoder-channels", "8", "--unlabeled", "1", "--rounds", "1"]
    row = measure_ranks(scaling.parser().parse_args([*words, "--device", "cpu"]), 2)
    assert row["ranks"] == 2
    assert set(row["seconds"]) == {"alone", "apart", "together"}
    images = 2 * 2 / row["seconds"]["together"]["median"]
    assert row["images_per_s"] == pytest.approx(images)
    assert row["efficiency"]["median"] == pytest.approx(
        row["seconds"]["alone"]["median"] / row["seconds"]["together"]["median"]
    )


def test_communication_by_hand():
    # 4 ranks send 2 * 3/4 of 100 MB at 1 GB/s
    assert communication.ring_seconds(100e6, 4, 1e9) == pytest.approx(0.15)
    assert communication.exposed_seconds(0.15, window=0.1, buckets=10) == pytest.approx(0.05)
    assert communication.exposed_seconds(0.15, window=0.2, buckets=10) == pytest.approx(0.015)
    rows = communication.estimate(bytes_per_value=4, window_share=1 / 8)
    slow, fast = (next(r for r in rows if r["link"] == f"1 x {g} Gb/s") for g in (100, 400))
    assert slow["communication"] == pytest.approx(4 * fast["communication"])
    assert slow["efficiency"] < fast["efficiency"] < 1


def test_the_readiness_of_gradients_rises_within_the_backward_pass(tmp_path):
    result = run(communication, tmp_path, "--measure", *TINY_STEP, "--unlabeled", 7)
    for order in ("labeled_first", "labeled_last"):
        shares = [result[order][f"ready_{percent}_percent"] for percent in (10, 50, 90)]
        assert 0 < shares[0] <= shares[1] <= shares[2] <= 1
    # what is computed last is differentiated first: few labelled images last leave much time
    first, last = (result[order]["ready_10_percent"] for order in ("labeled_first", "labeled_last"))
    assert last < first


def test_tables_hold_the_numbers_of_their_files(tmp_path, capsys):
    results = tmp_path / "results"
    run(step_time, tmp_path, *TINY_STEP, "--rounds", 1, "--no-memory", "--device", "cpu",
        "--variants", "reference", "ours")  # fmt: skip
    assert tables.main(["speed", "--results", str(results)]) == 0
    shown = capsys.readouterr().out.split("| encoder")[-1]
    row = json.loads((results / "result.json").read_text())["variants"]["ours fp32"]
    assert f"| ours fp32 | {1e3 * row['seconds']['median']:.1f} ms |" in shown
    assert "`result.json`" in shown
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- benchmarks/tables.py speed -->\nold\n<!-- end -->\nb\n")
    assert tables.main(["--into", str(page), "--results", str(results)]) == 0
    text = page.read_text()
    assert "old" not in text
    assert text.startswith("a\n<!--")
    assert text.endswith("<!-- end -->\nb\n")
    assert f"| ours fp32 | {1e3 * row['seconds']['median']:.1f} ms |" in text
    assert [file.name for file in tmp_path.glob(".*")] == []


@pytest.mark.parametrize("name", tables.TABLES)
def test_a_table_without_results_says_what_to_run(tmp_path, name):
    text = tables.TABLES[name](tmp_path)
    if name != "communication":
        command = re.search(r"`python (benchmarks/\w+\.py)", text)
        assert (HOUSE / command[1]).is_file()


@pytest.mark.parametrize("page", ["README.md", "docs/scaling.md"])
def test_the_blocks_on_our_pages_are_what_the_tables_say(page):
    text = (HOUSE / page).read_text()
    assert tables.filled(text, tables.RESULTS) == text, f"python benchmarks/tables.py --into {page}"
    if page != "README.md":
        assert len(tables.BLOCK.findall(text)) == 3
