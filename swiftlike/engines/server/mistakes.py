"""Clients that are refused again and again wait for their refusals, so that what they cost the others is bounded."""

from __future__ import annotations

import time
from collections import OrderedDict

FREE = 20.0  # refusals at once that are not held back
FORGIVEN = 10.0  # of them a second
DELAY = 0.25  # seconds that a further one is held back
_CLIENTS = 1024  # addresses that are remembered


class Mistakes:
    """Refusals by address: a bucket that fills with each and empties with time. Good requests are never held back."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address -> (refusals, when)

    def delay(self, client: str, now: float | None = None) -> float:
        """Count a refusal; seconds to wait with it."""
        now = time.monotonic() if now is None else now
        count, when = self._known.pop(client, (0.0, now))
        count = min(max(count - (now - when) * FORGIVEN, 0.0) + 1.0, 2 * FREE)
        self._known[client] = (count, now)
        if len(self._known) > _CLIENTS:
            self._known.popitem(last=False)
        return DELAY if count > FREE else 0.0
