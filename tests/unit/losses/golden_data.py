"""Rows to tokens as EXO, beta-DPO and APO do it, and APO's files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from swiftlike.data.collate import Collator, Item
from swiftlike.data.encode import Encoded, Encoder
from swiftlike.data.template import Template
from swiftlike.datasets_registry.apo import (
    best_of_n,
    comparison_items,
    read_scores,
    samples_of,
)
from swiftlike.datasets_registry.formats import FORMATS, fitted, read_as
from swiftlike.datasets_registry.readers import apo_sample
from swiftlike.datasets_registry.shapes import to_row
from swiftlike.datasets_registry.turns import split_transcript
from swiftlike.losses.apo_rm import normalised_scores
from swiftlike.model_registry import TEMPLATES

from .golden import Adapter, Case

DUMMY = "\n\nHuman: ?\n\nAssistant: <sep> Some"  # what the original fills items up with


class Toy:
    """A tokenizer of single characters, with what the template asks of one. Texts of special tokens are one token."""

    chat_template = None
    sep_token: str | None = None

    def __init__(self, characters: Mapping[str, int], other: int | None, special: Mapping[str, int], bos: bool) -> None:
        self.characters, self.other, self.special, self.bos = characters, other, special, bos
        self.eos_token = "</s>"
        self.eos_token_id, self.bos_token_id = special["</s>"], special["<s>"]

    def __call__(self, text: str, add_special_tokens: bool = True, **_: Any) -> dict[str, list[int]]:
        start = [self.bos_token_id] if self.bos and add_special_tokens else []
        found = re.findall("|".join(map(re.escape, self.special)) + r"|[\s\S]", text)
        return {"input_ids": start + [self._id(one) for one in found]}

    def _id(self, text: str) -> int:
        if text in self.special:
            return self.special[text]
        return self.characters[text] if self.other is None else self.characters.get(text, self.other)


LETTERS = "abcdefghijklmnopqrstuvwxyz"


def exo_tokenizer(bos: bool) -> Toy:
    """EXO's and beta-DPO's toy: </s> 0 (also for padding), <s> 1, letters 2 to 27, space, full stop, colon, newline."""
    return Toy({one: i for i, one in enumerate(LETTERS + " .:\n", 2)}, None, {"</s>": 0, "<s>": 1}, bos)


def apo_tokenizer(separator: bool) -> Toy:
    """APO's toy: letters 10 to 35, space 5, anything else 6; bos 1, eos 2, padding 3, separator 4."""
    made = Toy({" ": 5} | {one: i for i, one in enumerate(LETTERS, 10)}, 6, {"</s>": 2, "<s>": 1, "<sep>": 4}, False)
    made.sep_token = "<sep>" if separator else None
    return made


def collated(group: Encoded, pad: int, **options: Any) -> dict[str, Any]:
    """One group as a batch, one row for each completion."""
    return Collator(pad_id=pad, layout="split", **options)([Item(group)])


def widened(batch: dict[str, Any], width: int, pad: int) -> tuple[list[list[int]], list[list[int]]]:
    """Tokens and mask of a batch with padding up to a fixed width."""
    short = width - batch["input_ids"].shape[1]
    ids = torch.nn.functional.pad(batch["input_ids"], (0, short), value=pad)
    return ids.tolist(), torch.nn.functional.pad(batch["attention_mask"], (0, short)).tolist()


def scored(batch: dict[str, Any]) -> list[list[int]]:
    """Positions within each row of the tokens that count."""
    rows, width = batch["input_ids"].shape
    places = batch["predict"] + 1
    return [(places[batch["slots"] == row] - row * width).tolist() for row in range(rows)]


def labels_of(ids: list[int], places: list[int]) -> list[int]:
    """What counts of a row's tokens, -100 elsewhere."""
    return [token if i in places else -100 for i, token in enumerate(ids)]


# -- EXO --------------------------------------------------------------------------------------------------------------


def exo_group(case: Case, record: Mapping[str, Any], kind: str) -> Encoded:
    """A record encoded with EXO's limits. There the limit of an answer counts the <s> that its tokenizer puts before
    it, which is then thrown away."""
    params = case["params"]
    bos = params["with_bos"]
    encode = Encoder(
        template=Template(exo_tokenizer(bos), TEMPLATES.get("plain")),
        max_length=params["max_seq_len"],
        max_completion_length=params["max_gen_len"] - bos,
        truncation="left_each",
    )
    return encode(to_row(record, kind)[0])


def run_exo(case: Case) -> Case:
    """Alignment: K candidates with rewards."""
    batch = collated(exo_group(case, case["inputs"]["sample"], "ranked"), pad=0)
    ids, mask = widened(batch, case["params"]["max_seq_len"], 0)
    places = scored(batch)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "prompt_lens": [[row[0]] for row in places],
        "energy_labels": batch["scores"].T,
        "scored_positions": places,
    }


