"""The benchmark of hostile requests: its arithmetic, and a small run."""

import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import hostile

    yield hostile
    for name in ("hostile", "hostile_cases", "hostile_side", "serve_side", "common", "channel"):
        sys.modules.pop(name, None)


def window(quiet: list[float], hostile: list[float], **statuses: int) -> dict:
    return {"quiet_ms": quiet, "hostile_ms": hostile, "statuses": {"broken": statuses}}


def test_ratios_are_of_all_windows_and_of_each_pair(bench) -> None:
    found = bench.summary(
        [
            window([10.0] * 19 + [20.0], [15.0] * 20, **{"400": 3}),
            window([10.0] * 20, [30.0] * 20, **{"500": 1, "0": 2}),
        ]
    )
    assert found["quiet_ms"] == {"median": 10.0, "p95": 10.0, "max": 20.0, "chats": 40}
    assert found["ratio"]["median"] == {"all": 2.25, "windows": [1.5, 3.0]}
    assert found["ratio"]["p95"]["windows"] == [0.75, 3.0]
    assert (found["reached"], found["errors_5xx"]) == (False, 1)
    assert found["statuses"] == {"broken": {"0": 2, "400": 3, "500": 1}}


def test_windows_send_other_requests_of_the_same_kinds(bench, tmp_path: Path) -> None:
    from hostile_cases import cases
    from hostile_side import made

    kinds = cases(tmp_path, "9")
    first, again, second = (made(kinds, 3 * len(kinds), window) for window in (1, 1, 2))
    assert first == again != second
    for requests in (first, second):
        assert sorted(kind for kind, _, _ in requests) == sorted([*kinds] * 3)


@pytest.mark.slow
def test_small_run(bench, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    output = tmp_path / "found.json"
    assert bench.main(["--quick", "--output", str(output)]) == 0
    (found,) = json.loads(output.read_text())["models"]
    assert len(found["windows"]) == 2
    assert found["errors_5xx"] == 0
    assert sum(sum(counts.values()) for counts in found["statuses"].values()) == 2 * 26
    assert "beside hostile requests" in output.with_suffix(".md").read_text()
