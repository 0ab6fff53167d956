"""Counts and times of a server, in Prometheus' text format."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """One registry per server, so that several may live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        within = {"registry": self.registry}
        self.requests = Counter("swiftlike_requests", "Requests by route and status", ["route", "status"], **within)
        self.prompt = Counter("swiftlike_prompt_tokens", "Tokens of prompts", **within)
        self.completion = Counter("swiftlike_completion_tokens", "Tokens generated", **within)
        self.running = Gauge("swiftlike_answers_running", "Completions that are generated or wait", **within)
        self.first = Histogram("swiftlike_first_token_seconds", "Until the first token", buckets=_SECONDS, **within)
        self.whole = Histogram("swiftlike_request_seconds", "Whole requests", ["route"], buckets=_SECONDS, **within)
        self.totals = [0, 0, 0]  # requests, prompt and completion tokens: what `line` compares
        self._before, self._at = [0, 0, 0], time.monotonic()

    def used(self, prompt: int, completion: int) -> None:
        """Tokens of a finished request."""
        self.prompt.inc(prompt)
        self.completion.inc(completion)
        self.totals[1] += prompt
        self.totals[2] += completion

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A request is done."""
        self.requests.labels(route, str(status)).inc()
        self.whole.labels(route).observe(seconds)
        self.totals[0] += 1

    def text(self) -> bytes:
        """What /metrics shows."""
        return generate_latest(self.registry)

    def line(self) -> str:
        """Rates since the last call, "" when nothing was asked."""
        now, total = time.monotonic(), list(self.totals)
        requests, prompt, completion = (new - old for new, old in zip(total, self._before, strict=True))
        seconds = max(now - self._at, 1e-9)
        self._before, self._at = total, now
        if not requests:
            return ""
        return (
            f"{requests} requests in {seconds:.0f} s, {prompt / seconds:.1f} prompt tokens/s, "
            f"{completion / seconds:.1f} generated tokens/s"
        )
