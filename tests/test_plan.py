"""The plan: its memory is what real passes take, and every command it prints is the same step."""

import json
import re
import shlex
from functools import partial

import pytest
import torch
from conftest import HOUSE, TINY

import consistency_train
import train
from benchmarks import plan_memory
from benchmarks.step_setup import TimedStep, random_batch, total_loss
from networks import build_network
from planning import USABLE, Shares, planned_precision, print_plan, step_images
from step_memory import DEPTH_SIZES, GIB, Images, LiveMemory, PassMemory, pass_memory
from utils.config import ConfigError, load_config
from utils.optimization import autocast

OURS, PLAIN = "consistency_train_kitti", "base_train_kitti"
SMALL = [  # ViT-S, a third of its blocks
    "network.encoder=vit_small_patch16_224", "network.image_size=[64, 160]",
    "network.decoder_channels=64", "network.taps=[0, 1, 2, 3]", "masking.num_groups=4",
]  # fmt: skip
SQUARE = ["labeled.dataset=rgbd", "labeled.depth_scale=1000"]  # depth in the size of the picture
SCRIPTS = {"train.py": train, "consistency_train.py": consistency_train}


def config(name, *words):
    """A shipped file, with the tiny network of the other tests; its data do not exist."""
    return load_config(HOUSE / "conf" / f"{name}.yaml", [*TINY, *words])


def memory(cfg, labeled=1, unlabeled=3, *, masked=True, precision="fp32", **changes):
    script = consistency_train if masked else train
    changes = {"checkpointing": False, **changes}
    return pass_memory(
        cfg, Images(labeled, unlabeled if masked or cfg.loss_weights.photometric else 0),
        build_step=script.build_step, masked=masked, precision=precision, **changes,
    )  # fmt: skip


def plan(capsys, name, *words, memory_gib=None):
    """What is printed, and the commands of it as word lists, by number of processes."""
    cfg = config(name, *words)
    masked = not name.startswith("base")
    script = "consistency_train.py" if masked else "train.py"
    print_plan(
        cfg, script=script, words=["--conf", f"conf/{name}.yaml", *TINY, *words], masked=masked,
        build_step=SCRIPTS[script].build_step, memory_gib=memory_gib,
    )  # fmt: skip
    text = capsys.readouterr().out
    lines = [shlex.split(line) for line in text.splitlines() if f" {script} " in line]
    return text, {int(line[3]) if line[0] == "torchrun" else 1: line for line in lines}


def reloaded(command):
    """The configuration that a printed command makes."""
    at = command.index("--conf")
    return load_config(HOUSE / command[at + 1], command[at + 2 :])


def allocated_at_peak(cfg, images, *, precision, checkpointing, folder):
    """Bytes that PyTorch's allocator had handed out at most, of all that a step on a CPU made."""

    def passes():
        network = build_network(**cfg.network.toDict() | {"pretrained": "none"})
        step = consistency_train.build_step(cfg, network)
        if checkpointing:
            network.recompute_activations()
        groups = {"num_groups": cfg.masking.num_groups}
        timed = TimedStep(step, random_batch(network, **images._asdict(), **groups),
                          precision=precision)  # fmt: skip
        timed()  # the optimiser has its moments now
        for _ in range(2):  # and then there are gradients too
            with autocast(timed.device, precision):
                total = total_loss(step, timed.batch)
            total.backward()

    kinds = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=kinds, profile_memory=True) as profiler:
        passes()
    file = folder / "trace.json"
    profiler.export_chrome_trace(str(file))
    events = [e for e in json.loads(file.read_text())["traceEvents"] if e["name"] == "[memory]"]
    events.sort(key=lambda event: event["ts"])
    totals = [event["args"]["Total Allocated"] for event in events]
    return max(totals) - (totals[0] - events[0]["args"]["Bytes"])


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("words", "images", "precision"),
    [((), Images(1, 3), "fp32"), (SMALL, Images(2, 4), "fp32"), (SMALL, Images(1, 2), "bf16")],
    ids=["tiny", "small", "small-bf16"],
)
def test_a_pass_takes_what_was_counted_without_running_it(
    words, images, precision, checkpointing, tmp_path
):
    cfg = config(OURS, *words, *SQUARE)
    counted = memory(cfg, *images, precision=precision, checkpointing=checkpointing)
    taken = allocated_at_peak(
        cfg, images, precision=precision, checkpointing=checkpointing, folder=tmp_path
    )
    # what kernels take for themselves is not counted; here up to the largest weight once more
    assert counted.peak == pytest.approx(taken, rel=0.03)


