"""The thread that vLLM's engine lives in: it takes what is asked, computes step by step, and hands out what comes."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from swiftlike.core.log import get_logger
from swiftlike.engines.vllm_child import PARENT

log = get_logger(__name__)
QUIET = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1"}


class Job(NamedTuple):
    """What is handed to vLLM. `send` gets its outputs, or why there are none."""

    id: str
    prompt: dict[str, Any]
    params: Any
    lora: Any
    send: Callable[[Any], None]


class Loop:
    """Starts vLLM, and raises what it raises. `waiting` are the jobs that it has not finished, `context` its limit."""

    def __init__(self, vllm: Any, arguments: dict[str, Any]) -> None:
        self.waiting: dict[str, Callable[[Any], None]] = {}
        self._jobs: queue.SimpleQueue[Job | str | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        started: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._run, args=(vllm, arguments, started), name="vllm engine", daemon=True
        )
        self._thread.start()
        found = started.get()
        if isinstance(found, BaseException):
            raise found
        self.context: int = found

    def ask(self, job: Job) -> None:
        """Hand a job over."""
        self._jobs.put(job)
        if self._closed.is_set():  # nobody may be there to take it
            job.send(ValueError("the engine is closed"))

    def cancel(self, job: Job) -> None:
        """End it where it is, if it is still there."""
        self._jobs.put(job.id)

    def close(self) -> None:
        """End all jobs and vLLM's processes."""
        self._closed.set()
        self._jobs.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self, vllm: Any, arguments: dict[str, Any], started: queue.SimpleQueue[Any]) -> None:
        try:
            os.environ[PARENT] = str(os.getpid())
            for name, value in QUIET.items():
                os.environ.setdefault(name, value)
            from vllm.usage.usage_lib import UsageContext

            made, usage = (
                vllm.EngineArgs(**arguments),
                UsageContext.LLM_CLASS,
            )  # LLM's defaults, no server's
            engine = vllm.LLMEngine.from_engine_args(made, usage, enable_multiprocessing=True)
        except BaseException as error:  # noqa: BLE001 - the caller waits for it, and raises it
            started.put(error)
            return
        started.put(engine.model_config.max_model_len)
        try:
            while self._take(engine):
                for output in engine.step():
                    get = self.waiting.pop if output.finished else self.waiting.get
                    if send := get(output.request_id, None):
                        send(output)
        except Exception as error:  # everybody waits for this thread
            log.exception("vLLM has stopped", exc_info=error)
        finally:
            self._end(engine)

    def _take(self, engine: Any) -> bool:
        """Hand over what has been asked and cancelled since; waits where there is nothing to do. False: end."""
        while True:
            try:
                job = self._jobs.get(block=not engine.has_unfinished_requests())
            except queue.Empty:
                return True
            if job is None:
                return False
            if isinstance(job, str):
                if self.waiting.pop(job, None) is not None:
                    engine.abort_request([job])
                continue
            self.waiting[job.id] = job.send
            try:
                engine.add_request(job.id, job.prompt, job.params, lora_request=job.lora)
            except (ValueError, TypeError) as error:
                del self.waiting[job.id]
                job.send(error)

    def _end(self, engine: Any) -> None:
        self._closed.set()
        left = list(self.waiting.values())
        with contextlib.suppress(queue.Empty):
            while True:
                job = self._jobs.get_nowait()
                left += [job.send] if isinstance(job, Job) else []
        for send in left:
            send(ValueError("the engine is closed"))
        engine.engine_core.shutdown()
