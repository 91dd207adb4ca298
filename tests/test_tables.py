"""The rows of a table differ in their method alone, and their headers quote what was published."""

import re
from itertools import combinations

import pytest
from conftest import HOUSE

import consistency_train
import train
from paper_tables.rows import CONSISTENCY, TABLES, TRAIN, budget_name
from utils.config import load_config, weights_of
from utils.config_rules import RULES
from utils.published import published_table

ROWS = [
    pytest.param(name, method, id=f"{name}-{method}")
    for name, table in TABLES.items()
    for method in table.rows
]
PUBLISHED = [name for name, table in TABLES.items() if table.published]
ADAPTATION = [name for name, table in TABLES.items() if "oracle" in table.rows]

METHOD = {"run.name", "loss_weights.depth_consistency", "loss_weights.feature_consistency",
          "loss_weights.photometric", "loss_weights.smoothness"}  # fmt: skip
LABELS = {"labeled.dataset", "labeled.root", "labeled.variant"}  # whose they are: an oracle's
CONSISTENCY_READS = {
    "masking.num_groups", "masking.rule",
    "strong.operations", "strong.num_operations", "strong.magnitude", "strong.magnitude_std",
    "losses.consistency_error", "losses.confidence_weighted", "losses.min_confidence",
    "losses.max_pseudo_depth", "losses.feature_reduction",
    "schedule.consistency_ramp_steps", "train.teacher",
}  # fmt: skip
SELF_READS = {key for key in RULES if key.startswith("self_supervision.")}
PLAIN_IMAGES_READ = {key for key in RULES if key.startswith("unlabeled.")}

COLUMNS = {"AbsRel": "abs_rel", "SqRel": "sq_rel", "RMSE": "rmse", "RMSElog": "rmse_log",
           "log10": "log10", "delta1": "d1"}  # fmt: skip
LINE = re.compile(r"^#   (full|[\d,]+) +((?:\d\.\d+ \+- \d\.\d+ *)+)$", re.MULTILINE)


def row_config(name, method):
    return load_config(HOUSE / TABLES[name].rows[method].conf)


def header_of(conf):
    return (HOUSE / conf).read_text().split("\n\n", maxsplit=1)[0]


def flat(cfg):
    return {key: cfg[key.split(".")[0]][key.split(".")[1]] for key in RULES if "." in key}


def differing(one, other):
    one, other = flat(one), flat(other)
    return {key for key in one if one[key] != other[key]}


def is_consistent(cfg):
    return any(cfg.loss_weights[term] for term in consistency_train.RAMPED)


def unread(cfg):
    """Keys that nothing in a run of this configuration looks at."""
    consistent, taught_by_itself = is_consistent(cfg), bool(cfg.loss_weights.photometric)
    keys = set() if consistent else set(CONSISTENCY_READS)
    keys |= set() if taught_by_itself else SELF_READS
    return keys if consistent or taught_by_itself else keys | PLAIN_IMAGES_READ


@pytest.mark.parametrize(("name", "method"), ROWS)
def test_a_row_is_there_under_its_own_name(name, method):
    row, cfg = TABLES[name].rows[method], row_config(name, method)
    assert row.conf == f"conf/{cfg.run.name}.yaml" == f"conf/{name}_{method}.yaml"


@pytest.mark.parametrize(("name", "method"), ROWS)
def test_the_script_of_a_row_has_its_losses(name, method):
    row, cfg = TABLES[name].rows[method], row_config(name, method)
    terms = {TRAIN: train.TERMS, CONSISTENCY: consistency_train.TERMS}[row.script]
    assert weights_of(cfg, terms, script=row.script)
    assert is_consistent(cfg) == (row.script == CONSISTENCY) == (method in ("ours", "ours_self"))
    has_self = [cfg.loss_weights[term] > 0 for term in ("photometric", "smoothness")]
    assert has_self == 2 * [method.endswith("_self")] == 2 * ["+Self" in row.title]


@pytest.mark.parametrize("name", TABLES)
def test_the_rows_of_a_table_differ_in_their_method_alone(name):
    rows = {method: row_config(name, method) for method in TABLES[name].rows}
    for one, other in combinations(rows, 2):
        allowed = METHOD | unread(rows[one]) | unread(rows[other])
        if "oracle" in (one, other):
            allowed |= LABELS
        assert differing(rows[one], rows[other]) <= allowed, (one, other)


