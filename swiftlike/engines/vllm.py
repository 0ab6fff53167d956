"""The engine that stands on vLLM: one thread feeds its engine and hands out what comes back."""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from swiftlike.core.errors import UserError
from swiftlike.core.log import get_logger
from swiftlike.core.optional import require
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import Image, Turns
from swiftlike.engines.base import Answer, Completion, Delta, Request, Token
from swiftlike.engines.choosing import settle
from swiftlike.engines.prompts import Prepared, Prompts
from swiftlike.engines.vllm_args import engine_arguments, sampling_arguments
from swiftlike.engines.vllm_child import PARENT
from swiftlike.engines.vllm_folder import generation_config, loadable
from swiftlike.engines.vllm_pictures import Pictures
from swiftlike.models.load import choose_dtype

log = get_logger(__name__)
FINISH = {"stop": "stop", "length": "length", "repetition": "stop"}  # everything else was cancelled
QUIET = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1"}


class Job(NamedTuple):
    """What the thread gives to vLLM. `send` gets its outputs, or why there are none."""

    id: str
    prompt: dict[str, Any]
    params: Any
    lora: Any
    send: Callable[[Any], None]


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
        loras = {} if merge else opened.adapters
        self._loras = {
            name: _lora(name, number, adapter) for number, (name, adapter) in enumerate(loras.items(), start=1)
        }
        dtype = str(choose_dtype(opened.run.model.torch_dtype)).removeprefix("torch.")
        arguments = engine_arguments(run, folder, loras, dtype)
        self._pictures = Pictures(prompts)
        self._params, self._kinds = vllm.SamplingParams, vllm.sampling_params.RequestOutputKind
        self._jobs: queue.SimpleQueue[Job | str | None] = queue.SimpleQueue()
        self._numbers = itertools.count()
        self._closed = threading.Event()
        started: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._run, args=(vllm, arguments, started), name="vllm engine", daemon=True
        )
        self._thread.start()
        found = started.get()
        if isinstance(found, BaseException):
            self.close()
            raise UserError(
                f"vLLM did not start: {found}", hint="its own log is above; see docs/guides/vllm.md"
            ) from found
        self.context: int = min(found, prompts.context)

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
                self._jobs.put(job)
        try:
            while any(answer is None for answer in answers):
                i, output = events.get()
                if answers[i] is None:
                    ready(i, self._answer(requests[i], prepared[i], output))
        finally:
            for i, job in enumerate(jobs):
                if job is not None and answers[i] is None:
                    self._jobs.put(job.id)
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
        begun: set[int] = set()
        done = False
        self._jobs.put(job)
        try:
            while not done:
                output = events.get()
                if isinstance(output, Exception):
                    raise ValueError(str(output)) from output
                done = output.finished
                for one in output.outputs:
                    delta = self._delta(request, prepared, one, fresh=one.index not in begun)
                    begun |= {one.index} if one.text else set()
                    if delta.text or delta.ids or delta.finish:
                        yield delta
        finally:
            if not done:
                self._jobs.put(job.id)

    def _delta(self, request: Request, prepared: Prepared, one: Any, fresh: bool) -> Delta:
        ids = tuple(one.token_ids)
        return Delta(
            index=one.index,
            text=self._without_space(one.text, ids) if fresh and not _goes_on(request) else one.text,
            ids=ids,
            tokens=self._tokens(request, one),
            finish=_finish(one),
            prompt_tokens=len(prepared.ids),
        )

    def count(self, request: Request) -> int:
        """Tokens of the prompt."""
        return len(self.prompts.ids(request).ids)

    def logps(self, prompts: Sequence[tuple[Sequence[int], Sequence[Image]]], adapter: str = "") -> list[list[float]]:
        """Log-probability of each token but the first, for texts that are given as ids with pictures expanded.

        ValueError for one that vLLM refuses.
        """
        events: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        params = self._params(max_tokens=1, temperature=0, prompt_logprobs=0, output_kind=self._kinds.FINAL_ONLY)
        for i, (ids, images) in enumerate(prompts):
            prepared = Prepared(ids=tuple(ids), images=tuple(images), reader=self.prompts)
            lora = self._lora_of(adapter)
            send = lambda output, i=i: events.put((i, output))  # noqa: E731 - one for each prompt
            self._jobs.put(Job(self._name(), self._pictures.prompt(prepared), params, lora, send))
        found: list[list[float]] = [[] for _ in prompts]
        for _ in prompts:
            i, output = events.get()
            if isinstance(output, Exception):
                raise ValueError(str(output)) from output
            _same_prompt(output, prompts[i][0])
            ids, table = output.prompt_token_ids, output.prompt_logprobs
            found[i] = [line[token].logprob for token, line in zip(ids[1:], table[1:], strict=True)]
        return found

    def close(self) -> None:
        """End all generations and vLLM's processes."""
        if not self._closed.is_set():
            self._closed.set()
            self._jobs.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._scratch.cleanup()

    # -- our words in vLLM's, and back ------------------------------------------------------------------------------

    def _job(self, request: Request, prepared: Prepared, kind: Any, send: Callable[[Any], None]) -> Job:
        if self._closed.is_set():
            raise ValueError("the engine is closed")
        arguments = sampling_arguments(
            request.sampling,
            settle(request.sampling, self.own),
            ends=self.prompts.ends,
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

    def _answer(self, request: Request, prepared: Prepared | None, output: Any) -> Answer:
        if isinstance(output, Exception) or prepared is None:
            return Answer(error=str(output))
        try:
            _same_prompt(output, prepared.ids)
        except ValueError as error:
            return Answer(error=str(error))
        found = tuple(
            Completion(
                text=one.text if _goes_on(request) else self._without_space(one.text, one.token_ids),
                ids=tuple(one.token_ids),
                finish=_finish(one) or "cancelled",
                tokens=self._tokens(request, one),
            )
            for one in sorted(output.outputs, key=lambda one: one.index)
        )
        return Answer(completions=found, prompt_tokens=len(prepared.ids))

    def _without_space(self, text: str, ids: Sequence[int]) -> str:
        """An answer's text by itself: some tokenizers write its first space as part of what was before."""
        decode = self.prompts.template.tokenizer.decode
        lead = text.startswith(" ") and not decode(list(ids[:1]), skip_special_tokens=True).startswith(" ")
        return text[1:] if lead else text

    def _tokens(self, request: Request, one: Any) -> tuple[Token, ...]:
        if request.sampling.logprobs is None or not one.logprobs:
            return ()
        return tuple(
            self._token(token, line, request.sampling.logprobs)
            for token, line in zip(one.token_ids, one.logprobs, strict=True)
        )

    def _token(self, token: int, line: Mapping[int, Any], count: int) -> Token:
        best = sorted((value.rank, other, value.logprob) for other, value in line.items() if value.rank <= count)
        top = tuple((other, self._show(other), logprob) for _, other, logprob in best[:count])
        return Token(token, self._show(token), line[token].logprob, top)

    def _show(self, token: int) -> str:
        return self.prompts.template.tokenizer.decode([token], clean_up_tokenization_spaces=False)

    # -- the thread that vLLM runs in ---------------------------------------------------------------------------------

    def _run(self, vllm: Any, arguments: dict[str, Any], started: queue.SimpleQueue[Any]) -> None:
        """Start vLLM, feed it, and hand out its outputs, until `close`."""
        try:
            os.environ[PARENT] = str(os.getpid())
            for name, value in QUIET.items():
                os.environ.setdefault(name, value)
            engine = vllm.LLMEngine.from_engine_args(vllm.EngineArgs(**arguments), enable_multiprocessing=True)
        except BaseException as error:  # noqa: BLE001 - the caller waits for it, and raises it
            started.put(error)
            return
        waiting: dict[str, Callable[[Any], None]] = {}
        started.put(engine.model_config.max_model_len)
        try:
            while self._take(engine, waiting):
                for output in engine.step():
                    if send := waiting.get(output.request_id):
                        send(output)
                    if output.finished:
                        waiting.pop(output.request_id, None)
        except Exception as error:  # everybody waits for this thread
            log.exception("vLLM has stopped", exc_info=error)
            self._closed.set()
            for send in waiting.values():
                send(error)
        finally:
            self._end(engine, waiting)

    def _take(self, engine: Any, waiting: dict[str, Callable[[Any], None]]) -> bool:
        """Hand over what has been asked and cancelled since; waits where there is nothing to do. False: end."""
        while True:
            try:
                job = self._jobs.get(block=not engine.has_unfinished_requests())
            except queue.Empty:
                return True
            if job is None:
                return False
            if isinstance(job, str):
                if waiting.pop(job, None) is not None:
                    engine.abort_request([job])
                continue
            waiting[job.id] = job.send
            try:
                engine.add_request(job.id, job.prompt, job.params, lora_request=job.lora)
            except (ValueError, TypeError) as error:
                del waiting[job.id]
                job.send(error)

    def _end(self, engine: Any, waiting: Mapping[str, Callable[[Any], None]]) -> None:
        for send in waiting.values():
            send(ValueError("the engine is closed"))
        with contextlib.suppress(queue.Empty):
            while True:
                job = self._jobs.get_nowait()
                if isinstance(job, Job):
                    job.send(ValueError("the engine is closed"))
        engine.engine_core.shutdown()


def _lora(name: str, number: int, folder: Path) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest(name, number, str(folder.resolve()))


def _finish(one: Any) -> str | None:
    return one.finish_reason and FINISH.get(one.finish_reason, "cancelled")


def _goes_on(request: Request) -> bool:
    return request.continue_last or not isinstance(request.prompt, Turns)


def _same_prompt(output: Any, ids: Sequence[int]) -> None:
    """ValueError when vLLM has expanded pictures otherwise than training did."""
    if list(output.prompt_token_ids) != list(ids):
        raise ValueError(
            f"vLLM made {len(output.prompt_token_ids)} tokens of this prompt, training {len(ids)}: its picture "
            "processing differs; use --infer_backend pt"
        )
