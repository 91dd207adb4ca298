"""Consistency training: who teaches whom, what is looked at, and the script run as users run it."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import HOUSE, TINY, run_pair, run_script

from consistency_train import ConsistencyStep, draw_groups
from datasets.splits import list_sha256
from networks import build_network
from networks.masking import assign_groups, pack_groups
from utils.config import load_config

WEIGHTS = {"depth": 1.0, "uncertainty": 1.0, "depth_consistency": 1.0, "feature_consistency": 1.0,
           "strong_depth": 1.0}  # fmt: skip
LOSSES = {"depth_loss": "l1", "tolerated_error": None, "consistency_error": "metres",
          "confidence_weighted": True, "min_confidence": 0.0, "max_pseudo_depth": None,
          "feature_reduction": "sum"}  # fmt: skip
SIZE = (32, 64)
CONSISTENCIES = ["depth_consistency", "feature_consistency"]


@pytest.fixture
def step():
    torch.manual_seed(0)
    network = build_network(
        encoder="vit_tiny_patch16_224", image_size=SIZE, max_depth=10.0, decoder_channels=16,
        taps=(0, 1, 2, 3),
    )  # fmt: skip
    return ConsistencyStep(network, weights=WEIGHTS, **LOSSES)


@pytest.fixture
def batch():
    """Labelled and unlabelled batch, and packed groups, by stream."""
    generator = torch.Generator().manual_seed(1)
    picture = lambda n: torch.rand(n, 3, *SIZE, generator=generator)  # noqa: E731
    depth = 1 + 5 * torch.rand(2, 1, *SIZE, generator=generator)
    return {
        "labeled": {"image": picture(2), "strong_image": picture(2), "depth": depth,
                    "valid_mask": depth > 2},
        "unlabeled": {"weak_image": picture(3), "strong_image": picture(3)},
        "tiles": {name: pack_groups(assign_groups(n, 8, 3, generator=generator))
                   for name, n in (("labeled", 2), ("unlabeled", 3))},
    }  # fmt: skip


def losses_of(step, batch, teacher=None):
    return step(batch["labeled"], batch["unlabeled"], batch["tiles"], teacher or step.network)


@pytest.mark.parametrize("term", CONSISTENCIES)
def test_consistency_pulls_the_strong_view_and_never_the_weak_one(step, batch, term):
    weak, strong = batch["unlabeled"]["weak_image"], batch["unlabeled"]["strong_image"]
    weak.requires_grad_(), strong.requires_grad_()
    losses_of(step, batch)[term].backward()
    assert weak.grad is None
    assert (strong.grad != 0).any()


@pytest.mark.parametrize("term", CONSISTENCIES)
def test_weights_get_no_gradient_through_their_own_pseudo_labels(step, batch, term):
    frozen = copy.deepcopy(step.network).requires_grad_(False)
    gradients = []
    for teacher in (step.network, frozen):
        step.zero_grad()
        losses_of(step, batch, teacher)[term].backward()
        gradients.append([None if p.grad is None else p.grad.clone() for p in step.parameters()])
    for own, other in zip(*gradients, strict=True):
        assert (own is None) == (other is None) and (own is None or torch.equal(own, other))


def test_consistency_leaves_the_uncertainty_decoder_alone(step, batch):
    losses = losses_of(step, batch)
    (losses["depth_consistency"] + losses["feature_consistency"]).backward()
    network = step.network
    for part in (network.uncertainty_fusion, network.uncertainty_head):
        assert all(p.grad is None for p in part.parameters())


def test_the_uncertainty_decoder_runs_where_it_is_needed_and_nowhere_else(step, batch):
    images = []
    step.network.uncertainty_head.register_forward_hook(
        lambda module, args, output: images.append(len(output))
    )
    losses_of(step, batch)
    assert images == [3, 2]  # weak and labelled; neither of the strong passes


def test_every_parameter_of_the_step_learns(step, batch):
    losses = losses_of(step, batch)
    sum(losses[term] for term in WEIGHTS).backward()
    idle = [name for name, p in step.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


def test_every_parameter_learns_in_mixed_precision_too(step, batch):
    """A weight that is first cast without a graph would be without one in the passes after it."""
    with torch.autocast("cpu", torch.bfloat16):
        losses = losses_of(step, batch)
    sum(losses[term] for term in WEIGHTS).backward()
    idle = [name for name, p in step.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


def test_activations_computed_again_change_no_bit_of_loss_or_gradient(step, batch):
    kept = torch.autograd.graph.saved_tensors_hooks
    results = []
    for recompute in (False, True):
        if recompute:
            step.network.recompute_activations()
        sizes = []
        with kept(lambda tensor, sizes=sizes: sizes.append(tensor.numel()) or tensor, lambda t: t):
            losses = losses_of(step, batch)
        total = sum(losses[term] for term in WEIGHTS)
        gradients = torch.autograd.grad(total, list(step.parameters()))
        results.append((total, gradients, sum(sizes)))
    (total, gradients, size), (total_again, gradients_again, size_again) = results
    assert torch.equal(total, total_again)
    assert all(map(torch.equal, gradients, gradients_again))
    assert size_again < 0.7 * size


@pytest.mark.filterwarnings("default")  # the compiler looks at whatever it finds
def test_compiled_regions_are_compiled_once_and_never_broken(step):
    """Other batch sizes and other numbers of groups compile nothing anew."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    step.network.compile_regions(backend="aot_eager", fullgraph=True)  # a graph break is an error

    def run(num_images, num_groups):
        generator = torch.Generator().manual_seed(num_groups)
        image = torch.rand(num_images, 3, 64, 96, generator=generator)  # no side of 1 anywhere
        tiles = pack_groups(assign_groups(num_images, 24, num_groups, generator=generator))
        with torch.no_grad():
            step.network(image)
        output = step.network(image, groups=tiles, with_uncertainty=False)
        (output.depth.mean() + step.network(image).log_uncertainty.mean()).backward()

    run(6, 3)
    first = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for num_images, num_groups in ((4, 3), (5, 2), (4, 8)):
        run(num_images, num_groups)
    assert first > 0 and torch._dynamo.utils.counters["stats"]["unique_graphs"] == first
    torch._dynamo.reset()


