"""Options of the whole test suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from swiftlike.core.log import quiet_third_parties


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--golden DIR`, as often as wanted: folders of reference numbers to hold the objectives against."""
    parser.addoption(
        "--golden",
        action="append",
        type=Path,
        metavar="DIR",
        help="check the objectives against every golden file in DIR (default: tests/golden)",
    )


def pytest_configure() -> None:
    """As every command does first: a library that logs to stdout must not do it among results."""
    quiet_third_parties()
