"""What an engine is asked and what it answers, the same for every backend."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from swiftlike.datasets_registry.row import Turns


@dc.dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How tokens are chosen. None is what the model's own generation_config.json says; temperature 0 is greedy.

    `max_new_tokens` None is what the context leaves. `logprobs` None asks for none, 0 for those of the chosen tokens,
    k for the k likeliest of each position beside them. The same `seed` gives the same answer whatever else is computed
    at the same time.
    """

    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    num_beams: int = 1
    stop: tuple[str, ...] = ()
    n: int = 1
    seed: int | None = None
    logprobs: int | None = None


@dc.dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One prompt: a conversation that the template makes into text, a text as it is, or token ids as they are.

    `adapter` names the LoRA adapter that answers; "" is the model as it is served. `tools` is JSON, for templates that
    take it. `continue_last` goes on with a last assistant message instead of opening a new one.
    """

    prompt: Turns | str | tuple[int, ...]
    sampling: Sampling = Sampling()
    adapter: str = ""
    tools: str = ""
    continue_last: bool = False


@dc.dataclass(frozen=True, slots=True)
class Token:
    """A generated token and its log-probability under the model (before temperature), with the likeliest others."""

    id: int
    text: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()


@dc.dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One answer, its stop text not included. `finish` is stop, length or cancelled."""

    text: str
    ids: tuple[int, ...]
    finish: str
    tokens: tuple[Token, ...] = ()


@dc.dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """`n` completions, or the reason why the request could not be answered (`error`, then there are none)."""

    completions: tuple[Completion, ...] = ()
    prompt_tokens: int = 0
    error: str = ""


@dc.dataclass(frozen=True, kw_only=True, slots=True)
class Delta:
    """New text of completion `index`. The last one of each completion has `finish`; `ids` are new tokens."""

    index: int
    text: str
    ids: tuple[int, ...] = ()
    tokens: tuple[Token, ...] = ()
    finish: str | None = None
    prompt_tokens: int = 0


class Engine(Protocol):
    """A model that answers. Safe to call from several threads: what is asked at the same time is computed together."""

    name: str  # pt or vllm
    adapters: tuple[str, ...]  # names that a request may give
    context: int  # tokens that prompt and answer may have together

    def generate(self, requests: Sequence[Request], done: Callable[[int, Answer], None] | None = None) -> list[Answer]:
        """Answers in the order of the requests; `done(i, answer)` is called as each is ready. A request that cannot be
        answered (a broken picture, a prompt that is too long) has an error and stops no other."""
        ...

    def stream(self, request: Request) -> Iterator[Delta]:
        """Text as it is made. Closing the iterator ends the generation. ValueError for a request that cannot be
        answered, before the first delta."""
        ...

    def count(self, request: Request) -> int:
        """Tokens of the prompt, pictures included. ValueError as in `stream`."""
        ...

    def close(self) -> None:
        """End all generations and child processes."""
        ...


class Scorer(Protocol):
    """A reward model."""

    def score(
        self, conversations: Sequence[Turns], done: Callable[[int, float | str], None] | None = None
    ) -> list[float | str]:
        """A reward for each conversation, which ends with the answer that is scored; a text says why there is none."""
        ...
