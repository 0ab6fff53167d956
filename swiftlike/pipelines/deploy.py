"""swiftlike deploy: a model behind an OpenAI-compatible server, our own over transformers or vLLM's."""

from __future__ import annotations

import asyncio
import dataclasses as dc
from pathlib import Path
from typing import TYPE_CHECKING

from swiftlike.args.data import DataArgs
from swiftlike.core.errors import UserError
from swiftlike.core.log import get_logger
from swiftlike.core.merge import Run
from swiftlike.core.optional import available, require
from swiftlike.data.load import max_bytes
from swiftlike.pipelines.deploy_vllm import serve_vllm
from swiftlike.pipelines.serving import Opened, open_engine, open_model, open_scorer, sampling

if TYPE_CHECKING:
    from swiftlike.engines.server.state import Served, State

log = get_logger(__name__)
PACKAGES = {"fastapi": "", "uvicorn": "", "prometheus_client": "prometheus-client"}


def run(run: Run) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    _warn(run)
    backend = run.use.infer_backend
    if backend == "vllm" or (backend == "auto" and available("vllm")):
        opened = open_model(with_data(run))
        if not (backend == "auto" and opened.reward):
            return serve_vllm(run, opened)
    _serve_pt(run)
    return 0


def _warn(run: Run) -> None:
    if run.deploy.host not in ("127.0.0.1", "::1", "localhost") and not run.deploy.api_key:
        log.warning("--host %s without --api_key: whoever reaches this machine may use the model", run.deploy.host)


def _serve_pt(run: Run) -> None:
    for name, package in PACKAGES.items():
        require(name, because="swiftlike deploy", extra="deploy", package=package)
    from swiftlike.engines.server.serve import listen, serve

    deploy = run.deploy
    sock = listen(deploy.host, deploy.port)
    tls = {"ssl_keyfile": deploy.ssl_keyfile, "ssl_certfile": deploy.ssl_certfile} if deploy.ssl_certfile else {}
    asyncio.run(serve(_state(run), sock, lambda: load(run), deploy=deploy, tls=tls))


def _state(run: Run) -> State:
    from swiftlike.engines.server.pictures import Pictures
    from swiftlike.engines.server.state import Limits, State

    deploy = run.deploy
    limits = Limits(
        api_key=deploy.api_key,
        max_body=deploy.max_body << 20,
        max_queue=deploy.max_queue,
        max_logprobs=deploy.max_logprobs,
        verbose=deploy.verbose,
        owned_by=deploy.owned_by,
    )
    folder = deploy.allowed_local_media_path
    pictures = Pictures(
        folder=Path(folder) if folder else None, hosts=deploy.allowed_media_domains, max_bytes=max_bytes(run.data)
    )
    return State(limits=limits, pictures=pictures)


def load(run: Run) -> Served:
    """The model and its names."""
    from swiftlike.engines.server.state import Served

    opened = open_model(with_data(run))
    facts = {"names": names_of(run, opened), "root": str(opened.model_folder)}
    if opened.reward:
        return Served(**facts, scorer=open_scorer(run, opened))
    longest = max(map(len, opened.checkpoint.tokenizer.get_vocab()))
    return Served(**facts, engine=open_engine(run, opened), defaults=sampling(run), longest=longest)


def with_data(run: Run) -> Run:
    """The run with a whole data section, which what reads pictures is told its limits by."""
    return dc.replace(run, sections={**run.sections, "data": DataArgs(**dc.asdict(run.data))})


def names_of(run: Run, opened: Opened) -> dict[str, str]:
    """What requests may call the model, and the adapter that answers then; the first name is the default.

    An adapter without a name is the model itself: the base alone is not served then. Named ones stand beside it.
    """
    own = run.deploy.served_model_name or [opened.served or opened.checkpoint.source.name]
    others = [name for name in opened.adapters if name != opened.served and not opened.reward]
    if twice := sorted(set(own) & set(others)):
        raise UserError(f"{twice[0]!r} names both the model and an adapter", hint="choose another --served_model_name")
    return {**dict.fromkeys(own, "" if opened.reward else opened.served), **{name: name for name in others}}