def test_a_sure_teacher_that_is_right_leaves_nothing_to_learn(step, batch):
    batch["unlabeled"]["strong_image"] = batch["unlabeled"]["weak_image"]
    batch["tiles"]["unlabeled"] = pack_groups(torch.zeros(3, 8, dtype=torch.long))
    assert losses_of(step, batch)["depth_consistency"].item() == 0


def test_the_weak_pass_builds_no_graph(step, batch):
    graphs = []
    step.network.depth_head.register_forward_hook(
        lambda module, args, output: graphs.append(output.requires_grad)
    )
    losses_of(step, batch)
    assert graphs == [True, False, True, True]  # strong, weak, a labelled strong view, labelled


def test_another_teacher_gives_the_pseudo_labels_if_there_is_one(step, batch):
    teacher = copy.deepcopy(step.network)
    with torch.no_grad():
        teacher.depth_head.conv3.bias.add_(1)
    own, others = losses_of(step, batch), losses_of(step, batch, teacher)
    assert own["depth_consistency"] != others["depth_consistency"]
    assert own["depth"] == others["depth"] and own["strong_depth"] == others["strong_depth"]


def test_a_term_of_weight_zero_is_not_computed_and_has_no_parameters(batch):
    torch.manual_seed(0)
    network = build_network(encoder="vit_tiny_patch16_224", image_size=SIZE, max_depth=10.0,
                            decoder_channels=16, taps=(0, 1, 2, 3))  # fmt: skip
    weights = WEIGHTS | {"feature_consistency": 0.0, "strong_depth": 0.0}
    step = ConsistencyStep(network, weights=weights, **LOSSES)
    del batch["labeled"]["strong_image"]
    losses = losses_of(step, batch)
    assert {"feature_consistency", "strong_depth"}.isdisjoint(losses)
    assert not [name for name, _ in step.named_parameters() if "predictor" in name]


def test_groups_follow_from_the_sample_and_not_from_its_batch():
    cfg = load_config(None, ["masking.num_groups=3"])
    draw = lambda *numbers, stream="unlabeled": draw_groups(  # noqa: E731
        cfg, stream, torch.tensor(numbers), num_tokens=20
    )
    assert torch.equal(draw(4, 5, 6)[1:], draw(5, 6))
    assert not torch.equal(draw(4), draw(5))
    assert not torch.equal(draw(4), draw(4, stream="labeled"))


CONSISTENT = [*TINY, "unlabeled.batch_size=3", "masking.num_groups=3", "labeled.num_frames=4",
              "loss_weights.depth_consistency=0.5", "loss_weights.feature_consistency=0.5",
              "audit.num_frames=0", "schedule.consistency_ramp_steps=0"]  # fmt: skip


