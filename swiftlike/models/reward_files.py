"""Reward models on disk: a value head in a file of its own, or a sequence classifier as transformers knows it."""

from __future__ import annotations

import copy
import dataclasses as dc
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from swiftlike.args.model import ModelArgs
from swiftlike.core.errors import UserError
from swiftlike.core.files import read_args
from swiftlike.core.pickles import refuse_pickled_adapter
from swiftlike.models.load import (
    Source,
    choose_attention,
    choose_dtype,
    fit_separator,
    load_config,
    load_model,
    load_tokenizer,
    locate,
)
from swiftlike.models.reward_head import ValueHead, add_value_head, base_of, hidden_size

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HEAD, OLD_HEAD = "value_head.safetensors", "value_head.bin"
_SCORE = "score.weight"  # what transformers' decoder classifiers call their head
_CLASSIFIER = "ForSequenceClassification"
State = dict[str, Tensor]


# -- writing ----------------------------------------------------------------------------------------------------------


def save_reward_model(model: Any, folder: Path, state: State | None, pad_id: int | None, **saving: Any) -> None:
    """The adapter or model, and its value head beside it; with a `pad_id`, one sequence classifier instead.

    `state` is the whole state dict where an engine has gathered it. Keywords go to `save_pretrained`.
    """
    whole = model.state_dict() if state is None else state
    head = {name.rpartition("v_head.")[2]: weight for name, weight in whole.items() if "v_head." in name}
    rest = {name: weight for name, weight in whole.items() if "v_head." not in name}
    if pad_id is not None:
        _filled_classifier(model, rest, head["summary.weight"], pad_id).save_pretrained(folder, **saving)
        return
    if base_of(model) is model:
        model.save_pretrained(folder, state_dict=rest, **saving)
    else:
        model.save_pretrained(folder, state_dict=state and rest, selected_adapters=["default"])
    save_head(folder, head)


def save_head(folder: Path, head: Mapping[str, Tensor]) -> None:
    """`v_head.summary.weight` [1, hidden] and, where there is one, `v_head.summary.bias` [1]."""
    from safetensors.torch import save_file

    tensors = {f"v_head.{name}": weight.detach().cpu().contiguous() for name, weight in head.items()}
    save_file(tensors, folder / HEAD, metadata={"format": "pt"})


def _filled_classifier(model: PreTrainedModel, rest: State, head: Tensor, pad_id: int) -> PreTrainedModel:
    made = _classifier(model, pad_id)
    trunk = {name: weight for name, weight in rest.items() if name.startswith(f"{made.base_model_prefix}.")}
    made.load_state_dict(trunk | {_SCORE: head.to(next(iter(trunk.values())).dtype)}, assign=True)
    return made


def _classifier(model: PreTrainedModel, pad_id: int) -> PreTrainedModel:
    """The family's sequence classifier with one label, without weights. KeyError where there is none."""
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as CLASSIFIERS
    from transformers.modeling_utils import set_zero3_state

    config = copy.deepcopy(model.config)
    config.num_labels, config.pad_token_id = 1, pad_id
    kind = CLASSIFIERS[type(config)]
    with set_zero3_state(), torch.device("meta"):  # the one says that ZeRO-3 need not fill and shard it
        return kind(config)


def no_classifier(model: PreTrainedModel, pooling: str, pad_id: int, ends: frozenset[int]) -> str:
    """Why a fully trained reward model cannot be saved as a classifier with the same scores; empty when it can."""
    if model.config.get_text_config() is not model.config:
        return "it sees pictures"
    if pooling != "eos":
        return f"classifiers read the last token, --rm_pooling is {pooling}"
    if model.v_head.summary.bias is not None:
        return "classifiers have no bias"
    if pad_id in ends:
        return "its tokenizer pads with the token that ends answers, so a classifier could not tell them apart"
    try:
        made = _classifier(model, pad_id)
    except KeyError:
        return f"transformers has no classifier for {model.config.model_type}"
    trunk = {name for name in model.state_dict() if name.startswith(f"{made.base_model_prefix}.")}
    return "" if set(made.state_dict()) == trunk | {_SCORE} else "its classifier has other layers"


# -- reading ----------------------------------------------------------------------------------------------------------


def read_head(folder: Path) -> State | None:
    """`summary.weight` and perhaps `summary.bias` of the reward model in a folder; None when it holds none."""
    from safetensors.torch import load_file

    if (folder / HEAD).is_file():
        found = load_file(folder / HEAD)
    elif (folder / OLD_HEAD).is_file():
        found = torch.load(folder / OLD_HEAD, map_location="cpu", weights_only=True)
    else:
        weight = _score_weight(folder) if is_classifier(folder) else None
        return None if weight is None else {"summary.weight": weight.float()}
    return {name.removeprefix("v_head."): weight.float() for name, weight in found.items()}


