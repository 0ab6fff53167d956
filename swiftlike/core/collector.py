"""Python's collector of cycles while a command starts: there is nothing to collect in the modules that it imports."""

from __future__ import annotations

import gc

_USUAL = gc.get_threshold()


def rarely() -> None:
    """Until weights are loaded. The usual pace costs a tenth of the time to the first step."""
    gc.set_threshold(50_000, 20, 100)


def as_usual() -> None:
    """From then on: a cycle may hold tensors."""
    gc.set_threshold(*_USUAL)