@pytest.fixture
def words(tmp_path, streets):
    roots = [f"{stream}.root={streets}" for stream in ("labeled", "unlabeled", "validation")]
    return [*CONSISTENT, *roots, f"run.folder={tmp_path}", "run.name=run"]


def weights_in(run: Path) -> dict:
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    return state["network"] | {f"step {k}": v for k, v in state["step_module"].items()}


def check_same_weights(first: Path, second: Path) -> None:
    a, b = weights_in(first), weights_in(second)
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


def lines_of(run: Path, split: str) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == split]


def test_a_run_says_what_it_did_and_the_audit_changes_not_one_bit(words, tmp_path):
    more = ["loss_weights.strong_depth=0.5", "train.ema_decay=0.5", "train.teacher=average"]
    run_script("consistency_train.py", *words, *more)
    run_script("consistency_train.py", *words, *more, "run.name=audited", "audit.num_frames=3")
    check_same_weights(tmp_path / "run", tmp_path / "audited")
    folder = tmp_path / "audited"
    assert (folder / "samples" / "step_000004_views.png").is_file()
    assert len((folder / "splits" / "labeled.txt").read_text().split("\n")) == 4 + 1
    assert len((folder / "splits" / "unlabeled.txt").read_text().split("\n")) == 6 + 1
    for line in lines_of(folder, "train"):
        total = line["depth"] + line["uncertainty"] + 0.5 * (
            line["depth_consistency"] + line["feature_consistency"] + line["strong_depth"]
        )  # fmt: skip
        assert line["total"] == pytest.approx(total, rel=1e-5)
        assert 0 < line["weight_mass"] < 1
    assert all(line["audit_num_frames"] == 3 for line in lines_of(folder, "val"))
    assert all("audit_num_frames" not in line for line in lines_of(tmp_path / "run", "val"))
    run_script("evaluate.py", "--ckpt", str(folder))


def test_a_stopped_run_goes_on_bit_for_bit(words, tmp_path):
    words = [*words, "schedule.name=constant", "train.ema_decay=0.5"]
    run_script("consistency_train.py", *words)
    run_script("consistency_train.py", *words, "run.name=stopped", "train.num_steps=2")
    run_script("consistency_train.py", *words, "run.name=stopped")
    check_same_weights(tmp_path / "run", tmp_path / "stopped")


def test_the_depth_of_unlabelled_frames_is_never_opened(words, streets, tmp_path):
    """Every depth file of the unlabelled copy is rubbish, and nothing notices."""
    plain = tmp_path / "plain"
    shutil.copytree(streets, plain)
    depths = list(plain.rglob("proj_depth/**/*.png"))
    assert depths
    for path in depths:
        path.write_bytes(b"not a picture")
    run_script("consistency_train.py", *words)
    run_script("consistency_train.py", *words, "run.name=plain", f"unlabeled.root={plain}",
               "samples.every_steps=1")  # fmt: skip
    check_same_weights(tmp_path / "run", tmp_path / "plain")


def test_labelled_frames_can_be_kept_out_of_the_unlabelled_ones(words, tmp_path):
    run_script(
        "consistency_train.py", *words, "unlabeled.exclude_labeled=true", "train.num_steps=1"
    )
    splits = tmp_path / "run" / "splits"
    labeled, unlabeled = ((splits / f"{name}.txt").read_text().split("\n")[:-1]
                          for name in ("labeled", "unlabeled"))  # fmt: skip
    assert len(labeled) == 4 and len(unlabeled) == 2 and not set(labeled) & set(unlabeled)
    hashed = load_config(tmp_path / "run" / "config.yaml").unlabeled.list_sha256
    assert hashed == list_sha256(unlabeled)


def test_a_dry_run_does_everything_once_and_leaves_nothing(words, tmp_path):
    before = sorted(tmp_path.iterdir())
    result = run_script("consistency_train.py", *words, "audit.num_frames=60", "--dry-run")
    assert "trained, saved, resumed, validated" in result.stdout
    assert "audit_weight_mass" in result.stdout and sorted(tmp_path.iterdir()) == before


def test_one_look_teaches_another_from_fewer_labels_than_a_batch(words, tmp_path):
    run_script(
        "consistency_train.py", *words, "labeled.num_frames=1", "labeled.batch_size=3",
        "unlabeled.variant=look_b", "validation.variant=look_b", "masking.rule=naive",
        "masking.num_groups=2", "train.num_steps=2",
    )  # fmt: skip
    assert len((tmp_path / "run" / "splits" / "labeled.txt").read_text().split("\n")) == 1 + 1
    assert all(line["depth_consistency"] > 0 for line in lines_of(tmp_path / "run", "train"))


