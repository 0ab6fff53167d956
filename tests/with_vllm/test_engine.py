"""vLLM on a text model with two adapters: what it answers is what transformers answers."""

from __future__ import annotations

import dataclasses as dc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swiftlike.engines.base import Request, Sampling

from .using import GREEDY, NEEDS_VLLM, adapter, asked, by_transformers, engine, ids

pytestmark = NEEDS_VLLM
QUESTIONS = ("Which of these is a fruit: apple or hammer?", "Count the objects.", "Please write a short story.")
ADAPTERS = ("", "one", "two")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    parent = tmp_path_factory.mktemp("adapters")
    return {name: adapter("tiny-llama", parent / name, seed) for seed, name in enumerate(ADAPTERS[1:])}


@pytest.fixture(scope="module")
def both(folders: dict[str, Path]) -> Iterator[tuple[Any, Any]]:
    given = [f"{name}={folder}" for name, folder in folders.items()]
    with (
        engine("pt", model_type="tiny-llama", adapters=given) as pt,
        engine("vllm", model_type="tiny-llama", adapters=given) as vllm,
    ):
        yield pt, vllm


def everything(sampling: Sampling = GREEDY) -> list[Request]:
    return [asked(text, adapter=name, sampling=sampling) for name in ADAPTERS for text in QUESTIONS]


def test_greedy_tokens_with_several_adapters_at_once(both: tuple[Any, Any]) -> None:
    pt, vllm = both
    found = ids(vllm.generate(everything()))
    assert found == ids(pt.generate(everything())) == [by_transformers(pt, one) for one in everything()]
    assert len({tuple(found[i : i + 3]) for i in (0, 3, 6)}) == 3
    assert (vllm.adapters, vllm.context) == (("one", "two"), 1024)


def test_adapter_is_what_merging_makes(both: tuple[Any, Any], folders: dict[str, Path]) -> None:
    with engine("pt", model_type="tiny-llama", adapters=[str(folders["two"])], merge_lora=True) as merged:
        wanted = ids(merged.generate([asked(text) for text in QUESTIONS]))
    assert ids(both[1].generate([asked(text, adapter="two") for text in QUESTIONS])) == wanted


def test_text_finish_and_log_probabilities(both: tuple[Any, Any]) -> None:
    pt, vllm = both
    requests = everything(dc.replace(GREEDY, logprobs=3))
    for mine, theirs in zip(vllm.generate(requests), pt.generate(requests), strict=True):
        (one,), (other,) = mine.completions, theirs.completions
        assert (one.text, one.finish, mine.prompt_tokens) == (other.text, other.finish, theirs.prompt_tokens)
        assert [token.logprob for token in one.tokens] == pytest.approx([t.logprob for t in other.tokens], abs=1e-4)
        assert [token.text for token in one.tokens] == [token.text for token in other.tokens]
        assert all(len(token.top) == 3 for token in one.tokens)
        for token, like in zip(one.tokens, other.tokens, strict=True):
            assert [top[:2] for top in token.top] == [top[:2] for top in like.top]


def test_stop_texts_and_lengths(both: tuple[Any, Any]) -> None:
    pt, vllm = both
    (whole,) = pt.generate([asked(QUESTIONS[0])])
    text = whole.completions[0].text
    request = asked(QUESTIONS[0], sampling=dc.replace(GREEDY, stop=(text[6:8],)))
    for one in (pt, vllm):
        (answer,) = one.generate([request])
        assert (answer.completions[0].text, answer.completions[0].finish) == (text[: text.find(text[6:8])], "stop")


def test_seeds(both: tuple[Any, Any]) -> None:
    _, vllm = both
    drawn = asked(QUESTIONS[1], sampling=Sampling(temperature=1.0, seed=7, n=3, max_new_tokens=8))
    other = asked(QUESTIONS[1], sampling=Sampling(temperature=1.0, seed=8, n=3, max_new_tokens=8))
    (alone,) = vllm.generate([drawn])
    _, among, third = vllm.generate([asked(QUESTIONS[0]), drawn, other])
    assert [one.ids for one in alone.completions] == [one.ids for one in among.completions]
    assert len({one.ids for one in (*among.completions, *third.completions)}) == 6


def test_streams_from_several_threads(both: tuple[Any, Any]) -> None:
    _, vllm = both
    wanted = vllm.generate(everything())
    found: dict[int, tuple[str, tuple[int, ...], str | None]] = {}

    def read(i: int, request: Request) -> None:
        deltas = list(vllm.stream(request))
        tokens = tuple(token for one in deltas for token in one.ids)
        found[i] = "".join(one.text for one in deltas), tokens, deltas[-1].finish

    threads = [threading.Thread(target=read, args=pair) for pair in enumerate(everything())]
    for one in threads:
        one.start()
    for one in threads:
        one.join(120)
    assert [found[i] for i in range(len(wanted))] == [
        (one.completions[0].text, one.completions[0].ids, one.completions[0].finish) for one in wanted
    ]


def test_a_stream_that_is_closed_ends_its_generation(both: tuple[Any, Any]) -> None:
    _, vllm = both
    stream = vllm.stream(asked(QUESTIONS[2], sampling=Sampling(temperature=1.0, seed=1, n=2)))
    assert next(stream).ids
    stream.close()
    assert ids(vllm.generate([asked(QUESTIONS[0])]))
    assert vllm.unfinished == 0


def test_what_cannot_be_answered_stops_no_other(both: tuple[Any, Any]) -> None:
    _, vllm = both
    ready: list[int] = []
    requests = [
        Request(prompt="x " * 3000),
        asked(QUESTIONS[0], adapter="three"),
        asked(QUESTIONS[0], sampling=Sampling(num_beams=2)),
        asked(QUESTIONS[0]),
        asked(QUESTIONS[0], sampling=Sampling(temperature=-1.0)),
    ]
    answers = vllm.generate(requests, done=lambda i, _: ready.append(i))
    problems = ("too long", "unknown adapter", "num_beams", "", "")
    assert all(problem in answer.error for answer, problem in zip(answers, problems, strict=True))
    assert [bool(answer.completions) for answer in answers[:4]] == [False, False, False, True]
    assert sorted(ready) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="unknown adapter"):
        next(vllm.stream(requests[1]))


def test_given_tokens_and_their_log_probabilities(both: tuple[Any, Any]) -> None:
    """Prompt log-probabilities are those that the answer had when it was generated."""
    _, vllm = both
    for name in ADAPTERS:
        request = asked(QUESTIONS[0], adapter=name, sampling=dc.replace(GREEDY, logprobs=0))
        (answer,) = vllm.generate([request])
        prompt, made = vllm.prompts.ids(request).ids, answer.completions[0]
        logps, short = vllm.logps([((*prompt, *made.ids), ()), (prompt, ())], name)
        assert short == pytest.approx(logps[: len(short)], abs=1e-4)
        assert len(logps) == len(prompt) + len(made.ids) - 1
        assert logps[len(prompt) - 1 :] == pytest.approx([token.logprob for token in made.tokens], abs=1e-4)
        again = vllm.generate([dc.replace(request, prompt=prompt)])
        assert ids(again) == [made.ids]
