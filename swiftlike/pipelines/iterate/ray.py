"""Stages on a Ray cluster: each process is a task that Ray places; the folders are shared by all machines."""

from __future__ import annotations

import os
import queue
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from swiftlike.args.environment import READ
from swiftlike.core.devices import VISIBLE
from swiftlike.core.errors import UserError
from swiftlike.core.optional import require
from swiftlike.core.parent import PARENT
from swiftlike.pipelines.iterate.jobs import Job, Line, Log, Say, command_line, failed, listen
from swiftlike.pipelines.iterate.recipe import Step

_SWIFTLIKE = ("SWIFTLIKE_", "HF_", "OPENAI_")  # variables of this machine that stages elsewhere need too
_ALSO = (*READ, "SENTIMENT_MODEL", "NPROC_PER_NODE", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM", "WANDB_API_KEY")


class OnRay:
    """Runs jobs as Ray tasks. `gpus` cards for each of them; None: all that some machine of the cluster has."""

    def __init__(self, address: str | None, gpus: float | None) -> None:
        self.ray: Any = require("ray", because="--launcher ray", package="ray")
        # nothing is reported to Ray's makers, unless the user wants it
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            self.ray.init(address=address, log_to_driver=False, include_dashboard=False, logging_level="warning")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"cannot join a Ray cluster: {error}", hint="see --ray_address") from None
        most = self._most_cards()
        if gpus is not None and gpus > most:
            raise UserError(f"--gpus_per_stage {gpus:g}: no machine of the cluster has more than {most:g} cards")
        self.gpus = most if gpus is None else gpus

    def _most_cards(self) -> float:
        return max((node["Resources"].get("GPU", 0.0) for node in self.ray.nodes() if node["Alive"]), default=0.0)

    def __call__(self, step: Step, jobs: Sequence[Job], log: Log, say: Say) -> None:
        lines: queue.SimpleQueue[Line] = queue.SimpleQueue()
        codes: dict[int | None, int] = {}
        task = self.ray.remote(num_cpus=1, num_gpus=self.gpus, max_retries=0, num_returns="streaming")(execute)
        env = {name: value for name, value in os.environ.items() if name.startswith(_SWIFTLIKE) or name in _ALSO}
        if step.stage.trains and step.processes is None and self.gpus > 1:
            env["NPROC_PER_NODE"] = f"{self.gpus:.0f}"
        folder = str(Path.cwd())
        running = [(job, task.remote(step.kind, job.words, env | _placed(job), folder)) for job in jobs]
        readers = [threading.Thread(target=self._read, args=(*one, lines, codes), daemon=True) for one in running]
        for reader in readers:
            reader.start()
        try:
            listen(lines, lambda: any(reader.is_alive() for reader in readers), log, say)
        except BaseException:
            for _, found in running:
                self.ray.cancel(found, force=True)
            raise
        if wrong := {shard: code for shard, code in codes.items() if code != 0}:
            raise failed(step, log, wrong)

    def _read(self, job: Job, found: Any, lines: queue.SimpleQueue[Line], codes: dict[int | None, int]) -> None:
        """What a task says; its last word is its exit code. A machine that is lost counts as a failure."""
        codes[job.shard] = 1
        try:
            for ref in found:
                said = self.ray.get(ref)
                if isinstance(said, int):
                    codes[job.shard] = said
                else:
                    lines.put((job.shard, said))
        except self.ray.exceptions.RayError as error:
            lines.put((job.shard, f"lost by Ray: {' '.join(str(error).split())[:500]}"))

    def close(self) -> None:
        """Leave the cluster."""
        self.ray.shutdown()


def _placed(job: Job) -> dict[str, str]:
    """The environment of a job, without its cards: those Ray gives."""
    return {name: value for name, value in job.env.items() if name != VISIBLE}


def execute(kind: str, words: Sequence[str], env: Mapping[str, str], folder: str) -> Iterator[str | int]:
    """Run a process in a task: its lines, then its exit code."""
    argv, hidden = command_line(kind, words)
    with subprocess.Popen(
        argv,
        cwd=folder,
        env={**os.environ, **env, **hidden, PARENT: str(os.getpid())},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip():
                yield line.rstrip()
    yield process.returncode
