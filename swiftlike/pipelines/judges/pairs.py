"""Comparisons of two answers at a time, and the scores that follow from them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run
from swiftlike.pipelines.judges.card import Done, Group, ScorerCard, Scores

if TYPE_CHECKING:
    import torch

Compare = Callable[[list[tuple[str, str, str]]], list[float]]  # (prompt, first, second) -> chance that first is better
_UNLIMITED = 1 << 30
_PLACE = re.compile(r"\{(prompt|first|second)\}")


class PairwiseScorer:
    """Every answer against every other, in both orders: a classifier may prefer a side."""

    def __init__(self, compare: Compare) -> None:
        self.compare = compare

    def score(self, groups: Sequence[Group], done: Done) -> None:
        """An answer's score is its mean chance to be better than another answer of its group."""
        for g, group in enumerate(groups):
            done(g, self._scores(group))

    def _scores(self, group: Group) -> Scores:
        answers, size = group.answers, group.row.size
        if size == 1:
            return [0.5]
        orders = list(itertools.permutations(range(size), 2))
        chances = self.compare([(group.prompt, answers[i], answers[j]) for i, j in orders])
        if any(math.isnan(chance) for chance in chances):
            return [None] * size
        totals = [0.0] * size
        for (i, j), chance in zip(orders, chances, strict=True):
            totals[i] += chance
            totals[j] += 1 - chance
        return [total / (2 * (size - 1)) for total in totals]

    def close(self) -> None:
        """Nothing is held."""


class Classifier:
    """A sequence classifier of (prompt, first, second): one label is the log-odds that the first answer is better; of
    two labels the first one says so."""

    def __init__(self, model: Any, tokenizer: Any, template: str, *, most: int, batch_size: int) -> None:
        self.model, self.tokenizer, self.template = model, tokenizer, template
        self.most, self.batch_size = most, batch_size

    def __call__(self, asked: list[tuple[str, str, str]]) -> list[float]:
        """Chances, in order; comparisons of similar length are computed together."""
        import torch

        rows = [self.ids(*one) for one in asked]
        order = sorted(range(len(rows)), key=lambda k: len(rows[k]))
        chances = [0.0] * len(rows)
        for start in range(0, len(order), self.batch_size):
            places = order[start : start + self.batch_size]
            batch = self.tokenizer.pad({"input_ids": [rows[k] for k in places]}, return_tensors="pt")
            with torch.inference_mode():
                logits = self.model(**batch.to(self.model.device)).logits.float()
            for k, chance in zip(places, _chances(logits).tolist(), strict=True):
                chances[k] = chance
        return chances

    def ids(self, prompt: str, first: str, second: str) -> list[int]:
        """Token ids. Where they are too many, each answer keeps the beginning of a third, and the prompt its end."""
        ids = self._encode(self._text(prompt, first, second))
        if len(ids) <= self.most:
            return ids
        room = self.most - len(self._encode(self._text("", "", "")))
        first, taken = self._cut(first, room // 3)
        second, more = self._cut(second, room // 3)
        prompt, _ = self._cut(prompt, room - taken - more, end=True)
        return self._encode(self._text(prompt, first, second))[: self.most]  # cuts may change a token or two

    def _text(self, prompt: str, first: str, second: str) -> str:
        said = {"prompt": prompt, "first": first, "second": second}
        return _PLACE.sub(lambda found: said[found[1]], self.template)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, verbose=False)["input_ids"]
        return ids

    def _cut(self, text: str, most: int, *, end: bool = False) -> tuple[str, int]:
        """The first (or last) tokens of a text, and how many they are."""
        kept = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        spans = kept["offset_mapping"]
        if len(spans) <= most:
            return text, len(spans)
        if most < 1:
            return "", 0
        return (text[spans[-most][0] :] if end else text[: spans[most - 1][1]]), most


def _chances(logits: torch.Tensor) -> torch.Tensor:
    """(N, 1) log-odds or (N, 2) logits to N chances that the first answer is better."""
    odds = logits[:, 0] if logits.shape[1] == 1 else logits[:, 0] - logits[:, 1]
    return odds.sigmoid()


def _open(run: Run) -> PairwiseScorer:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from swiftlike.models.load import DTYPES, choose_dtype

    name = run.model.model
    if not name:
        raise UserError("--scorer pairwise: which classifier? Give --model")
    folder = Path(name).expanduser()
    place = str(folder) if folder.is_dir() else name
    dtype = DTYPES.get(run.model.torch_dtype) or choose_dtype("auto")
    known = {"revision": run.model.model_revision or "main", "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **known)
        model = AutoModelForSequenceClassification.from_pretrained(place, dtype=dtype, **known).eval()
    except (OSError, ValueError, KeyError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"cannot load {name} as a sequence classifier: {reason}") from error
    if model.config.num_labels not in (1, 2):
        raise UserError(f"{name} has {model.config.num_labels} labels; a ranker of two answers has one or two")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    limits = (tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None))
    most = min(_UNLIMITED, run.pairwise.pair_max_length or _UNLIMITED, *(limit for limit in limits if limit))
    args = run.pairwise
    return PairwiseScorer(Classifier(model, tokenizer, args.pair_template, most=most, batch_size=args.pair_batch_size))


CARD = ScorerCard(
    name="pairwise",
    help="a sequence classifier that compares two answers",
    open=_open,
    ranks=True,
    both_orders=True,
)
