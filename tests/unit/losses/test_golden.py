"""The shipped objectives against numbers that the reference implementations computed."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from .golden import Case, check, read_cases

SHIPPED = Path(__file__).parents[2] / "golden"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each case of every folder given with --golden."""
    if "case" in metafunc.fixturenames:
        folders = metafunc.config.getoption("--golden") or [SHIPPED]
        cases = [pair for folder in folders for pair in read_cases(folder)]
        metafunc.parametrize("case", [case for _, case in cases], ids=[name for name, _ in cases])


def test_case(case: Case) -> None:
    """Loss, rows, rewards, gradients and metrics are those of the reference."""
    check(case)


@pytest.fixture(scope="module")
def sigmoid_case() -> Case:
    """A case that passes as it is."""
    return next(case for name, case in read_cases(SHIPPED) if name.endswith("-dpo-sigmoid"))


@pytest.mark.parametrize("key", ["loss", "losses", "grad_chosen_logps", "grad_rejected_logps", "metrics"])
def test_every_output_is_compared(sigmoid_case: Case, key: str) -> None:
    """A number that is off by a hundred-millionth fails, wherever it stands."""
    wrong = copy.deepcopy(sigmoid_case)
    outputs = wrong["outputs"]
    if key == "metrics":
        outputs[key]["rewards/margins"] += 1e-8
    elif key == "loss":
        outputs[key] += 1e-8
    else:
        outputs[key][-1] += 1e-8
    with pytest.raises(AssertionError, match=key):
        check(wrong)


def test_unknown_output_fails(sigmoid_case: Case) -> None:
    """An output that no adapter computes is not passed over."""
    wrong = copy.deepcopy(sigmoid_case)
    wrong["outputs"]["surprise"] = 1.0
    with pytest.raises(AssertionError, match="surprise"):
        check(wrong)


@pytest.mark.parametrize(("value", "passes"), [("NaN", True), (0.0, False)])
def test_class_without_rows(value: object, passes: bool) -> None:
    """The average over no rows: some references write NaN, we leave it out; a number there is wrong."""
    case = next(case for name, case in read_cases(SHIPPED) if name.endswith("kto_only_undesirable"))
    case["outputs"]["metrics"]["rewards/chosen"] = value
    if passes:
        check(case)
    else:
        with pytest.raises(AssertionError, match="rewards/chosen"):
            check(case)


def test_unknown_family_fails(sigmoid_case: Case) -> None:
    """A file of an objective that nobody has heard of is an error, not a skip."""
    with pytest.raises(AssertionError, match="nobody knows"):
        check({**sigmoid_case, "loss": "dpoo"})


def test_folder_without_golden_files(tmp_path: Path) -> None:
    """A mistyped --golden does not pass with nothing run."""
    with pytest.raises(pytest.UsageError, match="no golden file"):
        list(read_cases(tmp_path))
