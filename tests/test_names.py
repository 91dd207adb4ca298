"""Long lists of names are what a tuple of them would be, and take hardly any memory."""

import hashlib
import pickle

import numpy as np
import pytest
from PIL import Image

from datasets import names as names_module
from datasets.frame import DataError
from datasets.images import ImageFolder
from datasets.name_lists import read_names, repeated
from datasets.names import STRIDE, ListedNames, encoded
from datasets.sorting import in_order, sorted_names, sorted_parts, sorted_places, sorted_sha256
from datasets.splits import list_sha256, read_list
from utils.run_folder import write_run_folder


def some_names(count):
    """In no order, of many lengths, in several scripts, and each once."""
    words = ("a b", "straße", "街", "z", "a", "-")
    return tuple(f"{words[7 * k % 6]}/{k * 7919 % count}{'x' * (k % 5)}.jpg" for k in range(count))


def listed(names):
    return ListedNames.of(encoded(name) + b"\n" for name in names)


@pytest.fixture(params=["in memory", "mapped"])
def reader(request, tmp_path):
    """Names -> the same names out of a list file."""

    def read(names):
        path = tmp_path / "list.txt"
        path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        return read_names(tmp_path, path, in_memory=0 if request.param == "mapped" else 10**9)

    return read


@pytest.fixture(params=[STRIDE, names_module.NUM_AT_ONCE])
def at_once(request, monkeypatch):
    """Passes over all names that take few or many of them together."""
    monkeypatch.setattr(names_module, "NUM_AT_ONCE", request.param)


@pytest.mark.parametrize("count", [1, 2, STRIDE - 1, STRIDE, STRIDE + 1, 5 * STRIDE, 777])
def test_names_of_a_list_are_a_sequence_like_the_tuple_of_them(reader, at_once, count):
    expected = some_names(count)
    names = reader(expected)
    assert len(names) == count and bool(names) and list(names) == list(expected)
    assert [names[k] for k in range(-count, count)] == [*expected, *expected]
    assert names == expected and expected == names and names != expected[:-1]
    assert names != (*expected[:-1], "other")
    for part in (slice(3, 70), slice(None, None, 3), slice(0, 0), slice(None, None, -1)):
        assert names[part] == expected[part] and list(names[part]) == list(expected[part])
    assert expected[-1] in names and "nowhere.jpg" not in names
    for outside in (count, -count - 1):
        with pytest.raises(IndexError):
            names[outside]


@pytest.mark.parametrize("chosen", ["range", "dense", "sparse", "shuffled"])
def test_some_of_the_names_are_again_names(reader, at_once, chosen):
    expected = some_names(1000)
    indices = {
        "range": range(100, 900, 2), "dense": np.delete(np.arange(1000), [3, 400]),
        "sparse": np.array([0, 500, 999]), "shuffled": np.random.default_rng(0).permutation(1000),
    }[chosen]  # fmt: skip
    names = reader(expected).at(indices)
    assert list(names) == [expected[index] for index in indices]
    assert names[1] == expected[indices[1]] and names[-1] == expected[indices[-1]]
    assert list(names[1:]) == [expected[index] for index in indices[1:]]
    assert list(names.at(np.array([2, 0]))) == [expected[indices[2]], expected[indices[0]]]


def test_a_mapped_list_goes_to_another_process_by_its_path(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("".join(f"folder/{k:030d}.jpg\n" for k in range(10_000)))
    names = read_names(tmp_path, path, in_memory=0)
    sent = pickle.dumps(names)
    assert len(sent) < path.stat().st_size / 50
    assert pickle.loads(sent) == names == pickle.loads(pickle.dumps(read_names(tmp_path, path)))
    path.write_text("other.jpg\n")
    with pytest.raises(DataError, match="edited while in use"):
        pickle.loads(sent)


LISTS = {
    "plain": b"a/1.jpg\nb/2.jpg\n",
    "no newline at the end": b"a/1.jpg\nb/2.jpg",
    "blank end": b"a/1.jpg\nb/2.jpg\n\n\n\n",
    "header": b"\xef\xbb\xbf# pictures\n\n  # two\na/1.jpg\nb/2.jpg\n",
    "comment inside": b"b/2.jpg\n# more\na/1.jpg\n",
    "windows": b"a/1.jpg\r\nb c/2.jpg\r\n",
    "edges": b"  a/1.jpg \n\tb/2.jpg\t\n\x0bc.jpg\n\xc2\xa0d.jpg\n",
    "roundabout": b"./a/1.jpg\nb//2.jpg\nc/./3.jpg\nd/e/\n",
    "hidden": b".a/1.jpg\nb/.2.jpg\n.../3\n4.\n",
    "scripts": "街/ß.jpg\na/ü\u2028x.jpg\nå\n".encode(),
    "one letter": b"a\nb\nc",
    "signs of comments": b"./#a.jpg\n./ b.jpg\n\x0b# a comment\nc#\n",
    "colons": b"a/b:c.jpg\nabc:d\n",
}


@pytest.mark.parametrize("in_memory", [0, 10**9])
@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_names_is_read_as_any_other_list(tmp_path, name, in_memory):
    path = tmp_path / "list.txt"
    path.write_bytes(LISTS[name])
    plain = [row[0] for row in read_list(path, (1,), separator="\n")]
    expected = [line.removeprefix("./").removesuffix("/") for line in plain]
    expected = [line.replace("//", "/").replace("/./", "/") for line in expected]
    for at_once in (1, 9, 20, 10**6):
        names = read_names(tmp_path, path, in_memory=in_memory, at_once=at_once)
        assert list(names) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "names no frames"),
        (b"\xef\xbb\xbf\n# nothing\n", "names no frames"),
        (b"# first\na\nc\0 d\n", "list.txt, line 3: NUL byte"),
        (b"a\n\nb\\c\n", "list.txt, line 3: backslash"),
        (b"a\n\xef\xbb\xbfb\n", "list.txt, line 2: byte-order mark"),
        (b"a\nb /\n", r"list.txt, line 2: 'b /' ends with a blank"),
        (b"a\n" + b"b" * 5000 + b"\n", "list.txt, line 2: more than 4096 characters"),
        (b"\x0b# nothing\n", "names no frames"),
        (b"a\n\xff\xfe\xd8\n", "list.txt: cannot be read as UTF-8"),
        (b"a\n../b\n", r"list\.txt: path '\.\./b' is refused"),
        (b"a\nb/../../c\n", "list.txt: path .* never leave it"),
        (b"a\n/etc/passwd\n", "list.txt: path '/etc/passwd' is refused"),
        (b"a\nC:/x.png\n", "list.txt: path 'C:/x.png' is refused"),
        (b"# two\nb\n\na\nb\n", r"list.txt, line 5: repeats line 2 \('b'\)"),
        (b"b/a\nc\nb//a\n", "twice: b/a in line 1 and, spelt 'b//a', in line 3"),
    ],
)
@pytest.mark.parametrize("at_once", [1, 5, 10**6])
def test_a_bad_list_of_names_is_refused_with_file_and_line(tmp_path, text, message, at_once):
    path = tmp_path / "list.txt"
    path.write_bytes(text)
    with pytest.raises(DataError, match=message):
        read_names(tmp_path, path, at_once=at_once)


