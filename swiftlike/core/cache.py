"""Where things that can be made again are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """`$SWIFTLIKE_CACHE/name`, by default swiftlike/name in the user's cache folder. Made when absent."""
    given = os.environ.get("SWIFTLIKE_CACHE")
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = (Path(given) if given else user / "swiftlike") / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
