"""One side of serve.py, in a process and an environment of its own.

It prints one JSON object a line: that it is ready, then what it answered in each window that the driver asks for on
standard input. What libraries print goes to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from channel import Channel, processor_seconds, versions

KV_CACHE_GIB = "1"  # of vLLM's on a CPU
READY_SECONDS = 300
SETTINGS = {  # of vLLM's engine that decide how fast it is
    "scheduler_config": ("max_num_batched_tokens", "max_num_seqs", "enable_chunked_prefill", "async_scheduling"),
    "cache_config": ("block_size", "cache_dtype", "enable_prefix_caching", "num_gpu_blocks"),
    "model_config": ("max_model_len", "dtype", "enforce_eager"),
}
Answer = list[Any]  # tokens of the prompt, tokens of the answer, text of the answer
Answers = Callable[[list[str]], list[Answer]]  # to the questions of a window


class Clock:
    """Wall and CPU seconds between its begin and its end, of this process and of all that it started."""

    wall = cpu = 0.0

    def __enter__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), processor_seconds()

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self.wall, processor_seconds() - self.cpu


def worker(side: str, setting: Path) -> None:
    """Open the side, then answer window after window."""
    options = argparse.Namespace(**json.loads(setting.read_text()))
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", KV_CACHE_GIB)
    channel, clock = Channel(), Clock()
    engines = engines_of_vllm() if "vllm" in side else []
    with SIDES[side](options, clock) as answers:
        channel.send(ready=True, versions=versions())
        while number := channel.wait():
            questions = options.questions[number - 1]
            found = answers(questions[: options.alone] if side == "one by one" else questions)
            settings = [settings_of(engine) for engine in engines]
            channel.send(seconds=clock.wall, cpu=clock.cpu, answers=found, settings=settings)


def engines_of_vllm() -> list[Any]:
    """Every engine of vLLM's that this process makes from now on."""
    from vllm import LLMEngine

    made, init = [], LLMEngine.__init__

    def remembering(engine: Any, *words: Any, **more: Any) -> None:
        made.append(engine)
        init(engine, *words, **more)

    LLMEngine.__init__ = remembering
    return made


def settings_of(engine: Any) -> dict[str, str]:
    """How an engine of vLLM's computes."""
    parts = {part: getattr(engine.vllm_config, part) for part in SETTINGS}
    return {name: str(getattr(parts[part], name)) for part, names in SETTINGS.items() for name in names}


def flags(options: argparse.Namespace, backend: str) -> list[str]:
    """What `infer` and `deploy` are told alike."""
    given = {
        "model": options.model,
        "template": "chat_template",
        "torch_dtype": "float32",
        "infer_backend": backend,
        "max_new_tokens": options.new_tokens,
        "temperature": 0,
        **({"enforce_eager": "true"} if backend == "vllm" else {}),
    }
    return [str(word) for name, value in given.items() for word in (f"--{name}", value)]


def conversation(question: str) -> list[dict[str, str]]:
    """A question as the messages of a chat."""
    return [{"role": "user", "content": question}]


@contextlib.contextmanager
def one_by_one(options: argparse.Namespace, clock: Clock) -> Iterator[Answers]:
    """transformers' own generate, one question after another."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.model)

    def answer(question: str) -> Answer:
        prompt = tokenizer.apply_chat_template(
            conversation(question), add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        length = prompt["input_ids"].shape[1]
        made = model.generate(**prompt, do_sample=False, max_new_tokens=options.new_tokens)[0, length:]
        return [length, len(made), tokenizer.decode(made, skip_special_tokens=True)]

    def answers(questions: list[str]) -> list[Answer]:
        with clock:
            return [answer(one) for one in questions]

    yield answers


class Kept:
    """An engine that stays open when a command closes it, and remembers what it answered by question."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.found = engine, {}

    def generate(self, requests: Sequence[Any], done: Any) -> None:
        """What the command asks for."""
        answers = self.engine.generate(requests, done)
        for request, answer in zip(requests, answers, strict=True):
            (one,) = answer.completions
            self.found[request.prompt.messages[-1].content] = [answer.prompt_tokens, len(one.ids), one.text]

    def close(self) -> None:
        """The next window goes on with it."""


