"""Instructions with single answers: the original Alpaca set and its GPT-4 versions."""

from typing import Any

from swiftlike.datasets_registry.card import DatasetCard
from swiftlike.datasets_registry.kinds import FROM_ANSWERS
from swiftlike.datasets_registry.row import Row
from swiftlike.datasets_registry.shapes import to_row

_COLUMNS = ("instruction", "input", "output")
_INPUT_WORD = "\u8f93\u5165\uff1a"  # "input:", which the Chinese set writes before every input


def _row(record: dict[str, Any]) -> Row:
    return to_row({key: record.get(key) for key in _COLUMNS}, "completion")[0]


def _row_zh(record: dict[str, Any]) -> Row:
    return _row({**record, "input": (record.get("input") or "").removeprefix(_INPUT_WORD)})


ALPACA = DatasetCard(
    name="alpaca",
    hf="tatsu-lab/alpaca",
    ms="AI-ModelScope/alpaca",
    kinds=FROM_ANSWERS,
    to_row=_row,
    licence="CC-BY-NC-4.0",
    help="52 000 instructions answered by text-davinci-003",
)
ALPACA_CLEANED = DatasetCard(
    name="alpaca-cleaned",
    hf="yahma/alpaca-cleaned",
    ms="AI-ModelScope/alpaca-cleaned",
    kinds=FROM_ANSWERS,
    to_row=_row,
    licence="CC-BY-4.0",
)
ALPACA_EN = DatasetCard(
    name="alpaca-en",
    aliases=("alpaca-gpt4", "alpaca-gpt4-en"),
    hf="vicgalle/alpaca-gpt4",
    ms="AI-ModelScope/alpaca-gpt4-data-en",
    kinds=FROM_ANSWERS,
    to_row=_row,
    licence="CC-BY-NC-4.0",
    help="the Alpaca instructions answered by GPT-4",
)
ALPACA_ZH = DatasetCard(
    name="alpaca-zh",
    aliases=("alpaca-gpt4-zh",),
    hf="llm-wizard/alpaca-gpt4-data-zh",
    ms="AI-ModelScope/alpaca-gpt4-data-zh",
    kinds=FROM_ANSWERS,
    to_row=_row_zh,
    licence="CC-BY-4.0",
    help="the Alpaca instructions in Chinese, answered by GPT-4",
)
