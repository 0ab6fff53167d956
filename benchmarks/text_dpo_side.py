"""One side of text_dpo.py: swiftlike or TRL, in a process and an environment of its own.

It prints one JSON object a line, first what the driver compares or that it is ready, then one for each window of steps
that the driver asks for on standard input. What libraries print goes to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "trl")


class Channel:
    """The pipe to the driver: one JSON object a line. What libraries print goes to the log instead."""

    def __init__(self) -> None:
        self.out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def send(self, **message: Any) -> None:
        """Tell the driver."""
        print(json.dumps(message), file=self.out)

    def wait(self) -> int:
        """Steps of the next window; 0 to stop."""
        return int(sys.stdin.readline() or 0)


def worker(side: str, setting: Path, mode: str) -> None:
    """Run one side. `mode` is "check" (agree on numbers, fill swiftlike's store) or "on"/"off": time steps."""
    options = argparse.Namespace(**json.loads(setting.read_text()))
    channel = Channel()
    run = swiftlike_side if side.startswith("swiftlike") else trl_side
    run(side, options, mode, channel)


def swiftlike_side(side: str, options: argparse.Namespace, mode: str, channel: Channel) -> None:
    """The command that a user types, with a callback added to the trainer that it builds."""
    from swiftlike.cli.main import main
    from swiftlike.pipelines import train

    build, policy, loaded = train.build, train.policy, []

    def watched_policy(*args: Any) -> Any:
        loaded.append((policy(*args), resident()))
        return loaded[0][0]

    def watched_build(*args: Any) -> Any:
        trainer = build(*args)
        if mode == "check":
            channel.send(**swiftlike_numbers(trainer))
            sys.exit(0)
        trainer.add_callback(windows(channel, loaded[0][1], lambda: getattr(trainer.reference, "misses", 0)))
        return trainer

    train.policy, train.build = watched_policy, watched_build
    flags = common(options, mode) | {
        "model": options.model,
        "template": "chat_template",
        "dataset": options.data,
        "dataset_test_ratio": 0,
        "dataset_shuffle": "false",
        "batch_size": options.batch_size,
        "rlhf_type": "dpo",
        "rpo_alpha": "none",
        "torch_dtype": "float32",
        "lora_rank": 8,
        "lora_alpha": 32,
        "ref_logps": "live" if side == "swiftlike live" else "cache",
        "gradient_checkpointing": "false" if mode == "off" else "true",
    }
    main(["rlhf", *(word for name, value in flags.items() for word in (f"--{name}", str(value)))])


def trl_side(side: str, options: argparse.Namespace, mode: str, channel: Channel) -> None:
    """DPOTrainer as its documentation shows it, on a CPU in float32."""
    import torch
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    after_load = resident()
    trainer = DPOTrainer(
        model,
        args=DPOConfig(
            **common(options, mode),
            per_device_train_batch_size=options.batch_size,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=mode != "off",
            precompute_ref_log_probs=side == "trl precomputed" and mode != "check",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=load_dataset("json", data_files=options.data, split="train"),
        processing_class=AutoTokenizer.from_pretrained(options.model),
        peft_config=LoraConfig(
            r=8, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj"], task_type="CAUSAL_LM"
        ),
    )
    if mode == "check":
        channel.send(**trl_numbers(trainer))
        return
    trainer.add_callback(windows(channel, after_load))
    trainer.train()


def common(options: argparse.Namespace, mode: str) -> dict[str, Any]:
    """What both tools call by the same name. The optimiser's numbers are swiftlike's defaults, said aloud to both."""
    steps = options.warmup + options.windows * options.steps
    return {
        "output_dir": f"{options.folder}/output",
        "max_steps": steps + 1,  # training ends when the driver says so
        "gradient_accumulation_steps": options.accumulation,
        "max_length": 1024,
        "optim": "adamw_torch",
        "learning_rate": options.learning_rate,
        "adam_beta2": 0.95,
        "weight_decay": 0.1,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 10,
        "seed": 42,
    }


def windows(channel: Channel, after_load: int, misses: Callable[[], int] = lambda: 0) -> Any:
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
            self.walls.append(time.perf_counter())
            self.left -= 1
            if not self.left:
                begin, cpu = self.began
                steps = [b - a for a, b in zip([begin, *self.walls], self.walls, strict=False)]
                channel.send(steps=steps, cpu=time.process_time() - cpu, peak=peak(), misses=misses())
                self.next(control)

        def next(self, control: Any) -> None:
            self.left, self.walls = channel.wait(), []
            control.should_training_stop = not self.left
            self.began = time.perf_counter(), time.process_time()

    return Windows()


def resident() -> int:
    """Bytes of memory in use now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak() -> int:
    """Bytes of memory in use at most, so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def versions() -> dict[str, str]:
    """Of the packages whose speed is measured."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


# -- numbers that both sides must agree on -----------------------------------------------------------------------------


def swiftlike_numbers(trainer: Any) -> dict[str, Any]:
    """Through the pipeline's own collator, scorer, reference and loss. The store is filled on the way."""
    import torch

    from swiftlike.data.collate import Item
    from swiftlike.models.logps import group_logps, model_inputs

    groups, size = trainer.train_dataset.groups, trainer.args.train_batch_size
    batches = [trainer.data_collator([Item(g) for g in groups[i : i + size]]) for i in range(0, len(groups), size)]

    def score() -> Any:
        return group_logps(trainer.model(**model_inputs(batches[0])), batches[0])["policy"]

    with torch.no_grad():
        start = [score(), *(trainer.reference(trainer.model, batch) for batch in batches)]
    lengths = [[len(g.prompt.ids), *(len(one.ids) for one in g.completions)] for g in groups]
    return {"lengths": lengths, "start": start[0].T.tolist(), "reference": start[1].T.tolist()} | moved(
        trainer, score, batches[0]
    )


def trl_numbers(trainer: Any) -> dict[str, Any]:
    """Through DPOTrainer's own collator, model and loss."""
    import torch

    rows = [dict(row) for row in trainer.train_dataset]
    batch = trainer.data_collator(rows[: trainer.args.train_batch_size])
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    tokens = {name: batch[name] for name in ("input_ids", "attention_mask")}

    def score() -> Any:
        logps = trainer.model(**tokens, labels=labels, use_cache=False, fused_lm_head=True).log_probs
        return torch.stack(logps.sum(1).chunk(2)).T

    with torch.no_grad():
        start, reference = score(), torch.stack(trainer.compute_ref_log_probs(trainer.model, batch)).T
    lengths = [[len(row[f"{name}_ids"]) for name in ("prompt", "chosen", "rejected")] for row in rows]
    return {"lengths": lengths, "start": start.T.tolist(), "reference": reference.T.tolist()} | moved(
        trainer, score, batch
    )


def moved(trainer: Any, score: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """Log-probabilities, loss and gradient norms of one batch, with an adapter that is the same on both sides and far
    from zero."""
    import torch

    trained = sorted((name, p) for name, p in trainer.model.named_parameters() if p.requires_grad)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in trained:
            parameter.normal_(0, 0.02, generator=generator)
        logps = score()
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    norms = {name: parameter.grad.norm().item() for name, parameter in trained}
    largest = max(norms.values())
    shares = {name: norm / largest for name, norm in norms.items()}  # so that TOLERANCE is relative to the largest
    return {"policy": logps.T.tolist(), "loss": loss.item(), "largest_gradient": largest, "gradients": shares}


if __name__ == "__main__":
    worker(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
