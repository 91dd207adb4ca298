"""Pretrained weights are a contract: every encoder tensor is filled, or nothing runs."""

import time

import pytest
import safetensors.torch
import timm
import torch

from networks import NetworkError, build_network
from networks.pretrained import authors_vit_to_timm, load_pretrained_encoder, read_vit_weights

NAME = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def source():
    """A ViT as timm ships it: class token, 14 x 14 positions, final norm, classifier."""
    torch.manual_seed(1)
    return timm.create_model(NAME, num_classes=10)


def encoder(**changes):
    settings = {"encoder": NAME, "image_size": (224, 224), "max_depth": 10.0, "decoder_channels": 8}
    return build_network(**{**settings, **changes}).encoder


def authors_names(vit) -> dict[str, torch.Tensor]:
    """The state of a timm ViT under the authors' key names."""
    renamed = {}
    for name, value in vit.state_dict().items():
        key = name
        block = key.split(".")[1] if key.startswith("blocks.") else ""
        layer = f"transformer.layers.{block}"
        for ours, theirs in {
            "pos_embed": "pos_embedding",
            "patch_embed.proj.": "to_patch_embedding.1.",
            f"blocks.{block}.norm1.": f"{layer}.0.norm.",
            f"blocks.{block}.attn.qkv.": f"{layer}.0.fn.to_qkv.",
            f"blocks.{block}.attn.proj.": f"{layer}.0.fn.to_out.0.",
            f"blocks.{block}.norm2.": f"{layer}.1.norm.",
            f"blocks.{block}.mlp.fc1.": f"{layer}.1.fn.net.0.",
            f"blocks.{block}.mlp.fc2.": f"{layer}.1.fn.net.3.",
            "norm.": "mlp_head.0.",
            "head.": "mlp_head.1.",
        }.items():
            if key.startswith(ours):
                key = key.replace(ours, theirs, 1)
                break
        renamed[key] = value
    kernel = renamed["to_patch_embedding.1.weight"]
    renamed["to_patch_embedding.1.weight"] = kernel.permute(0, 2, 3, 1).flatten(1).clone()
    return renamed


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "wrapped.pth"])
def test_a_file_fills_the_whole_encoder(tmp_path, source, suffix):
    path = tmp_path / f"vit.{suffix}"
    state = source.state_dict()
    if suffix == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save({"model": state} if "wrapped" in suffix else state, path)
    ours = encoder(pretrained=str(path))
    report = ours.load_report
    assert report.share_loaded == 1 and not report.missing and not report.unexpected
    assert set(report.not_needed) >= {"cls_token", "norm.weight", "head.weight"}
    assert torch.equal(ours.vit.blocks[3].attn.qkv.weight, source.blocks[3].attn.qkv.weight)


def test_positions_land_on_their_patches(tmp_path, source):
    path = tmp_path / "vit.pth"
    torch.save(source.state_dict(), path)
    same_grid = encoder(pretrained=str(path))
    assert torch.equal(same_grid.vit.pos_embed, source.pos_embed[:, 1:])
    assert "pos_embed" in same_grid.load_report.matched


def test_positions_are_resampled_to_the_grid_of_another_size(tmp_path, source):
    state = source.state_dict()
    rows, columns = torch.meshgrid(torch.arange(14.0), torch.arange(14.0), indexing="ij")
    state["pos_embed"] = torch.zeros_like(state["pos_embed"])
    state["pos_embed"][0, 1:, 0], state["pos_embed"][0, 1:, 1] = rows.ravel(), columns.ravel()
    path = tmp_path / "vit.pth"
    torch.save(state, path)
    stretched = encoder(image_size=(96, 320), pretrained=str(path))
    assert stretched.load_report.resized == ("pos_embed",)
    row, column = stretched.vit.pos_embed[0, :, :2].unflatten(0, (6, 20)).permute(2, 0, 1)
    # 14 rows over 6: the centre of new row i is at (i + 1/2) 14/6 - 1/2
    expected_rows = (torch.arange(6) + 0.5) * 14 / 6 - 0.5
    expected_columns = (torch.arange(20) + 0.5) * 14 / 20 - 0.5
    assert torch.allclose(row, expected_rows[:, None].expand(6, 20), atol=0.35)
    assert torch.allclose(column, expected_columns.expand(6, 20), atol=0.35)


