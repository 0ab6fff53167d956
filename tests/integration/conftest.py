"""A cache of its own for every test process, one thread, and data that every objective can be trained on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .runs import write_rows

SUBJECTS = ("sea", "wood", "old mill", "market in the rain", "road to the north", "clock", "bread", "winter garden")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Built-in models, built-in data and reference numbers of this test process."""
    import torch

    folder = tmp_path_factory.mktemp("cache")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWIFTLIKE_CACHE", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        for name in ("NPROC_PER_NODE", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
            patch.delenv(name, raising=False)
        yield folder
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def plugins_go() -> Iterator[None]:
    """What plugins have added in this process is taken away when the module's tests are done."""
    from transformers.trainer_callback import DefaultFlowCallback

    from swiftlike.losses import LOSSES

    names, extra, begin = set(LOSSES.names()), list(LOSSES._extra), DefaultFlowCallback.on_step_begin
    yield
    for name in set(LOSSES.names()) - names:
        del LOSSES._cards[name]
    LOSSES._extra[:] = extra
    DefaultFlowCallback.on_step_begin = begin


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """19 preference pairs of very different lengths: an odd number, so that every split of a step leaves a tail."""
    rows = [
        {
            "query": f"Write {1 + number % 5} lines about the {subject}." + " Keep it plain." * (number % 4),
            "response": f"The {subject} is quiet." + " It was there before us." * (number % 3),
            "rejected_response": f"No. I do not like the {subject}" + ", not at all" * (number % 5) + ".",
        }
        for number in range(19)
        for subject in [SUBJECTS[number % len(SUBJECTS)]]
    ]
    return write_rows(tmp_path_factory.mktemp("rows") / "pairs.jsonl", rows)


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """19 judged answers, every third one bad."""
    rows = [
        {
            "query": f"Say something about the {subject}." + " Be brief." * (number % 4),
            "response": f"The {subject}, {number} years ago." + " So it was." * (number % 3),
            "label": number % 3 != 0,
        }
        for number in range(19)
        for subject in [SUBJECTS[number % len(SUBJECTS)]]
    ]
    return write_rows(tmp_path_factory.mktemp("rows") / "labelled.jsonl", rows)


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 pairs, 3 of them with a picture: in steps of two rows at least one has a picture and none."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("rows")
    rows = []
    for number in range(8):
        row = {"query": f"What is number {number}?", "response": f"It is {number}.", "rejected_response": "No idea."}
        if number < 3:
            Image.new("RGB", (64, 64 + 32 * number), (80 * number, 200, 90)).save(folder / f"{number}.png")
            row |= {"query": "<image>" + row["query"], "images": [f"{number}.png"]}
        rows.append(row)
    return write_rows(folder / "mixed.jsonl", rows)
