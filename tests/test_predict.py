"""predict.py as users run it, and what its files say, read back without its own code."""

import io
import json
import time
from contextlib import redirect_stderr, redirect_stdout
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import matplotlib
import numpy as np
import pytest
import torch
from conftest import run_script
from PIL import Image
from torchvision.transforms.v2.functional import resize

from datasets import DataError
from datasets.media import Video, find_pictures, read_picture, stretch
from datasets.prediction_files import PredictionFolder
from networks import build_network, load_network
from predict import USER_ERRORS, main
from utils.command_line import run_script as end_of
from utils.page import Scale
from utils.point_cloud import back_project, camera_matrix
from utils.progress import progress
from utils.threads import in_order
from utils.video import VideoWriter, coloured

SIZE = (32, 96)  # (height, width) of the network
RNG = np.random.default_rng(0)


def photo(height, width):
    """Smooth random colours, (H, W, 3) uint8: noise would leave nothing of itself when resized."""
    coarse = Image.fromarray(RNG.integers(0, 256, (4, 7, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def write_lossless(path, frames):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(12))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def predict(checkpoint, source, out, *words, code=0):
    """(stdout, stderr) of predict.py, run within this process: an import takes longer than most."""
    words = ["--ckpt", str(checkpoint), "--input", str(source), "--out", str(out), *words]
    with redirect_stdout(io.StringIO()) as said, redirect_stderr(io.StringIO()) as error:
        ended = end_of(partial(main, words), USER_ERRORS)
    assert ended == code, said.getvalue() + error.getvalue()
    return said.getvalue(), error.getvalue()


def refused(*arguments):
    """The one line on stderr of a run that must end with exit code 2."""
    error = predict(*arguments, code=2)[1]
    assert len(error.splitlines()) == 1
    return error


def metres(path, units=256):
    with Image.open(path) as image:
        assert image.mode == "I;16"
        return np.asarray(image, np.float64) / units


def read_ply(path):
    """(N, 3) metres and (N, 3) colours, by the letter of the format."""
    header, _, body = path.read_bytes().partition(b"end_header\n")
    lines = header.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    properties = [line.split()[1:] for line in lines if line.startswith("property")]
    assert properties == [["float", c] for c in "xyz"] + [
        ["uchar", c] for c in ("red", "green", "blue")
    ]
    count = next(int(line.split()[2]) for line in lines if line.startswith("element vertex"))
    rows = np.frombuffer(body, np.uint8).reshape(count, 15)
    return rows[:, :12].copy().view("<f4"), rows[:, 12:]


def write_checkpoint(path, **settings):
    """An untrained network whose depth varies: of the heads' starts nothing would be seen."""
    torch.manual_seed(0)
    settings = {"encoder": "vit_tiny_patch16_224", "image_size": list(SIZE), "max_depth": 80.0,
                "decoder_channels": 8, "taps": [0, 1, 2, 3], **settings}  # fmt: skip
    network = build_network(**settings)
    with torch.no_grad():
        network.depth_head.conv3.weight.mul_(3)
    torch.save({"config": {"network": settings}, "network": network.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny.pt")


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    """Pictures of three sizes and folders, one of them on its side by its EXIF tag, one grey."""
    root = tmp_path_factory.mktemp("shots")
    save(root / "wide.png", photo(40, 130))
    save(root / "a" / "tall.bmp", photo(90, 50))
    save(root / "a" / "deep er" / "grey.png", photo(33, 97)[..., 0])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    save(root / "b" / "phone.v2.png", photo(60, 80), exif=exif)
    (root / "b" / "notes.txt").write_text("no picture")
    return root


@pytest.fixture(scope="module")
def predicted(checkpoint, shots, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "new"
    words = ("--npz", "--fov-degrees", "70", "--batch-size", "3")
    return out, predict(checkpoint, shots, out, *words)[0]


UPRIGHT = {
    "wide": ("wide.png", lambda pixels: pixels),
    "a_tall": ("a/tall.bmp", lambda pixels: pixels),
    "a_deep_er_grey": ("a/deep er/grey.png", lambda pixels: np.stack([pixels] * 3, -1)),
    "b_phone.v2": ("b/phone.v2.png", lambda pixels: np.rot90(pixels, -1)),
}


def expected(checkpoint, pixels, size=SIZE):
    """The network's own word on upright (H, W, 3) pixels, at their size."""
    picture = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
    image = resize(picture, size, antialias=True)[None] / 255
    with torch.inference_mode():
        output = load_network(checkpoint)(image)
        return output.resized(pixels.shape[:2])


def opened(shots, stem):
    name, turn = UPRIGHT[stem]
    with Image.open(shots / name) as image:
        return turn(np.asarray(image))


@pytest.mark.parametrize("stem", UPRIGHT)
def test_depth_is_the_networks_at_the_pictures_own_upright_size(checkpoint, shots, predicted, stem):
    pixels = opened(shots, stem)
    output = expected(checkpoint, pixels)
    depth = output.depth[0, 0].numpy()
    assert depth.max() > 1.2 * depth.min() > 0.01
    stored = metres(predicted[0] / "depth" / f"{stem}.png")
    assert stored.shape == pixels.shape[:2]
    assert np.abs(stored - depth).max() <= 0.5 / 256 + 1e-4
    with np.load(predicted[0] / "depth" / f"{stem}.npz") as arrays:
        assert arrays["depth"].dtype == arrays["log_uncertainty"].dtype == np.float32
        # a batch of another length may round the last bit otherwise
        assert np.allclose(arrays["depth"], depth, rtol=1e-5)
        assert np.allclose(arrays["log_uncertainty"], output.log_uncertainty[0, 0], rtol=1e-4)
        assert np.array_equal(np.rint(arrays["depth"].astype(np.float64) * 256) / 256, stored)


@pytest.mark.parametrize("stem", UPRIGHT)
def test_a_point_of_the_cloud_is_its_pixel_seen_through_the_camera(shots, predicted, stem):
    pixels = opened(shots, stem)
    height, width = pixels.shape[:2]
    depth = np.load(predicted[0] / "depth" / f"{stem}.npz")["depth"]
    points, colours = read_ply(predicted[0] / "points" / f"{stem}.ply")
    assert len(points) == height * width
    focal = width / 2 / np.tan(np.radians(35))
    for row, column in ((0, 0), (height - 1, 3), (7, width - 1)):
        x, y, z = points[row * width + column].astype(float)
        assert z == depth[row, column]
        # projected by hand it comes back to the pixel: right is +x, down is +y
        assert focal * x / z + (width - 1) / 2 == pytest.approx(column, abs=1e-3)
        assert focal * y / z + (height - 1) / 2 == pytest.approx(row, abs=1e-3)
        assert colours[row * width + column].tolist() == pixels[row, column].tolist()


@pytest.mark.parametrize("kind", ["colour", "uncertainty"])
def test_pictures_fill_the_pictures_size_and_have_a_bar_below(predicted, kind):
    out = predicted[0]
    for stem in UPRIGHT:
        arrays = np.load(out / "depth" / f"{stem}.npz")
        values = arrays["depth" if kind == "colour" else "log_uncertainty"].astype(np.float64)
        pixels = np.asarray(Image.open(out / kind / f"{stem}.png"))
        height, width = values.shape
        assert pixels.shape[1] == width and pixels.shape[0] > height
        name = "Spectral" if kind == "colour" else "viridis"
        ends = matplotlib.colormaps[name]([0.0, 1.0], bytes=True)[:, :3]
        for extreme, end in zip((values.min(), values.max()), ends, strict=True):
            assert pixels[:height][values == extreme][0].tolist() == end.tolist()
            # the bar goes from the one end to the other
            assert end.tolist() in pixels[height].tolist()


def test_the_folder_says_how_it_was_made_and_holds_nothing_unfinished(checkpoint, predicted):
    out, said = predicted
    described = json.loads((out / "depth" / "predictions.json").read_text())
    assert described["units_per_metre"] == 256 and described["max_depth"] == 80
    assert described["checkpoint"] == str(checkpoint) and len(described["sha256"]) == 64
    assert described["image_size"] == list(SIZE)
    assert {path.name for path in out.iterdir()} == {"depth", "colour", "uncertainty", "points"}
    assert len(list((out / "depth").iterdir())) == 9
    assert "4 pictures predicted" in said and "network of 32 x 96" in said
    # one message for all that are stretched, with a size that the patch divides
    assert said.count("--image-size") == 1 and "--image-size 80 48" in said


def test_evaluation_finds_depth_and_uncertainty_by_the_pictures_id(predicted):
    stored = PredictionFolder(predicted[0] / "depth", units_per_metre=256.0)
    arrays = np.load(predicted[0] / "depth" / "a_tall.npz")
    assert np.abs(stored.depth("a/tall.bmp", (90, 50)) - arrays["depth"]).max() <= 0.5 / 256
    unsure = stored.log_uncertainty("a/tall.bmp", (90, 50))
    assert np.array_equal(unsure, arrays["log_uncertainty"])


def test_a_picture_may_have_any_name_and_only_its_own_must_be_there_once(tmp_path):
    for number, name in enumerate(["length.png", "x_cmap.png", "1/other.png", "2/other.png"]):
        save(tmp_path / name, np.full((4, 6), 256 * (number + 1), np.uint16))
    stored = PredictionFolder(tmp_path, units_per_metre=256.0)
    assert stored.check_complete(["length.jpg"]) == ["other.png", "x_cmap.png"]
    assert (stored.depth("length.jpg", (4, 6)) == 1).all()
    for ask in (lambda: stored.check_complete(["other.jpg"]), lambda: stored.is_window("other")):
        with pytest.raises(DataError, match=r"2/other\.png and .*1/other\.png: two predictions"):
            ask()


def test_indoors_a_metre_has_a_thousand_units_and_uncertainty_may_be_missing(shots, tmp_path):
    indoor = write_checkpoint(tmp_path / "indoor.pt", max_depth=10.0, uncertainty=False)
    predict(indoor, shots / "wide.png", tmp_path / "out", "--npz")
    arrays = np.load(tmp_path / "out" / "depth" / "wide.npz")
    assert arrays.files == ["depth"] and not (tmp_path / "out" / "uncertainty").exists()
    stored = metres(tmp_path / "out" / "depth" / "wide.png", units=1000)
    assert np.abs(stored - arrays["depth"]).max() <= 0.5 / 1000 + 1e-6
    described = json.loads((tmp_path / "out" / "depth" / "predictions.json").read_text())
    assert described["units_per_metre"] == 1000


def test_one_picture_a_pattern_and_another_network_size(checkpoint, shots, predicted, tmp_path):
    predict(checkpoint, shots / "wide.png", tmp_path / "one")
    predict(checkpoint, f"{shots}/**/*[el]*.*", tmp_path / "glob", "--image-size", "64", "48")
    one = metres(tmp_path / "one" / "depth" / "wide.png")
    assert np.abs(one - metres(predicted[0] / "depth" / "wide.png")).max() <= 1 / 256
    assert not list(tmp_path.rglob("*.npz")) and not list(tmp_path.rglob("*.ply"))
    stored = {path.stem for path in (tmp_path / "glob" / "depth").glob("*.png")}
    assert stored == {"wide", "a_tall", "a_deep_er_grey", "b_phone.v2"}
    pixels = opened(shots, "a_tall")
    other = expected(checkpoint, pixels, size=(64, 48)).depth[0, 0].numpy()
    assert np.abs(metres(tmp_path / "glob" / "depth" / "a_tall.png") - other).max() < 1 / 256


@pytest.fixture(scope="module")
def film(checkpoint, tmp_path_factory):
    """A lossless video of seven frames of odd size, the same frames as pictures, both predicted."""
    root = tmp_path_factory.mktemp("film")
    frames = [photo(35, 51) for _ in range(7)]
    write_lossless(root / "drive.mkv", frames)
    for number, pixels in enumerate(frames):
        save(root / "frames" / f"frame_{number:06d}.png", pixels)
    for source, out in (("drive.mkv", "video"), ("frames", "folder")):
        predict(checkpoint, root / source, root / out, "--batch-size", "2")
    return root, frames


def test_a_lossless_video_has_the_depth_of_its_frames(film):
    names = sorted(path.name for path in (film[0] / "folder" / "depth").glob("*.png"))
    assert names == [f"frame_{number:06d}.png" for number in range(7)]
    for name in names:
        pair = [metres(film[0] / out / "depth" / name) for out in ("video", "folder")]
        assert np.array_equal(*pair)


def test_the_film_shows_every_frame_above_its_depth_at_the_rate_of_the_source(film):
    root, frames = film
    with av.open(str(root / "video" / "drive_depth.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.pix_fmt == "yuv420p"
        assert stream.average_rate == 12 and stream.frames == len(frames)
        shown = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(stream)]
    for number, (pixels, frame) in enumerate(zip(frames, shown, strict=True)):
        colours = np.asarray(Image.open(root / "video" / "colour" / f"frame_{number:06d}.png"))
        height, width = 35 + len(colours), 51
        assert frame.shape[:2] == (height + height % 2, width + 1)
        together = np.concatenate([pixels, colours]).astype(int)
        assert np.abs(frame[:height, :width] - together).mean() < 12
        # one scale for all frames: 2 to 80 m
        depth = metres(root / "video" / "depth" / f"frame_{number:06d}.png")
        position = np.log(depth / 2) / np.log(40)
        known = matplotlib.colormaps["Spectral"](position, bytes=True)[..., :3]
        assert np.abs(colours[:35].astype(int) - known).max() <= 6  # of a PNG's rounded metres


def test_a_stopped_run_goes_on_and_does_nothing_twice(checkpoint, film, tmp_path):
    for source, out, kept in (
        ("drive.mkv", "video", "drive_depth.mp4"),
        ("frames", "folder", None),
    ):
        folder = film[0] / out
        lost = folder / "depth" / "frame_000003.png", folder / "colour" / "frame_000005.png"
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
        contents = [np.asarray(Image.open(path), int) for path in lost]
        for path in lost:
            path.unlink()
        if kept:
            (folder / kept).unlink()
        words = ("--skip-existing", "--batch-size", "2")
        said = predict(checkpoint, film[0] / source, folder, *words)[0]
        assert "2 pictures predicted" in said and "5 were there already" in said
        after = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
        touched = {path.name for path in before if after[path] != before[path]}
        assert touched == {"frame_000003.png", "frame_000005.png"}
        for path, content in zip(lost, contents, strict=True):
            # a batch of another length may round a last bit otherwise
            assert np.abs(np.asarray(Image.open(path), int) - content).max() <= 6
            assert (np.asarray(Image.open(path), int) != content).mean() < 0.05
    with av.open(str(film[0] / "video" / "drive_depth.mp4")) as container:
        assert container.streams.video[0].frames == 7
    other = (checkpoint, film[0] / "drive.mkv", film[0] / "folder", "--skip-existing")
    assert "input is " in refused(*other)


def test_only_the_film_if_no_frames_are_wanted(checkpoint, film, tmp_path):
    predict(checkpoint, film[0] / "drive.mkv", tmp_path / "out", "--no-frames")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["drive_depth.mp4"]
    words = ("--no-frames", "--skip-existing")
    said = predict(checkpoint, film[0] / "drive.mkv", tmp_path / "out", *words)[0]
    assert "is there already" in said and "0 pictures predicted" in said
    (tmp_path / "out" / "drive_depth.mp4").unlink()
    said = predict(checkpoint, film[0] / "drive.mkv", tmp_path / "out", *words)[0]
    assert "7 pictures predicted" in said and (tmp_path / "out" / "drive_depth.mp4").is_file()


def test_damaged_pictures_can_be_skipped_and_are_counted(checkpoint, shots, tmp_path):
    whole = (shots / "wide.png").read_bytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "fine.png").write_bytes(whole)
    (tmp_path / "in" / "half.png").write_bytes(whole[: len(whole) // 2])
    assert "half.png: cannot be decoded" in refused(checkpoint, tmp_path / "in", tmp_path / "out")
    words = ("--on-bad-input", "skip", "--fx-px", "50", "--max-depth-m", "15")
    said = predict(checkpoint, tmp_path / "in", tmp_path / "skip", *words)[0]
    assert "skipped: " in said and "half.png" in said and "1 bad inputs skipped" in said
    depth = metres(tmp_path / "skip" / "depth" / "fine.png")
    points = read_ply(tmp_path / "skip" / "points" / "fine.ply")[0]
    assert 0 < len(points) < depth.size and points[:, 2].max() <= 15
    assert abs(len(points) - (depth <= 15).sum()) < 0.01 * depth.size
    assert not list((tmp_path / "skip").rglob("half*"))


def test_what_does_not_fit_together_is_refused(checkpoint, shots, tmp_path):
    (tmp_path / "notes.pt").write_text("no checkpoint")
    assert "not a checkpoint" in refused(tmp_path / "notes.pt", shots, tmp_path / "out")
    uneven = refused(checkpoint, shots, tmp_path / "out", "--image-size", "30", "96")
    assert "the nearest that is: [32, 96]" in uneven
    pixels = refused(checkpoint, shots, tmp_path / "out", "--fx-px", "100")
    assert "in pixels cannot be right for both" in pixels


def test_the_command_itself(checkpoint, shots, tmp_path):
    words = ["--ckpt", str(checkpoint), "--out", str(tmp_path / "out"), "--input"]
    said = run_script("predict.py", *words, str(shots / "wide.png")).stdout
    assert "1 pictures predicted" in said
    assert metres(tmp_path / "out" / "depth" / "wide.png").shape == (40, 130)
    error = run_script("predict.py", *words, str(shots / "*.webp"), code=2).stderr
    assert "no picture" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fov-degrees", "180"], "not between 0 and 180"),
        (["--fov-degrees", "60", "--fx-px", "100"], "one of the two"),
        (["--cx-px", "100"], "one of the two"),
        (["--max-depth-m", "50"], "--max-depth-m 50"),
        (["--no-frames"], "--no-frames"),
        (["--batch-size", "0"], "--batch-size 0"),
        (["--out", "{shots}/a/out"], "lies in the input folder"),
        (["--out", "{shots}"], "lies in the input folder"),
        (["--input", "{shots}/a/tall.bmp", "--out", "{shots}/a"], "lies in --out"),
        (["--input", "{shots}/*.webp"], "no picture"),
        (["--input", "{shots}/b/notes.txt"], "neither a picture"),
        (["--input", "{shots}/nowhere"], "no such picture, folder or video"),
    ],
)
def test_options_that_make_no_sense_are_refused(shots, checkpoint, tmp_path, words, message):
    words = [word.format(shots=shots) for word in words]
    assert message in refused(checkpoint, shots, tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


def test_inputs_that_are_no_pictures_are_refused_by_name(tmp_path, film):
    save(tmp_path / "depth.png", np.full((4, 6), 3000, np.uint16))
    with pytest.raises(DataError, match=r"depth\.png: .*not a photograph"):
        read_picture(tmp_path / "depth.png")
    with pytest.raises(DataError, match="no pictures"):
        (tmp_path / "empty").mkdir()
        find_pictures(str(tmp_path / "empty"))
    for suffix in (".png", ".bmp"):
        save(tmp_path / "two" / f"one{suffix}", photo(4, 6))
    with pytest.raises(DataError, match=r"would both be one\.png"):
        find_pictures(str(tmp_path / "two"))
    with pytest.raises(DataError, match=r"drive\.mkv; give a video by its own path"):
        find_pictures(str(film[0] / "d*"))


def test_damaged_videos_are_refused_by_name_and_cut_ones_are_noticed(checkpoint, film, tmp_path):
    for name, content in (("empty.mp4", b""), ("noise.mp4", b"\0" * 1000)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: cannot be opened as a video"):
            Video(tmp_path / name)
    whole = (film[0] / "drive.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    said = predict(checkpoint, tmp_path / "cut.mkv", tmp_path / "out")[0]
    assert "announces 7 frames" in said and "it may be cut" in said
    (tmp_path / "head.mkv").write_bytes(whole[:1000])
    words = ("--on-bad-input", "skip")
    error = refused(checkpoint, tmp_path / "head.mkv", tmp_path / "none", *words)
    assert "none of the 1 inputs could be read" in error


def test_a_phones_video_is_turned_upright(tmp_path):
    tall = photo(48, 32)
    path = tmp_path / "phone.mp4"
    writer = VideoWriter(path, rate=Fraction(30))
    for _ in range(3):
        writer.add(np.ascontiguousarray(np.rot90(tall)))  # stored lying on its left side
    writer.close()
    unit = (0x10000).to_bytes(4, "big")
    zero, minus, one = bytes(4), (0xFFFF0000).to_bytes(4, "big"), (0x40000000).to_bytes(4, "big")
    content, track = path.read_bytes(), path.read_bytes().index(b"tkhd")
    at = content.index(unit + zero * 3 + unit + zero * 3 + one, track)
    turned = zero + unit + zero + minus + zero * 3 + zero + one  # a quarter clockwise to show it
    path.write_bytes(content[:at] + turned + content[at + 36 :])
    frames = list(Video(path).frames())
    assert len(frames) == 3 and frames[0].size == (32, 48)
    assert np.abs(np.asarray(frames[1]).astype(int) - tall).mean() < 10


def test_jobs_end_in_order_are_bounded_and_say_what_went_wrong():
    started = []

    def job(number):
        started.append(number)
        if number == 20:
            raise DataError("number 20")
        return number

    results = in_order(((lambda n=n: job(n)) for n in range(100)), workers=3, ahead=4)
    assert [next(results) for _ in range(10)] == list(range(10))
    assert max(started) <= 14
    with pytest.raises(DataError, match="number 20"):
        list(results)
    assert max(started) <= 25


def test_a_file_that_cannot_be_written_ends_the_run_and_leaves_nothing_unfinished(
    checkpoint, shots, tmp_path
):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "uncertainty").write_text("in the way of the folder")
    assert "uncertainty" in refused(checkpoint, shots / "wide.png", tmp_path / "out")
    assert not (tmp_path / "out" / ".unfinished").exists()


def test_a_log_file_gets_lines_of_how_far_it_is(capsys):
    with redirect_stderr(io.StringIO()):
        slow = (time.sleep(0.3) for _ in range(2))
        assert list(progress(slow, 2, unit="picture", every_s=0)) == [None, None]
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("1/2 pictures, ") and lines[1].endswith("/s, 0 s left")
        assert list(progress("ab", None, unit="frame", every_s=0)) == ["a", "b"]
        assert capsys.readouterr().out.splitlines()[1].startswith("2 frames, ")
        assert list(progress("ab", 2, unit="frame")) == ["a", "b"]
        assert not capsys.readouterr().out


def test_the_camera_is_where_its_fields_say():
    known = camera_matrix((10, 20), fx_px=100, fy_px=50, cx_px=3, cy_px=4)
    assert np.array_equal(known, [[100, 0, 3], [0, 50, 4], [0, 0, 1]])
    middle = camera_matrix((11, 21), fov_degrees=90)
    assert np.allclose(middle, [[10.5, 0, 10], [0, 10.5, 5], [0, 0, 1]])
    points = back_project(np.full((10, 20), 2.0, np.float32), known)
    assert points[4, 3].tolist() == [0, 0, 2]
    assert np.allclose(points[9, 13], [0.2, 0.2, 2])


def test_colours_are_those_of_the_panels():
    values = np.geomspace(0.5, 100, 4000, dtype=np.float32).reshape(40, 100)
    for scale in (Scale(1.0, 80.0, "Spectral", logarithmic=True), Scale(0.0, 4.0, "viridis")):
        same = coloured(values, scale, unit="m")[:40] == scale.colors(values)
        assert same.all(-1).mean() > 0.999  # float32 may end up on the other side of an edge


def test_the_size_proposed_fits_the_picture_better():
    text = stretch((1080, 1920), image_size=(64, 208), patch_size=(16, 16))
    assert "1.83 times wider" in text and "--image-size 80 160" in text
    assert stretch((352, 1216), image_size=(352, 1120), patch_size=(16, 16)) == ""
    assert "taller" in stretch((352, 1216), image_size=(352, 1056), patch_size=(16, 16))


def test_paths_are_not_taken_for_patterns(tmp_path):
    path = save(tmp_path / "a[1].png", photo(4, 6))
    assert find_pictures(str(path)) == {"a[1].png": Path(path)}
