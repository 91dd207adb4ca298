"""Every shipped configuration loads, opens its dataset in its layout, builds its network."""

import json

import pytest
import trees
from conftest import HOUSE, run_script
from torch.utils.data import default_collate

from consistency_train import RAMPED
from consistency_train import main as consistency_main
from datasets.colours import colour_views
from datasets.photometric import Strong
from datasets.views import Jitter, labeled_view, unlabeled_view
from evaluate import main as evaluate_main
from frames import open_frames
from networks import build_network
from self_supervision import describe_sources
from train import main as train_main
from utils.config import load_config
from utils.seeding import seeded

SHIPPED = sorted(path.name for path in (HOUSE / "conf").glob("*.yaml") if path.stem != "defaults")
TINY_TREES = {  # what a dataset of that name looks like on disk
    "kitti": trees.kitti_tree,
    "nyu": trees.nyu_bts_tree,
    "virtual_kitti": trees.virtual_kitti_tree,
    "rgbd": trees.rgbd_tree,
    "images": trees.image_tree,
}
STREAMS = ("labeled", "unlabeled", "validation")


@pytest.fixture
def opened(tmp_path, streets):
    """Config by file name, its roots pointing at a tiny tree in the dataset's exact layout."""

    def load(name):
        cfg = load_config(HOUSE / "conf" / name)
        roots = {"synthetic": streets}
        for stream in STREAMS:
            dataset = cfg[stream].dataset
            if dataset not in roots:
                roots[dataset] = TINY_TREES[dataset](tmp_path / dataset)
            cfg[stream].root = str(roots[dataset])
        cfg.labeled.num_frames = cfg.labeled.num_frames and 1  # the trees have few
        return cfg

    return load


