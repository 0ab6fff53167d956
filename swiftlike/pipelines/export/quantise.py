"""Weights of fewer bits, by the libraries that are made for it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.core.log import get_logger
from swiftlike.core.merge import Run
from swiftlike.core.optional import require
from swiftlike.data.load import load_rows
from swiftlike.data.prepared import encode_rows
from swiftlike.models.load import auto_class, read_config
from swiftlike.models.published import rename_folder
from swiftlike.models.reward_files import is_classifier, read_head
from swiftlike.pipelines.export.folders import copy_clean, keep_args, leave_record
from swiftlike.pipelines.prepare import encoder, settle
from swiftlike.pipelines.serving import Opened

log = get_logger(__name__)
CONVERTER = "convert_hf_to_gguf.py"
NOT_A_NAME = re.compile(r"[^\w.-]+")


def quantise(run: Run, opened: Opened, whole: Path, draft: Path) -> None:
    """Write the model of the folder `whole` as --quant_method or --to_gguf say."""
    if read_config(whole).get("quantization_config"):
        raise UserError(f"{whole} is quantised already")
    if run.quant.to_gguf:
        _gguf(run, opened, whole, draft)
    elif run.model.quant_method == "bnb":
        _bitsandbytes(run, opened, whole, draft)
    else:
        _gptqmodel(run, opened, whole, draft)
    leave_record(draft, base=opened.checkpoint.source.id, adapters={k: str(v) for k, v in opened.adapters.items()})


def _bitsandbytes(run: Run, opened: Opened, whole: Path, draft: Path) -> None:
    """4 bits (nf4, double-quantised) or 8 bits of the language model; a vision tower and heads stay as they are."""
    require("bitsandbytes", because="--quant_method bnb", extra="quant")
    from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig

    lora = opened.checkpoint.source.card.lora
    kept = ["lm_head", "score", *(name for name in (*lora.tower, *lora.aligner) if name)]
    bits = run.model.quant_bits
    config = BitsAndBytesConfig(
        load_in_4bit=bits == 4,
        load_in_8bit=bits == 8,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        llm_int8_skip_modules=kept,
    )
    kind = AutoModelForSequenceClassification if is_classifier(whole) else auto_class(whole)
    model = kind.from_pretrained(whole, quantization_config=config, dtype="auto", local_files_only=True)
    model.save_pretrained(draft, max_shard_size=run.export.max_shard_size)
    rename_folder(draft)
    copy_clean(whole, draft, weights=False)
    keep_args(whole, draft, opened.run)


def _gptqmodel(run: Run, opened: Opened, whole: Path, draft: Path) -> None:
    """GPTQ or AWQ, with activations of rows of --dataset."""
    method = run.model.quant_method
    _text_only(opened, whole, f"--quant_method {method}")
    library = require("gptqmodel", because=f"--quant_method {method}", extra="gptq")
    quant = run.quant
    more: dict[str, Any] = {"quant_method": "awq", "format": "gemm"} if method == "awq" else {}
    config = library.QuantizeConfig(bits=run.model.quant_bits, group_size=quant.group_size, **more)
    model = library.GPTQModel.load(str(whole), config)
    model.quantize(calibration(run, opened), batch_size=quant.quant_batch_size)
    model.save(str(draft))
    copy_clean(whole, draft, weights=False)
    keep_args(whole, draft, opened.run)


def calibration(run: Run, opened: Opened) -> list[list[int]]:
    """Tokens of the first answer of rows, as training would read them, cut to --quant_seqlen."""
    loaded = load_rows(run.data, "auto", 42, "hf" if run.model.use_hf else "ms")
    rows = [*loaded.train, *loaded.val][: run.quant.quant_n_samples]
    groups, problems = encode_rows(encoder(opened.run, opened.checkpoint, every=False), rows)
    settle(problems, opened.run, "calibration")
    return [[*group.prompt.ids, *group.completions[0].ids][: run.quant.quant_seqlen] for group in groups]


def _gguf(run: Run, opened: Opened, whole: Path, draft: Path) -> None:
    _text_only(opened, whole, "--to_gguf")
    require("gguf", because="--to_gguf", extra="gguf")
    script, kind = _converter(run.quant.llama_cpp), run.quant.gguf_type
    name = NOT_A_NAME.sub("-", opened.checkpoint.source.name)
    out = draft / f"{name}-{kind}.gguf"
    words = [sys.executable, str(script), str(whole), "--outfile", str(out), "--outtype", kind]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode or not out.is_file():
        last = [line for line in done.stderr.splitlines() if line.strip()][-12:]
        raise UserError(f"llama.cpp's {script.name} did not convert the model:", problems=last)
    log.info("%s: %.1f MB", out.name, out.stat().st_size / 1e6)


def _converter(folder: str | None) -> Path:
    found = Path(folder).expanduser() / CONVERTER if folder else shutil.which(CONVERTER)
    if not found:
        raise UserError(
            f"--to_gguf needs llama.cpp's {CONVERTER}",
            hint="git clone https://github.com/ggml-org/llama.cpp, then --llama_cpp FOLDER",
        )
    return Path(found)


def _text_only(opened: Opened, whole: Path, flag: str) -> None:
    if opened.checkpoint.adapter is not None:
        raise UserError(f"{flag} is for text models; {opened.checkpoint.source.name} sees pictures")
    if opened.reward or read_head(whole) is not None:
        raise UserError(f"{flag} would lose the head of a reward model", hint="--quant_method bnb keeps it")
