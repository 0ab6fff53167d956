"""The pt engine against transformers' own generate, over every family, and under company."""

from __future__ import annotations

import contextlib
import dataclasses as dc
import functools
import io
import itertools
import random
import threading
from collections.abc import Iterator

import pytest
import torch

from swiftlike.data.template import Template
from swiftlike.datasets_registry.row import Image, Message, Turns
from swiftlike.engines import batch
from swiftlike.engines.base import Answer, Delta, Request, Sampling
from swiftlike.engines.batch import Model
from swiftlike.engines.prompts import Prompts
from swiftlike.engines.pt import PtEngine
from swiftlike.engines.row import completion
from swiftlike.engines.worker import Room
from swiftlike.model_registry import TEMPLATES
from tests import families

NEW = 10
GREEDY = Sampling(temperature=0.0, max_new_tokens=NEW)


def engine(name: str = "llama", context: int = 4096, room: Room | None = None) -> PtEngine:
    """An engine on a test model of a family."""
    card = families.card(name)
    template = Template(families.tokenizer(), TEMPLATES.get("chatml"), card.vision)
    adapter = families.adapter(name) if card.vision else None
    placeholder = families.placeholder(name)
    prompts = Prompts(template=template, adapter=adapter, placeholder=placeholder, context=context)
    model = Model(net=families.model(name), pad_id=families.token("<pad>"), adapter=adapter, placeholder=placeholder)
    return PtEngine(model, prompts, room=room)


@functools.cache
def shared(name: str = "llama") -> PtEngine:
    """One that tests which leave it as it is share."""
    return engine(name)


def png(width: int, height: int) -> Image:
    file = io.BytesIO()
    families.picture(width, height, seed=width).save(file, "PNG")
    return Image(file.getvalue())


def asked(name: str, sampling: Sampling = GREEDY) -> list[Request]:
    """Prompts of very different lengths, and with pictures where the family sees them."""
    talks = [Turns((Message("user", "What is it? " * times),)) for times in (1, 7, 2, 12)]
    if name in families.VISION:
        talks.append(Turns((Message("user", "<image>What is in the picture?"),), (png(50, 90),)))
        messages = ("<image>A field?", "Yes.", "And <image>, is it red?")
        turns = tuple(Message(role, text) for role, text in zip(("user", "assistant", "user"), messages, strict=True))
        talks.append(Turns(turns, (png(120, 28), png(60, 60))))
    return [Request(prompt=talk, sampling=sampling) for talk in talks]


@torch.no_grad()
def plain(on: PtEngine, request: Request, **more: object) -> list[int]:
    """The same ids through transformers' generate, by themselves."""
    prepared = on.prompts.ids(request)
    ids = torch.tensor([prepared.ids])
    pixels = on.model.adapter.join(prepared.pictures) if prepared.images else {}
    if on.model.adapter is not None and on.model.adapter.mrope:
        pixels["mm_token_type_ids"] = (ids == on.model.placeholder).int()
    settings = {"max_new_tokens": NEW, "do_sample": False, "use_cache": True, "pad_token_id": 0} | more
    ends = [families.token("<|im_end|>")]
    out = on.model.net.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), eos_token_id=ends, **settings, **pixels
    )
    return out[0, ids.shape[1] :].tolist()


def ids(answers: list[Answer]) -> list[list[int]]:
    assert [answer.error for answer in answers] == [""] * len(answers)
    return [list(answer.completions[0].ids) for answer in answers]


@pytest.mark.parametrize("name", [*families.TEXT, *families.VISION])
def test_batched_streamed_and_alone_equal_plain_generate(name: str) -> None:
    on = engine(name)
    requests = asked(name)
    expected = [plain(on, request) for request in requests]
    together = on.generate(requests)
    assert ids(together) == expected
    assert ids([on.generate([request])[0] for request in requests[-2:]]) == expected[-2:]
    for request, answer in zip(requests, together, strict=True):
        assert completion(list(on.stream(request))) == answer.completions[0]
        assert answer.prompt_tokens == len(on.prompts.ids(request).ids) == on.count(request)
    on.close()