def test_held_are_weights_gradients_two_moments_and_the_average():
    cfg, averaged = config(OURS), config(OURS, "train.ema_decay=0.9")
    network = build_network(**cfg.network.toDict() | {"pretrained": "none"})
    step = consistency_train.build_step(cfg, network)
    weights = 4 * sum(p.numel() for p in step.parameters())
    held = memory(cfg).held
    assert held == pytest.approx(4 * weights, rel=1e-4)
    network_alone = 4 * sum(p.numel() for p in network.parameters())
    assert memory(averaged).held - held == pytest.approx(network_alone, rel=1e-4)


def test_what_lives_is_counted_once_and_what_is_gone_no_more():
    with LiveMemory() as counted:
        first = torch.zeros(256)
        views = first.view(16, 16), first[3:], first.detach()
        assert counted.live == 1024
        second = first + 1
        del first, views
        assert (counted.live, counted.peak) == (1024, 2048)
        second.add_(1)
        assert (counted.live, counted.peak) == (1024, 2048)


MORE = {  # words that must cost more, or (False) less
    "precision": ((), {"precision": "bf16"}, False),
    "checkpointing": ((), {"checkpointing": True}, False),
    "light decoder": ((), {"uncertainty_decoder": "light"}, False),
    "smaller plain images": (["unlabeled.image_size=[32, 80]"], {}, False),
    "strong labelled view": (["loss_weights.strong_depth=1"], {}, True),
    "stereo": (["loss_weights.photometric=1"], {}, True),
    "no feature loss": (["loss_weights.feature_consistency=0"], {}, False),
}


@pytest.fixture(scope="module")
def usual():
    return memory(config(OURS, *SMALL, *SQUARE))


@pytest.mark.parametrize("case", MORE)
def test_what_the_step_does_shows_in_its_peak(case, usual):
    words, changes, more = MORE[case]
    other = memory(config(OURS, *SMALL, *SQUARE, *words), **changes)
    assert (other.peak > 1.01 * usual.peak) if more else (other.peak < 0.99 * usual.peak)


def test_sources_poses_both_sizes_and_the_size_of_depth_show_in_the_peak():
    stereo = memory(config("kitti_ours_self"))
    video = memory(config("kitti_ours_self", "self_supervision.sources=both"))
    assert video.held > stereo.held  # the pose network
    assert video.peak - video.held > 1.2 * (stereo.peak - stereo.held)
    one = ["unlabeled.image_size=[16, 48]"]
    both = memory(config(OURS, *one, "labeled.at_both_sizes=true"), 4, 4)
    assert both.peak > memory(config(OURS, *one), 4, 4).peak
    assert memory(config(OURS), 4, 4).peak > 1.01 * memory(config(OURS, *SQUARE), 4, 4).peak
    supervised = memory(config("kitti_baseline_self"), masked=False)
    assert supervised.peak > memory(config(PLAIN), masked=False).peak


def test_an_average_that_teaches_is_planned_too():
    words = ["train.ema_decay=0.9", "train.teacher=average", "train.precision=fp32"]
    assert memory(config(OURS, *words)).peak > memory(config(OURS)).peak


def test_between_two_measured_passes_memory_is_a_line():
    cfg = config(OURS, *SMALL, "labeled.batch_size=8", "unlabeled.batch_size=24")
    measure = partial(
        pass_memory, cfg, build_step=consistency_train.build_step, masked=True, precision="bf16",
        checkpointing=False,
    )  # fmt: skip
    shares = Shares(Images(8, 24), measure)
    assert shares.number == 8 and shares.smallest == Images(1, 3)
    for number in (2, 4):
        own = measure(Images(number, 3 * number)).peak
        assert shares.peak(number) == pytest.approx(own, rel=0.01)


def straight(images):
    """100 bytes, and 10 an image."""
    return PassMemory(100, 100 + 10 * sum(images))


def test_the_largest_pass_that_fits_is_taken_and_the_step_stays_whole():
    shares = Shares(Images(8, 56), straight)
    assert shares.smallest == Images(1, 7)
    for processes in (1, 2, 4, 8):
        for limit in (180, 260, 419.9, 420, 739, 740, float("inf")):
            share = shares.largest(processes, limit)
            assert share.images.times(share.passes * processes) == Images(8, 56)
            assert share.peak == straight(share.images).peak <= limit
            twice = share.images.times(2)
            assert share.passes == 1 or straight(twice).peak > limit
        assert shares.largest(processes, 179) is None


def test_a_step_whose_images_have_no_common_divisor_is_one_pass_on_one_process():
    shares = Shares(Images(3, 8), straight)
    assert shares.number == 1 and shares.largest(1, 300).images == Images(3, 8)
    assert shares.largest(1, 209) is None


def test_accumulation_is_part_of_the_step_and_plain_images_only_where_a_loss_asks():
    words = ["labeled.batch_size=2", "unlabeled.batch_size=14", "train.accumulation=4"]
    assert step_images(config(OURS, *words), masked=True) == Images(8, 56)
    assert step_images(config(PLAIN, *words), masked=False) == Images(8, 0)
    baseline = config("kitti_baseline_self", *words)
    assert step_images(baseline, masked=False) == Images(8, 56)


