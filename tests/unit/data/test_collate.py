"""Batches by brute force: every counted token, where it is predicted from, whose it is, what it may see."""

from __future__ import annotations

import dataclasses as dc
import os
import random
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch

from swiftlike.data.collate import Collator, Item, StandIn
from swiftlike.data.encode import Encoded, Span
from swiftlike.datasets_registry.row import Image
from swiftlike.models.logps import add_scoring, group_logps, model_inputs

PAD = 0


def span(ids: list[int], counted: list[bool] | None = None, images: tuple[int, ...] = ()) -> Span:
    return Span(np.array(ids, np.int32), np.array(counted if counted else [False] * len(ids), bool), images)


def random_group(chance: random.Random, completions: int) -> Encoded:
    """Text only; multi-turn patterns of what counts."""

    def one(count: bool) -> Span:
        length = chance.randint(1, 9)
        flags = [count and chance.random() < 0.7 for _ in range(length)]
        flags[-1] = count
        return span([chance.randint(20, 340) for _ in range(length)], flags)

    return Encoded(one(False), tuple(one(True) for _ in range(completions)))


def whole(group: Encoded, k: int) -> list[tuple[int, bool]]:
    """Sequence k as (id, counted)."""
    parts = (group.prompt, group.completions[k])
    return [(int(i), bool(c)) for part in parts for i, c in zip(part.ids, part.counted, strict=True)]


LAYOUTS = ("shared", "split", "end to end")


def collator(layout: str, **options: Any) -> Collator:
    """`end to end` is the shared layout whose rows are one."""
    options = ({"layout": "shared", "end_to_end": 0} if layout == "end to end" else {"layout": layout}) | options
    return Collator(pad_id=PAD, **options)


