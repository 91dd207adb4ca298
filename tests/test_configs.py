"""Every shipped configuration loads, opens its dataset in its layout, builds its network."""

import json

import pytest
import trees
from conftest import HOUSE, run_script

from datasets.views import Jitter, labeled_view
from frames import open_frames
from networks import build_network
from utils.config import load_config
from utils.seeding import seeded

SHIPPED = sorted(path.name for path in (HOUSE / "conf").glob("*.yaml") if path.stem != "defaults")
TINY_TREES = {  # what a dataset of that name looks like on disk
    "kitti": trees.kitti_tree,
    "nyu": trees.nyu_bts_tree,
    "virtual_kitti": trees.virtual_kitti_tree,
    "rgbd": trees.rgbd_tree,
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
        assert entry["image"].shape[1:] == tuple(cfg.network.image_size)
        assert entry["valid_mask"].any()
    if name.startswith("consistency"):
        dataset, indices = open_frames(cfg.unlabeled, seed=0, budget="frames", roles=("image",))
        assert dataset.frame(indices[0]).image
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
def test_the_real_layouts_train_validate_and_evaluate(opened, tiny, name, tmp_path):
    cfg = opened(name)
    kept = [word for word in tiny if "root=" not in word]
    words = [*kept, f"labeled.root={cfg.labeled.root}", f"validation.root={cfg.labeled.root}",
             "network.pretrained=none", "train.num_steps=2"]  # fmt: skip
    run_script("train.py", "--conf", f"conf/{name}", *words)
    result = run_script("evaluate.py", "--ckpt", str(tmp_path / "runs" / "run"))
    protocol = {"kitti": "bts", "nyu": "nyu_eigen"}.get(cfg.labeled.dataset, "plain")
    assert protocol in result.stdout


@pytest.mark.parametrize(
    "name",
    ["consistency_train_kitti.yaml", "consistency_train_nyu.yaml", "consistency_train_rgbd.yaml",
     "consistency_train_virtual_kitti_to_kitti.yaml"],
)  # fmt: skip
def test_the_method_trains_on_the_real_layouts(opened, tiny, name, tmp_path):
    cfg = opened(name)
    words = [word for word in tiny if "root=" not in word]
    words += [f"{stream}.root={cfg[stream].root}" for stream in STREAMS]
    run_script("consistency_train.py", "--conf", f"conf/{name}", *words, "labeled.num_frames=1",
               "unlabeled.batch_size=2", "network.pretrained=none",
               "train.num_steps=1")  # fmt: skip
    first = json.loads((tmp_path / "runs" / "run" / "metrics.jsonl").read_text().split("\n")[0])
    assert first["depth_consistency"] > 0 and first["split"] == "train"


def test_a_kitti_test_drive_is_never_trained_on(tiny, tmp_path):
    root = trees.kitti_tree(tmp_path / "tree")
    words = [word for word in tiny if "root=" not in word]
    words += [f"labeled.root={root}", f"validation.root={root}", "network.pretrained=none",
              "labeled.split=all"]  # fmt: skip
    result = run_script("train.py", "--conf", "conf/base_train_kitti.yaml", *words, code=2)
    assert "2011_09_26_drive_0052_sync" in result.stderr and "test scenes" in result.stderr
