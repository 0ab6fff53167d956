"""Engines on built-in models, opened as commands open them."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

from swiftlike.args.data import DataArgs
from swiftlike.args.generate import EngineArgs, GenerateArgs, UseArgs
from swiftlike.args.lora import TunerArgs
from swiftlike.args.model import ModelArgs
from swiftlike.core.declare import Command
from swiftlike.core.merge import COMMAND_LINE, Given, merge
from swiftlike.core.optional import available
from swiftlike.datasets_registry import row
from swiftlike.datasets_registry.row import Message, Turns
from swiftlike.engines.base import Request, Sampling
from swiftlike.models.load import load_model, locate
from swiftlike.models.tuning import add_lora
from swiftlike.pipelines.serving import open_engine, open_model
from tests.integration.runs import free_port

NEEDS_VLLM = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        not available("vllm"), reason="vLLM is not installed here: .ci/vllm makes an environment for it"
    ),
]
COMMAND = Command(
    name="test",
    summary="",
    target="",
    sections={"use": UseArgs, "generate": GenerateArgs, "engine": EngineArgs, "model": ModelArgs, "data": DataArgs},
)
USUAL = {"torch_dtype": "float32", "max_model_len": 1024, "enforce_eager": True}
FLAGS = [word for name, value in USUAL.items() for word in (f"--{name}", str(value).lower())]
GREEDY = Sampling(temperature=0, max_new_tokens=12)


def run_of(**flags: Any) -> Any:
    """A run as a command line would ask for it."""
    return merge(COMMAND, [[Given(name, value, COMMAND_LINE) for name, value in (USUAL | flags).items()]])


@contextlib.contextmanager
def engine(backend: str, **flags: Any) -> Iterator[Any]:
    """An engine that is closed again."""
    run = run_of(infer_backend=backend, **flags)
    made = open_engine(run, open_model(run))
    try:
        yield made
    finally:
        made.close()


def adapter(model: str, folder: Path, seed: int = 0) -> Path:
    """A LoRA adapter that changes the model's answers."""
    source = locate(ModelArgs(model_type=model))
    torch.manual_seed(seed)
    net = add_lora(
        load_model(source, dtype=torch.float32), source.card, TunerArgs(lora_target_modules=["ALL"], lora_rank=4), False
    )
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.3)
    net.save_pretrained(folder)
    return folder


def asked(text: str, *pictures: Path, sampling: Sampling = GREEDY, adapter: str = "") -> Request:
    """A question."""
    images = tuple(row.Image(str(one)) for one in pictures)
    return Request(prompt=Turns((Message("user", text),), images), sampling=sampling, adapter=adapter)


def ids(answers: Any) -> list[tuple[int, ...]]:
    """Tokens of each answer's first completion."""
    errors = [one.error for one in answers if one.error]
    assert errors == []
    return [one.completions[0].ids for one in answers]


@functools.cache
def picture(folder: Path, width: int, height: int, colour: str = "red") -> Path:
    """A rectangle on blue, as a file."""
    image = Image.new("RGB", (width, height), "navy")
    ImageDraw.Draw(image).rectangle([width // 5, height // 5, width // 2, height // 2], fill=colour)
    path = folder / f"{width}x{height}-{colour}.png"
    image.save(path)
    return path


def by_transformers(pt: Any, request: Request, net: Any = None) -> tuple[int, ...]:
    """transformers' own greedy generation from the engine's prompt, on the weights of a pt engine or on a model."""
    prepared = pt.prompts.ids(request)
    pixels = pt.model.adapter.join(prepared.pictures) if prepared.images else {}
    if net is None:
        name = request.adapter or pt.served
        pt.model.switch(pt.known_as.get(name, name))
    prompt = torch.tensor([prepared.ids])
    if prepared.grids:  # M-RoPE: generation finds the pictures by it
        pixels["mm_token_type_ids"] = (prompt == pt.model.placeholder).int()
    with torch.no_grad():
        out = (net or pt.model.net).generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=request.sampling.max_new_tokens,
            eos_token_id=sorted(pt.prompts.ends),
            pad_token_id=pt.model.pad_id,
            **pixels,
        )
    return tuple(out[0, prompt.shape[1] :].tolist())


Chat = Callable[..., dict[str, Any]]


@contextlib.contextmanager
def served(*words: str) -> Iterator[Chat]:
    """`swiftlike deploy --infer_backend vllm`: asks for a greedy answer (HTTPError where it is refused). It ends as a
    server does that is asked to."""
    port = free_port()
    command = [sys.executable, "-m", "swiftlike", "deploy", "--infer_backend", "vllm", "--port", str(port), *words]
    server = subprocess.Popen([*command, *FLAGS], env={**os.environ, "VLLM_LOGGING_LEVEL": "WARNING"})

    def chat(content: Any, most: int = 12, **more: Any) -> dict[str, Any]:
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": most, "return_token_ids": True}
        url, kind = f"http://127.0.0.1:{port}/v1/chat/completions", {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body | more).encode(), kind)) as answer:
            return json.load(answer)

    try:
        _wait_for(server, port)
        yield chat
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0


def _wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + 400
    while time.monotonic() < until and server.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
            return
        time.sleep(0.5)
    raise AssertionError("the server did not start")


def parts(text: str, *pictures: Path) -> list[dict[str, Any]]:
    """A message as OpenAI's chats have it: pictures, then text."""
    urls = ["data:image/png;base64," + b64encode(one.read_bytes()).decode() for one in pictures]
    return [*({"type": "image_url", "image_url": {"url": one}} for one in urls), {"type": "text", "text": text}]
