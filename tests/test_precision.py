"""bf16 where it does no harm: it says what it changes, and is refused where that is too much."""

import json

import numpy as np
import pytest
import torch

from evaluate import USER_ERRORS, main
from networks import build_network, load_network
from predict import main as predict_main
from predictions import MAX_PRECISION_GAP, precision_gap
from utils.checkpoint import FORMAT_VERSION, KEYS

SIZE = (32, 96)


def checkpoint(path, streets, *, steepness):
    """An untrained network; the steeper its last layer, the more of bf16's rounding shows."""
    torch.manual_seed(0)
    settings = {"encoder": "vit_tiny_patch16_224", "image_size": list(SIZE), "max_depth": 80.0,
                "decoder_channels": 8, "taps": [0, 1, 2, 3]}  # fmt: skip
    network = build_network(**settings)
    with torch.no_grad():
        network.depth_head.conv3.weight.mul_(steepness)
    roots = {name: {"root": str(streets)} for name in ("labeled", "validation")}
    config = {"network": settings, **roots, "evaluation": {"num_panels": 0}}
    state = dict.fromkeys(KEYS) | {"config": config, "network": network.state_dict(), "step": 0}
    torch.save(state | {"format_version": FORMAT_VERSION}, path)
    return path


@pytest.fixture(scope="module")
def gentle(tmp_path_factory, streets):
    return checkpoint(tmp_path_factory.mktemp("gentle") / "net.pt", streets, steepness=1)


@pytest.fixture(scope="module")
def steep(tmp_path_factory, streets):
    return checkpoint(tmp_path_factory.mktemp("steep") / "net.pt", streets, steepness=300)


def scored(file, out, *words):
    main(["--ckpt", str(file), "--out", str(out), *words])
    return json.loads((out / "metrics.json").read_text())


def test_bf16_is_computed_said_and_measured(gentle, tmp_path, capsys):
    plain = scored(gentle, tmp_path / "fp32")
    assert plain["precision"] == "fp32" and plain["precision_gap"] is None
    assert "bf16 moves" not in capsys.readouterr().out
    fast = scored(gentle, tmp_path / "bf16", "evaluation.precision=bf16")
    gap = fast["precision_gap"]
    assert fast["precision"] == "bf16" and 0 < gap["mean"] < gap["p99"] < 10 * MAX_PRECISION_GAP
    assert f"bf16 moves depth by {gap['mean']:.3%} on average" in capsys.readouterr().out
    one, two = (result["protocols"]["plain"]["abs_rel"] for result in (plain, fast))
    # |error / depth| moves by no more than the ratio does, times prediction / depth
    assert 0 < abs(one - two) < 2 * gap["mean"] * (1 + one)


def test_the_gap_is_that_of_the_two_depths(gentle):
    network = load_network(gentle)
    image = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact = network(image).depth.double()
        with torch.autocast("cpu", torch.bfloat16):
            fast = network(image).depth.double()
    ratios = (fast / exact).log().abs().flatten()
    gap = precision_gap(network, image)
    assert gap["mean"] == pytest.approx(ratios.mean().item(), rel=1e-9) and gap["mean"] > 1e-5
    assert gap["p99"] == pytest.approx(ratios.quantile(0.99).item(), rel=1e-9)


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_bf16_is_refused_where_it_moves_depth_too_far(steep, streets, tmp_path, command):
    with pytest.raises(USER_ERRORS, match=r"bf16 moves .* by \d+\.\d+% on average.*precision.fp32"):
        if command == "evaluate":
            scored(steep, tmp_path / "out", "evaluation.precision=bf16")
        else:
            predict_main(["--ckpt", str(steep), "--input", str(streets / "look_a" / "raw"),
                          "--precision", "bf16", "--out", str(tmp_path / "out")])  # fmt: skip
    assert not list(tmp_path.rglob("metrics.json")) and not list(tmp_path.rglob("*_image_02*.png"))
    # and nothing but the precision is at fault
    assert scored(steep, tmp_path / "fp32")["precision_gap"] is None


def test_predict_says_once_what_bf16_changes(gentle, streets, tmp_path, capsys):
    words = ["--ckpt", str(gentle), "--input", str(streets / "look_a" / "raw"), "--npz",
             "--batch-size", "3"]  # fmt: skip
    depths = {}
    for precision in ("fp32", "bf16"):
        out = tmp_path / precision
        predict_main([*words, "--out", str(out), "--precision", precision])
        said = capsys.readouterr().out
        assert said.count("bf16 moves depth by") == (precision == "bf16")
        described = json.loads((out / "depth" / "predictions.json").read_text())
        assert described["precision"] == precision
        files = sorted((out / "depth").glob("*.npz"))
        depths[precision] = np.stack([np.load(file)["depth"] for file in files])
    assert len(depths["fp32"]) > 4
    ratios = np.abs(np.log(depths["bf16"] / depths["fp32"]))
    assert 1e-5 < ratios.mean() < MAX_PRECISION_GAP