def batches(layout: str, **options: Any):
    for seed in range(12):
        chance = random.Random(seed)
        groups = [random_group(chance, chance.randint(1, 4)) for _ in range(chance.randint(1, 4))]
        yield groups, collator(layout, **options)([Item(group) for group in groups])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_counted_token_once(layout: str) -> None:
    for groups, batch in batches(layout):
        size = max(len(group.completions) for group in groups)
        found: dict[int, list[int]] = {}
        for slot, target in zip(batch["slots"].tolist(), batch["targets"].tolist(), strict=True):
            found.setdefault(slot, []).append(target)
        wanted = {
            b * size + k: [i for i, c in whole(group, k) if c]
            for b, group in enumerate(groups)
            for k in range(len(group.completions))
        }
        assert found == wanted
        counts = [[len(wanted.get(b * size + k, [])) for k in range(size)] for b in range(len(groups))]
        assert batch["tokens"].tolist() == counts
        assert batch["present"].tolist() == [[n > 0 for n in line] for line in counts]
        assert batch["real"].all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_predicts_a_token_has_seen_just_what_comes_before_it(layout: str) -> None:
    """The context of each predicting position, read from ids, segments and positions, is the sequence so far."""
    for groups, batch in batches(layout):
        size = max(len(group.completions) for group in groups)
        length = batch["input_ids"].shape[1]
        seen_per_slot: dict[int, int] = {}
        for flat, slot in zip(batch["predict"].tolist(), batch["slots"].tolist(), strict=True):
            sequence = whole(groups[slot // size], slot % size)
            nth = seen_per_slot.get(slot, 0)
            seen_per_slot[slot] = nth + 1
            at = [i for i, (_, counts) in enumerate(sequence) if counts][nth]
            visible, places = context(batch, flat // length, flat % length)
            assert visible == [i for i, _ in sequence[:at]]
            assert places == list(range(at))


def context(batch: dict[str, Any], r: int, t: int) -> tuple[list[int], list[int]]:
    """(ids, positions) that position t of row r may attend to."""
    if "segments" in batch:
        line = batch["segments"][r]
        numbers = batch["lines"][r] if "lines" in batch else torch.zeros_like(line)
        seen = [j for j in range(t + 1) if numbers[j] == numbers[t] and (line[j] == 0 or line[j] == line[t])]
    else:
        seen = [j for j in range(t + 1) if batch["attention_mask"][r, j]]
    return batch["input_ids"][r, seen].tolist(), batch["position_ids"][r, seen].tolist()


def test_rows_and_padding() -> None:
    for groups, batch in batches("shared"):
        assert batch["input_ids"].shape == (len(groups), max(group.shared_length for group in groups))
        assert ("segments" in batch) == any(len(group.completions) > 1 for group in groups)
    for groups, batch in batches("split"):
        assert batch["input_ids"].shape[0] == sum(len(group.completions) for group in groups)
        assert batch["input_ids"].shape[1] == max(group.longest for group in groups)
        real = batch["attention_mask"].bool()
        assert (batch["input_ids"][~real] == PAD).all()
        assert (real.int().diff(dim=1) <= 0).all()  # padded on the right
    for groups, batch in batches("end to end"):
        assert batch["input_ids"].shape == (1, sum(group.shared_length for group in groups))
        assert ("lines" in batch) == (len(groups) > 1)
    for groups, batch in batches("split", end_to_end=0):
        lengths = [len(whole(group, k)) for group in groups for k in range(len(group.completions))]
        assert ("attention_mask" in batch) == (len(lengths) == 1)
        assert batch["position_ids"].tolist() == [[i for length in lengths for i in range(length)]]


def test_only_batches_with_a_long_row_are_laid_end_to_end() -> None:
    items = [Item(random_group(random.Random(seed), 2)) for seed in range(3)]
    longest = max(item.group.shared_length for item in items)
    assert collator("end to end", end_to_end=longest)(items)["input_ids"].shape[0] == 1
    assert collator("end to end", end_to_end=longest + 1)(items)["input_ids"].shape == (3, longest)


@pytest.mark.parametrize("pooling", ["eos", "last", "mean", "max"])
def test_rewards_are_read_from_the_same_tokens(pooling: str) -> None:
    ends = frozenset(range(20, 180))
    for (groups, one), (_, other) in zip(
        *(batches(layout, pooling=pooling, ends=ends) for layout in ("shared", "end to end")), strict=True
    ):
        assert one["pool_slots"].equal(other["pool_slots"])
        assert one["input_ids"].flatten()[one["pool_at"]].equal(other["input_ids"].flatten()[other["pool_at"]])
        assert len(groups) == 1 or one["pool_at"][-1] >= other["pool_at"][-1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_prompt_tokens(layout: str) -> None:
    for groups, batch in batches(layout, prompt_nll=True):
        length = batch["input_ids"].shape[1]
        for b, group in enumerate(groups):
            mine = batch["prompt_rows"] == b
            assert batch["prompt_targets"][mine].tolist() == group.prompt.ids[1:].tolist()
            places = [context(batch, p // length, p % length)[0] for p in batch["prompt_predict"][mine].tolist()]
            assert places == [group.prompt.ids[:i].tolist() for i in range(1, len(group.prompt.ids))]


def test_prompt_pictures_are_not_predicted() -> None:
    group = Encoded(span([5, 9, 9, 6, 7], images=(0,)), (span([8], [True]),), (Image("x"),))
    batch = Collator(pad_id=PAD, layout="shared", placeholder=9, prompt_nll=True)([Item(group)])
    assert batch["prompt_targets"].tolist() == [6, 7]
    assert batch["prompt_predict"].tolist() == [2, 3]


def test_facts() -> None:
    group = Encoded(span([5, 6]), (span([7], [True]), span([8], [True])))
    three = dc.replace(group, completions=(*group.completions, span([9], [True])))
    collate = Collator(pad_id=PAD, layout="shared")
    plain = collate([Item(group)])
    assert not {"scores", "label", "margin", "keys", "prompt_rows"} & plain.keys()
    ranked = collate(
        [Item(dc.replace(group, scores=(2.0, 1.0))), Item(dc.replace(three, scores=(3.0, 2.0, 1.0)), real=False)]
    )
    assert ranked["scores"].tolist() == [[2, 1, 0], [3, 2, 1]]
    assert ranked["real"].tolist() == [True, False]
    assert collate([Item(dc.replace(group, margin=0.5)), Item(group)])["margin"].tolist() == [0.5, 0.0]
    labels = collate([Item(dc.replace(group, label=False)), Item(dc.replace(group, label=True))])["label"]
    assert labels.tolist() == [False, True]


# -- KTO's partner ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_partner_is_a_second_completion(layout: str) -> None:
    mine = Encoded(span([5, 6]), (span([7, 8], [True, True]),), label=True)
    other = Encoded(span([15, 16]), (span([17, 18, 19], [False, True, True]),), label=False)
    collate = collator(layout, keys=True)
    batch = collate([Item(mine, partner=other), Item(other, partner=mine)])
    by_hand = collate(
        [
            Item(dc.replace(mine, completions=(*mine.completions, *other.completions))),
            Item(dc.replace(other, completions=(*other.completions, *mine.completions))),
        ]
    )
    assert batch.keys() == by_hand.keys()
    assert batch["keys"] == by_hand["keys"]
    for name, value in by_hand.items():
        assert name == "keys" or torch.equal(batch[name], value), name
    assert batch["tokens"].tolist() == [[2, 2], [2, 2]]


def test_a_partners_pictures_stay_behind() -> None:
    other = Encoded(
        span([15]), (span([9, 9, 17, 9, 18], [False, False, True, False, True], (0, 1)),), (Image("a"),) * 2
    )
    mine = Encoded(span([5, 6]), (span([7], [True]),))
    batch = Collator(pad_id=PAD, layout="shared", placeholder=9)([Item(mine, partner=other)])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 17, 18]]
    assert batch["targets"].tolist() == [7, 17, 18]
    assert batch["predict"].tolist() == [1, 1, 3]


# -- pictures --------------------------------------------------------------------------------------------------------


def looking(name: str, *shapes: tuple[int, int]) -> Item:
    """A pair with pictures: all but the last in the prompt, the last in the second completion."""
    adapter, mark = families.adapter(name), families.placeholder(name)
    runs = [[mark] * adapter.count(*size) for size in shapes]
    prompt = [30, *(i for run in runs[:-1] for i in (*run, 31)), 32]
    second = [33, *runs[-1], 34]
    flags = [False] * (len(second) - 1) + [True]
    group = Encoded(
        span(prompt, images=tuple(range(len(shapes) - 1))),
        (span([35, 36], [True, True]), span(second, flags, (len(shapes) - 1,))),
        tuple(Image(f"{size}") for size in shapes),
        tuple(adapter.grid(*size) for size in shapes) if name in families.MROPE else (),
    )
    return Item(group, tuple(adapter.pixels(families.picture(*size)) for size in shapes))


@pytest.mark.parametrize("name", families.VISION)
def test_pictures_in_token_order(name: str) -> None:
    items = [looking(name, (40, 30), (70, 35)), looking(name, (30, 60), (28, 28), (90, 30))]
    adapter, mark = families.adapter(name), families.placeholder(name)
    parts = {"shared": [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]}
    parts["split"] = [(0, 0), (0, 0), (0, 1), (1, 0), (1, 1), (1, 0), (1, 1), (1, 2)]
    parts["end to end"] = parts["shared"]
    for layout, order in parts.items():
        batch = collator(layout, adapter=adapter, placeholder=mark)(items)
        wanted = adapter.join([items[b].pictures[i] for b, i in order])
        for part, tensor in wanted.items():
            assert torch.equal(batch[part], tensor)
        shapes = [[(40, 30), (70, 35)], [(30, 60), (28, 28), (90, 30)]]
        assert (batch["input_ids"] == mark).sum() == sum(adapter.count(*shapes[b][i]) for b, i in order)


@pytest.mark.parametrize("name", families.VISION)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_stand_in_picture_changes_nothing(name: str, layout: str) -> None:
    adapter, mark = families.adapter(name), families.placeholder(name)
    stand_in = StandIn(adapter.pixels(families.picture(64, 64)), adapter.count(64, 64))
    chance = random.Random(0)
    items = [Item(random_group(chance, 2)), Item(random_group(chance, 3))]
    collate = collator(layout, adapter=adapter, placeholder=mark)
    plain, with_it = collate(items), dc.replace(collate, stand_in=stand_in)(items)
    assert "pixel_values" not in plain
    assert (with_it["input_ids"] == mark).sum() == stand_in.tokens
    model = families.model(name)
    add_scoring(model)
    looked = []
    hook = model.model.get_image_features

    def features(*args, **kwargs):
        looked.append(1)
        return hook(*args, **kwargs)

    model.model.get_image_features = features
    policies = []
    for batch in (plain, with_it):
        batch["policy"] = group_logps(model(**model_inputs(batch)), batch)["policy"]
        model.zero_grad()
        batch["policy"].sum().backward()
        language = {
            n: p.grad.clone() for n, p in model.named_parameters() if "language_model" in n and p.grad is not None
        }
        policies.append((batch["policy"].detach(), language))
    assert looked == [1]  # the tower ran, for the stand-in only
    assert (policies[0][0] - policies[1][0]).abs().max() < 2e-5
    for key, grad in policies[0][1].items():
        assert (grad - policies[1][1][key]).abs().max() < 2e-5 * max(1.0, float(grad.abs().max())), key
    assert with_it["tokens"].equal(plain["tokens"])


def test_no_stand_in_beside_a_real_picture() -> None:
    adapter = families.adapter("llava")
    stand_in = StandIn(adapter.pixels(families.picture(64, 64)), 16)
    collate = Collator(pad_id=PAD, layout="shared", adapter=adapter, placeholder=families.placeholder("llava"))
    items = [looking("llava", (40, 30), (20, 20)), Item(random_group(random.Random(0), 2))]
    one, two = collate(items), dc.replace(collate, stand_in=stand_in)(items)
    assert one["input_ids"].equal(two["input_ids"])
    assert one["pixel_values"].equal(two["pixel_values"])


# -- what a sequence is stored under ---------------------------------------------------------------------------------


def keys(group: Encoded) -> list[bytes]:
    """Keys of one group."""
    return Collator(pad_id=PAD, layout="shared", keys=True, placeholder=9)([Item(group)])["keys"][0]


def test_keys_tell_sequences_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    base = Encoded(
        span([5, 9, 6], images=(0,)),
        (span([7, 8], [True, True]), span([7, 10], [False, True])),
        (Image(str(path)), Image("b")),
    )
    first, second = keys(base)
    assert [first, second] == keys(base)
    variants = [
        dc.replace(base, prompt=span([5, 9, 16], images=(0,))),
        dc.replace(base, completions=(span([7, 18], [True, True]), base.completions[1])),
        dc.replace(base, completions=(span([7, 8], [False, True]), base.completions[1])),
        dc.replace(base, images=(Image("other"), Image("b"))),
        dc.replace(base, images=(Image(str(path).encode()), Image("b"))),
        dc.replace(base, prompt=span([5, 9, 6, 7], images=(0,)), completions=(span([8], [True]), base.completions[1])),
    ]
    seen = {first, second, *(keys(one)[0] for one in variants)}
    assert len(seen) == 2 + len(variants)
    path.write_bytes(b"another picture")
    assert keys(base)[0] not in seen  # the same path, another file
    os.utime(path, ns=(1, 1))
    assert keys(base)[0] not in seen


def test_keys_do_not_depend_on_the_other_completions() -> None:
    base = Encoded(span([5, 6]), (span([7], [True]), span([8], [True])))
    alone = dc.replace(base, completions=base.completions[1:])
    assert keys(alone)[0] == keys(base)[1]


def test_the_same_answer_to_two_pictures_has_two_keys() -> None:
    """`rejected_images`: prompt and answer are alike, only the picture differs."""
    both = [span([9, 9, 6, 7], [False, False, False, True], (i,)) for i in (0, 1)]
    first, second = keys(Encoded(span([5]), tuple(both), (Image("a"), Image("b"))))
    assert first != second
    swapped = [span([9, 9, 7], [False, False, True], order) for order in ((0, 1), (1, 0))]
    first, second = keys(Encoded(span([5]), tuple(swapped), (Image("a"), Image("b"))))
    assert first != second
    joined = [keys(Encoded(span([9, 9], images=(0, 1)), (span([7], [True]),), pair)) for pair in (
        (Image("a"), Image("bc")), (Image("ab"), Image("c")))]  # fmt: skip
    assert joined[0] != joined[1]
