"""The engine that stands on vLLM: one thread feeds its engine and hands out what comes back."""

from __future__ import annotations

import itertools
import queue
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.core.optional import require
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import Image
from swiftlike.engines.base import Answer, Delta, Request
from swiftlike.engines.choosing import settle
from swiftlike.engines.prompts import Prepared, Prompts
from swiftlike.engines.text import Text
from swiftlike.engines.vllm_answers import Answers, context, same_prompt
from swiftlike.engines.vllm_args import engine_arguments, sampling_arguments
from swiftlike.engines.vllm_folder import generation_config, loadable
from swiftlike.engines.vllm_loop import Job, Loop
from swiftlike.engines.vllm_pictures import Pictures
from swiftlike.models.load import choose_dtype


class VllmEngine:
    """Answers from vLLM's own engine. `opened` is what `pipelines.serving.open_model` gives.

    Requests of all callers meet in vLLM's scheduler. Prompts are the token ids of training; vLLM only expands the
    placeholder of each picture, and the expanded prompt must be the one that training saw.
    """

    name = "vllm"

    def __init__(self, run: Any, opened: Any, prompts: Prompts) -> None:
        vllm = require("vllm", because="--infer_backend vllm", extra="vllm")
        self.prompts, self.served = prompts, opened.served
        self.adapters = tuple(opened.adapters)
        self._scratch = tempfile.TemporaryDirectory(prefix="swiftlike-vllm-")
        merge = run.use.merge_lora
        folder = loadable(opened, Path(self._scratch.name), merge)
        self.own = generation_config(folder)
        self._answers = Answers(prompts, self.own)
        loras = {} if merge else opened.adapters
        self._loras = {
            name: _lora(name, number, adapter) for number, (name, adapter) in enumerate(loras.items(), start=1)
        }
        dtype = str(choose_dtype(opened.run.model.torch_dtype)).removeprefix("torch.")
        arguments = engine_arguments(run, folder, loras, dtype)
        self._pictures = Pictures(prompts)
        self._params, self._kinds = vllm.SamplingParams, vllm.sampling_params.RequestOutputKind
        self._numbers = itertools.count()
        try:
            self._loop = Loop(vllm, arguments)
        except BaseException as error:
            self._scratch.cleanup()
            if isinstance(error, KeyboardInterrupt):
                raise
            hint = "its own log is above; see docs/guides/vllm.md"
            raise UserError(f"vLLM did not start: {type(error).__name__}: {error}", hint=hint) from error
        self.context: int = min(self._loop.context, prompts.context)

    # -- what is asked ----------------------------------------------------------------------------------------------

    def generate(self, requests: Sequence[Request], done: Callable[[int, Answer], None] | None = None) -> list[Answer]:
        """Answers in the order of the requests."""
        answers: list[Answer | None] = [None] * len(requests)
        events: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        jobs: list[Job | None] = []
        prepared: list[Prepared | None] = []

        def ready(i: int, answer: Answer) -> None:
            answers[i] = answer
            if done is not None:
                done(i, answer)

        for i, request in enumerate(requests):
            try:
                known = self.prompts.ids(request)
                job = self._job(request, known, self._kinds.FINAL_ONLY, lambda output, i=i: events.put((i, output)))
            except ValueError as error:  # BadRow is one
                ready(i, Answer(error=str(error)))
                known = job = None
            prepared.append(known)
            jobs.append(job)
            if job is not None:
                self._loop.ask(job)
        try:
            while any(answer is None for answer in answers):
                i, output = events.get()
                if answers[i] is None:
                    ready(i, self._answers.answer(requests[i], prepared[i], output))
        finally:
            for i, job in enumerate(jobs):
                if job is not None and answers[i] is None:
                    self._loop.cancel(job)
        return [answer for answer in answers if answer is not None]

    def stream(self, request: Request) -> Iterator[Delta]:
        """Text as it is made."""
        events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        prepared = self.prompts.ids(request)
        job = self._job(request, prepared, self._kinds.DELTA, events.put)
        return self._deltas(request, prepared, job, events)

    def _deltas(
        self, request: Request, prepared: Prepared, job: Job, events: queue.SimpleQueue[Any]
    ) -> Iterator[Delta]:
        tokenizer, stops = self.prompts.template.tokenizer, (*self.prompts.stops, *request.sampling.stop)
        texts = [Text(tokenizer, stops, context(request, prepared)) for _ in range(request.sampling.n)]
        done = False
        self._loop.ask(job)
        try:
            while not done:
                output = events.get()
                if isinstance(output, Exception):
                    raise ValueError(str(output)) from output
                same_prompt(output, prepared.ids)
                done = output.finished
                for one in output.outputs:
                    delta = self._answers.delta(request, prepared, one, texts[one.index])
                    if delta.text or delta.ids or delta.finish:
                        yield delta
        finally:
            if not done:
                self._loop.cancel(job)

    def count(self, request: Request) -> int:
        """Tokens of the prompt."""
        return len(self.prompts.ids(request).ids)

    def logps(self, prompts: Sequence[tuple[Sequence[int], Sequence[Image]]], adapter: str = "") -> list[list[float]]:
        """Log-probability of each token but the first, for texts that are given as ids with pictures expanded.

        One at a time: with adapters, vLLM's head takes the prompts of a batch for one token each. ValueError for one
        that vLLM refuses.
        """
        params = self._params(max_tokens=1, temperature=0, prompt_logprobs=0, output_kind=self._kinds.FINAL_ONLY)
        found = []
        for ids, images in prompts:
            events: queue.SimpleQueue[Any] = queue.SimpleQueue()
            prepared = Prepared(ids=tuple(ids), images=tuple(images), reader=self.prompts)
            prompt = self._pictures.prompt(prepared)
            self._loop.ask(Job(self._name(), prompt, params, self._lora_of(adapter), events.put))
            output = events.get()
            if isinstance(output, Exception):
                raise ValueError(str(output)) from output
            same_prompt(output, ids)
            table = output.prompt_logprobs[1:]
            found.append([line[token].logprob for token, line in zip(ids[1:], table, strict=True)])
        return found

    @property
    def unfinished(self) -> int:
        """Requests that are with vLLM now."""
        return len(self._loop.waiting)

    def close(self) -> None:
        """End all generations and vLLM's processes."""
        self._loop.close()
        self._scratch.cleanup()

    # -- our words in vLLM's, and back ------------------------------------------------------------------------------

    def _job(self, request: Request, prepared: Prepared, kind: Any, send: Callable[[Any], None]) -> Job:
        arguments = sampling_arguments(
            request.sampling,
            settle(request.sampling, self.own),
            ends=self._answers.ends,
            stops=self.prompts.stops,
            left=self.context - len(prepared.ids),
        )
        if arguments["max_tokens"] < 1:
            raise BadRow("prompt is too long", f"{len(prepared.ids)} tokens of {self.context}")
        params = self._params(**arguments, output_kind=kind)
        lora = self._lora_of(request.adapter or self.served)
        return Job(self._name(), self._pictures.prompt(prepared), params, lora, send)

    def _name(self) -> str:
        return str(next(self._numbers))

    def _lora_of(self, adapter: str) -> Any:
        """What vLLM knows the adapter as; None for the bare model and for adapters that are merged into it."""
        if adapter and adapter not in self.adapters:
            raise BadRow("unknown adapter", f"{adapter!r}; there are {', '.join(self.adapters) or 'none'}")
        return self._loras.get(adapter)


def _lora(name: str, number: int, folder: Path) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest(name, number, str(folder.resolve()))