def test_tokens_equal_those_of_timm_when_nothing_attends_the_class_token(tmp_path, source):
    path = tmp_path / "vit.pth"
    torch.save(source.state_dict(), path)
    ours = encoder(pretrained=str(path)).eval()
    image = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        tokens = source.patch_embed((image - 0.5) / 0.5) + source.pos_embed[:, 1:]
        for block in source.eval().blocks[:3]:
            tokens = block(tokens)
        assert torch.allclose(ours(image)[0], tokens, atol=1e-5)


def test_the_authors_key_names_are_understood(tmp_path, source):
    path = tmp_path / "vit_base_384.pth"
    torch.save(authors_names(source), path)
    back = read_vit_weights(path)
    assert set(back) == set(source.state_dict())
    assert all(torch.equal(back[key], value) for key, value in source.state_dict().items())
    assert encoder(pretrained=str(path)).load_report.share_loaded == 1


def test_the_authors_patch_projection_is_the_same_linear_map(source):
    renamed = authors_vit_to_timm(authors_names(source))
    patch = torch.rand(1, 3, 16, 16)
    flat = patch.permute(0, 2, 3, 1).flatten(1)  # row, column, channel: as the authors flatten
    theirs = flat @ authors_names(source)["to_patch_embedding.1.weight"].T
    ours = torch.nn.functional.conv2d(patch, renamed["patch_embed.proj.weight"]).flatten(1)
    assert torch.allclose(ours, theirs, atol=1e-5)


def damaged(state, how):
    state = dict(state)
    if how == "missing":
        del state["blocks.4.mlp.fc1.weight"]
    elif how == "renamed":
        state = {key.replace("blocks", "layers"): value for key, value in state.items()}
    elif how == "other width":
        state = timm.create_model("vit_small_patch16_224", num_classes=0).state_dict()
    elif how == "no grid":
        state["pos_embed"] = state["pos_embed"][:, :150]
    return state


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"missing 1 \(blocks.4.mlp.fc1.weight"),
        ("renamed", "missing 1"),
        ("other width", "wrong shape"),
        ("no grid", "fit no square grid"),
    ],
)
def test_weights_that_do_not_fill_the_encoder_stop_the_run(tmp_path, source, how, message):
    path = tmp_path / "vit.pth"
    torch.save(damaged(source.state_dict(), how), path)
    ours = encoder()
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    with pytest.raises(NetworkError, match=message):
        load_pretrained_encoder(ours, NAME, source=str(path))
    assert all(torch.equal(before[key], value) for key, value in ours.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"<html>quota exceeded</html>", b"PK\x03\x04rubbish"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_that_is_no_weight_file_is_refused_by_name(tmp_path, content, suffix):
    path = tmp_path / f"vit.{suffix}"
    path.write_bytes(content)
    with pytest.raises(NetworkError, match=f"vit.{suffix}"):
        read_vit_weights(path)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(NetworkError, match=r"no such file .*nowhere\.pth"):
        encoder(pretrained=str(tmp_path / "nowhere.pth"))


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path):
    """(row 10)"""
    sentinel = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return (open, (str(sentinel), "w"))

    path = tmp_path / "vit.pth"
    torch.save({"x": Payload()}, path)
    with pytest.raises(NetworkError, match="read safely"):
        read_vit_weights(path)
    assert not sentinel.exists()


def test_offline_and_not_cached_fails_in_seconds_with_the_remedy(tmp_path, monkeypatch):
    """(row 56)"""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(NetworkError, match=r"network\.pretrained=/path/to/model\.safetensors"):
        encoder(pretrained="timm")
    assert time.monotonic() - start < 15
