"""What the science scripts share: their flags, means with errors, markdown tables, results on disk."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = Path(__file__).parents[1] / "results"


class Estimate(NamedTuple):
    """Mean over seeds and its standard error."""

    mean: float
    error: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.error:.3f}"


def arguments(description: str | None, words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line: `seeds`, `out`, `quick`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run of everything for each")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the .json, .md and .png")
    parser.add_argument("--quick", action="store_true", help="seconds: tests the script, shows nothing")
    return parser.parse_args(words)


def mean_and_error(values: Sequence[float]) -> Estimate:
    """Mean and standard error (n-1 divisor); the error of a single value is 0."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return Estimate(statistics.fmean(values), error)


def table(rows: Sequence[Sequence[Any]], columns: Sequence[str]) -> str:
    """Markdown; numbers that are no Estimate are shown by `str`."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def machine() -> dict[str, str]:
    """What the numbers were made with. Threads are those of this process."""
    import torch

    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": metadata.version("transformers"),
        "threads": str(torch.get_num_threads()),
    }


def save(out: Path, name: str, results: dict[str, Any], markdown: str, figure: Figure) -> None:
    """`name`.json (results and machine), `name`.md and `name`.png in the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results | {"machine": machine()}, indent=1)
    (out / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    (out / f"{name}.md").write_text(markdown.strip() + "\n", encoding="utf-8")
    figure.savefig(out / f"{name}.png", dpi=120, bbox_inches="tight")
