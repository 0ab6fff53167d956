"""Reference numbers: reading them, calling what we ship on their inputs, and how near is near enough."""

from __future__ import annotations

import functools
import importlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

Case = dict[str, Any]
Adapter = Callable[[Case], Case]
SCHEMA = "swiftlike-golden/1"
# notes that mark what a reference does wrong: such numbers must not come out of our code
NOT_A_TARGET = ("DEFECT", "NOT the formula to ship")

NOT_COMPARED = ("grad_is", "metric_keys")  # a text about the file; what the original calls its metrics


def read_cases(folder: Path) -> Iterator[tuple[str, Case]]:
    """(test id, case) of every golden file in a folder. UsageError when there is none.

    Files whose cases have no "loss" belong to other parts of the package, which share the folder.
    """
    found = False
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            continue
        for case in content["cases"]:
            if "loss" in case:
                found = True
                yield f"{folder.name}-{path.stem}-{case['name']}", case
    if not found:
        raise pytest.UsageError(f"--golden {folder}: no golden file there")


def family(case: Case) -> str:
    """The case's family; AIPO's trainer reuses two names of others for formulas it inherits from TRL 0.9.3."""
    name: str = case["loss"]
    return f"trl093_{name}" if name in ("sigmoid", "simpo") and "lambda" in case["params"] else name


@functools.cache
def registered() -> dict[str, Adapter]:
    """Family to the function that runs our code on a case: `ADAPTERS` of every module golden_*.py beside this one."""
    found: dict[str, Adapter] = {}
    for path in sorted(Path(__file__).parent.glob("golden_*.py")):
        own = importlib.import_module(f"{__package__}.{path.stem}").ADAPTERS
        assert found.keys().isdisjoint(own), f"{path.name} adapts families that another module has"
        found |= own
    return found


def check(case: Case) -> None:
    """Run a case. What a reference does wrong must not be reproduced."""
    name = family(case)
    assert name in registered(), f"nobody knows golden cases of family {name!r}"
    actual, expected = registered()[name](case), case["outputs"]
    if any(mark in case.get("notes", "") for mark in NOT_A_TARGET):
        with pytest.raises(AssertionError):
            compare(actual, expected, case)
    else:
        compare(actual, expected, case)


def compare(actual: Any, expected: Any, case: Case, path: str = "") -> None:
    """Everything in `expected` is in `actual`: equal, or near it where it is a number that is not whole.

    NaN equals NaN, and what is absent.
    """
    where = f"{case['name']}: {path[:-1]}"
    if isinstance(expected, dict):
        for key, value in expected.items():
            if key not in NOT_COMPARED:
                compare(actual.get(key), value, case, f"{path}{key}.")
    elif _is_numeric(expected):
        near, want = tolerance(case, path), numbers(expected)
        got = torch.as_tensor(math.nan if actual is None else actual, dtype=torch.float64).detach()
        got = got.expand_as(want) if actual is None else got
        torch.testing.assert_close(got, want, rtol=near, atol=near, equal_nan=True, msg=lambda text: f"{where}: {text}")
    elif isinstance(expected, list):
        assert isinstance(actual, list | tuple), f"{where}: {actual!r} is no list"
        assert len(actual) == len(expected), f"{where}: {len(actual)} instead of {len(expected)}: {actual!r}"
        for i, (one, other) in enumerate(zip(actual, expected, strict=True)):
            compare(one, other, case, f"{path}{i}.")
    else:
        assert actual == expected, f"{where}: {actual!r} instead of {expected!r}"


def _is_numeric(value: Any) -> bool:
    """Numbers, and lists of them that make a tensor."""
    if isinstance(value, list):
        same = len({len(one) if isinstance(one, list) else -1 for one in value}) <= 1
        return bool(value) and same and all(_is_numeric(one) for one in value)
    if isinstance(value, str):
        return value in ("NaN", "Infinity", "-Infinity")
    return isinstance(value, int | float) and not isinstance(value, bool)


def tolerance(case: Case, path: str) -> float:
    """As the golden README says. Shares and lengths of rows were averaged in float32 whatever the case's precision."""
    if "length/" in path or "accurac" in path or "Preference Acc" in path:
        return 1e-6
    if case["loss"] == "arena_hard_score":
        return 1e-2
    dtype = case.get("dtype") or ""
    exact_part = "float64 elsewhere" in dtype and path.startswith(("metrics.nll_loss", "metrics.logps/"))
    if "float32" not in dtype or exact_part:
        return 1e-9
    return 2e-5 if family(case) == "orpo" else 1e-5


def numbers(values: Any) -> torch.Tensor:
    """Nested lists of numbers to float64; `NaN` and `Infinity` may be texts."""

    def plain(value: Any) -> Any:
        return [plain(one) for one in value] if isinstance(value, list) else float(value)

    return torch.tensor(plain(values), dtype=torch.float64)