@contextlib.contextmanager
def infer(options: argparse.Namespace, clock: Clock, backend: str) -> Iterator[Answers]:
    """`swiftlike infer --val_dataset`, from the rows it has read to the last line of its result, weights loaded."""
    from swiftlike.cli.main import main
    from swiftlike.engines.vllm_child import PARENT
    from swiftlike.pipelines.infer import batch

    kept: list[Kept] = []
    opens, works = batch.open_engine, batch._answer

    def open_once(*words: Any) -> Kept:
        if not kept:
            kept.append(Kept(opens(*words)))
        return kept[0]

    def timed(*words: Any) -> None:
        open_once(*words[:2])
        with clock:
            works(*words)

    batch.open_engine, batch._answer = open_once, timed
    folder, windows = Path(options.folder), itertools.count()

    def answers(questions: list[str]) -> list[Answer]:
        window = f"{os.getpid()}-{next(windows)}.jsonl"
        data, result = folder / f"asked-{window}", folder / f"answered-{window}"
        data.write_text("".join(json.dumps({"messages": conversation(one)}) + "\n" for one in questions))
        os.environ.pop(PARENT, None)  # what the open engine has left there is no flag of a new command
        words = ["--val_dataset", str(data), "--result_path", str(result)]
        try:
            main(["infer", *flags(options, backend), *words])
        except SystemExit as end:  # commands end their process
            if end.code:
                raise
        lines = [json.loads(line) for line in result.read_text().splitlines()]
        assert {one["index"]: one["response"] for one in lines} == {
            i: kept[0].found[question][2] for i, question in enumerate(questions)
        }
        return [kept[0].found[one] for one in questions]

    try:
        yield answers
    finally:
        for one in kept:
            one.engine.close()


@contextlib.contextmanager
def deploy(options: argparse.Namespace, clock: Clock) -> Iterator[Answers]:
    """`swiftlike deploy` in a process of its own; every question of a window is a request on a socket of its own."""
    import httpx

    log = Path(options.folder, f"deploy-{os.getpid()}.log")
    words = [sys.executable, "-m", "swiftlike", "deploy", *flags(options, "pt"), "--port", "0", "--max_queue", "4096"]
    with log.open("wb") as out:
        process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT)

    async def ask(client: httpx.AsyncClient, name: str, question: str) -> Answer:
        body = {"model": name, "messages": conversation(question), "temperature": 0, "max_tokens": options.new_tokens}
        reply = (await client.post("/v1/chat/completions", json=body)).raise_for_status().json()
        usage = reply["usage"]
        return [usage["prompt_tokens"], usage["completion_tokens"], reply["choices"][0]["message"]["content"]]

    async def ask_all(url: str, questions: list[str]) -> list[Answer]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, limits=limits, timeout=None, trust_env=False) as client:
            name = (await client.get("/v1/models")).json()["data"][0]["id"]
            with clock:
                return await asyncio.gather(*(ask(client, name, one) for one in questions))

    try:
        url = ready(process, log)
        yield lambda questions: asyncio.run(ask_all(url, questions))
    finally:
        process.terminate()
        process.wait()


def ready(process: subprocess.Popen[bytes], log: Path) -> str:
    """The server's address, once it answers."""
    import httpx

    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end and process.poll() is None:
        if found := re.search(r"listening on (\S+?);", log.read_text()):
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{found[1]}/health", trust_env=False).status_code == 200:
                    return found[1]
        time.sleep(0.1)
    raise SystemExit(f"swiftlike deploy did not start:\n{log.read_text()}")


@contextlib.contextmanager
def vllm_alone(options: argparse.Namespace, clock: Clock) -> Iterator[Answers]:
    """vLLM's own offline run: LLM.generate on token ids. Making the ids is not timed; for `infer` it is."""
    import vllm

    llm = vllm.LLM(model=options.model, dtype="float32", enforce_eager=True)
    tokenizer = llm.get_tokenizer()
    params = vllm.SamplingParams(temperature=0, max_tokens=options.new_tokens)

    def answers(questions: list[str]) -> list[Answer]:
        prompts = [
            tokenizer.apply_chat_template(conversation(one), add_generation_prompt=True, return_dict=True)["input_ids"]
            for one in questions
        ]
        with clock:
            found = llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
        made = [one.outputs[0].token_ids for one in found]  # its own text, made in time, has a space in front
        return [
            [len(ids), len(new), tokenizer.decode(new, skip_special_tokens=True)]
            for ids, new in zip(prompts, made, strict=True)
        ]

    yield answers


SIDES = {
    "one by one": one_by_one,
    "infer pt": lambda options, clock: infer(options, clock, "pt"),
    "deploy pt": deploy,
    "vllm": vllm_alone,
    "infer vllm": lambda options, clock: infer(options, clock, "vllm"),
}

if __name__ == "__main__":
    worker(sys.argv[1], Path(sys.argv[2]))