def test_answers_that_come_and_go_at_different_times_are_the_same() -> None:
    """Lengths of prompts and answers differ, and there is room for three: rows enter and leave all the time."""
    chance = random.Random(1)
    requests = [
        Request(
            prompt=tuple(chance.randrange(20, 300) for _ in range(chance.randint(1, 40))),
            sampling=Sampling(temperature=0.0, max_new_tokens=chance.randint(1, 25)),
        )
        for _ in range(16)
    ]
    on = engine(room=Room(rows=3))
    seen: list[int] = []
    answers = on.generate(requests, lambda i, answer: seen.append(i))
    assert sorted(seen) == list(range(16))
    assert ids(answers) == [plain(on, one, max_new_tokens=one.sampling.max_new_tokens) for one in requests]
    on.close()


def test_streams_of_many_threads_are_computed_together_and_right() -> None:
    on, found = engine(), {}
    widest = 0
    requests = asked("llama") * 4
    expected = ids(on.generate(requests[:4])) * 4
    together = threading.Barrier(len(requests))

    def listen(i: int) -> None:
        nonlocal widest
        together.wait()
        parts = []
        for delta in on.stream(requests[i]):
            parts.append(delta)
            widest = max(widest, on.load[0])
        found[i] = list(completion(parts).ids)

    threads = [threading.Thread(target=listen, args=(i,)) for i in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[i] for i in range(len(requests))] == expected
    assert widest > 1
    on.close()


def test_a_seed_gives_the_same_answer_beside_any_others() -> None:
    on = shared()
    drawn = Sampling(temperature=1.3, top_p=0.95, seed=5, max_new_tokens=NEW, n=3)
    request = Request(prompt=(40, 50, 60), sampling=drawn)
    alone = on.generate([request])[0]
    others = [Request(prompt=(41, 50), sampling=Sampling(temperature=2.0, max_new_tokens=NEW)) for _ in range(3)]
    assert on.generate([*others, request])[-1] == alone
    assert len({one.ids for one in alone.completions}) == 3
    again = Request(prompt=(40, 50, 60), sampling=Sampling(temperature=1.3, seed=6, max_new_tokens=NEW))
    assert on.generate([again])[0].completions[0] not in alone.completions
    free = Request(prompt=(40, 50, 60), sampling=Sampling(temperature=1.3, max_new_tokens=NEW))
    assert on.generate([free]) != on.generate([free])


def test_streamed_completions_are_told_apart() -> None:
    on, by_index = shared(), {}
    request = Request(prompt=(40, 50), sampling=Sampling(temperature=1.0, seed=1, n=3, max_new_tokens=NEW))
    for delta in on.stream(request):
        by_index.setdefault(delta.index, []).append(delta)
    assert tuple(completion(by_index[index]) for index in range(3)) == on.generate([request])[0].completions


@pytest.mark.parametrize("beams", [2, 4])
@pytest.mark.parametrize("name", ["llama", "qwen2_5_vl"])
def test_beams_equal_plain_generate(name: str, beams: int) -> None:
    on = shared(name)
    requests = asked(name, Sampling(temperature=0.0, max_new_tokens=NEW, num_beams=beams))
    assert ids(on.generate(requests)) == [plain(on, request, num_beams=beams) for request in requests]
    assert completion(list(on.stream(requests[0]))).ids == tuple(plain(on, requests[0], num_beams=beams))


def test_what_is_not_with_beams_is_said() -> None:
    kinds = {"need as many beams": {"n": 3}, "logprobs": {"logprobs": 1}, "penalty": {"presence_penalty": 1.0}}
    for reason, more in kinds.items():
        answer = shared().generate([Request(prompt=(40,), sampling=Sampling(num_beams=2, **more))])[0]
        assert reason in answer.error


