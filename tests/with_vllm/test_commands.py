"""`verify` and `deploy` with vLLM, as they are typed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from tests.integration.runs import free_port

from .using import GREEDY, NEEDS_VLLM, adapter, asked, engine, ids, picture

pytestmark = NEEDS_VLLM
FLAGS = ["--torch_dtype", "float32", "--max_model_len", "1024", "--enforce_eager", "true"]


def test_verify(tmp_path: Path) -> None:
    folder = adapter("tiny-llama", tmp_path / "mine")
    words = ["verify", "demo", "--model_type", "tiny-llama", "--adapters", str(folder), "--rows", "2", *FLAGS]
    ran = subprocess.run([sys.executable, "-m", "swiftlike", *words], capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, ran.stdout + ran.stderr[-4000:]
    lines = ran.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[-5:-1]] == ["pt", "pt, merged", "vllm", "vllm, merged"]
    assert lines[-1] == "bound 0.001: equal"


def ask(port: int, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + 400
    while time.monotonic() < until and server.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
            return
        time.sleep(0.5)
    raise AssertionError("the server did not start")


def test_deploy_renders_what_training_saw(tmp_path: Path) -> None:
    """vLLM's own server: text and pictures, the same number of tokens in the prompt and the same answer as pt."""
    name, file, port = "tiny-llava1_6", picture(tmp_path, 150, 90), free_port()
    folder = adapter(name, tmp_path / "mine")
    shown = {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64," + b64encode(file.read_bytes()).decode()},
    }
    text = {"type": "text", "text": "What colour is the square?"}
    requests = {
        (served, pictures): asked("<image>" * pictures + text["text"], *[file] * pictures, adapter=served)
        for served in ("", "mine")
        for pictures in (0, 1, 2)
    }
    with engine("pt", model_type=name, adapters=[f"mine={folder}"]) as pt:
        prompts = [list(pt.prompts.ids(request).ids) for request in requests.values()]
        wanted = [list(one) for one in ids(pt.generate(list(requests.values())))]
    words = ["deploy", "--infer_backend", "vllm", "--model_type", name, "--adapters", f"mine={folder}"]
    server = subprocess.Popen(
        [sys.executable, "-m", "swiftlike", *words, "--port", str(port), "--served_model_name", "base", *FLAGS],
        env={**os.environ, "VLLM_LOGGING_LEVEL": "WARNING"},
    )
    try:
        wait_for(server, port)
        found = []
        for served, pictures in requests:
            content = [shown] * pictures + [text]
            body = {"model": served or "base", "messages": [{"role": "user", "content": content}]}
            body |= {"max_tokens": GREEDY.max_new_tokens, "return_token_ids": True}  # greedy, as pt is by default
            found.append(ask(port, body))
        assert [one["prompt_token_ids"] for one in found] == prompts
        assert [one["choices"][0]["token_ids"] for one in found] == wanted
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(port, {"model": "base", "messages": [{"role": "assistant", "content": "x"}]})
        assert refused.value.code == 400
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