@pytest.mark.parametrize("name", TABLES)
def test_the_rows_of_a_table_take_as_many_equal_steps_of_as_many_labelled_images(name):
    def course(cfg):
        schedule = {**cfg.schedule.toDict(), "consistency_ramp_steps": None}
        return cfg.train.num_steps, cfg.labeled.batch_size, cfg.optimizer.toDict(), schedule

    first, *others = [course(row_config(name, method)) for method in TABLES[name].rows]
    assert all(other == first for other in others)


@pytest.mark.parametrize("name", ADAPTATION)
def test_only_the_oracle_has_labels_of_the_target(name):
    def place(stream):
        return {key: stream[key] for key in ("dataset", "root", "variant")}

    rows = {method: row_config(name, method) for method in TABLES[name].rows}
    (target,) = {tuple(place(cfg.validation).items()) for cfg in rows.values()}
    assert place(rows["oracle"].labeled) == dict(target)
    assert place(rows["ours"].unlabeled) == dict(target)
    assert place(rows["ours"].labeled) == place(rows["source_only"].labeled) != dict(target)


@pytest.mark.parametrize("name", ["kitti", "nyu", "rgbd"])
def test_ours_is_the_method_as_it_is_shipped(name):
    shipped = load_config(HOUSE / "conf" / f"consistency_train_{name}.yaml")
    assert differing(row_config(name, "ours"), shipped) == {"run.name"}


@pytest.mark.parametrize("name", ["synthetic", "kitti"])
def test_self_is_stereo_with_the_ratio_of_monodepth2(name):
    for method in ("baseline_self", "ours_self"):
        cfg = row_config(name, method)
        assert cfg.self_supervision.sources == "stereo"
        assert (cfg.loss_weights.photometric, cfg.loss_weights.smoothness) == (10.0, 0.01)


@pytest.mark.parametrize(("name", "method"), ROWS)
def test_a_header_gives_the_row_alone_and_the_table(name, method):
    row = TABLES[name].rows[method]
    header = header_of(row.conf)
    assert f"#   python {row.script} --conf {row.conf}" in header
    assert re.search(rf"^#   python reproduce\.py --table {name}\b", header, re.MULTILINE)
    assert set(re.findall(r"\b([a-z_]+\.[a-z_]+)=", header)) <= set(RULES)
    of_the_paper = TABLES[name].published or name == "virtual_kitti_to_kitti"
    assert of_the_paper or "Reproduces nothing of the paper" in header


@pytest.mark.parametrize(
    ("name", "method"), [row for row in ROWS if row.values[0] in PUBLISHED]
)  # fmt: skip
def test_a_header_quotes_the_published_numbers(name, method):
    table = TABLES[name]
    header, published = header_of(table.rows[method].conf), published_table(table.published)
    columns = re.search(r"^#   labels +(.+)$", header, re.MULTILINE)[1].split()
    assert tuple(COLUMNS[column] for column in columns) == published.metrics == table.metrics
    lines = LINE.findall(header)
    quoted = [budget.replace(",", "") for budget, _ in lines]
    assert quoted == [budget_name(budget) for budget in reversed(table.budgets)]
    for budget, (_, numbers) in zip(quoted, lines, strict=True):
        printed = published.row(method, budget).scores
        pairs = [(float(a), float(b)) for a, b in re.findall(r"(\S+) \+- (\S+)", numbers)]
        assert pairs == [(printed[m].mean, printed[m].std) for m in published.metrics]


def test_headers_without_published_numbers_quote_none():
    for name in set(TABLES) - set(PUBLISHED):
        for row in TABLES[name].rows.values():
            assert not LINE.findall(header_of(row.conf))


def test_the_header_with_a_copying_error_says_so():
    header = header_of(TABLES["kitti"].rows["ours_self"].conf)
    table = published_table("kitti_sparse_labels")
    same = table.row("ours_self", "full").scores, table.row("baseline", "10000").scores
    assert same[0] == same[1] and "an error of copying" in header


def test_the_headline_row_takes_cityscapes_without_the_bonnet():
    conf = "conf/kitti_cityscapes_ours.yaml"
    cfg, beside = load_config(HOUSE / conf), row_config("kitti", "ours")
    assert cfg.unlabeled.crop == [0, 0.75, 0, 1] and cfg.labeled.num_frames is None
    changed = {key for key in differing(cfg, beside) if not key.startswith("unlabeled.")}
    assert changed == {"run.name", "labeled.num_frames"}
    rows = published_table("kitti_comparison").rows
    (ours,) = [row for row in rows if row.method.startswith("MaskingDepth")]
    words = header_of(conf).replace("\n# ", " ")
    for column, metric in COLUMNS.items():
        if metric in ours.scores:
            assert f"{column} {ours.scores[metric].mean:.3f}" in words
