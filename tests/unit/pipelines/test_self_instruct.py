"""`swiftlike self_instruct` without a model's weights: seeds, pools, requests, and rounds that a journal gives back."""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from swiftlike.cli.commands import load
from swiftlike.cli.layers import build_run
from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run
from swiftlike.engines.base import Answer, Completion, Request
from swiftlike.pipelines.clusters import clusters
from swiftlike.pipelines.journal import Journal
from swiftlike.pipelines.records import Account
from swiftlike.pipelines.seed_prompts import counter, read_seeds
from swiftlike.pipelines.self_instruct import new_over_all, options_of, shares_of
from swiftlike.pipelines.self_instruct_rounds import Rounds, requests_of
from swiftlike.stages.self_instruct import Asked

ROWS: list[Any] = [
    {"query": "Name a fruit.", "response": "A plum.", "rejected_response": "A saw."},
    {"query": "Name a fruit.", "response": "A pear.", "rejected_response": "No."},
    {"system": "Be brief.", "history": [["Hello.", "Hi!"]], "query": "Name a tree.", "response": "Oak."},
    {"prompt": "\n\nHuman: Say hi.\n\nAssistant:", "chosen": " hi", "rejected": " no"},
    {"prompt": [{"role": "user", "content": "Tell a joke."}], "chosen": "a", "rejected": "b"},
]


def asked(place: Path, *flags: str, rows: Sequence[Any] = ROWS) -> Run:
    """A run of the command over these rows."""
    data = place / "rows.jsonl"
    data.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in rows))
    words = [str(data), "--model_type", "tiny-llama", "--output", str(place / "out.jsonl"), *flags]
    return build_run(load("self_instruct"), words, {})[0]


# -- seeds and pools --------------------------------------------------------------------------------------------------


def test_seeds_are_first_user_turns_of_any_format(tmp_path: Path) -> None:
    account = Account()
    bad = ["{not json", {"strange": 1}, {"query": "<image>What?", "images": ["gone.png"], "response": "x"}]
    found = read_seeds(asked(tmp_path, rows=[*ROWS, *bad]), account)
    assert found == ["Name a fruit.", "Hello.", "Say hi.", "Tell a joke."]
    assert (account.read, len(account.errors)) == (8, 3)
    assert account.errors[0]["origin"].endswith("rows.jsonl:6")


def test_repeated_seeds_stay_without_dedup(tmp_path: Path) -> None:
    assert len(read_seeds(asked(tmp_path, "--dedup", "false"), Account())) == 5


def test_rows_without_any_prompt_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be used"):
        read_seeds(asked(tmp_path, rows=[{"strange": 1}]), Account())


def test_streams_share_the_total_and_have_all_seeds(tmp_path: Path) -> None:
    args = asked(tmp_path, "--n_instructions_to_generate_total", "20", "--streams", "3").self_instruct
    pools = shares_of(args, ["a", "b"], tmp_path)
    assert {number: pool.target for number, pool in pools.items()} == {0: 7, 1: 7, 2: 6}
    assert all(pool.seeds == ["a", "b"] for pool in pools.values())


