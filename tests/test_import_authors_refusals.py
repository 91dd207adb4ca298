"""Files that are not whole, not the authors' or not of this network are refused by name."""

import re

import pytest
import torch
from authors_checkpoints import Authors, bare_vit

from networks import NetworkError
from networks.import_authors import import_vit


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("depth", "encoder.pos_embedding"),
        ("depth", "encoder.transformer.layers.3.1.fn.net.3.bias"),
        ("depth", "encoder.transformer.layers.0.1.fn.net.0.weight"),
        ("depth", "encoder.to_patch_embedding.1.weight"),
        ("depth", "act_postprocess4.2.weight"),
        ("depth", "scratch.refinenet3.resConfUnit1.conv1.bias"),
        ("uncert_decoder", "output_conv.2.weight"),
        ("mlp_head", "mlps.3.2.bias"),
        ("mlp_head", "mlps.0.0.weight"),
    ],
)
@pytest.mark.parametrize("fault", ["missing", "misfit", "extra"])
def test_a_tensor_that_is_missing_misfits_or_is_unknown_is_named(tmp_path, name, key, fault):
    theirs = Authors(tmp_path)
    if fault == "extra":
        key = f"{key}_2"
    value = {"missing": None, "misfit": torch.zeros(3, 5, 7, 9, 2), "extra": torch.zeros(1)}[fault]
    theirs.change(name, **{key: value})
    with pytest.raises(NetworkError) as caught:
        theirs.imported()
    assert f"{name}.pth" in str(caught.value) and key in str(caught.value)


@pytest.mark.parametrize(
    ("name", "num_used"),
    # of 5 blocks; encoder 3 + 12 a block, decoder 64 and 46, less what is never used
    [("depth", 3 + 12 * 5 + 64 - 4), ("uncert_decoder", 46 - 4), ("mlp_head", 16)],
)
def test_every_used_tensor_is_asked_for(tmp_path, name, num_used):
    theirs = Authors(tmp_path)
    read_for_sizes = re.compile(
        r"encoder\.pos_embedding|.*(to_patch_embedding\.1|layers\.0\.1\.fn\.net\.0|layers\.4\.0\.norm|"
        r"act_postprocess.\.1|scratch\.layer1_rn|scratch\.output_conv\.[02]|mlps\.0\.0)\.weight"
    )
    state = torch.load(theirs.files[name], weights_only=True)
    kept = {key: value for key, value in state.items() if read_for_sizes.fullmatch(key)}
    torch.save(kept, theirs.files[name])
    with pytest.raises(NetworkError, match=f"Tensors {num_used - len(kept)} missing: "):
        theirs.imported()


def test_files_of_another_network_or_in_each_others_place_are_refused(tmp_path):
    theirs = Authors(tmp_path)
    (tmp_path / "other").mkdir()
    other = Authors(tmp_path / "other", channels=32, head=(16, 4), dim=64, heads=4)
    with pytest.raises(NetworkError, match=r"uncert_decoder\.pth .*of another shape: refinenet1|"
                       r"uncert_decoder\.pth .*of another shape: output_conv"):  # fmt: skip
        theirs.imported(uncert_decoder=other.files["uncert_decoder"])
    with pytest.raises(NetworkError, match=r"mlps\.0\.0\.weight \(40, 64\) for \(40, 48\)"):
        theirs.imported(mlp_head=other.files["mlp_head"])
    with pytest.raises(NetworkError, match=r"uncert_decoder\.pth: tensor encoder\.pos_embedding"):
        theirs.imported(depth=theirs.files["uncert_decoder"])
    with pytest.raises(NetworkError, match=r"depth\.pth .*not known: encoder\.pos_embedding"):
        theirs.imported(uncert_decoder=theirs.files["depth"])


def test_a_size_of_another_number_of_tokens_is_refused_with_the_sizes_that_fit(tmp_path):
    theirs = Authors(tmp_path)
    with pytest.raises(NetworkError, match=r"24 tokens; .* 4 x 7 = 28\..* \[\[64, 96\]"):
        theirs.imported(image_size=(64, 112))
    with pytest.raises(NetworkError, match="not a multiple of the encoder's patch"):
        theirs.imported(image_size=(64, 100))


def test_heads_and_taps_that_cannot_be_are_refused(tmp_path):
    theirs = Authors(tmp_path)
    with pytest.raises(NetworkError, match="num_heads = 5 does not divide the token width 48"):
        theirs.imported(num_heads=5)
    with pytest.raises(NetworkError, match="blocks 0 to 4"):
        theirs.imported(taps=(2, 3, 4, 5))


def test_patches_that_the_authors_decoder_does_not_bring_to_the_image_are_refused(tmp_path):
    theirs = Authors(tmp_path)
    theirs.change("depth", **{"encoder.to_patch_embedding.1.weight": torch.zeros(48, 3 * 8 * 8)})
    with pytest.raises(NetworkError, match=r"patches of \[8, 8\] pixels"):
        theirs.imported(image_size=(32, 48))


@pytest.mark.parametrize("content", ["nothing there", "rubbish", "adam.pth"])
def test_a_file_that_is_no_state_dict_is_refused_by_name(tmp_path, content):
    theirs = Authors(tmp_path)
    path = tmp_path / "adam.pth"
    if content == "rubbish":
        path.write_bytes(b"<html>quota exceeded</html>")
    elif content == "adam.pth":
        torch.save(torch.optim.Adam(theirs.mlp_head.parameters()).state_dict(), path)
    with pytest.raises(NetworkError, match=r"adam\.pth"):
        theirs.imported(depth=path)


def test_a_bare_vit_that_is_not_whole_or_not_square_is_refused(tmp_path):
    vit, file = bare_vit(tmp_path, num_tokens=24)
    layout = {"image_size": (64, 96), "num_heads": 3, "taps": (0, 2, 3, 4)}
    with pytest.raises(NetworkError, match="24 patch positions are no square grid"):
        import_vit(file, **layout)
    vit, file = bare_vit(tmp_path)
    state = vit.state_dict()
    del state["transformer.layers.2.0.norm.bias"]
    torch.save(state, file)
    with pytest.raises(NetworkError, match=r"1 missing: transformer\.layers\.2\.0\.norm\.bias"):
        import_vit(file, **layout)
