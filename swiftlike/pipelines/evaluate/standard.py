"""Standard benchmarks by the package lm-eval, on the weights that the run names."""

from __future__ import annotations

from typing import Any

import torch

from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run
from swiftlike.core.optional import require
from swiftlike.models.load import choose_dtype
from swiftlike.pipelines.evaluate.results import Values, model_facts, publish
from swiftlike.pipelines.infer.batch import adapter_of
from swiftlike.pipelines.serving import Opened, open_model


def run(run: Run) -> int:
    """Hand model and tasks to `lm_eval.simple_evaluate` and keep its numbers."""
    package = require("lm_eval", because="--eval_type lm_eval", extra="eval", package="lm-eval")
    opened = open_model(run)
    if opened.reward:
        raise UserError("a reward model does not answer", hint="--eval_type reward measures it")
    asked: dict[str, Any] = {
        "model": "vllm" if opened.run.use.infer_backend == "vllm" else "hf",
        "model_args": model_args(opened),
        "tasks": run.eval.tasks,
        "num_fewshot": run.eval.num_fewshot,
        "limit": run.eval.limit,
        "batch_size": run.eval.eval_batch_size,
        "device": "cuda" if torch.cuda.is_available() else "cpu",  # its own default is cuda, there or not
        "log_samples": False,
    }
    try:
        found = package.simple_evaluate(**asked | run.eval.lm_eval_kwargs)
    except (KeyError, TypeError, ValueError) as error:  # a task or an argument that it does not know
        raise UserError(f"lm-eval refuses: {next(iter(str(error).splitlines()), type(error).__name__)}") from error
    results = {task: _numbers(one) for task, one in found["results"].items()}
    values: Values = {**model_facts(opened), "lm_eval": package.__version__, "results": results}
    width = max(map(len, results))
    lines = [f"{task:<{width}}  {name}  {value:.6g}" for task, one in results.items() for name, value in one.items()]
    publish(run, values, lines)
    return 0


def model_args(opened: Opened) -> dict[str, Any]:
    """What lm-eval calls the weights: a folder, and the adapter on top of it."""
    vllm = opened.run.use.infer_backend == "vllm"
    args: dict[str, Any] = {
        "pretrained": str(opened.model_folder),
        "dtype": str(choose_dtype(opened.run.model.torch_dtype)).removeprefix("torch."),
    }
    name = adapter_of(opened)
    if name:
        args["lora_local_path" if vllm else "peft"] = str(opened.adapters[name])
    if vllm and opened.run.engine.max_model_len:
        args["max_model_len"] = opened.run.engine.max_model_len
    return args


def _numbers(result: dict[str, Any]) -> dict[str, float]:
    """`acc,none` -> its value; names and words are left out."""
    return {name: float(value) for name, value in result.items() if isinstance(value, int | float)}
