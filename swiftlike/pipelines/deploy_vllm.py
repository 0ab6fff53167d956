"""vLLM's own server as a child: it gets our arguments in its words, our signals, and does not outlive us."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses as dc
import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import FrameType

from swiftlike.core.log import get_logger
from swiftlike.core.merge import Run
from swiftlike.core.optional import require
from swiftlike.engines.vllm_child import PARENT
from swiftlike.pipelines.serving import Opened, sampling

log = get_logger(__name__)
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1


def serve_vllm(run: Run, opened: Opened) -> int:
    """Run `vllm serve` until it ends; its exit code, 0 where a signal ended it as asked."""
    require("vllm", because="--infer_backend vllm", extra="vllm")
    words = [sys.executable, "-m", "swiftlike.engines.vllm_launch", "serve", *arguments(run, opened)]
    return supervise(words, _environment(run))


def arguments(run: Run, opened: Opened) -> list[str]:
    """Words of `vllm serve`: the model's, which the engine's adapter knows, and the server's."""
    from swiftlike.engines.vllm_serve import serve_arguments

    deploy = run.deploy
    opened, names = _named(run, opened)
    words = serve_arguments(run, opened, sampling(run))
    words += ["--host", deploy.host, "--port", str(deploy.port or _free(deploy.host)), "--served-model-name", *names]
    words += ["--max-logprobs", str(deploy.max_logprobs), "--shutdown-timeout", str(math.ceil(deploy.drain_timeout))]
    if deploy.ssl_certfile:
        words += ["--ssl-keyfile", deploy.ssl_keyfile, "--ssl-certfile", deploy.ssl_certfile]
    if deploy.allowed_local_media_path:
        words += ["--allowed-local-media-path", str(Path(deploy.allowed_local_media_path).resolve())]
    if deploy.allowed_media_domains:
        words += ["--allowed-media-domains", *deploy.allowed_media_domains]
    return words if deploy.verbose else [*words, "--disable-uvicorn-access-log"]


def _named(run: Run, opened: Opened) -> tuple[Opened, list[str]]:
    """The model with its adapters as requests shall call them, and names of the base.

    vLLM always serves the base too. --served_model_name is the adapter's where that has no name of its own.
    """
    wanted, base = run.deploy.served_model_name, opened.checkpoint.source.name
    if not opened.served or run.use.merge_lora:
        return opened, wanted or [opened.served or base]
    if not wanted:
        return opened, [base]
    adapters = {wanted[0] if name == opened.served else name: folder for name, folder in opened.adapters.items()}
    return dc.replace(opened, adapters=adapters, served=wanted[0]), [base]


def _environment(run: Run) -> dict[str, str]:
    """The key goes by the environment: the words of a command line are seen by everybody on a machine."""
    key = {"VLLM_API_KEY": run.deploy.api_key} if run.deploy.api_key else {}
    return {**os.environ, "VLLM_NO_USAGE_STATS": "1", PARENT: str(os.getpid()), **key}


def _free(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as one:
        one.bind((host, 0))
        return int(one.getsockname()[1])


def supervise(words: list[str], environment: dict[str, str]) -> int:
    """Run a command in a process group of its own. Signals are handed on to its first process, a second one ends the
    whole group; whatever is left of it when it ends, or when we do, is ended too."""
    libc = ctypes.CDLL(None, use_errno=True)

    def with_us() -> None:  # in the child: it hears when we die, however we do
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    log.info("starting vllm %s", " ".join(words[3:]))
    child = subprocess.Popen(words, env=environment, process_group=0, preexec_fn=with_us)
    asked: list[int] = []

    def hand_on(sig: int, _: FrameType | None) -> None:
        asked.append(sig)
        with contextlib.suppress(ProcessLookupError):
            if len(asked) > 1:
                os.killpg(child.pid, signal.SIGKILL)
            else:
                child.send_signal(sig)

    before = {sig: signal.signal(sig, hand_on) for sig in _SIGNALS}
    try:
        code = child.wait()
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    return 0 if asked and len(asked) == 1 else code if code >= 0 else 128 - code