def test_a_name_that_comes_twice_is_found_wherever_it_stands(at_once):
    expected = some_names(500)
    assert repeated(listed(expected)) is None
    for first, second in ((0, 499), (63, 64), (100, 101), (10, 400)):
        again = [*expected[:second], expected[first], *expected[second:]]
        assert repeated(listed(again)) == (first, second)


def test_whether_names_are_in_order_is_seen_across_what_is_read_together(at_once):
    expected = sorted(some_names(300))
    assert in_order(listed(expected)) and not in_order(listed([*expected, expected[-1]]))
    for place in (STRIDE - 1, STRIDE, 150):
        expected[place], expected[place - 1] = expected[place - 1], expected[place]
        assert not in_order(listed(expected))
        expected[place], expected[place - 1] = expected[place - 1], expected[place]


@pytest.mark.parametrize("num_in_memory", [7, 100, 1000])
def test_names_are_sorted_also_where_only_some_fit_into_memory(at_once, num_in_memory):
    expected = some_names(1000)
    parts = list(sorted_parts(listed(expected), at_once=num_in_memory))
    lines = [line.decode() for lines, _ in parts for line in lines]
    places = np.concatenate([places for _, places in parts])
    assert lines == sorted(expected) and [expected[place] for place in places] == lines
    assert max(len(lines) for lines, _ in parts) <= 2 * num_in_memory
    assert sorted_names(listed(expected)) == lines


@pytest.mark.parametrize("arrange", [sorted, list])
def test_hash_and_order_are_those_of_the_strings(at_once, arrange):
    expected = arrange(some_names(400))
    digest = hashlib.sha256("\n".join(sorted(expected)).encode()).hexdigest()
    assert sorted_sha256(listed(expected)) == digest == list_sha256(listed(expected))
    assert list_sha256(listed(expected).at(np.arange(9, 300))) == list_sha256(expected[9:300])
    assert list_sha256(listed([])) == list_sha256([])
    by_name = sorted(range(400), key=expected.__getitem__)
    assert sorted_places(listed(expected)).tolist() == by_name == sorted_places(expected).tolist()


def test_the_lists_of_a_run_folder_are_written_as_they_come_whole_or_not_at_all(tmp_path):
    def names():
        yield "a"
        raise DataError("the disk is gone")

    expected = some_names(300)
    about = {"config_yaml": "", "environment": {}}
    write_run_folder(tmp_path, **about, splits={"unlabeled": listed(expected), "labeled": ["b"]})
    with pytest.raises(DataError, match="the disk is gone"):
        write_run_folder(tmp_path, **about, splits={"labeled": names(), "validation": names()})
    lists = {path.name: path.read_text("utf-8") for path in (tmp_path / "splits").glob("*.txt")}
    assert lists == {"unlabeled.txt": "".join(f"{n}\n" for n in expected), "labeled.txt": "b\n"}


def test_a_name_that_looks_like_a_comment_reads_back_from_a_runs_own_list(tmp_path):
    for name in ("#a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    names = ImageFolder(str(tmp_path), "all").frame_ids
    write_run_folder(tmp_path / "run", config_yaml="", environment={}, splits={"labeled": names})
    again = ImageFolder(str(tmp_path), str(tmp_path / "run" / "splits" / "labeled.txt"))
    assert list(again.frame_ids) == list(names) == ["#a.png", "b.png"]
