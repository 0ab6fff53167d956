"""One line about where a run of many stages is."""

from __future__ import annotations

import sys
import time

from swiftlike.core.log import get_logger

log = get_logger(__name__)
_WIDTH = 72  # characters of a stage's own line that are shown


def clock(seconds: float) -> str:
    """`1:02:03`, or `02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


class Progress:
    """In a terminal a line that changes in place; elsewhere one line when a stage begins and one when it ends."""

    def __init__(self, total: int) -> None:
        self.total, self.number = total, 0
        self.live = sys.stderr.isatty()
        self.name, self.begun, self.text = "", 0.0, ""

    def begin(self, name: str, why: str) -> None:
        """A stage begins."""
        self.number += 1
        self.name, self.begun, self.text = name, time.monotonic(), ""
        log.info("[%d/%d] %s%s", self.number, self.total, name, f": {why}" if why else "")

    def say(self, text: str) -> None:
        """What the stage said last; "" for nothing new."""
        self.text = text or self.text
        if self.live:
            line = (
                f"[{self.number}/{self.total}] {self.name} {clock(time.monotonic() - self.begun)}  {self.text[:_WIDTH]}"
            )
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()

    def end(self, rows: int | None) -> float:
        """The stage is done. Gives its seconds."""
        self.wipe()
        seconds = time.monotonic() - self.begun
        log.info("[%d/%d] %s: done in %s%s", self.number, self.total, self.name, clock(seconds),
                 "" if rows is None else f", {rows} rows")  # fmt: skip
        return seconds

    def skip(self, name: str) -> None:
        """A stage has nothing to do."""
        self.number += 1
        log.info("[%d/%d] %s: done before", self.number, self.total, name)

    def wipe(self) -> None:
        """Make room for other output."""
        if self.live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
