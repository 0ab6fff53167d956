"""What only several values together show to be wrong, and what is missing. Each function gives a list of problems."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from swiftlike.args import hf
from swiftlike.args.data import KEPT_PROMPT
from swiftlike.args.rlhf import SFT, reference_problems
from swiftlike.core.errors import suggestion
from swiftlike.core.files import RECORDS, named_folders, newest_checkpoint
from swiftlike.core.merge import DEFAULT, Run
from swiftlike.core.optional import available
from swiftlike.losses import LOSSES

_NO_MODEL = (
    "--model is missing: an id, a folder or a registered name, as in --model Qwen/Qwen2.5-0.5B-Instruct or "
    "--model_type qwen2_5-0_5b-instruct (see `swiftlike list models`)"
)
_NO_DATA = (
    "--dataset is missing: a name, a hub id or a file, as in --dataset rlaif-v#1000 or --dataset pairs.jsonl "
    "(see `swiftlike list datasets`)"
)
NO_MODEL_TO_USE = (
    "no model: give --ckpt_dir (a checkpoint of a training run), or --model (an id, a folder or a registered name)"
)
_QUANTISED_ON_LOADING = (
    "--quant_method {}: weights are quantised while they are loaded with bnb only; `swiftlike export` writes GPTQ and "
    "AWQ models, which load without these flags"
)
_LORA = "lora_ use_dora use_rslora init_lora_weights modules_to_save"
_SHAPE = "lora_rank lora_alpha lora_bias lora_target_ use_dora use_rslora init_lora_weights modules_to_save"
_STARTS = ("true", "false", "gaussian", "pissa", "olora", "orthogonal")  # those that need nothing beside the weights


def training(run: Run) -> list[str]:
    """Problems of a training command."""
    missing = [] if run.model.model or run.model.model_type or run.train.resume_from_checkpoint else [_NO_MODEL]
    values = _tuner(run) + _adapters(run) + _train(run) + _best(run) + _names(run) + _packages(run)
    return missing + data(run) + _files(run) + values + reference_problems(run) + _loss(run)


def using(run: Run) -> list[str]:
    """Problems of a command that uses a model: which one it is, and how it is to answer."""
    use, model = run.use, run.model
    named = model.model or model.model_type or use.ckpt_dir or use.adapters
    problems = [] if named else [NO_MODEL_TO_USE]
    problems += _quantised(run)
    whole = False
    if use.ckpt_dir:
        folder = _used(use.ckpt_dir)
        problems += _checkpoint_to_use(use.ckpt_dir, folder)
        whole = (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file()
        if whole and (given := _given(run, "model")) and "model" in given:
            problems.append(f"--model {model.model}: --ckpt_dir {use.ckpt_dir} is a whole model; give one of them")
    problems += _adapters_to_use(use.adapters)
    count = len(use.adapters) + bool(use.ckpt_dir and not whole)
    if use.merge_lora and count != 1:
        problems.append(f"--merge_lora merges one adapter; there are {count or 'none'}")
    return problems + (_choosing(run) if "generate" in run.sections else [])


def _used(name: str) -> Path:
    """The checkpoint folder, of a run folder its newest one."""
    folder = Path(name).expanduser()
    whole = any((folder / file).is_file() for file in ("adapter_config.json", "config.json"))
    inside = newest_checkpoint(folder) if folder.is_dir() and not whole else None
    return inside or folder


def _checkpoint_to_use(name: str, folder: Path) -> list[str]:
    if not Path(name).expanduser().is_dir():
        return [f"--ckpt_dir: no folder {name!r}"]
    if any((folder / file).is_file() for file in ("adapter_config.json", "config.json")):
        return []
    return [f"--ckpt_dir {name} has neither adapter_config.json nor config.json, nor checkpoints: it is no checkpoint"]


def _adapters_to_use(words: list[str]) -> list[str]:
    problems, seen = [], set()
    for name, folder in named_folders(words):
        if name in seen:
            problems.append(f"--adapters: the name {name!r} is given twice; choose others, as in name=folder")
        seen.add(name)
        if not name or not folder:
            problems.append(f"--adapters {name}={folder}: an adapter is a folder, or name=folder")
        elif Path(folder).expanduser().is_dir() or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", folder):
            problems += _adapter("--adapters", str(_used(folder)))
    return problems


def _choosing(run: Run) -> list[str]:
    """How tokens are chosen."""
    asked, problems = run.generate, []
    if asked.do_sample and asked.temperature == 0:
        problems.append("--do_sample true and --temperature 0 say opposite things")
    if asked.num_beams > 1 and run.use.infer_backend == "vllm":
        problems.append("--num_beams: vllm has no beam search here; use --infer_backend pt")
    return problems


def data(run: Run) -> list[str]:
    """Problems of the data section."""
    rows, problems = run.data, [] if run.data.dataset else [_NO_DATA]
    if rows.interleave_prob and len(rows.interleave_prob) != len(rows.dataset):
        problems.append(f"--interleave_prob has {len(rows.interleave_prob)} numbers for {len(rows.dataset)} data sets")
    if rows.interleave_prob and abs(sum(rows.interleave_prob) - 1) > 1e-6:
        problems.append(f"--interleave_prob adds up to {sum(rows.interleave_prob):g}, not 1")
    if rows.min_pixels and rows.max_pixels and rows.min_pixels > rows.max_pixels:
        problems.append(f"--min_pixels {rows.min_pixels} is more than --max_pixels {rows.max_pixels}")
    return problems + _lengths(rows)


def _lengths(rows: Any) -> list[str]:
    """Limits that leave no room for each other."""
    total, prompt, problems = rows.max_length or 0, rows.max_prompt_length, []
    keep = rows.truncation_strategy in ("keep_end", "keep_start")
    if keep and prompt is None and 0 < total <= KEPT_PROMPT:
        problems.append(
            f"--truncation_strategy {rows.truncation_strategy} cuts prompts to {KEPT_PROMPT} tokens, which leaves "
            f"nothing of --max_length {total} for answers; give a --max_prompt_length below it"
        )
    if prompt and 0 < total <= prompt:
        problems.append(f"--max_prompt_length {prompt} leaves nothing of --max_length {total} for answers")
    if rows.max_completion_length and 0 < total < rows.max_completion_length:
        problems.append(f"--max_completion_length {rows.max_completion_length} is more than --max_length {total}")
    if keep and total < 0:
        problems.append(f"--truncation_strategy {rows.truncation_strategy} needs a --max_length; -1 is no limit")
    return problems


def _files(run: Run) -> list[str]:
    folder = run.train.resume_from_checkpoint
    problems = [] if folder is None else _checkpoint("--resume_from_checkpoint", folder, "trainer_state.json")
    if not run.train.dry_run and (reason := _not_writable(Path(run.train.output_dir).absolute())):
        problems.append(f"--output_dir {run.train.output_dir}: {reason}")
    if run.train.resume_only_model and folder is None:
        problems.append("--resume_only_model needs --resume_from_checkpoint")
    for flag in ("ignore_data_skip", "resume_anyway"):
        if getattr(run.train, flag) and folder is None:
            problems.append(f"--{flag} needs --resume_from_checkpoint")
    return problems


def _checkpoint(flag: str, folder: str, file: str) -> list[str]:
    """A checkpoint folder that is not there, or the run folder that holds it. `file` tells the one from the other."""
    if not Path(folder).is_dir():
        return [f"{flag}: no folder {folder!r}"]
    newest = None if (Path(folder) / file).is_file() else newest_checkpoint(folder)
    return [f"{flag} {folder} is a run folder; its newest checkpoint is {newest}"] if newest else []


def _not_writable(folder: Path) -> str:
    there = next(one for one in (folder, *folder.parents) if one.exists())
    if not there.is_dir():
        return f"{there} is a file"
    return "" if os.access(there, os.W_OK) else f"{there} cannot be written to"


def _adapters(run: Run) -> list[str]:
    tuner, problems = run.tuner, []
    for flag in ("adapters", "ref_adapters"):
        for name in getattr(tuner, flag):
            if Path(name).is_dir() or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):  # not an id on the hub
                problems += _adapter(f"--{flag}", name)
    problems += _reward_models(run)
    continued = tuner.sft_type == "lora" and (tuner.adapters or run.train.resume_only_model)
    if continued and (shape := _given(run, *_SHAPE.split())):
        what = "--adapters" if tuner.adapters else "--resume_only_model"
        problems.append(f"{_list(shape)}: not with {what}; the adapter's own shape is kept")
    return problems


def _reward_models(run: Run) -> list[str]:
    """Reward models that an objective over answers would take for language models."""
    objective = run.rlhf.rlhf_type if "rlhf" in run.sections else SFT
    if LOSSES.get(objective).record == "rewards":
        return []
    named = [("model", run.model.model), *(("adapters", one) for one in run.tuner.adapters)]
    named += [("ref_adapters", one) for one in run.tuner.ref_adapters]
    named += [("ref_model", run.rlhf.ref_model)] if "rlhf" in run.sections else []
    return [
        f"--{flag} {name} is a reward model; {objective} needs one that writes answers"
        for flag, name in named
        if name and reward_model(Path(name).expanduser())
    ]


def reward_model(folder: Path) -> bool:
    """Whether a folder holds a reward model: a value head, or a sequence classifier."""
    if any((folder / name).is_file() for name in ("value_head.safetensors", "value_head.bin")):
        return True
    path = folder / "config.json"
    if not path.is_file():
        return False
    with contextlib.suppress(ValueError, OSError):  # a broken file is reported where it is read
        names = json.loads(path.read_text(encoding="utf-8")).get("architectures") or ()
        return any(str(name).endswith("ForSequenceClassification") for name in names)
    return False


def _adapter(flag: str, name: str) -> list[str]:
    file = "adapter_config.json"
    problems = _checkpoint(flag, name, file)
    if not problems and not (Path(name) / file).is_file():
        problems.append(f"{flag} {name} has no {file}: it is not a LoRA checkpoint; a full one goes to --model")
    return problems


def _tuner(run: Run) -> list[str]:
    tuner, problems = run.tuner, []
    if tuner.sft_type == "full":
        if lora_only := _given(run, *_LORA.split(), "adapters", "ref_adapters"):
            problems.append(f"{_list(lora_only)}: only for --sft_type lora, not full")
        if run.model.quant_bits:
            problems.append("--quant_bits: quantised weights cannot be trained in full; use --sft_type lora")
    problems += _quantised(run)
    if tuner.lora_target_regex and _given(run, "lora_target_modules"):
        problems.append("--lora_target_regex and --lora_target_modules both say which layers; give one of them")
    return problems


def _quantised(run: Run) -> list[str]:
    method = run.model.quant_method
    return [] if method == "bnb" else [_QUANTISED_ON_LOADING.format(method)]


def _given(run: Run, *starts: str) -> list[str]:
    """Flags that somebody wrote for this run; what a continued run remembers is not among them."""
    given = {flag: source for flag, source in run.origin.items() if flag.startswith(starts) and source != DEFAULT}
    return [flag for flag, source in given.items() if Path(source).name not in RECORDS]


def _list(flags: list[str]) -> str:
    return ", ".join(f"--{flag}" for flag in flags)


def _train(run: Run) -> list[str]:
    train, problems = run.train, []
    if run.data.streaming and train.max_steps < 1:
        problems.append("--streaming needs --max_steps: the number of rows is not known")
    elif train.max_steps == 0 or (train.num_train_epochs == 0 and train.max_steps < 1):
        problems.append("--max_steps 0 and --num_train_epochs 0 train nothing; --dry_run shows what a run would do")
    if run.data.streaming and run.data.dataset_test_ratio and _given(run, "dataset_test_ratio"):
        problems.append("--dataset_test_ratio: nothing is held out of a stream; give --val_dataset")
    if run.data.streaming and train.dataloader_num_workers and _given(run, "dataloader_num_workers"):
        problems.append("--dataloader_num_workers: a stream is read by the training process itself; give 0 or nothing")
    if not train.dry_run and (described := _given(run, "gpus", "gpu_memory")):
        problems.append(
            f"{_list(described)}: describes cards for --dry_run and `swiftlike plan`; a run takes those here"
        )
    if train.deepspeed and train.fsdp:
        problems.append("--deepspeed and --fsdp both shard the model; give one of them")
    if train.deepspeed and train.on_nan == "skip":
        problems.append("--on_nan skip: not with --deepspeed, whose optimiser moves the weights before one can look")
    problems += _spaced(run) if train.num_save_checkpoint is not None else []
    files: list[tuple[str, str]] = [("plugin", name) for name in train.plugin]
    files += [("deepspeed", train.deepspeed)] if (train.deepspeed or "").endswith(".json") else []
    return problems + [f"--{flag}: no file {name!r}" for flag, name in files if not Path(name).is_file()]


def _spaced(run: Run) -> list[str]:
    """What --num_save_checkpoint stands in place of, and what would leave it without its checkpoints."""
    train, flag = run.train, f"--num_save_checkpoint {run.train.num_save_checkpoint}"
    problems = [f"{flag} and --{one}: give one of them" for one in _given(run, "save_steps", "save_total_limit")]
    if train.save_strategy != "steps":
        problems.append(f"{flag} and --save_strategy {train.save_strategy}: give one of them")
    if train.early_stop_interval:
        problems.append(f"{flag}: not with --early_stop_interval, which ends a run before its last checkpoints")
    if train.load_best_model_at_end:
        problems.append(f"{flag}: not with --load_best_model_at_end, which saves after evaluations")
    if 0 < train.max_steps < train.num_save_checkpoint:
        problems.append(f"{flag}: --max_steps {train.max_steps} are fewer steps than that")
    return problems


def _best(run: Run) -> list[str]:
    """What choosing by evaluations needs."""
    train, rows = run.train, run.data
    if not (train.load_best_model_at_end or train.early_stop_interval):
        return []
    both = "--load_best_model_at_end and --early_stop_interval need"
    if train.eval_strategy == "no":
        return [f"{both} --eval_strategy steps or epoch"]
    if not rows.val_dataset and (rows.streaming or not rows.dataset_test_ratio):
        return [f"{both} rows to evaluate on: " + "--val_dataset" + ", or --dataset_test_ratio" * (not rows.streaming)]
    if train.load_best_model_at_end and train.save_strategy != train.eval_strategy:
        return ["--load_best_model_at_end needs --save_strategy to be --eval_strategy"]
    evaluate = train.eval_steps or (200 if run.tuner.sft_type == "full" else 50)
    save = train.save_steps or evaluate
    steps = train.eval_strategy == "steps" and min(evaluate, save) >= 1  # shares are known when the rows are
    if train.load_best_model_at_end and steps and save % evaluate:
        return [f"--load_best_model_at_end: --save_steps {save} is not a multiple of --eval_steps {evaluate}"]
    return []


def _names(run: Run) -> list[str]:
    """Words of transformers, DeepSpeed and peft."""
    train, start = run.train, run.tuner.init_lora_weights
    asked = [("lr_scheduler_type", train.lr_scheduler_type, hf.schedules), ("optim", train.optim, hf.optimisers)]
    asked += [("report_to", one, lambda: tuple(hf.TRACKERS)) for one in train.report_to]
    if not re.fullmatch(r"pissa_niter_\d+", start):
        word = start.lower() if start.lower() in ("true", "false") else start
        asked.append(("init_lora_weights", word, lambda: _STARTS))
    asked += [("fsdp", word, lambda: tuple(hf.FSDP)) for word in (train.fsdp or "").split()]
    if train.deepspeed and not train.deepspeed.endswith(".json"):
        asked.append(("deepspeed", train.deepspeed, lambda: tuple(hf.ZERO)))
    wrong = []
    for flag, word, names in asked:
        if run.origin.get(flag, DEFAULT) != DEFAULT and (known := names()) and word not in known:
            wrong.append(f"--{flag}: {word!r} is not one of {', '.join(known)}{suggestion(word, known)}")
    return wrong


def _packages(run: Run) -> list[str]:
    """Packages that are not there. A dry run may be made on another machine."""
    train, model = run.train, run.model
    needs = [(f"--report_to {one}", hf.TRACKERS.get(one, ())) for one in train.report_to]
    needs.append((f"--deepspeed {train.deepspeed}", ("deepspeed",) if train.deepspeed else ()))
    needs.append((f"--attn_impl {model.attn_impl}", ("flash_attn",) * (model.attn_impl == "flash_attention_2")))
    needs.append((f"--quant_bits {model.quant_bits}", ("bitsandbytes",) if model.quant_bits else ()))
    return [
        f"{flag} needs the package {packages[0]}, which is not installed"
        for flag, packages in needs
        if packages and not train.dry_run and not any(available(package) for package in packages)
    ]


def _loss(run: Run) -> list[str]:
    """An objective's arguments may look over themselves."""
    look: Callable[[], list[str]] = getattr(run.loss, "problems", list)
    return look()
