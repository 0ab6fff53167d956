"""How training runs: batches, schedule, evaluation, checkpoints, hardware."""

from typing import Literal

from swiftlike.core.declare import arg, section

Strategy = Literal["no", "steps", "epoch"]


@section
class TrainArgs:
    output_dir: str = arg("output", "where run folders go: OUTPUT_DIR/<model_type>/vN-<time>")
    add_version: bool = arg(
        True, "make a new vN-<time> folder; false: write into --output_dir", aliases=("add_output_dir_suffix",)
    )
    num_train_epochs: float = arg(1.0, "passes over the training rows", ge=0)
    max_steps: int = arg(-1, "stop after this many optimiser steps; -1: --num_train_epochs decides", ge=-1)
    batch_size: int = arg(1, "groups (pairs) per card and forward pass", ge=1, aliases=("per_device_train_batch_size",))
    eval_batch_size: int | None = arg(
        None, "the same in evaluation; none: --batch_size", ge=1, aliases=("per_device_eval_batch_size",)
    )
    gradient_accumulation_steps: int | None = arg(
        None, "forward passes per optimiser step; none: the fewest that make 16 groups over all cards", ge=1
    )
    learning_rate: float | None = arg(None, "peak learning rate; none: 1e-4 for LoRA, 1e-5 for full", ge=0)
    warmup_ratio: float = arg(0.05, "share of the steps in which the learning rate rises", ge=0, le=1)
    warmup_steps: int = arg(0, "the same in steps; wins over --warmup_ratio when above 0", ge=0)
    lr_scheduler_type: str = arg("cosine", "how the learning rate falls: cosine, linear, constant ...")
    weight_decay: float = arg(0.1, "decay of the weights per unit of learning rate", ge=0)
    adam_beta1: float = arg(0.9, "Adam's memory of the gradient", ge=0, le=1)
    adam_beta2: float = arg(0.95, "Adam's memory of its square", ge=0, le=1)
    adam_epsilon: float = arg(1e-8, "Adam's floor of the denominator", ge=0)
    max_grad_norm: float = arg(1.0, "gradients are clipped to this norm; 0: not clipped", ge=0)
    on_nan: Literal["stop", "skip"] = arg(
        "stop",
        "when a step's loss or gradient is not finite: stop and name its rows, or leave the step out on all ranks",
    )
    optim: str = arg("adamw_torch", "optimiser, by transformers' name")
    gradient_checkpointing: bool = arg(True, "recompute activations in the backward pass: less memory, slower")
    checkpointing_every_n_layers: int = arg(
        1, "recompute only every n-th layer: larger is faster and takes more memory", ge=1
    )
    activation_offloading: bool = arg(
        False, "keep what gradient checkpointing saves in the computer's memory: less on the GPU, slower"
    )
    seed: int = arg(42, "seed of everything that is drawn", ge=0)
    logging_steps: int = arg(5, "log every so many steps", ge=1)
    logging_first_step: bool = arg(True, "log the first step too")
    eval_strategy: Strategy = arg("steps", "when to evaluate", aliases=("evaluation_strategy",))
    eval_steps: int | float | None = arg(
        None, "evaluate every so many steps; below 1: share of the run; none: 50 for LoRA, 200 for full", ge=0
    )
    save_strategy: Strategy = arg("steps", "when to save a checkpoint")
    save_steps: int | float | None = arg(
        None, "save every so many steps; below 1: share of the run; none: --eval_steps", ge=0
    )
    save_total_limit: int | None = arg(2, "checkpoints kept: the best and the newest; none: all", ge=1)
    num_save_checkpoint: int | None = arg(
        None,
        "save so many checkpoints, evenly spaced over the run, all kept and named ckpt1, ckpt2 ... too; in place of "
        "--save_steps and --save_total_limit",
        ge=1,
    )
    save_only_model: bool = arg(False, "checkpoints without optimiser state", aliases=("only_save_model",))
    load_best_model_at_end: bool = arg(False, "end with the weights of the best evaluation")
    early_stop_interval: int | None = arg(None, "stop after this many evaluations without improvement", ge=1)
    report_to: list[str] = arg(["tensorboard"], "trackers: tensorboard, wandb, swanlab ...; none: only logging.jsonl")
    run_name: str | None = arg(None, "name of the run in trackers")
    dataloader_num_workers: int = arg(1, "background processes that encode rows; 0 when streaming", ge=0)
    resume_from_checkpoint: str | None = arg(
        None, "checkpoint folder to go on from; model and template are taken from it", aliases=("ckpt",)
    )
    resume_only_model: bool = arg(False, "take only the weights of that checkpoint and start the data anew")
    resume_anyway: bool = arg(
        False,
        "go on from that checkpoint with other settings, data or code than it was made with; they are named",
    )
    ignore_data_skip: bool = arg(False, "keep optimiser and step count but start the data anew")
    deepspeed: str | None = arg(
        None,
        "zero0 to zero3, zero2_offload, zero3_offload, or a DeepSpeed file",
        aliases=("deepspeed_config_path",),
        values={
            "default-zero2": "zero2",
            "default-zero3": "zero3",
            "zero2-offload": "zero2_offload",
            "zero3-offload": "zero3_offload",
        },
    )
    fsdp: str | None = arg(None, "shard the model over cards: fsdp2 (full_shard), shard_grad_op, either with offload")
    ddp_timeout: int = arg(1800, "seconds a process waits for the others", ge=1)
    layout: Literal["auto", "shared", "split"] = arg(
        "auto", "shared: a prompt is computed once for all its completions; split: once for each"
    )
    padding_free: bool | None = arg(
        None, "compute the rows of a batch end to end, without padding; none: where that is possible and faster"
    )
    ref_logps: Literal["cache", "live"] = arg(
        "cache", "reference log-probabilities: computed once and kept on disk, or at every step"
    )
    logprob_chunk: int = arg(256, "tokens whose logits are in memory at a time", ge=1)
    push_to_hub: bool = arg(False, "upload checkpoints to the hub")
    hub_model_id: str | None = arg(None, "repository on the hub; none: the run folder's name")
    hub_token: str | None = arg(None, "token of the hub; none: the one you are logged in with", secret=True)
    hub_private_repo: bool = arg(False, "make that repository private")
    plugin: list[str] = arg(
        [],
        "Python files that add losses, models or data sets",
        aliases=("custom_register_path", "external_plugins"),
    )
    profile: int = arg(
        0,
        "after the first step, see where the time of this many goes: a table, and a trace in RUN_FOLDER/profile",
        ge=0,
    )
    dry_run: bool = arg(False, "show rows, steps and memory, then stop without loading weights")
    gpus: int | None = arg(
        None, "with --dry_run or `swiftlike plan`: so many cards, there or not; none: those here", ge=1
    )
    gpu_memory: float | None = arg(None, "the same: GiB of each card; none: as much as those here have", ge=1)
