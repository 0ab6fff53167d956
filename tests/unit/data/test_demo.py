"""Built-in data: balanced, held-out rows apart from the training rows, the same each time."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swiftlike.data import demo
from swiftlike.stages.instructions import Parsing, parse, prompt_text


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


def rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def pictures(file: Path) -> list[str]:
    """Digests of decoded pictures, one per row."""
    return [hashlib.sha256(Image.open(file.parent / row["images"][0]).tobytes()).hexdigest() for row in rows(file)]


@pytest.mark.parametrize("subset", ["train", "test"])
def test_text_of_a_picture_row_predicts_at_chance(root, subset):
    found = rows(demo.vision(root, subset))
    chosen = Counter((row["query"], row["response"]) for row in found)
    rejected = Counter((row["query"], row["rejected_response"]) for row in found)
    assert chosen == rejected
    pairs = Counter((row["query"], row["response"], row["rejected_response"]) for row in found)
    assert all(pairs[query, right, wrong] == pairs[query, wrong, right] for query, right, wrong in pairs)


@pytest.mark.parametrize("subset", ["train", "test"])
def test_answer_alone_predicts_at_chance_in_text(root, subset):
    found = rows(demo.text(root, subset))
    assert Counter(row["response"] for row in found) == Counter(row["rejected_response"] for row in found)
    named_first = [row["query"].index(row["response"]) < row["query"].index(row["rejected_response"]) for row in found]
    assert sum(named_first) * 2 == len(found)


def test_held_out_pictures_are_new(root):
    train, test = pictures(demo.vision(root)), pictures(demo.vision(root, "test"))
    assert len({*train, *test}) == len(train) + len(test)


def test_held_out_word_pairs_are_new_and_words_are_not(root):
    def pairs(found):
        return {frozenset((row["response"], row["rejected_response"])) for row in found}

    train, test = rows(demo.text(root)), rows(demo.text(root, "test"))
    assert not pairs(train) & pairs(test)
    assert {row["response"] for row in test} <= {row["response"] for row in train}


@pytest.mark.parametrize("subset", ["train", "test"])
def test_picture_shows_the_chosen_colour(root, subset):
    """The pixel farthest from grey is nearest to the colour that the chosen answer names, in every row."""
    file = demo.vision(root, subset)
    known = np.array(list(demo.COLOURS.values()))
    for row in rows(file):
        pixels = np.asarray(Image.open(file.parent / row["images"][0]), dtype=int).reshape(-1, 3)
        assert len(pixels) == demo.SIDE**2
        strongest = pixels[np.ptp(pixels, axis=1).argmax()]
        nearest = ((known - strongest) ** 2).sum(1).argmin()
        assert list(demo.COLOURS)[nearest] == row["response"]


def test_same_bytes_each_time_and_written_once(root, tmp_path):
    first, again = demo.vision(root), demo.vision(tmp_path)
    files = sorted(file.relative_to(first.parent) for file in first.parent.rglob("*") if file.is_file())
    assert len(files) == 2 + len(rows(first)) + len(rows(demo.vision(root, "test")))
    assert all((first.parent / file).read_bytes() == (again.parent / file).read_bytes() for file in files)
    stamp = again.stat().st_mtime_ns
    assert demo.vision(tmp_path) == again
    assert again.stat().st_mtime_ns == stamp
    assert demo.text(root).read_bytes() == demo.text(tmp_path).read_bytes()
    assert len([*tmp_path.iterdir()]) == 2  # one folder each, no draft left


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        ("apple pear plum grape", 1.0),
        ("Apple saw", 0.25),
        ("apple apple apple apple", 0.25),  # a word counts once
        ("apple pear plum grape saw", 0.8),  # and what is too much takes away
        ("", 0.0),
    ],
)
def test_the_truth_of_words(answer: str, reward: float) -> None:
    assert demo.asked_words("Name four fruit words.", answer, {}) == reward


def test_no_truth_without_one_kind():
    assert demo.asked_words("Name four words.", "apple", {}) is None
    assert demo.asked_words("Name four fruit or tool words.", "apple", {}) is None


def test_words_to_learn_from_are_half_right_and_prompts_are_held_out(root):
    train, prompts, test = (rows(demo.words(root, subset)) for subset in ("train", "prompts", "test"))
    answers = [row for row in train if "\n" not in row["query"]]
    assert {row["query"] for row in answers} == {row["prompt"] for row in prompts}
    assert not {row["prompt"] for row in test} & {row["prompt"] for row in prompts}
    right = [demo.asked_words(row["query"], row["response"], {}) for row in answers]
    assert 0.3 < np.mean(right) < 0.45
    assert {len(row["response"].split()) for row in answers} == set(range(2, 7))


def test_lists_of_words_go_on_as_self_instruct_asks(root):
    lists = [row for row in rows(demo.words(root)) if "\n" in row["query"]]
    for row in lists:
        shown = [line.partition(" ")[2] for line in row["query"].splitlines()[2:-1]]
        assert row["query"] == prompt_text(shown)
        more = parse(row["response"], Parsing(), len)
        assert len(more) == 2
        assert all(demo.asked_words(prompt, "", {}) == 0 for prompt in more)


def test_annotators_of_words_err_where_answers_are_close(root):
    pairs = rows(demo.words(root, "pairs"))
    gaps = [
        demo.asked_words(row["query"], row["response"], {})
        - demo.asked_words(row["query"], row["rejected_response"], {})
        for row in pairs
    ]
    far = [gap > 0 for gap in gaps if abs(gap) > 0.4]
    close = [gap > 0 for gap in gaps if 0 < abs(gap) < 0.15]
    assert np.mean(far) > 0.98
    assert 0.6 < np.mean(close) < 0.9
    assert all(row["response"] != row["rejected_response"] for row in pairs)
    asked = {row["query"] for row in pairs}
    assert not asked & {row["query"] for row in rows(demo.words(root, "test_pairs"))}


def test_golden_words_cannot_be_improved(root):
    golden = rows(demo.words(root, "golden"))
    assert {demo.asked_words(row["query"], row["golden"], {}) for row in golden} == {1.0}
    assert len({row["query_id"] for row in golden}) == len(golden)