def is_classifier(folder: Path) -> bool:
    """Whether a model folder holds a sequence classifier, which has no language-model head."""
    path = folder / "config.json"
    names = json.loads(path.read_text(encoding="utf-8")).get("architectures") if path.is_file() else None
    return any(name.endswith(_CLASSIFIER) for name in names or ())


def _score_weight(folder: Path) -> Tensor | None:
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            if _SCORE in file.keys():  # noqa: SIM118 - not a mapping
                weight = file.get_tensor(_SCORE)
                if weight.shape[0] != 1:
                    raise UserError(f"{folder} is a classifier of {weight.shape[0]} labels; a reward model has one")
                return weight
    return None


def first_head(folders: Sequence[Path]) -> tuple[Path, State] | None:
    """The first folder that holds a head, and the head."""
    for folder in folders:
        if (state := read_head(folder)) is not None:
            return folder, state
    return None


def saved_pooling(folder: Path) -> str:
    """What the rewards of the model in a folder are read from: as its args.json says, else its last token."""
    found = read_args(folder)
    return (found[1].get("rm_pooling") if found else None) or "eos"


def fill_head(head: ValueHead, state: State, folder: Path) -> None:
    """Weights read from `folder`. A missing bias stays zero; UserError when they are for another head."""
    ours = {name: tuple(weight.shape) for name, weight in head.state_dict().items()}
    theirs = {name: tuple(weight.shape) for name, weight in state.items()}
    if not theirs.items() <= ours.items() or "summary.weight" not in theirs:
        raise UserError(
            f"the reward head in {folder} has {theirs}, this run's has {ours}",
            hint="leave out --rm_head_bias, and start from the model that the head was trained on",
        )
    head.load_state_dict(state, strict=False)


@dc.dataclass(frozen=True, kw_only=True)
class RewardModel:
    """A reward model that can score. `model` takes batches of a Collator with this `pooling`."""

    model: Any
    pooling: str
    source: Source
    tokenizer: PreTrainedTokenizerBase


def load_reward_model(folder: str | Path, named: ModelArgs | None = None, **keywords: Any) -> RewardModel:
    """The reward model of a checkpoint: base, adapter, head and pooling as in training, dropout off.

    `named` is the model that its adapter belongs to, by default what its args.json says. Keywords go to
    `from_pretrained`. UserError when there is no head in the folder.
    """
    folder = Path(folder)
    refuse_pickled_adapter(folder)
    state = read_head(folder)
    if state is None:
        raise UserError(
            f"{folder} has no {HEAD} and is no sequence classifier: it is not a reward model",
            hint="name a checkpoint-N folder of `swiftlike rlhf --rlhf_type rm` or apo_rm",
        )
    named = named or _named(folder)
    source = locate(named)
    tokenizer = load_tokenizer(source)
    usual = {
        "dtype": choose_dtype(named.torch_dtype),
        "attn_implementation": choose_attention(source, load_config(source), named.attn_impl),
    }
    model: Any = load_trunk(source, **usual | keywords)
    fit_separator(model, tokenizer)
    if (folder / "adapter_config.json").is_file():
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(folder))
    base, pooling = base_of(model), saved_pooling(folder)
    head = ValueHead(hidden_size(base), bias="summary.bias" in state)
    fill_head(head, state, folder)
    add_value_head(base, head, pooling)
    return RewardModel(model=model.eval(), pooling=pooling, source=source, tokenizer=tokenizer)


def load_trunk(source: Source, **keywords: Any) -> PreTrainedModel:
    """The language model of a reward model. A classifier has no language-model head, and none is needed."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    if is_classifier(source.folder):
        logging.set_verbosity_error()
    try:
        return load_model(source, **keywords)
    finally:
        logging.set_verbosity(verbosity)


def _named(folder: Path) -> ModelArgs:
    """The model that a checkpoint folder is, or that its adapter belongs to."""
    found = read_args(folder)
    saved = found[1] if found else {}
    known = {field.name for field in dc.fields(ModelArgs)}
    given = {name: value for name, value in saved.items() if name in known and value is not None}
    if not (folder / "adapter_config.json").is_file():
        return ModelArgs(**given | {"model": str(folder)})
    if not given.get("model") and not given.get("model_type"):
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        given["model"] = config["base_model_name_or_path"]
    return ModelArgs(**given)
