"""Whether two models compute the same: logits or rewards of a few conversations."""

from __future__ import annotations

import dataclasses as dc
import io
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run
from swiftlike.data.collate import Collator
from swiftlike.data.encode import Encoded
from swiftlike.data.load import load_rows
from swiftlike.data.prepared import encode_rows
from swiftlike.datasets_registry.row import Image, Message, Row, Turns
from swiftlike.engines.batch import Model, padded
from swiftlike.engines.prompts import Prepared
from swiftlike.engines.rewards import PtScorer
from swiftlike.models.reward_files import RewardModel
from swiftlike.pipelines.assemble import same_tiles
from swiftlike.pipelines.prepare import encoder, settle
from swiftlike.pipelines.rewards import end_tokens
from swiftlike.pipelines.serving import Opened, context_of, prompts_of

SHARES = {torch.float32: 1e-4, torch.float16: 0.01, torch.bfloat16: 0.05}  # of the largest logit
POSITIONS = 256  # the last ones of a conversation: logits of a large vocabulary are large
SEED = 42
TALKS = (
    ("What is the capital of France?", "The capital of France is Paris."),
    ("Write a function that adds two numbers.", "def add(left, right):\n    return left + right\n"),
    ("Count from one to ten, please.", "1, 2, 3, 4, 5, 6, 7, 8, 9, 10."),
    ("Translate into German: the dog sleeps under the old table.", "Der Hund schläft unter dem alten Tisch."),
    ("No! Why would I do that? Give me 3 reasons.", "First, it is safe. Second, it is cheap. Third, it is fun."),
)
PICTURES = ((96, 96), (200, 80))  # width, height


@dc.dataclass(frozen=True, kw_only=True)
class Measured:
    """Outputs of a model: logits [T, V] of each conversation, or its reward [1, 1]."""

    outputs: list[Tensor]

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return max(float(one.abs().max()) for one in self.outputs)

    @property
    def positions(self) -> int:
        """Tokens that have a prediction."""
        return sum(len(one) for one in self.outputs)

    def difference(self, other: Measured) -> float:
        """The largest one; infinite where a number is not a number."""
        found = max(float((a - b).abs().max()) for a, b in zip(self.outputs, other.outputs, strict=True))
        return found if found == found else float("inf")

    def other_tokens(self, other: Measured) -> int:
        """Positions with another likeliest token."""
        pairs = zip(self.outputs, other.outputs, strict=True)
        return sum(int((a.argmax(-1) != b.argmax(-1)).sum()) for a, b in pairs)


@dc.dataclass(frozen=True, kw_only=True)
class Samples:
    """Conversations, as rows and as tokens."""

    opened: Opened
    rows: list[Row]
    groups: Sequence[Encoded]

    @property
    def talks(self) -> list[Turns]:
        """Each prompt with each of its answers."""
        return [_joined(row.prompt_of(k), answer) for row in self.rows for k, answer in enumerate(row.completions)]

    @torch.no_grad()
    def logits(self, net: Any) -> Measured:
        """Of a language model, float32."""
        prompts, checkpoint = prompts_of(self.opened.run, self.opened), self.opened.checkpoint
        model = Model(
            net=net,
            pad_id=checkpoint.tokenizer.pad_token_id,
            adapter=checkpoint.adapter,
            placeholder=prompts.placeholder,
        )
        if checkpoint.adapter is not None:
            same_tiles(model.base.config, checkpoint.config)
        outputs = []
        for one in (talk for group in self.groups for talk in _tokens(group, prompts)):
            ids, mask, pixels = padded(model, [one])
            places = model.places([one], ids.shape[1])
            found = net(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False, **pixels).logits
            outputs.append(found[0, -POSITIONS:].float().cpu())
        return Measured(outputs=outputs)

    def rewards(self, loaded: RewardModel) -> Measured:
        """Of a reward model, one for each answer."""
        opened, checkpoint = self.opened, self.opened.checkpoint
        if checkpoint.adapter is not None:
            same_tiles(loaded.model.config, checkpoint.config)
        encode = dc.replace(encoder(opened.run, checkpoint, every=False), max_length=context_of(opened.run, opened))
        collate = Collator(
            pad_id=checkpoint.tokenizer.pad_token_id,
            layout=checkpoint.layout,
            adapter=checkpoint.adapter,
            placeholder=encode.placeholder,
            pooling=loaded.pooling,
            ends=end_tokens(checkpoint),
        )
        scores = PtScorer(model=loaded.model, encode=encode, collate=collate, rows=1).score(self.talks)
        if wrong := [score for score in scores if isinstance(score, str)]:
            raise UserError(f"a sample cannot be scored: {wrong[0]}")
        return Measured(outputs=[torch.tensor([[score]]) for score in scores])


def choose_samples(run: Run, opened: Opened) -> Samples:
    """The first rows of --dataset, or the built-in ones. UserError for rows that cannot be used."""
    data = dc.replace(opened.run.data, dataset_test_ratio=0.0)
    if run.data.dataset:
        loaded = load_rows(data, "auto", SEED, "hf" if run.model.use_hf else "ms")
        rows = [*loaded.train, *loaded.val][: run.export.rows]
    else:
        rows = built_in(pictures=opened.checkpoint.adapter is not None)
    every = prompts_of(opened.run, opened).every
    groups, problems = encode_rows(encoder(opened.run, opened.checkpoint, every=every), rows)
    settle(problems, opened.run, "sample")
    used = {group.origin for group in groups}
    return Samples(opened=opened, rows=[row for row in rows if row.origin in used], groups=groups)


def built_in(*, pictures: bool) -> list[Row]:
    """Conversations that every model can read, some about pictures."""
    rows = [_row(f"built-in sample {i}", *talk) for i, talk in enumerate(TALKS)]
    if pictures:
        rows += [
            _row(f"built-in picture {i}", f"<image>{question}", answer, Image(_picture(*size)))
            for i, (size, (question, answer)) in enumerate(zip(PICTURES, TALKS, strict=False))
        ]
    return rows


def _row(origin: str, question: str, answer: str, *images: Image) -> Row:
    prompt = Turns((Message("user", question),), images)
    return Row(prompt, (Turns((Message("assistant", answer),)),), origin=origin)


def _picture(width: int, height: int) -> bytes:
    """A PNG file with a bright and a dark side, and colours that run through it."""
    from PIL import Image as Pillow

    waves = [Pillow.linear_gradient("L").rotate(90 * turn).resize((width, height)) for turn in range(3)]
    out = io.BytesIO()
    Pillow.merge("RGB", waves).save(out, "PNG")
    return out.getvalue()


def _joined(prompt: Turns, answer: Turns) -> Turns:
    return Turns((*prompt.messages, *answer.messages), (*prompt.images, *answer.images))


def _tokens(group: Encoded, prompts: Any) -> list[Prepared]:
    found = []
    for span in group.completions:
        images: Sequence[int] = (*group.prompt.images, *span.images)
        found.append(
            Prepared(
                ids=(*group.prompt.ids.tolist(), *span.ids.tolist()),
                images=tuple(group.images[i] for i in images),
                grids=tuple(group.grids[i] for i in images) if group.grids else (),
                reader=prompts,
            )
        )
    return found
