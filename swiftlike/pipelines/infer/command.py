"""`swiftlike infer`: answers to rows, in a conversation, or to lines of standard input."""

from __future__ import annotations

import dataclasses as dc
import sys

from swiftlike.args.infer import wants_rows
from swiftlike.core.errors import UserError
from swiftlike.core.log import world_size
from swiftlike.core.merge import Run
from swiftlike.core.optional import available
from swiftlike.pipelines.infer.batch import run_batch
from swiftlike.pipelines.infer.chat import run_chat
from swiftlike.pipelines.infer.piped import run_piped
from swiftlike.pipelines.serving import open_model, sampling
from swiftlike.pipelines.train import quiet_transformers


def run(run: Run) -> int:
    """Everything that can be wrong is looked for before weights are loaded."""
    quiet_transformers()
    rows = wants_rows(run)
    if world_size() > 1 and not rows:
        raise UserError("several processes answer rows: give --val_dataset, or leave NPROC_PER_NODE out")
    if world_size() > 1 and run.use.infer_backend != "pt":
        raise UserError("NPROC_PER_NODE is for --infer_backend pt; vllm takes --tensor_parallel_size")
    if run.use.infer_backend == "vllm" and not available("vllm"):
        raise UserError("--infer_backend vllm needs the package vllm", hint="pip install 'swiftlike[vllm]'")
    opened = open_model(run)
    run = opened.run
    how = sampling(run)
    if run.infer.logprobs:
        how = dc.replace(how, logprobs=run.infer.top_logprobs or 0)
    if rows:
        return run_batch(run, opened, how)
    return (run_chat if sys.stdin.isatty() else run_piped)(run, opened, how)
