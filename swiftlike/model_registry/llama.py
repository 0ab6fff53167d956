"""Llama 2, 3, 3.1, 3.2 and 3.3, text."""

from swiftlike.model_registry.card import Checkpoint, ModelCard, Quant, TemplateCard

# v2 gives Llama 2 its long safety text as default system message; the checkpoints' own template has none.
LLAMA2 = TemplateCard(
    name="llama",
    user="[INST] {query} [/INST]",
    system_in_user="[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{query} [/INST]",
    answer=" {answer}",
    stop=" </s>",
    between="<s>",
    bos=True,
    strip=("user", "assistant"),
)

LLAMA3 = TemplateCard(
    name="llama3",
    user="<|start_header_id|>user<|end_header_id|>\n\n{query}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    stop="<|eot_id|>",
    bos=True,
    system="<|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>",
    strip=("system", "user", "assistant"),
)

# 3.1 and later always have a system block with two dates. The 3.1 template fixes the day, the 3.2 template asks the
# clock and falls back to the same day: we take the fixed one, so that a run does not depend on when it is started.
# v2 gives 3.1 the format of 3.0.
LLAMA3_2 = TemplateCard(
    name="llama3_2",
    aliases=("llama3_1", "llama3_3"),
    user=LLAMA3.user,
    stop=LLAMA3.stop,
    bos=True,
    system="<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
    "Today Date: 26 Jul 2024\n\n{system}<|eot_id|>",
    system_always=True,
    strip=LLAMA3.strip,
)

_BASE, _L2, _L3, _L31 = "default-generation", "llama", "llama3", "llama3_2"


def _meta(id: str, template: str, quant: Quant = "") -> Checkpoint:  # noqa: A002
    """Meta's checkpoints are mirrored on ModelScope under LLM-Research."""
    return Checkpoint(hf=f"meta-llama/{id}", ms=f"LLM-Research/{id}", template=template, quant=quant)


def _other(owner: str, id: str, template: str, quant: Quant, ms: str = "LLM-Research") -> Checkpoint:  # noqa: A002
    return Checkpoint(hf=f"{owner}/{id}", ms=f"{ms}/{id}", template=template, quant=quant)


def _llama2(size: str, chat: str) -> Checkpoint:
    return Checkpoint(
        hf=f"meta-llama/Llama-2-{size}{chat}-hf",
        ms=f"modelscope/Llama-2-{size}{chat}-ms",
        template=_L2 if chat else _BASE,
    )


_INT4, _INT8, _AWQ = "GPTQ-Int4", "GPTQ-Int8", "AWQ"

LLAMA = ModelCard(
    name="llama",
    hf_types=("llama",),
    architectures=("LlamaForCausalLM",),
    checkpoints={
        **{f"llama2-{size}": _llama2(size, "") for size in ("7b", "13b", "70b")},
        **{f"llama2-{size}-chat": _llama2(size, "-chat") for size in ("7b", "13b", "70b")},
        "llama2-7b-aqlm-2bit-1x16": _other(
            "ISTA-DASLab", "Llama-2-7b-AQLM-2Bit-1x16-hf", _BASE, "aqlm", ms="AI-ModelScope"
        ),
        **{f"llama3-{size}": _meta(f"Meta-Llama-3-{size.upper()}", _BASE) for size in ("8b", "70b")},
        **{f"llama3-{size}-instruct": _meta(f"Meta-Llama-3-{size.upper()}-Instruct", _L3) for size in ("8b", "70b")},
        **{
            f"llama3-{size}-instruct-{name}": _other(
                "study-hjt", f"Meta-Llama-3-{size.upper()}-Instruct-{form}", _L3, quant, ms="swift"
            )
            for size in ("8b", "70b")
            for name, form, quant in (("int4", _INT4, "gptq"), ("int8", _INT8, "gptq"), ("awq", _AWQ, "awq"))
        },
        "llama-3-chinese-8b": Checkpoint(
            hf="hfl/llama-3-chinese-8b", ms="ChineseAlpacaGroup/llama-3-chinese-8b", template=_BASE
        ),
        "llama-3-chinese-8b-instruct": Checkpoint(
            hf="hfl/llama-3-chinese-8b-instruct", ms="ChineseAlpacaGroup/llama-3-chinese-8b-instruct", template=_L3
        ),
        **{f"llama3_1-{size}": _meta(f"Meta-Llama-3.1-{size.upper()}", _BASE) for size in ("8b", "70b", "405b")},
        **{
            f"llama3_1-{size}-instruct": _meta(f"Meta-Llama-3.1-{size.upper()}-Instruct", _L31)
            for size in ("8b", "70b", "405b")
        },
        **{
            f"llama3_1-{size}-instruct-fp8": _meta(f"Meta-Llama-3.1-{size.upper()}-Instruct-FP8", _L31, quant="fp8")
            for size in ("70b", "405b")
        },
        **{
            f"llama3_1-{size}-instruct-{name}": _other(
                "hugging-quants", f"Meta-Llama-3.1-{size.upper()}-Instruct-{form}", _L31, quant
            )
            for size in ("8b", "70b", "405b")
            for name, form, quant in (("gptq-int4", "GPTQ-INT4", "gptq"), ("awq", "AWQ-INT4", "awq"))
        },
        **{
            f"llama3_1-{size}-instruct-bnb": _other(
                "hugging-quants", f"Meta-Llama-3.1-{size.upper()}-Instruct-BNB-NF4", _L31, "bnb"
            )
            for size in ("8b", "405b")
        },
        "llama3_1-70b-instruct-bnb": _other("unsloth", "Meta-Llama-3.1-70B-Instruct-bnb-4bit", _L31, "bnb"),
        "llama-3.1-nemotron-70B-instruct-hf": _other(
            "nvidia", "Llama-3.1-Nemotron-70B-Instruct-HF", _L31, "", ms="AI-ModelScope"
        ),
        **{f"llama3_2-{size}": _meta(f"Llama-3.2-{size.upper()}", _BASE) for size in ("1b", "3b")},
        **{f"llama3_2-{size}-instruct": _meta(f"Llama-3.2-{size.upper()}-Instruct", _L31) for size in ("1b", "3b")},
        "llama3_3-70b-instruct": _meta("Llama-3.3-70B-Instruct", _L31),
    },
)