def test_models_that_keep_another_state_are_left_to_generate() -> None:
    """Mamba has no keys and values: no row can enter or leave its batch."""
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    size = {"vocab_size": len(families.tokenizer()), "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
    net = MambaForCausalLM(MambaConfig(**size, eos_token_id=families.token("<|im_end|>"))).eval()
    prompts = Prompts(template=Template(families.tokenizer(), TEMPLATES.get("chatml")), context=100)
    on = PtEngine(Model(net=net, pad_id=0), prompts)
    requests = asked("llama")
    assert ids(on.generate(requests)) == [plain(on, request) for request in requests]
    drawn = Request(prompt=(40, 50), sampling=Sampling(temperature=1.0, seed=1, n=2, max_new_tokens=NEW))
    first, second = on.generate([drawn])[0].completions
    assert first != second
    assert on.generate([requests[0], drawn])[1].completions == (first, second)
    assert (
        "logprobs: not with this architecture"
        in on.generate([Request(prompt=(4,), sampling=Sampling(logprobs=1))])[0].error
    )
    on.close()


def test_repetition_penalty_equals_plain_generate() -> None:
    on = shared()
    requests = asked("llama", Sampling(temperature=0.0, max_new_tokens=NEW, repetition_penalty=3.0))
    found = ids(on.generate([*requests, *asked("llama")]))
    assert found[: len(requests)] == [plain(on, request, repetition_penalty=3.0) for request in requests]
    assert found[: len(requests)] != found[len(requests) :]


@torch.no_grad()
def test_log_probabilities_are_the_models() -> None:
    on = shared()
    request = Request(
        prompt=tuple(range(40, 50)), sampling=Sampling(temperature=0.7, seed=3, max_new_tokens=NEW, logprobs=2)
    )
    answer = on.generate([request, *asked("llama")])[0].completions[0]
    whole = torch.tensor([[*request.prompt, *answer.ids]])
    logps = on.model.net(input_ids=whole).logits[0, len(request.prompt) - 1 : -1].log_softmax(-1)
    assert [token.id for token in answer.tokens] == list(answer.ids)
    for token, line in zip(answer.tokens, logps, strict=True):
        assert token.logprob == pytest.approx(float(line[token.id]), abs=1e-4)
        values, best = line.topk(2)
        assert [one[0] for one in token.top] == best.tolist()
        assert [one[2] for one in token.top] == pytest.approx(values.tolist(), abs=1e-4)
    assert not on.generate(asked("llama"))[0].completions[0].tokens


def test_stop_texts_end_an_answer() -> None:
    on = shared()
    request = asked("llama")[0]
    whole = on.generate([request])[0].completions[0]
    middle = whole.text[len(whole.text) // 2 :][:3]
    stopped = Request(prompt=request.prompt, sampling=Sampling(temperature=0.0, max_new_tokens=NEW, stop=(middle,)))
    answer = on.generate([stopped])[0].completions[0]
    assert (answer.text, answer.finish) == (whole.text[: whole.text.index(middle)], "stop")
    assert whole.ids[: len(answer.ids)] == answer.ids
    assert len(answer.ids) < len(whole.ids)
    assert completion(list(on.stream(stopped))) == answer


def test_the_end_token_and_the_context_end_an_answer() -> None:
    on = engine(context=30)
    request = Request(prompt=tuple(range(40, 65)), sampling=Sampling(temperature=0.0))
    answer = on.generate([request])[0].completions[0]
    assert (len(answer.ids), answer.finish) == (5, "length")
    ending = answer.ids[2]
    on.prompts.__dict__["ends"] = frozenset({ending})
    answer = on.generate([request])[0].completions[0]
    assert answer.finish == "stop"
    assert answer.ids[-1] == ending
    assert answer.ids.index(ending) == len(answer.ids) - 1
    on.close()


def test_one_bad_request_stops_no_other() -> None:
    on = shared("llava")
    good = asked("llava")[:2]
    whole = png(64, 64).source
    broken = whole[: len(whole) // 2]  # its header is fine
    bad = [
        Request(prompt=Turns((Message("user", "<image>What?"),), (Image(b"no picture"),))),
        Request(prompt=Turns((Message("user", "<image>What?"),), (Image(broken),)), sampling=GREEDY),
        Request(prompt=(10**6,)),
        Request(prompt=(1,), adapter="nobody"),
        Request(prompt=tuple(range(40, 60)) * 300),
    ]
    answers = on.generate([good[0], *bad, good[1]])
    assert [bool(answer.error) for answer in answers] == [False, *[True] * 5, False]
    reasons = ("image", "image is broken", "unknown token", "unknown adapter", "too long")
    for answer, reason in zip(answers[1:-1], reasons, strict=True):
        assert reason in answer.error
        assert not answer.completions
    assert ids([answers[0], answers[-1]]) == [plain(on, request) for request in good]
    for request in bad:
        with pytest.raises(ValueError, match=r"."):
            next(on.stream(request))


def test_closing_a_stream_ends_its_generation() -> None:
    on = engine(context=100_000)
    endless = Request(prompt=(40, 50), sampling=Sampling(temperature=0.0))
    on.prompts.__dict__["ends"] = frozenset()
    on.own.eos_token_id = None
    stream, other = on.stream(endless), on.stream(endless)
    next(stream), next(other)
    stream.close()
    for _ in range(20):  # the other one goes on
        next(other)
    assert on.load == (1, 0)
    other.close()
    assert ids(on.generate(asked("llama")[:1]))
    assert on.load == (0, 0)
    last = on.stream(endless)
    next(last)
    closing = threading.Thread(target=on.close)
    closing.start()
    assert list(last)[-1].finish == "cancelled"
    closing.join(30)
    with pytest.raises(ValueError, match="closed"):
        on.generate(asked("llama")[:1])


def test_a_stream_that_waits_is_closed_from_another_thread_and_leaves_at_once() -> None:
    on = engine(context=100_000, room=Room(rows=1))
    endless = Request(prompt=(40, 50), sampling=Sampling(temperature=0.0, n=2))
    on.prompts.__dict__["ends"] = frozenset()
    on.own.eos_token_id = None
    running, waiting, heard = on.stream(dc.replace(endless, sampling=Sampling(temperature=0.0))), on.stream(endless), []
    next(running)
    assert on.load == (1, 2)
    reader = threading.Thread(target=lambda: heard.extend(waiting))
    reader.start()
    waiting.close()
    assert on.load == (1, 0)
    reader.join(60)
    assert not reader.is_alive()
    assert heard == []
    next(running)
    waiting.close()
    running.close()
    assert list(running) == []
    on.close()


@pytest.mark.parametrize("name", [*families.TEXT, "qwen2_5_vl"])
def test_long_prompts_are_read_in_parts_between_tokens_of_others(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(batch.PART, "cpu", 16)
    on, sizes = engine(name), []
    requests = asked(name)[:4]  # pictures are read in one pass
    expected = [plain(on, request) for request in requests]
    on.prompts.__dict__["ends"] = frozenset()
    on.own.eos_token_id = None
    other = on.stream(Request(prompt=(40, 50), sampling=Sampling(temperature=0.0)))
    next(other)
    handle = on.model.net.register_forward_pre_hook(
        lambda _, __, inputs: sizes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    for request, answer in zip(requests, expected, strict=True):
        found = list(on.generate([request])[0].completions[0].ids)
        assert found[: len(answer)] == answer
    handle.remove()
    other.close()
    on.close()
    assert max(columns for _, columns in sizes) == 16
    assert all(after == (1, 1) for before, after in itertools.pairwise(sizes) if before == (1, 16))


def test_an_error_of_the_model_ends_the_answers_that_it_hit_and_no_others() -> None:
    on = engine()
    expected = on.generate(asked("llama"))
    handle = on.model.net.register_forward_pre_hook(lambda *_: 1 / 0)
    assert [answer.error for answer in on.generate(asked("llama"))] == ["division by zero"] * 4
    handle.remove()
    assert on.generate(asked("llama")) == expected
    on.close()


@contextlib.contextmanager
def memory_for(net: torch.nn.Module, rows: int) -> Iterator[list[int]]:
    """A model that runs out of memory above so many rows."""
    seen: list[int] = []

    def look(_: object, __: object, inputs: dict[str, torch.Tensor]) -> None:
        seen.append(len(inputs["input_ids"]))
        if seen[-1] > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = net.register_forward_pre_hook(look, with_kwargs=True)
    yield seen
    handle.remove()


def test_out_of_memory_halves_the_batch_and_loses_nothing() -> None:
    on = engine()
    requests = [*asked("llama"), *asked("llama", Sampling(temperature=1.0, seed=2, max_new_tokens=NEW))]
    expected = on.generate(requests)
    with memory_for(on.model.net, 3) as seen:
        assert on.generate(requests) == expected
    assert max(seen) > 3
    assert on.worker.room.rows <= 3
    with memory_for(on.model.net, 0):
        assert "out of memory" in on.generate(requests[:1])[0].error
        with pytest.raises(RuntimeError, match="out of memory"):
            list(on.stream(requests[0]))
    assert on.generate(requests[:1]) == expected[:1]
    on.close()


def test_deltas_end_with_a_finish() -> None:
    deltas: list[Delta] = list(shared().stream(asked("llama")[0]))
    assert all(delta.text for delta in deltas[:-1])
    assert [delta.finish is not None for delta in deltas] == [False] * (len(deltas) - 1) + [True]
