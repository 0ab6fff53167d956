"""One meaning for text, YAML and JSON."""

import re
from typing import Any, Literal

import pytest

from swiftlike.core.coerce import coerce

MANY = [
    (int, "8", 8),
    (int, "1e3", 1000),
    (int, 8.0, 8),
    (int, "9007199254740993", 9007199254740993),
    (float, "1e-5", 1e-5),
    (float, "-1", -1.0),
    (float, 2, 2.0),
    (bool, "true", True),
    (bool, "No", False),
    (bool, 1, True),
    (str, 8, "8"),
    (str, True, "true"),
    (str, "none", "none"),
    (str | None, "None", None),
    (str | None, "", ""),
    (int | None, "null", None),
    (int | float | None, "0.5", 0.5),
    (int | float | None, "50", 50),
    (Literal["no", "steps"], "STEPS", "steps"),
    (Literal["no", "steps"], False, "no"),
    (Literal[0, 4], "4", 4),
    (list[str], "a", ["a"]),
    (list[str], ["a", "b"], ["a", "b"]),
    (list[str], "a, b,", ["a", "b"]),
    (list[str], '["a,b"]', ["a,b"]),
    (list[str], "none", []),
    (list[float], "0.3,0.7", [0.3, 0.7]),
    (dict[str, Any], '{"a": 1}', {"a": 1}),
    (dict[str, Any], ['{"a": 1}'], {"a": 1}),
    (dict[str, str], ["a=b", "c=d"], {"a": "b", "c": "d"}),
    (dict[str, str], {"a": 1}, {"a": "1"}),
    (Any, [1], [1]),
]


@pytest.mark.parametrize(("kind", "raw", "value"), MANY)
def test_what_a_word_means(kind: Any, raw: Any, value: Any) -> None:
    found = coerce(kind, raw)
    assert found == value
    assert type(found) is type(value)


WRONG = [
    (int, "8.5", "8.5 is not a whole number"),
    (int, "x", "'x' is not a number"),
    (int, True, "not a number"),
    (float, "nan", "not a number"),
    (float, None, "None is not a number"),
    (int, "inf", "not a whole number"),
    (bool, "tru", "'tru' is not true or false"),
    (str, ["a"], "not a single value"),
    (Literal["dpo", "simpo"], "simop", "did you mean 'simpo'?"),
    (list[int], "1,b", "'b' is not a number"),
    (dict[str, str], "a", "neither a JSON object nor key=value"),
    (dict[str, str], "{a}", "not valid JSON"),
    (dict[str, str], 3, "not a JSON object"),
    (list[str], "[1", "not valid JSON"),
]


@pytest.mark.parametrize(("kind", "raw", "reason"), WRONG)
def test_why_a_word_means_nothing(kind: Any, raw: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        coerce(kind, raw)


def test_a_file_with_a_comma_in_its_name_is_one_item(tmp_path: Any) -> None:
    path = tmp_path / "a,b.jsonl"
    path.touch()
    assert coerce(list[str], str(path)) == [str(path)]
