"""One side of train_step.py, in a process and an environment of its own: `python side.py SIDE SETTING MODE`.

It prints one JSON object a line: first what the driver compares (mode "check"; "fill": the same in
the precision of training, for the store of reference numbers) or that it is ready (mode "on" or "off":
gradient checkpointing), then what each window of steps took that the driver asks for on standard input.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from channel import Channel, on_cuda, peak, processor_seconds, settle, versions

MODULES = {
    "swiftlike": "side_swiftlike",
    "trl": "side_trl",
    "ms-swift": "side_ms_swift",
    "llama-factory": "side_llama_factory",
}
LORA = {"r": 8, "lora_alpha": 32}
HEAD = re.compile(r"v_head|score\b|\.score\.")
BIAS = re.compile(r"v_head.*\.bias$")  # of LLaMA-Factory's head: it moves no difference of two rewards
LAYER = re.compile(r"layers\.(\d+)\.self_attn\.(\w+)\.(lora_[AB])")


def worker(side: str, setting: Path, mode: str) -> None:
    """Run one side of a workload."""
    options = argparse.Namespace(**json.loads(setting.read_text()))
    channel = Channel()
    importlib.import_module(MODULES[side.split()[0]]).run(side, options, mode, channel)


def hyper(options: argparse.Namespace) -> dict[str, Any]:
    """What all tools call by the same name. The optimiser's numbers are swiftlike's defaults, said aloud to all."""
    return {
        "output_dir": f"{options.folder}/output",
        "max_steps": options.warmup + options.windows * options.steps + 1,  # training ends when the driver says so
        "gradient_accumulation_steps": options.accumulation,
        "max_length": options.max_length,
        "optim": "adamw_torch",
        "learning_rate": options.learning_rate,
        "adam_beta2": 0.95,
        "weight_decay": 0.1,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 10,
        "seed": 42,
    }


def targets(options: argparse.Namespace) -> Any:
    """Which layers get LoRA: q, k and v of the language model. A vision tower has layers of the same names."""
    named = r".*language_model.*\.self_attn\.(q_proj|k_proj|v_proj)"
    return named if options.picture else ["q_proj", "k_proj", "v_proj"]


def in_order(trainer: Any) -> None:
    """Rows as they stand in the file, so that a window is the same work for every side."""
    from torch.utils.data import SequentialSampler

    trainer._get_train_sampler = lambda dataset=None: SequentialSampler(dataset or trainer.train_dataset)


def counted(trainer: Any) -> Callable[[], tuple[int, int]]:
    """Tokens and positions that a trainer computes from now on, read off what its loss is called with."""
    seen, compute = [0, 0], trainer.compute_loss

    def watched(model: Any, inputs: dict[str, Any], *args: Any, **keywords: Any) -> Any:
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        seen[0] += ids.numel() if mask is None else (mask != 0).sum()
        seen[1] += ids.numel()
        return compute(model, inputs, *args, **keywords)

    trainer.compute_loss = watched
    return lambda: (int(seen[0]), int(seen[1]))


def windows(
    channel: Channel, after_load: int, seen: Callable[[], tuple[int, int]], misses: Callable[[], int] = lambda: 0
) -> Any:
    """A TrainerCallback that trains window by window. Everything between two step ends counts: loading rows, logs.

    `misses` counts the rows that a store of reference numbers did not know: it shall stay 0 where it is called warm.
    """
    from transformers import TrainerCallback

    class Windows(TrainerCallback):
        left, walls, began = 0, [], (0.0, 0.0)

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            channel.send(ready=True, after_load=after_load, versions=versions())
            self.next(control)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            settle()
            self.walls.append(time.perf_counter())
            self.left -= 1
            if not self.left:
                begin, cpu = self.began
                steps = [b - a for a, b in zip([begin, *self.walls], self.walls, strict=False)]
                spent = processor_seconds() - cpu
                channel.send(steps=steps, cpu=spent, peak=peak(), seen=seen(), misses=misses())
                self.next(control)

        def next(self, control: Any) -> None:
            self.left, self.walls = channel.wait(), []
            control.should_training_stop = not self.left
            self.began = time.perf_counter(), processor_seconds()

    return Windows()


def trained(trainer: Any, side: str, channel: Channel, after_load: int) -> None:
    """Train a peer's trainer in windows."""
    in_order(trainer)
    trainer.add_callback(windows(channel, after_load, counted(trainer)))
    trainer.train()


def half(mode: str) -> bool:
    """Whether to compute in bfloat16: on a card, but numbers are compared in float32."""
    return on_cuda() and mode != "check"


def precision(mode: str) -> dict[str, Any]:
    """What transformers' arguments are told."""
    return {"bf16": half(mode)} | ({} if on_cuda() else {"use_cpu": True, "dataloader_pin_memory": False})


def dtype(mode: str) -> Any:
    """Of the weights."""
    import torch

    return torch.bfloat16 if half(mode) else torch.float32


# -- numbers that all sides must agree on ------------------------------------------------------------------------------


def canonical(name: str) -> str:
    """What a trained weight is called whatever wraps the model."""
    if found := LAYER.search(name):
        return "{:>3} {} {}".format(*found.groups())
    if HEAD.search(name):
        return "head"
    raise SystemExit(f"{name} is trained, which no other tool trains")


def moved(trainer: Any, batch: dict[str, Any], score: Callable[[], Any] | None = None) -> dict[str, Any]:
    """Loss at step 0, then loss, gradient norms and (of `score`) what the policy says of every answer, with weights
    that are the same on all sides and far from where they start."""
    import torch

    trained = [(name, one) for name, one in trainer.model.named_parameters() if one.requires_grad]
    weights = sorted(
        ((canonical(name), one) for name, one in trained if not BIAS.search(name)), key=lambda pair: pair[0]
    )
    trainer.model.train()
    with torch.no_grad():
        for name, one in weights:
            if name == "head":  # drawn by each tool for itself
                one.fill_(0.05)
        found = {"start_loss": trainer.compute_loss(trainer.model, copied(batch)).item()}
        generator = torch.Generator().manual_seed(1)
        for _, one in weights:
            one.copy_(torch.empty(one.shape).normal_(0, 0.02, generator=generator))
        if score is not None:
            found["policy"] = score().flatten().tolist()
    loss = trainer.compute_loss(trainer.model, copied(batch))
    loss.backward()
    norms = {name: one.grad.float().norm().item() for name, one in weights}
    largest = max(norms.values())
    shares = {name: norm / largest for name, norm in norms.items()}  # so that the tolerance is relative to the largest
    return found | {"loss": loss.item(), "largest_gradient": largest, "gradients": shares}


def copied(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch that a loss may take things out of."""
    return dict(batch)


if __name__ == "__main__":
    worker(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
