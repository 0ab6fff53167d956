"""Environment variables as a layer of values: our own SWIFTLIKE_<FLAG>, and the names that ms-swift reads."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping

from swiftlike.core.flags import nearest
from swiftlike.core.merge import Given

PREFIX = "SWIFTLIKE_"
RESERVED = ("SWIFTLIKE_CACHE", "SWIFTLIKE_LOG_LEVEL", "SWIFTLIKE_SHARED")  # no flags; the last is our tests'
READ = {
    "MAX_PIXELS": "max_pixels",
    "MIN_PIXELS": "min_pixels",
    "IMAGE_MAX_TOKEN_NUM": "max_image_tokens",
    "MAX_NUM": "max_tiles",
    "ROOT_IMAGE_DIR": "image_root",
    "DATASET_MAP_NPROC": "dataset_num_proc",
    "USE_HF": "use_hf",
}
_IMAGES = "use --max_image_tokens"
_VIDEO = "video is not supported; leave it unset"
_REFUSED = {
    "SIZE_FACTOR": _IMAGES,
    "IMAGE_FACTOR": _IMAGES,
    "RESIZED_HEIGHT": _IMAGES,
    "RESIZED_WIDTH": _IMAGES,
    "INPUT_SIZE": "a tile's size is the model's own; use --max_tiles",
    "MAX_SLICE_NUMS": "use --max_tiles",
    "HD_NUM": "use --max_tiles",
    "NUM_CROPS": "use --max_tiles",
    "MAX_PARTITION": "use --max_tiles",
    "IMAGE_MIN_TOKEN_NUM": "use --min_pixels",
    "VIDEO_SEGMENTS": _VIDEO,
    "VIDEO_MIN_PIXELS": _VIDEO,
    "VIDEO_MAX_PIXELS": _VIDEO,
    "VIDEO_TOTAL_PIXELS": _VIDEO,
    "NFRAMES": _VIDEO,
    "FPS_MIN_FRAMES": _VIDEO,
    "FPS_MAX_FRAMES": _VIDEO,
    "MAX_NUM_FRAMES": _VIDEO,
}
_LAUNCH = ("NPROC_PER_NODE",)


def environment_values(env: Mapping[str, str], flags: Iterable[str]) -> list[Given]:
    """What the environment gives to these flags (names and aliases of a command)."""
    known = frozenset(flags)
    named = {name: READ.get(name) or name.removeprefix(PREFIX).lower() for name in sorted(env) if _ours(name)}
    return [Given(flag, env[name], f"environment {name}") for name, flag in named.items() if flag in known]


def environment_problems(env: Mapping[str, str], flags: Iterable[str], elsewhere: Callable[[str], bool]) -> list[str]:
    """Variables that are meant for us and that nothing would read: misspelt, or not supported.

    `elsewhere(flag)` says whether another command has a flag: a variable may be meant for that one.
    """
    known, problems = frozenset(flags), []
    for name in sorted(env):
        flag = name.removeprefix(PREFIX).lower()
        if name.startswith(PREFIX) and name not in RESERVED:
            if flag not in known and not elsewhere(flag):
                problems.append(f"environment {name}: unknown flag{nearest(flag, known)}")
        elif "max_pixels" in known:
            problems += _image_names(name)
    return problems


def _ours(name: str) -> bool:
    return name in READ or (name.startswith(PREFIX) and name not in RESERVED)


def _image_names(name: str) -> list[str]:
    if name in _REFUSED:
        return [f"environment {name}: not supported: {_REFUSED[name]}"]
    real = (*READ, *_REFUSED, *_LAUNCH)
    close = difflib.get_close_matches(name, real, n=1, cutoff=0.85) if name not in real else []
    return [f"environment {name}: nothing reads it; did you mean {close[0]}?"] if close else []