def test_clusters_are_found_once_and_kept(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    args = asked(tmp_path, "--clustering", "true", "--n_clusters", "2", "--prompts_per_cluster", "5").self_instruct
    texts = [f"{start} {number}" for number in range(10, 16) for start in ("sea fish boat", "bread oven flour")]
    pools = shares_of(args, texts, tmp_path)
    assert sorted(sorted(pool.seeds) for pool in pools.values()) == sorted([sorted(texts[::2]), sorted(texts[1::2])])
    assert [pool.target for pool in pools.values()] == [5, 5]
    kept = tmp_path / "clusters.json"
    labels = json.loads(kept.read_text())
    kept.write_text(json.dumps([1 - label for label in labels]))  # what another machine found first
    assert [shares_of(args, texts, tmp_path)[number].seeds for number in (1, 0)] == [pools[0].seeds, pools[1].seeds]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    with pytest.raises(UserError, match="there are only 1 seeds"):
        clusters(["one"], args, tmp_path / "other.json")


def test_a_model_of_ones_own_clusters_too(tmp_path: Path) -> None:
    """A BERT with random weights: equal texts meet, and padding does not matter."""
    pytest.importorskip("sklearn")
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *["sea", "fish", "boat", "bread", "oven", "flour", "and", "again"],
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    BertModel(
        BertConfig(vocab_size=13, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    ).save_pretrained(tmp_path)
    flags = ["--clustering", "true", "--embedding_type", "bert", "--n_clusters", "2"]
    args = asked(tmp_path, *flags, "--embedding_model", str(tmp_path)).self_instruct
    texts = ["sea fish", "bread oven flour and bread again", "sea fish", "bread oven flour and bread again"]
    found = clusters(texts, args, tmp_path / "clusters.json")
    assert sorted(found.values()) == [[texts[1]] * 2, [texts[0]] * 2]
    with pytest.raises(UserError, match="cannot load"):
        clusters(
            texts, asked(tmp_path, *flags, "--embedding_model", str(tmp_path / "no")).self_instruct, tmp_path / "x"
        )


def test_pools_are_held_against_each_other_at_the_end(tmp_path: Path) -> None:
    rows = [{"prompt": text, "pool": pool} for pool, text in ((0, "a b c"), (0, "d e f"), (1, "a b c"), (1, "a b c d"))]
    kept = list(new_over_all(rows, options_of(asked(tmp_path).self_instruct, 0)))
    assert kept == [rows[0], rows[1], rows[3]]
    assert list(new_over_all(rows, options_of(asked(tmp_path, "--dedup", "false").self_instruct, 0))) == rows


def test_pools_are_held_against_each_other_by_rouge_too(tmp_path: Path) -> None:
    pytest.importorskip("rouge_score")
    rows = [{"prompt": text} for text in ("a b c", "d e f", "a b c d")]
    options = options_of(asked(tmp_path, "--dedup_rouge", "0.7").self_instruct, 0)
    assert list(new_over_all(rows, options)) == rows[:2]


# -- flags ------------------------------------------------------------------------------------------------------------


def test_sampling_is_aipos_unless_something_else_is_asked_for(tmp_path: Path) -> None:
    asked_for = Asked(0, ["p"], ["\n\n"])
    (request,) = requests_of(asked(tmp_path), "")(0, asked_for)
    chosen = request.sampling
    assert (chosen.temperature, chosen.top_p, chosen.top_k, chosen.max_new_tokens) == (0.5, 0.9, 50, 1024)
    assert (request.prompt, chosen.stop, chosen.n) == ("p", ("\n\n",), 1)
    (request,) = requests_of(asked(tmp_path, "--temperature", "1", "--stop", "END"), "")(0, asked_for)
    assert (request.sampling.temperature, request.sampling.stop) == (1, ("END", "\n\n"))


def test_every_request_has_a_seed_of_its_own(tmp_path: Path) -> None:
    seeds = []
    for seed, iteration, pool, round_number in itertools.product((0, 42), (0, 1), (0, 1, 7), (0, 1, 2)):
        make = requests_of(asked(tmp_path, "--seed", str(seed), "--iteration", str(iteration)), "")
        seeds += [one.sampling.seed for one in make(pool, Asked(round_number, ["p"] * 3, []))]
    assert len(set(seeds)) == 2 * 2 * 3 * 3 * 3


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--n_clusters", "4"], "--n_clusters: only with --clustering"),
        (["--prompt_min_length", "9", "--prompt_max_length", "8"], "no prompt would be left"),
        (["--n_machine_instructions", "9"], "--n_machine_instructions is above"),
        (["--shard", "2", "--num_shards", "2"], "shards are counted from 0"),
        (["--clustering", "true", "--streams", "4"], "--streams: not with --clustering"),
        (["--max_length", "9"], "--max_length is for training"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, flags: list[str], problem: str) -> None:
    with pytest.raises(UserError) as error:
        asked(tmp_path, *flags)
    assert problem in "\n".join(error.value.problems)


@pytest.mark.parametrize(
    ("flags", "module", "package"),
    [
        (["--clustering", "true"], "sklearn", "scikit-learn"),
        (["--dedup_rouge", "0.7"], "rouge_score", "rouge-score"),
        (["--length_tokenizer", "cl100k"], "tiktoken", "tiktoken"),
        (
            ["--clustering", "true", "--embedding_type", "sentence_transformers"],
            "sentence_transformers",
            "sentence-transformers",
        ),
    ],
)
def test_missing_packages_are_named_before_anything_is_read(tmp_path, monkeypatch, flags, module, package) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else there(name))
    with pytest.raises(UserError) as error:
        asked(tmp_path, *flags)
    assert f"{flags[-2]} {flags[-1]}".replace(" true", "") + f" needs the package {package}" in "\n".join(
        error.value.problems
    )


def test_a_file_of_tokens_that_cannot_be_had_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in package that fails as tiktoken does without a network."""
    (tmp_path / "tiktoken.py").write_text("def get_encoding(name):\n    raise OSError(f'no route to {name}')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tiktoken", raising=False)
    run = asked(tmp_path, "--length_tokenizer", "cl100k")
    with pytest.raises(UserError, match="cannot get cl100k_base: no route"):
        counter(run)
    del sys.modules["tiktoken"]  # not by monkeypatch, which would put it back


# -- rounds and the journal -------------------------------------------------------------------------------------------


class Echo:
    """An engine that answers with its seeds. `broken` prompts have an error; those of `long` cannot be asked."""

    def __init__(self, broken: Sequence[str] = (), long: Sequence[str] = ()) -> None:
        self.asked: list[list[str]] = []
        self.broken, self.long = broken, long

    def generate(self, requests: Sequence[Request], done: Callable[[int, Answer], None]) -> None:
        self.asked.append([str(one.prompt) for one in requests])
        for place, one in reversed(list(enumerate(requests))):
            bad = one.prompt in (*self.broken, *self.long)
            text = Completion(text=f"{one.prompt} {one.sampling.seed}", ids=(), finish="stop")
            done(place, Answer(error="too long: 9") if bad else Answer(completions=(text,)))

    def count(self, request: Request) -> int:
        if request.prompt in self.long:
            raise ValueError
        return 1


def rounds(place: Path, engine: Any) -> tuple[Rounds, Journal]:
    kept = Journal(place / "out.jsonl", {})
    return Rounds(kept, lambda: engine, requests_of(asked(place), "")), kept


def test_rounds_come_from_the_journal_when_it_has_them(tmp_path: Path) -> None:
    first, kept = rounds(tmp_path, engine := Echo())
    both = {0: Asked(0, ["a", "b"], ["x"]), 3: Asked(0, ["a", "c"], ["x"])}
    found = first({3: both[3]})
    kept.close()
    again, kept = rounds(tmp_path, engine)
    assert again(both)[3] == found[3]
    assert engine.asked == [["a", "c"], ["a", "b"]]  # all of a call at once, and only what is not there
    assert again(both) == again(both)
    assert len(engine.asked) == 2
    changed = again({0: Asked(0, ["a", "other"], ["x"])})  # other prompts are another round
    assert changed[0][0].startswith("a ")
    assert engine.asked[-1] == ["a", "other"]
    kept.close()


def test_pools_of_equal_prompts_have_seeds_of_their_own(tmp_path: Path) -> None:
    made, kept = rounds(tmp_path, Echo())
    found = made({0: Asked(0, ["a", "a"], []), 1: Asked(0, ["a", "a"], [])})
    found |= {2: made({0: Asked(1, ["a", "a"], [])})[0]}
    assert len({text for answers in found.values() for text in answers}) == 6
    kept.close()


def test_prompts_that_cannot_be_asked_are_counted_and_answered_by_nothing(tmp_path: Path) -> None:
    made, kept = rounds(tmp_path, engine := Echo(long=["b"]))
    for _ in range(2):
        assert made({0: Asked(0, ["a", "b"], [])})[0][1] == ""
    assert made.refused == {"too long": 2}
    assert len(engine.asked) == 1
    kept.close()


def test_an_engine_that_fails_ends_the_run_and_is_not_believed(tmp_path: Path) -> None:
    made, kept = rounds(tmp_path, Echo(broken=["b"]))
    whole, broken = Asked(0, ["a"], []), Asked(0, ["b"], [])
    with pytest.raises(UserError, match="could not be computed: too long: 9"):
        made({0: whole, 1: broken})
    kept.close()
    made, kept = rounds(tmp_path, engine := Echo())
    made({0: whole, 1: broken})
    assert engine.asked == [["b"]]
    kept.close()