@pytest.mark.parametrize("memory_gib", [None, 0.2])
def test_every_command_is_the_same_step_and_fits(capsys, memory_gib):
    words = ["labeled.batch_size=8", "unlabeled.batch_size=24", "network.pretrained=timm",
             "train.precision=bf16", "run.name=a name"]  # fmt: skip
    text, commands = plan(capsys, OURS, *words, memory_gib=memory_gib)
    assert set(commands) == {1, 2, 4, 8}
    assert "16 processes: 8 + 24 images cannot be shared out evenly" in text
    asked = config(OURS, *words)
    for processes, command in commands.items():
        assert [word.split("=")[0] for word in command].count("labeled.batch_size") == 1
        cfg = reloaded(command)
        assert step_images(cfg, masked=True).times(processes) == Images(8, 24)
        if processes in (1, 8):
            took = memory(cfg, cfg.labeled.batch_size, cfg.unlabeled.batch_size, precision="bf16")
            row = re.search(rf"^ +{processes} .* (\d+\.\d\d)   \d+ x ", text, re.MULTILINE)
            assert float(row[1]) == pytest.approx(took.peak / GIB, abs=0.006)
            assert memory_gib is None or took.peak <= USABLE * memory_gib * GIB
        for key in ("labeled", "unlabeled"):
            cfg[key].batch_size = asked[key].batch_size
        assert cfg.toDict() == asked.toDict() | {"train": cfg.train.toDict()}
    passes = [reloaded(commands[processes]).train.accumulation for processes in (1, 8)]
    assert passes[1] == 1 and (passes[0] > 1) == (memory_gib is not None)


def test_labelled_images_alone_are_shared_out(capsys):
    text, commands = plan(capsys, PLAIN, "labeled.batch_size=6")
    assert "6 images a step (labelled)" in text
    assert "4, 8, 16 processes: 6 images cannot be shared out evenly" in text
    assert "1, 2, 3, 6 can" in text
    assert {p: reloaded(c).labeled.batch_size for p, c in commands.items()} == {1: 6, 2: 3}
    assert not any("unlabeled.batch_size" in word for c in commands.values() for word in c)


def test_where_nothing_fits_it_says_what_would(capsys):
    cfg = config(OURS, "labeled.batch_size=2", "unlabeled.batch_size=6")
    kept, recomputed = (
        memory(cfg, precision="bf16", checkpointing=checkpointing).peak
        for checkpointing in (False, True)
    )
    words = ["labeled.batch_size=2", "unlabeled.batch_size=6", "train.precision=bf16"]
    between = (kept + recomputed) / 2 / GIB / USABLE
    text, commands = plan(capsys, OURS, *words, memory_gib=between)
    assert "does not fit" in text and "network.uncertainty_decoder=light" in text
    assert f"train.activation_checkpointing=true: {recomputed / GIB:.2f} GiB, fits" in text
    assert set(commands) == {1, 2}
    assert all(reloaded(c).train.activation_checkpointing for c in commands.values())
    text, commands = plan(capsys, OURS, *words, memory_gib=0.01)
    assert not commands and "does not fit either" in text and "fits" not in text


def test_a_memory_that_is_none_is_refused():
    for wrong in (0, -1, float("nan")):
        with pytest.raises(ConfigError, match="--memory"):
            print_plan(
                config(OURS), script="consistency_train.py", words=[], masked=True,
                build_step=consistency_train.build_step, memory_gib=wrong,
            )  # fmt: skip


def test_the_precision_planned_is_a_gpus_unless_the_run_is_for_a_cpu():
    assert planned_precision(config(OURS, "run.device=cpu")) == "fp32"
    assert planned_precision(config(OURS, "train.precision=fp16")) == "fp16"
    if not torch.cuda.is_available():
        assert planned_precision(config(OURS)) == "bf16"


def test_depth_sizes_are_known_of_all_datasets_but_those_of_files_of_ones_own():
    assert {*DEPTH_SIZES, "rgbd"} == {"synthetic", "kitti", "nyu", "virtual_kitti", "rgbd"}


def test_the_benchmark_compares_the_estimate_with_real_passes(tmp_path):
    out = tmp_path / "result.json"
    words = ["--device", "cpu", "--encoders", "vit_tiny_patch16_224", "--image-size", "32", "96",
             "--decoder-channels", "8", "--num-groups", "4", "--batches", "1+2", "--precision",
             "fp32", "--out", str(out)]  # fmt: skip
    assert plan_memory.main(words) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["activation_checkpointing"] for row in rows] == [False, True]
    for row in rows:
        assert row["estimated_gib"] > row["held_gib"] > 0
        assert row["estimated_over_measured"] == pytest.approx(1, rel=0.02)
