"""Every card reads its stored sample rows, which have the columns of the real set and made-up content."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swiftlike.datasets_registry import DATASETS
from swiftlike.datasets_registry.kinds import kind_of, to_kind
from swiftlike.datasets_registry.row import Row
from swiftlike.datasets_registry.shapes import to_row
from swiftlike.datasets_registry.syntax import find_card

SAMPLES = Path(__file__).parent / "samples"
REMOTE = [card.name for card in DATASETS if not card.build]


def rows_of(name: str) -> list[Row]:
    card = DATASETS.get(name)
    found = []
    for line in (SAMPLES / f"{card.name}.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if card.to_row:
            row = card.to_row(record)
        else:
            row, _ = to_row({card.columns.get(key, key): value for key, value in record.items()})
        assert row is not None, line
        found.append(row)
    return found


@pytest.mark.parametrize("name", REMOTE)
def test_samples_become_rows_of_every_kind_the_card_names(name: str) -> None:
    card, rows = DATASETS.get(name), rows_of(name)
    assert len(rows) >= 3
    assert card.kinds
    for row in rows:
        assert kind_of(row) == card.kinds[0]
        for kind in card.kinds:
            if kind == "completion" and row.label is False:
                continue
            for made in to_kind(row, kind):
                assert kind_of(made) == kind
                assert all(turns.messages[-1].role == "assistant" for turns in made.completions)
                assert all(made.prompt_of(k).messages[-1].role == "user" for k in range(made.size))
    assert card.vision == any(row.prompt.images for row in rows)


def test_every_sample_file_belongs_to_a_card() -> None:
    assert sorted(path.stem for path in SAMPLES.glob("*.jsonl")) == sorted(REMOTE)


@pytest.mark.parametrize(
    "name",
    [
        *("rlaif-v", "hh-rlhf", "ultrafeedback-kto", "alpaca-en", "orpo-dpo-mix-40k", "orca_dpo_pairs"),
        *("stack-exchange-paired", "shareai-llama3-dpo-zh-en-emoji", "zhihu-rlhf", "openbmb/RLAIF-V-Dataset"),
    ],
)
def test_names_of_ms_swift_are_known(name: str) -> None:
    assert find_card(name) is not None


def test_shp_prefers_the_answer_with_more_votes() -> None:
    first, second, _ = rows_of("shp")
    assert first.completions[0].messages[0].content == "Old yeast, most likely."
    assert second.completions[0].messages[0].content == "Strong flour, because of its gluten."


def test_hh_splits_where_the_transcripts_part_or_at_the_last_turn() -> None:
    shared, _, parted = rows_of("hh-rlhf")
    assert [message.role for message in shared.prompt.messages] == ["user", "assistant", "user"]
    assert not shared.prompts
    assert [turns.messages[-1].content for turns in shared.completions] == ["Two or three days.", "For years."]
    assert [turns.messages[-1].content for turns in parted.prompts] == ["Green", "Why?"]


@pytest.mark.parametrize("name", ["hh-rlhf", "ultrafeedback", "shp"])
def test_equal_answers_are_left_out_by_design(name: str) -> None:
    card = DATASETS.get(name)
    record = json.loads((SAMPLES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[0])
    same = {"rejected": record.get("chosen"), "human_ref_B": record.get("human_ref_A")}
    assert card.to_row is not None
    assert card.to_row({**record, **{key: value for key, value in same.items() if key in record}}) is None


def test_the_word_for_input_is_taken_off_in_the_chinese_set() -> None:
    assert rows_of("alpaca-zh")[0].prompt.messages[0].content == "改正句子\n他去家"


def test_a_review_is_cut_after_ten_words_and_signs() -> None:
    first, second, _ = rows_of("imdb")
    assert first.prompt.messages[0].content == "I watched this on a train and the journey was"
    assert first.completions[0].messages[0].content.startswith(" too short")
    assert second.prompt.messages[0].content.endswith("of this film.<")
    card = DATASETS.get("imdb")
    assert card.to_row is not None
    assert card.to_row({"text": "Ten words and signs are not more than ten.", "label": 0}) is None


@pytest.mark.parametrize("name", ["hh-rlhf", "imdb", "tldr"])
def test_held_out_rows_are_another_split_of_the_same_set(name: str) -> None:
    card, held_out = DATASETS.get(name), DATASETS.get(f"{name}-test")
    assert (card.hf, card.split, held_out.split) == (held_out.hf, "train", "test")
    assert find_card(card.hf) is card