def test_a_folder_of_pictures_is_enough_for_the_unlabelled_side(words, streets, tmp_path):
    pictures = next(streets.rglob("image_02")).parent
    run_script("consistency_train.py", *words, "unlabeled.dataset=images", "unlabeled.split=all",
               f"unlabeled.root={pictures}", "train.num_steps=1", "network.uncertainty=false",
               "loss_weights.uncertainty=0")  # fmt: skip
    (line,) = lines_of(tmp_path / "run", "train")
    assert line["depth_consistency"] > 0
    assert line["weight_mass"] == 1  # without an uncertainty every pixel counts alike


def test_labelled_images_of_two_sizes_count_half_each(step, batch):
    small = (16, 32)
    whole = losses_of(step, batch)
    step.small_size = small
    both = losses_of(step, batch)
    labeled = batch["labeled"]
    labeled["image"] = F.interpolate(labeled["image"], small, mode="bilinear", antialias=True)
    step.small_size = None
    alone = losses_of(step, batch)
    for term in ("depth", "uncertainty"):
        mean = (whole[term].item() + alone[term].item()) / 2
        assert both[term].item() == pytest.approx(mean, rel=1e-6)
        assert whole[term].item() != alone[term].item()
    for term in (*CONSISTENCIES, "strong_depth"):
        assert both[term].item() == whole[term].item()


def test_plain_images_may_be_smaller_than_labelled_ones(words, tmp_path):
    more = ["unlabeled.image_size=[16, 48]", "labeled.at_both_sizes=true",
            "network.uncertainty_decoder=light", "train.activation_checkpointing=true",
            "loss_weights.strong_depth=1", "train.num_steps=2"]  # fmt: skip
    run_script("consistency_train.py", *words, *more)
    for line in lines_of(tmp_path / "run", "train"):
        assert line["depth_consistency"] > 0 and line["feature_consistency"] > 0
    run_script("evaluate.py", "--ckpt", str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("script", "word", "message"),
    [
        ("consistency_train.py", "unlabeled.split=val", "unlabeled.may_share"),
        ("consistency_train.py", "strong.operations=[rotate]", "photometric"),
        ("consistency_train.py", "unlabeled.image_size=[16, 40]", "the nearest that is: [16, 32]"),
        ("consistency_train.py", "labeled.at_both_sizes=true", "goes with unlabeled.image_size"),
        ("consistency_train.py", "masking.rule=blocks", "equal, random_cuts, naive"),
        ("consistency_train.py", "train.teacher=average", "train.ema_decay"),
        ("consistency_train.py", "audit.num_frames=-1", "audit.num_frames"),
        ("train.py", "run.seed=1", "depth_consistency"),  # a loss that train.py does not have
    ],
)
def test_what_cannot_be_is_refused_in_one_line(words, script, word, message):
    result = run_script(script, *words, word, code=2)
    assert message in result.stderr and "Traceback" not in result.stderr


def test_processes_with_different_labels_refuse_to_start(tmp_path):
    """Each of two processes claims a list of its own."""
    script = tmp_path / "claims.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(HOUSE)!r})\n"
        "from utils.processes import check_same_everywhere, start_process, stop_process\n"
        "process = start_process('cpu')\n"
        "check_same_everywhere('abc', 'labelled frames', process)\n"
        "try:\n"
        "    check_same_everywhere(f'list {process.rank}', 'labelled frames', process)\n"
        "except ValueError as error:\n"
        "    print('refused:', error)\n"
        "stop_process()\n"
    )
    result = run_pair(str(script))
    refused = [line for line in result.stdout.splitlines() if "rank 0: list 0, rank 1" in line]
    assert len(refused) == 2


def test_two_processes_compare_the_same_views_in_the_same_groups_as_one(words, tmp_path):
    words = [word for word in words if "batch_size" not in word] + ["train.num_steps=2"]
    run_script("consistency_train.py", *words, "labeled.batch_size=2", "unlabeled.batch_size=4")
    run_pair("consistency_train.py", *words, "labeled.batch_size=1", "unlabeled.batch_size=2",
             "run.name=pair")  # fmt: skip
    one, two = (lines_of(tmp_path / name, "train") for name in ("run", "pair"))
    for term in ("depth_consistency", "feature_consistency", "weight_mass"):
        # means over all pixels and tokens, so the mean of two halves is that of the whole
        assert one[0][term] == pytest.approx(two[0][term], rel=1e-5)
        assert one[1][term] == pytest.approx(two[1][term], rel=2e-2)
