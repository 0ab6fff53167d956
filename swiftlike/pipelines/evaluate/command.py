"""`swiftlike eval --eval_type KIND`."""

from __future__ import annotations

from swiftlike.core.dotted import resolve
from swiftlike.core.merge import Run

_KINDS = {
    "reward": "swiftlike.pipelines.evaluate.reward:run",
    "preference": "swiftlike.pipelines.evaluate.preference:run",
    "kl": "swiftlike.pipelines.evaluate.kl:run",
    "win_rate": "swiftlike.pipelines.evaluate.win_rate:run",
    "alpaca_eval": "swiftlike.pipelines.evaluate.benchmark:run",
    "mt_bench": "swiftlike.pipelines.evaluate.benchmark:run",
    "arena_hard": "swiftlike.pipelines.evaluate.benchmark:run",
    "summary": "swiftlike.pipelines.evaluate.tables:run",
    "lm_eval": "swiftlike.pipelines.evaluate.standard:run",
}


def run(run: Run) -> int:
    """Measure what `run.eval` asks for. Exit code 1: there was nothing to measure."""
    code: int = resolve(_KINDS[run.eval.eval_type])(run)
    return code
