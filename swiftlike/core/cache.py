"""Where things that can be made again are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """`$SWIFTLIKE_CACHE/name`, by default `~/.cache/swiftlike/name`. Made when absent."""
    folder = Path(os.environ.get("SWIFTLIKE_CACHE") or Path.home() / ".cache" / "swiftlike") / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
