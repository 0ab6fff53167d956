"""swiftlike env: versions and hardware, without importing anything heavy."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from typing import Any

import typer

import swiftlike
from swiftlike.core.merge import Run

PACKAGES = (
    *("torch", "transformers", "peft", "accelerate", "datasets", "safetensors", "tokenizers", "huggingface_hub"),
    *("modelscope", "bitsandbytes", "deepspeed", "flash-attn", "vllm", "numpy", "pillow", "typer"),
)
_VARIABLES = ("CUDA_VISIBLE_DEVICES", "NPROC_PER_NODE", "NNODES", "USE_HF", "HF_HOME", "HF_HUB_OFFLINE", "HF_ENDPOINT")
_NVIDIA = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]


def run(run: Run) -> None:
    """Print what a bug report needs."""
    found = machine()
    if run.env.json:
        typer.echo(json.dumps(found, indent=2))
        return
    for title, values in found.items():
        if not values:
            continue
        typer.echo(f"{title}:")
        for name, value in values.items():
            typer.echo(f"  {name:<22}{value}")


def machine() -> dict[str, dict[str, Any]]:
    """Versions, hardware and the environment variables that matter."""
    return {
        "software": {
            "swiftlike": swiftlike.__version__,
            "python": f"{platform.python_version()} ({sys.platform})",
            **{name: _version(name) for name in PACKAGES},
        },
        "hardware": {"cpus": os.cpu_count(), "memory": _memory(), **_cards()},
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _memory() -> str:
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names:
        return "unknown"
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB"


def _cards() -> dict[str, str]:
    if shutil.which("nvidia-smi") is None:
        return {"cards": "none"}
    answer = subprocess.run(_NVIDIA, capture_output=True, text=True, check=False, timeout=60)
    lines = [line for line in answer.stdout.splitlines() if line.strip()] if answer.returncode == 0 else []
    return {f"card {at}": line for at, line in enumerate(lines)} or {"cards": "none"}
