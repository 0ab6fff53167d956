"""What all requests of a server share: the model's names, its engine, and whether there is still time for answers."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from swiftlike.core.errors import suggestion
from swiftlike.engines.base import Engine, Sampling, Scorer
from swiftlike.engines.server.errors import ApiError
from swiftlike.engines.server.metrics import Metrics
from swiftlike.engines.server.pictures import Pictures

STARTING, READY, DRAINING = "starting", "ready", "draining"


@dc.dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request, and all of them together, may cost. Bytes, answers, tokens."""

    api_key: str | None = None
    max_body: int = 32 << 20
    max_queue: int = 1024
    max_logprobs: int = 20
    verbose: bool = False
    owned_by: str = "swiftlike"


@dc.dataclass(frozen=True, kw_only=True)
class Served:
    """A loaded model. `names` maps what a request may call it to the adapter that answers; the first is the default.

    `longest` is the longest text of a token in characters: a text longer than `context` times that cannot fit.
    """

    names: Mapping[str, str]
    root: str
    engine: Engine | None = None
    scorer: Scorer | None = None
    defaults: Sampling = dc.field(default_factory=Sampling)
    longest: int = 64

    def adapter(self, asked: str | None) -> tuple[str, str]:
        """(name for the reply, adapter) of the model that a request names. ApiError 404 when there is none."""
        name = asked or next(iter(self.names))
        if name not in self.names:
            raise ApiError(
                404,
                f"the model {name[:100]!r} does not exist{suggestion(name[:100], self.names)}",
                param="model",
                code="model_not_found",
            )
        return name, self.names[name]

    @property
    def generates(self) -> Engine:
        """The engine. ApiError 400 for a reward model."""
        if self.engine is None:
            raise ApiError(400, "this is a reward model: it does not write; use /pooling or /score", code="not_offered")
        return self.engine

    @property
    def scores(self) -> Scorer:
        """The reward model. ApiError 400 for a model that writes."""
        if self.scorer is None:
            raise ApiError(400, "this is not a reward model: it gives no scores", code="not_offered")
        return self.scorer


@dc.dataclass(kw_only=True)
class State:
    """The server while it runs. Everything here is touched in the event loop only."""

    limits: Limits
    pictures: Pictures
    metrics: Metrics = dc.field(default_factory=Metrics)
    phase: str = STARTING
    model: Served | None = None
    open: int = 0  # requests that are read or answered
    answers: int = 0  # completions among them
    held: int = 0  # bytes of their bodies
    threads: ThreadPoolExecutor = dc.field(init=False)  # one for each answer
    scoring: ThreadPoolExecutor = dc.field(init=False)  # a reward model is asked by one at a time

    def __post_init__(self) -> None:
        self.threads = ThreadPoolExecutor(self.limits.max_queue, thread_name_prefix="answer")
        self.scoring = ThreadPoolExecutor(1, thread_name_prefix="score")

    def close(self) -> None:
        """Give the threads back; what still runs in them is not waited for."""
        self.threads.shutdown(wait=False, cancel_futures=True)
        self.scoring.shutdown(wait=False, cancel_futures=True)
        self.pictures.close()

    @property
    def served(self) -> Served:
        """The model. ApiError 503 while it is not there yet, and when the server is about to end."""
        if self.model is None or self.phase != READY:
            doing = "still starting" if self.phase == STARTING else "shutting down"
            raise ApiError(503, f"the server is {doing}")
        return self.model

    def take(self, answers: int) -> None:
        """Make room for some completions. ApiError 429 when there is none."""
        if self.answers + answers > self.limits.max_queue:
            raise ApiError(429, f"{self.answers} answers are on their way; at most {self.limits.max_queue} may be")
        self.answers += answers
        self.metrics.running.set(self.answers)

    def leave(self, answers: int) -> None:
        """Give the room back."""
        self.answers -= answers
        self.metrics.running.set(self.answers)
