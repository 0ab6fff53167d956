"""How far a batch is: a bar on a terminal, a plain line every few seconds elsewhere; and the account at the end."""

from __future__ import annotations

import threading
import time
from typing import Any

from swiftlike.core.log import get_logger

log = get_logger(__name__)
EVERY_S = 10.0


class Progress:
    """Counts answered rows, errors and new tokens of this process. `total` rows, `before` of them done earlier."""

    def __init__(self, total: int, before: int = 0, shown: bool = True) -> None:
        self.total, self.before, self.shown = total, before, shown
        self.rows = self.errors = self.tokens = 0
        self.started = self._spoken = time.monotonic()
        self._ended: float | None = None
        self._mine = threading.Lock()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        console = Console(stderr=True)
        if self.shown and console.is_terminal:
            done, speed = TextColumn("{task.completed}/{task.total} rows"), TextColumn("{task.description}")
            self._bar = Bar(done, BarColumn(24), TimeRemainingColumn(), speed, console=console)
            self._task = self._bar.add_task("", total=self.total, completed=self.before)
            self._bar.start()
        self.started = self._spoken = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = time.monotonic()
        if self._bar is not None:
            self._bar.stop()

    def add(self, tokens: int, failed: bool) -> None:
        """One more row is done."""
        with self._mine:
            self.rows, self.tokens, self.errors = self.rows + 1, self.tokens + tokens, self.errors + failed
            if self._bar is not None:
                self._bar.update(self._task, advance=1, description=self._speed())
            elif self.shown and time.monotonic() - self._spoken >= EVERY_S:
                self._spoken = time.monotonic()
                log.info("%d/%d rows  %s", self.before + self.rows, self.total, self._speed())

    @property
    def seconds(self) -> float:
        """Time from the first row to now, or to the end: weights are loaded before and given back after."""
        return max((self._ended or time.monotonic()) - self.started, 1e-9)

    def _speed(self) -> str:
        failed = f"  {count(self.errors, 'error')}" if self.errors else ""
        speed = (
            f"{self.tokens / self.seconds:.0f} tokens/s" if self.tokens else f"{self.rows / self.seconds:.1f} rows/s"
        )
        return speed + failed


def count(number: int, word: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number} {word}{'' if number == 1 else 's'}"
