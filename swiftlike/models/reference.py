"""The frozen policy that preference losses compare with: the adapter switched off, another adapter, a second copy, or
numbers computed earlier."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from swiftlike.core.log import warn_once
from swiftlike.models.logps import group_logps, model_inputs

# Files beside the weights that change what they compute
SETTINGS = ("config.json", "adapter_config.json", "preprocessor_config.json", "processor_config.json")


class Reference(Protocol):
    """Summed log-probabilities [B, K] under the reference policy, without gradient."""

    def __call__(self, policy: nn.Module, batch: dict[str, Any]) -> Tensor:
        """`policy` is the unwrapped model being trained."""
        ...


@torch.no_grad()
def _logps(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    batch = {
        name: value for name, value in batch.items() if name not in ("prompt_predict", "prompt_targets", "prompt_rows")
    }
    training = model.training
    model.eval()
    try:
        return group_logps(model(**model_inputs(batch)), batch)["policy"]
    finally:
        model.train(training)


class AdapterOff:
    """LoRA: the base model is inside the policy."""

    def __call__(self, policy: Any, batch: dict[str, Any]) -> Tensor:
        """A pass with every adapter disabled."""
        with policy.disable_adapter():
            return _logps(policy, batch)


class OtherAdapter:
    """LoRA that continues an SFT adapter: that adapter, frozen, under the name "reference"."""

    def __call__(self, policy: Any, batch: dict[str, Any]) -> Tensor:
        """A pass with the reference adapter active."""
        with _active(policy, "reference"):
            return _logps(policy, batch)


@contextlib.contextmanager
def _active(policy: Any, name: str) -> Iterator[None]:
    policy.set_adapter(name, inference_mode=True)
    try:
        yield
    finally:
        policy.set_adapter("default")


class FrozenCopy:
    """Full training, or another model than the policy's base."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.requires_grad_(False).eval()

    def __call__(self, policy: nn.Module, batch: dict[str, Any]) -> Tensor:
        """A pass of the copy, on its own devices."""
        return _logps(self.model, batch)


_MEMORY = ":memory:"
_TABLE = "CREATE TABLE IF NOT EXISTS logps (key BLOB PRIMARY KEY, value REAL)"


class Stored:
    """Another reference, asked once per sequence ever: its numbers are kept on disk.

    A sequence is known by its token ids and pictures, the file by a fingerprint of the reference's weights and of how
    they are run. Later epochs, and later runs with other losses or another beta, find the numbers there. `together`
    makes all ranks compute or none, which sharded models need.
    """

    def __init__(self, inner: Reference, path: Path | None, together: Any = None) -> None:
        self.inner, self.path, self.together = inner, path, together
        self.hits = self.misses = 0
        self._connection: sqlite3.Connection | None = None
        try:
            if path is None:
                raise OSError("the cache folder cannot be made")
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open().execute(_TABLE).connection.close()
        except (sqlite3.DatabaseError, OSError) as error:
            self._in_memory(error)

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path or _MEMORY, timeout=60, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    def _in_memory(self, reason: Exception) -> None:
        """Where the file cannot be used: read-only, on a full disk, damaged, or locked for a minute."""
        where = f" in {self.path}" if self.path else ""
        warn_once(f"reference log-probabilities are not kept for the next run{where}: {reason}")
        self.path = None
        self._connection = self._open()
        self._connection.execute(_TABLE)

    def __call__(self, policy: nn.Module, batch: dict[str, Any]) -> Tensor:
        """Stored numbers where all of the batch is known, else the inner reference's, which are then stored."""
        keys: list[list[bytes]] = batch["keys"]
        known = self._read([key for row in keys for key in row])
        complete = all(key in known for row in keys for key in row)
        if self.together is not None:
            complete = self.together(complete)
        if not complete:
            self.misses += len(keys)
            values = self.inner(policy, batch).float().cpu().tolist()
            fresh = {key: values[b][k] for b, row in enumerate(keys) for k, key in enumerate(row)}
            self._write({key: value for key, value in fresh.items() if key not in known})
            known = fresh | known  # the first number ever stored stays: a resumed run sees what the first run saw
        else:
            self.hits += len(keys)
        width = batch["tokens"].shape[1]
        rows = [[known[key] for key in row] + [0.0] * (width - len(row)) for row in keys]
        return torch.tensor(rows, dtype=torch.float32, device=batch["tokens"].device)

    def _read(self, keys: Sequence[bytes]) -> dict[bytes, float]:
        marks = ",".join("?" * len(keys))
        try:
            self._connection = self._connection or self._open()
            return dict(self._connection.execute(f"SELECT key, value FROM logps WHERE key IN ({marks})", keys))
        except sqlite3.DatabaseError as error:
            self._in_memory(error)
            return {}

    def _write(self, fresh: dict[bytes, float]) -> None:
        assert self._connection is not None
        try:
            with contextlib.closing(self._connection.cursor()) as cursor:
                cursor.execute("BEGIN IMMEDIATE")
                cursor.executemany("INSERT OR IGNORE INTO logps VALUES (?, ?)", fresh.items())
                cursor.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            if self.path is None:
                raise
            self._in_memory(error)
            self._write(fresh)


def fingerprint(folders: Sequence[Path], **how: Any) -> str:
    """A digest of weight files (names, sizes, headers, samples spread over each), of the settings beside them, and of
    how the model is run.

    Sampling keeps it to milliseconds per gigabyte; a fine-tuned copy differs in every sampled block.
    """
    digest = hashlib.blake2b(json.dumps(how, sort_keys=True, default=str).encode(), digest_size=16)
    for folder in folders:
        for path in sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin")):
            size = path.stat().st_size
            digest.update(f"{path.name} {size}".encode())
            with path.open("rb") as file:
                for part in range(64):
                    file.seek(size * part // 64)
                    digest.update(file.read(16384))
        for name in SETTINGS:
            if (folder / name).is_file():
                digest.update(name.encode() + (folder / name).read_bytes())
    return digest.hexdigest()
