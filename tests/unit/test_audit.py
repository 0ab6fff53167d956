"""What `make audit` makes of a report."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
GOOD = {"name": "torch", "version": "2", "vulns": []}
BAD = {"name": "pillow", "version": "1", "vulns": [{"id": "X-1", "fix_versions": ["2", "3"]}]}
NEVER = {"name": "yaml", "version": "1", "vulns": [{"id": "X-2", "fix_versions": []}]}
LOST = {"name": "local", "skip_reason": "Dependency not found"}
OWN = {"name": "swiftlike", "skip_reason": "Dependency not found"}


@pytest.fixture(scope="module")
def audit() -> Any:
    spec = importlib.util.spec_from_file_location("audit", ROOT / "tools/audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("found", "said", "code"),
    [
        ([GOOD, OWN], "1 of 1 packages were looked up; 0 known", 0),
        ([GOOD, BAD], "pillow 1: X-1; mended in 2, 3", 1),
        ([NEVER, LOST], "yaml 1: X-2; mended in no version yet", 1),
        ([GOOD, LOST], "could not be looked up: local", 2),
        ([LOST, OWN], "nothing was audited", 2),
        ([], "0 of 0 packages", 2),
    ],
)
def test_only_packages_that_were_looked_up_count(audit: Any, found: list[Any], said: str, code: int) -> None:
    lines, got = audit.verdict(found)
    assert said in "\n".join(lines)
    assert got == code


def test_without_the_tool_it_says_that_nothing_was_audited(tmp_path: Path) -> None:
    argv = [sys.executable, "-S", str(ROOT / "tools/audit.py"), str(tmp_path)]  # -S: no packages, so no pip-audit
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "nothing was audited" in done.stderr


def test_make_has_the_target() -> None:
    said = subprocess.run(["make", "-n", "audit"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert "tools/audit.py" in said.stdout
