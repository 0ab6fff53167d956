"""Who speaks, and how."""

import logging
from collections.abc import Iterator

import pytest

from swiftlike.core import log


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    logger = logging.getLogger(log.ROOT)
    yield
    logger.handlers, logger.propagate = [], True


def test_rank_0_speaks_and_others_only_warn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    log.configure()
    log.get_logger("swiftlike.x").info("hello %d", 1)
    assert capsys.readouterr().err.rstrip().endswith(" hello 1")
    monkeypatch.setenv("RANK", "1")
    log.configure()
    log.get_logger("swiftlike.x").info("hello 2")
    log.get_logger("swiftlike.x").warning("careful")
    assert capsys.readouterr().err.rstrip().endswith(" [rank 1] warning: careful")


def test_a_second_configure_does_not_double_lines(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure()
    log.configure()
    log.get_logger().info("once")
    assert capsys.readouterr().err.count("once") == 1


def test_warn_once(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure()
    log.warn_once("a unique warning")
    log.warn_once("a unique warning")
    assert capsys.readouterr().err.count("a unique warning") == 1


def test_third_parties_are_quiet() -> None:
    log.configure()
    assert not logging.getLogger("transformers").isEnabledFor(logging.INFO)
    assert not logging.getLogger("httpx").isEnabledFor(logging.WARNING)


def test_ranks_come_from_the_environment() -> None:
    env = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}
    assert (log.rank(env), log.local_rank(env), log.world_size(env), log.is_main(env)) == (3, 1, 4, False)
    assert (log.rank({}), log.local_rank({}), log.world_size({}), log.is_main({})) == (0, 0, 1, True)