def test_the_configs_of_the_contract_are_shipped():
    for method in ("base_train", "consistency_train"):
        assert {f"{method}.yaml", f"{method}_kitti.yaml", f"{method}_nyu.yaml"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_config_opens_its_data_and_builds_its_network(opened, name):
    cfg = opened(name)
    assert cfg.run.name == name.removesuffix(".yaml")
    for stream, budget in ((cfg.labeled, cfg.labeled.budget), (cfg.validation, None)):
        dataset, indices = open_frames(stream, seed=0, budget=budget)
        assert indices
        entry = labeled_view(
            dataset.frame(indices[0]),
            image_size=tuple(cfg.network.image_size),
            depth_size=dataset.depth_size,
            max_depth=cfg.network.max_depth,
            augmentation=Jitter(**cfg.augmentation.toDict()),
            generator=seeded(0, "test"),
        )
        assert entry["picture"].shape[1:] == tuple(cfg.network.image_size)
        assert colour_views(default_collate([entry]))["valid_mask"].any()
    if any(cfg.loss_weights[term] for term in (*RAMPED, "photometric")):
        dataset, indices = open_frames(cfg.unlabeled, seed=0, budget="frames", roles=("image",))
        entry = unlabeled_view(
            dataset.frame(indices[0]),
            image_size=tuple(cfg.network.image_size),
            augmentation=Jitter(**cfg.augmentation.toDict()),
            strong=Strong(**cfg.strong.toDict()),
            generator=seeded(0, "test"),
            crop=cfg.unlabeled.crop,
        )
        views = colour_views(default_collate([entry]))
        assert views["strong_image"].shape[2:] == tuple(cfg.network.image_size)
        found = describe_sources(cfg, (dataset, indices))
        assert found is None or f"have {len(indices)} the stereo partner" in found
    network = build_network(**cfg.network.toDict() | {"pretrained": "none"})
    assert network.encoder.grid(network.image_size)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_config_says_what_it_is(name):
    header = (HOUSE / "conf" / name).read_text().split("\n\n", maxsplit=1)[0]
    assert all(line.startswith("#") for line in header.splitlines())
    assert f"conf/{name}" in header or name in ("base_train.yaml", "consistency_train.yaml")
    assert "Cost" in header


@pytest.mark.parametrize(
    "name", ["base_train_kitti.yaml", "base_train_nyu.yaml", "base_train_virtual_kitti.yaml"]
)
def test_the_real_layouts_train_validate_and_evaluate(opened, tiny, name, tmp_path, capsys):
    cfg = opened(name)
    kept = [word for word in tiny if "root=" not in word]
    words = [*kept, f"labeled.root={cfg.labeled.root}", f"validation.root={cfg.labeled.root}",
             "network.pretrained=none", "train.num_steps=2"]  # fmt: skip
    assert train_main(["--conf", str(HOUSE / "conf" / name), *words]) == 0
    capsys.readouterr()
    assert evaluate_main(["--ckpt", str(tmp_path / "runs" / "run")]) == 0
    protocol = {"kitti": "bts", "nyu": "nyu_eigen"}.get(cfg.labeled.dataset, "plain")
    assert protocol in capsys.readouterr().out


@pytest.mark.parametrize(
    ("main", "name", "term"),
    [
        (consistency_main, "consistency_train_kitti.yaml", "depth_consistency"),
        (consistency_main, "consistency_train_nyu.yaml", "depth_consistency"),
        (consistency_main, "consistency_train_rgbd.yaml", "depth_consistency"),
        (consistency_main, "virtual_kitti_to_kitti_ours.yaml", "depth_consistency"),
        (consistency_main, "kitti_cityscapes_ours.yaml", "depth_consistency"),
        (consistency_main, "kitti_ours_self.yaml", "photometric"),
        (train_main, "kitti_baseline_self.yaml", "photometric"),
    ],
)
def test_the_methods_train_on_the_real_layouts(opened, tiny, main, name, term, tmp_path):
    cfg = opened(name)
    words = [word for word in tiny if "root=" not in word]
    words += [f"{stream}.root={cfg[stream].root}" for stream in STREAMS]
    words += ["labeled.num_frames=1", "unlabeled.batch_size=2", "network.pretrained=none",
              "train.num_steps=1"]  # fmt: skip
    words += ["self_supervision.automask=false"]  # left and right pictures of the trees are alike
    assert main(["--conf", str(HOUSE / "conf" / name), *words]) == 0
    first = json.loads((tmp_path / "runs" / "run" / "metrics.jsonl").read_text().split("\n")[0])
    assert first[term] > 0 and first["split"] == "train"


def test_the_full_kitti_list_trains_as_its_header_says(opened, tiny, tmp_path):
    path = HOUSE / "conf" / "kitti_ours.yaml"
    header = path.read_text().split("\n\n", maxsplit=1)[0]
    cfg = opened("kitti_ours.yaml")
    words = [word for word in tiny if "root=" not in word]
    words += [f"{stream}.root={cfg[stream].root}" for stream in STREAMS]
    asked = [f"{stream}.split=train_all" for stream in STREAMS[:2]]
    asked += [f"{stream}.may_share=frames" for stream in STREAMS[1:]]
    assert all(word in header for word in asked)
    words += ["labeled.num_frames=null", "unlabeled.batch_size=2", "network.pretrained=none",
              "train.num_steps=1", *asked]  # fmt: skip
    assert consistency_main(["--conf", str(path), *words]) == 0
    used = (tmp_path / "runs" / "run" / "splits" / "labeled.txt").read_text()
    assert "2011_09_26_drive_0005_sync" in used  # a validation drive


def test_a_kitti_test_drive_is_never_trained_on(tiny, tmp_path):
    root = trees.kitti_tree(tmp_path / "tree")
    words = [word for word in tiny if "root=" not in word]
    words += [f"labeled.root={root}", f"validation.root={root}", "network.pretrained=none",
              "labeled.split=all"]  # fmt: skip
    result = run_script("train.py", "--conf", "conf/base_train_kitti.yaml", *words, code=2)
    assert "2011_09_26_drive_0052_sync" in result.stderr and "test scenes" in result.stderr