def run_exo_rm(case: Case) -> Case:
    """Reward model: where it reads its score."""
    group = exo_group(case, case["inputs"]["sample"], "pair")
    batch = collated(group, pad=0, pooling="last", ends=frozenset({0}))
    ids, _ = widened(batch, case["params"]["max_seq_len"], 0)
    width = batch["input_ids"].shape[1]
    chosen, rejected = (batch["pool_at"] % width).tolist()
    return {
        "chosen_input_ids": ids[:1],
        "rejected_input_ids": ids[1:],
        "chosen_score_position": [[chosen]],
        "rejected_score_position": [[rejected]],
    }


def run_exo_sft(case: Case) -> Case:
    """Supervised training on the chosen answer."""
    sample = case["inputs"]["sample"]
    batch = collated(exo_group(case, {key: sample[key] for key in ("prompt", "chosen")}, "completion"), pad=0)
    (ids,), _ = widened(batch, case["params"]["max_seq_len"], 0)
    return {"input_ids": ids, "labels": labels_of(ids, *scored(batch))}


def run_pref_to_rw(case: Case) -> Case:
    """As `swiftlike convert exo_preference exo_reward` reads, fits and writes each record."""
    source, target = FORMATS["exo_preference"], FORMATS["exo_reward"]
    rows = [to_row(read_as(source, record), "pair")[0] for record in case["inputs"]["rows"]]
    return {"rows": [target.write(one) for row in rows for one in fitted(row, target)]}


# -- beta-DPO ---------------------------------------------------------------------------------------------------------


def run_beta_dpo(case: Case) -> Case:
    params = case["params"]
    encode = Encoder(
        template=Template(exo_tokenizer(bos=False), TEMPLATES.get("plain")),
        max_length=params["max_length"],
        max_prompt_length=params["max_prompt_length"],
        truncation=params["truncation_mode"],
    )
    group = encode(to_row(case["inputs"], "pair")[0])
    batch = collated(group, pad=0)
    outputs: Case = {"prompt_input_ids": group.prompt.ids}
    rows = zip(("chosen", "rejected"), batch["input_ids"], batch["attention_mask"], scored(batch), strict=True)
    for name, ids, mask, places in rows:
        kept = ids[mask.bool()].tolist()
        outputs |= {f"{name}_input_ids": kept, f"{name}_labels": labels_of(kept, places)}
    return outputs


def run_hh_split(case: Case) -> Case:
    return {"prompt": split_transcript(case["inputs"]["text"])[0]}


# -- APO --------------------------------------------------------------------------------------------------------------


def run_apo_item(case: Case) -> Case:
    """An item of texts with scores to what the reward model sees."""
    params, item = case["params"], case["inputs"]["item"]
    encode = Encoder(
        template=Template(apo_tokenizer(params["add_sep_token"]), TEMPLATES.get("apo")),
        max_length=params["max_length"],
        truncation={"left": "left_each", "right": "right"}[params["truncation_side"]],
        whole=True,
    )
    # the original fills an item up with a dummy of score -1; here answers that are not there have no place at all
    missing = max(params["max_response_num"] - len(item["text"]), 0) if params["padding"] else 0
    filled = {
        "text": [*item["text"], *[DUMMY] * missing],
        "scores": [*normalised_scores(item["scores"]), *[-1.0] * missing],
    }
    group = encode(to_row(filled, "ranked")[0])
    batch = collated(group, pad=3)
    width = params["max_length"] if params["padding"] else batch["input_ids"].shape[1]
    ids, mask = widened(batch, width, 3)
    if params["padding_side"] == "left":
        ids, mask = ([row[sum(own) :] + row[: sum(own)] for row, own in zip(x, mask, strict=True)] for x in (ids, mask))
    return {**filled, "scores": group.scores, "input_ids": ids, "attention_mask": mask}


def run_apo_convert(case: Case) -> Case:
    item = case["inputs"]["item"]
    return {"data": comparison_items(item["query"], item["golden"], list(samples_of(item).values()))}


def run_apo_rejection(case: Case) -> Case:
    scores = read_scores(case["inputs"]["scores"])
    data = []
    for record in case["inputs"]["data"]:
        own = scores[str(record["query_id"])]
        if (best := best_of_n(record, own)) is not None:
            data.append({**record, "target": best[1], "scores": own})
    return {"data": data}


def run_apo_load(case: Case) -> Case:
    """Which columns are scored, as `swiftlike score` finds them, and the text of each; the ids are the original's."""
    items = []
    for record in case["inputs"]["data"]:
        texts = apo_sample(record)["text"]
        for key, text in zip(samples_of(record), texts, strict=True):
            name = f"{case['params']['path_shown_as']}<:>{record['query_id']}<:>{key}"
            items.append({"text": [text], "query_ids": [name], "scores": [-1]})
    return {"items": items}


ADAPTERS: dict[str, Adapter] = {
    "exo_vectorize": run_exo,
    "exo_rm_vectorize": run_exo_rm,
    "exo_sft_vectorize": run_exo_sft,
    "pref_to_rw": run_pref_to_rw,
    "beta_dpo_tokenize": run_beta_dpo,
    "hh_prompt_split": run_hh_split,
    "apo_item": run_apo_item,
    "apo_convert": run_apo_convert,
    "apo_rejection": run_apo_rejection,
    "apo_reject_sample_load": run_apo_load,
}
