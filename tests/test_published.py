"""Published numbers: as they were printed, all of them, and doubtful where they say so."""

import pytest

from paper_tables.rows import BUDGETS, TABLES, budget_name
from utils.config import ConfigError, parse_yaml
from utils.metrics import METRIC_NAMES
from utils.published import PUBLISHED, PublishedError, published_table

NAMES = {
    "kitti_sparse_labels": 20,
    "kitti_sparse_labels_plot": 16,
    "nyu_sparse_labels": 10,
    "kitti_comparison": 14,
    "scale_ambiguity": 2,
}


def test_every_table_is_read_whole():
    assert list(parse_yaml(PUBLISHED.read_text(), place="")) == list(NAMES)
    for name, num_rows in NAMES.items():
        table = published_table(name)
        assert len(table.rows) == num_rows
        assert all(set(row.scores) == set(table.metrics) for row in table.rows)
        assert name == "scale_ambiguity" or set(table.metrics) <= set(METRIC_NAMES)
        assert all(sentence.endswith(".") for sentence in (*table.protocol, *table.caveats))


@pytest.mark.parametrize("name", [t.published for t in TABLES.values() if t.published])
def test_a_table_of_the_same_kind_has_every_row_budget_and_metric_of_ours(name):
    ours = next(table for table in TABLES.values() if table.published == name)
    theirs = published_table(name)
    assert theirs.metrics == ours.metrics
    expected = {(method, budget_name(budget)) for method in ours.rows for budget in BUDGETS}
    assert {(row.method, row.budget) for row in theirs.rows} == expected
    for row in theirs.rows:
        assert all(number.std is not None for number in row.scores.values())


# (table, method, budget, metric) -> text as printed, mean, std
SAMPLE = {
    ("kitti_sparse_labels", "baseline", "full", "rmse"): ("3.290 ± .015", 3.29, 0.015),
    ("kitti_sparse_labels", "ours", "10000", "d1"): ("0.934 ± .003", 0.934, 0.003),
    ("kitti_sparse_labels", "ours", "100", "abs_rel"): ("0.128 ± .004", 0.128, 0.004),
    ("kitti_sparse_labels", "baseline_self", "100", "sq_rel"): ("0.759 ± .014", 0.759, 0.014),
    ("kitti_sparse_labels", "ours_self", "1000", "rmse_log"): ("0.129 ± .012", 0.129, 0.012),
    ("kitti_sparse_labels", "baseline", "10", "rmse"): ("6.163 ± .082", 6.163, 0.082),
    ("kitti_sparse_labels_plot", "ours_self", "full", "abs_rel"): ("0.075", 0.075, None),
    ("nyu_sparse_labels", "baseline", "full", "rmse"): ("0.380 ± .004", 0.38, 0.004),
    ("nyu_sparse_labels", "ours", "10", "d1"): ("0.561 ± .021", 0.561, 0.021),
    ("nyu_sparse_labels", "baseline", "1000", "log10"): ("0.066 ± .004", 0.066, 0.004),
    ("kitti_comparison", "DORN", "", "rmse_log"): (".120", 0.12, None),
    ("kitti_comparison", "MaskingDepth (DPT-Base)", "", "sq_rel"): (".316", 0.316, None),
    ("scale_ambiguity", "naive masking", "", "weak_strong_difference"): ("6.242", 6.242, None),
}


@pytest.mark.parametrize("where", SAMPLE)
def test_numbers_are_those_printed_to_the_last_digit(where):
    name, method, budget, metric = where
    assert published_table(name).row(method, budget).scores[metric] == SAMPLE[where]


def test_every_number_has_the_three_decimals_that_are_printed():
    for name in NAMES:
        for row in published_table(name).rows:
            for number in filter(None, row.scores.values()):
                for part in number.text.split(" ± "):
                    assert len(part.split(".")[1]) == 3, (name, row.method, number.text)
                assert float(number.text.split(" ± ")[0]) == number.mean


def test_what_is_not_printed_is_nothing():
    table = published_table("kitti_comparison")
    empty = [(row.method, key) for row in table.rows for key, x in row.scores.items() if x is None]
    assert empty == [("Yin et al.", "sq_rel")]
    assert table.row("SVSM FT", "").about == {"supervision": "sup+S", "data": "K+F"}
    assert table.row("Nobody", "") is None


def test_the_caveats_are_true_of_the_numbers():
    table = published_table("kitti_sparse_labels")
    rows = {(row.method, row.budget): row.scores for row in table.rows}
    equal = [(a, b) for a in rows for b in rows if a < b and rows[a] == rows[b]]
    assert equal == [(("baseline", "10000"), ("ours_self", "full"))]
    assert any("equals the row Baseline at 10,000" in sentence for sentence in table.caveats)
    large = [key for key, row in rows.items() if row["abs_rel"].std == 0.017]
    assert large == [("ours_self", "10000"), ("ours_self", "1000")]
    of = ("10000", "1000")
    beside = [row["abs_rel"].std for (_, budget), row in rows.items() if budget in of]
    assert sorted(set(beside) - {0.017}) == [0.001, 0.002, 0.003, 0.004]
    assert any("± .017 on the AbsRel" in sentence for sentence in table.caveats)
    plot = published_table("kitti_sparse_labels_plot")
    for method, reading in (("baseline", ".138"), ("ours", ".126")):
        assert plot.row(method, "100").scores["abs_rel"].text == f"0{reading}"
        assert any(reading in sentence for sentence in table.caveats)
        assert rows[method, "100"]["abs_rel"].mean != float(reading)
    for words in ("How many seeds", "validation list is the test list"):
        assert any(words in sentence for sentence in table.caveats)


GOOD = """
small:
  title: T
  source: S
  protocol: [P.]
  about: [budget, method]
  metrics: [abs_rel]
  rows:
    - [10, ours, 0.1 ± .02]
  caveats: [C.]
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.1 ± .02", "0.100", "is 0.1; write 'mean ± std', a single number in quotes"),
        ("0.1 ± .02", "0.1 +- .02", "write 'mean ± std'"),
        ("0.1 ± .02", "'-'", None),
        ("0.1 ± .02", "0.1 ± .02, 3", "does not have the columns"),
        ("0.1 ± .02]", "0.1 ± .02]\n    - [10, ours, 0.3 ± .02]", "('ours', '10') twice"),
        ("budget, method", "budget, name", "no column 'method'"),
        ("source: S", "spring: S", "exactly the keys title, source"),
        ("caveats: [C.]", "caveats: []", "caveats must be a list"),
        ("small:", "big:", "no table 'small'; there are ['big']"),
        ("small:", "small:\n  title: U", "given twice"),
    ],
)
def test_a_table_that_cannot_be_trusted_is_refused_by_name(tmp_path, old, new, message):
    path = tmp_path / "published.yaml"
    path.write_text(GOOD.replace(old, new))
    if message is None:
        assert published_table("small", path).rows[0].scores == {"abs_rel": None}
        return
    with pytest.raises(ConfigError) as error:
        published_table("small", path)
    assert message in str(error.value) and str(path) in str(error.value)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(PublishedError, match=r"nothing\.yaml: cannot be read"):
        published_table("small", tmp_path / "nothing.yaml")
