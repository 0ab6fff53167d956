"""AIPO's stages and evaluation tools. Where we ship something else, the switch for AIPO's own way is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import Message
from swiftlike.datasets_registry.shapes import to_row
from swiftlike.model_registry.aipo import aipo_text
from swiftlike.pipelines.filter_pairs import first_pair
from swiftlike.stages.evaluation import arena_hard
from swiftlike.stages.evaluation.summary import summarise
from swiftlike.stages.generation import filter_prompt, generation_row
from swiftlike.stages.instructions import Parsing, parse, prompt_text
from swiftlike.stages.pair_filters import fits, has_no_url
from swiftlike.stages.ranking import preference_pair
from swiftlike.stages.self_instruct import Asked, Pool, SelfInstruct, self_instruct
from swiftlike.stages.shards import chunk

from .golden import Adapter, Case


def words(text: str) -> int:
    return len(text.split())


def roles(messages: Sequence[dict[str, str]]) -> str:
    """The files' stand-in for a chat template."""
    return "".join(f"[{one['role']}]{one['content']}" for one in messages) + "[assistant]"


def run_prompt(case: Case) -> Case:
    return {"prompt": prompt_text(case["inputs"]["instructions"])}


def run_parse(case: Case) -> Case:
    options = {key: value for key, value in case["params"].items() if key != "token_counter"}
    return {"instructions": parse(case["inputs"]["response"], Parsing(parser="v1", **options), words)}


def run_loop(case: Case) -> Case:
    """The scripted answers are given round and round; the parser's limits are the defaults."""
    params, inputs = case["params"], case["inputs"]
    calls: list[dict[str, Any]] = []
    given = 0

    def generate(asked: Mapping[int, Asked]) -> dict[int, list[str]]:
        nonlocal given
        prompts, texts = asked[0].prompts, inputs["scripted_outputs"]
        calls.append({"n_prompts": len(prompts), "stop": asked[0].stops, "first_prompt": prompts[0]})
        given += len(prompts)
        return {0: [texts[i % len(texts)] for i in range(given - len(prompts), given)]}

    names = ("n_prompt_instructions", "n_machine_instructions", "max_n_generate_instructions", "mini_group_size")
    options = SelfInstruct(
        target=params["n_instructions_to_generate_total"] // params["num_shards"],
        parsing=Parsing(parser="v1"),
        dedup=False,
        **{name: params[name] for name in names},
    )
    random = Random(params["python_random_seed"])
    pool = Pool(inputs["pool"], options, random=random, count=words, seeds_of_all=options.known(inputs["pool"]))
    return {"rows": self_instruct({0: pool}, generate), "calls": calls}


def run_pair(case: Case) -> Case:
    system = "empty" if case["params"]["add_system_message"] else "keep"
    row = preference_pair(case["inputs"]["example"], system=system)
    return {"row": row or dict.fromkeys(("prompt", "chosen", "rejected"))}


def run_urls(case: Case) -> Case:
    return {"keep": has_no_url(case["inputs"]["example"], ignore_rejected=case["params"]["ignore_rejected"])}


def run_truncation(case: Case) -> Case:
    limits = {name: case["params"][name] for name in ("max_prompt_length", "max_response_length")}
    return {"keep": fits(case["inputs"]["example"], words, **limits)}


def run_filter_prompt(case: Case) -> Case:
    limits = {name: case["params"][name] for name in ("prompt_min_length", "prompt_max_length")}
    return {"keep": filter_prompt(case["inputs"]["example"]["prompt"], words, **limits)}


def run_chunk(case: Case) -> Case:
    pieces = chunk(range(case["inputs"]["n_items"]), case["params"]["n_chunks"])
    return {"chunks": [list(piece) for piece in pieces]}


def run_template(case: Case) -> Case:
    params = case["params"]
    messages = [Message(**one) for one in case["inputs"]["messages"]]
    opened, closed = (
        aipo_text(
            params["template"], messages, add_generation_prompt=add, bos=params["bos_token"], eos=params["eos_token"]
        )
        for add in (True, False)
    )
    return {"text_with_generation_prompt": opened, "text_without": closed}


def run_dpo_row(case: Case) -> Case:
    try:
        row, _ = to_row(case["inputs"]["example"], "pair")
        return {"row": first_pair(row, roles)[1]}
    except BadRow:
        return {"row": {"error": "AssertionError"}}


def run_generation_row(case: Case) -> Case:
    example, add = case["inputs"]["example"], case["params"]["add_system_message"]
    return {"row": generation_row(example, roles, add_system_message=add)}


def run_arena_score(case: Case) -> Case:
    params = case["params"]
    assert (params["scale"], params["base"]) == (400, 10), "the points of an Elo rating"
    found = arena_hard.battles(
        case["inputs"]["judgments"], weight=params["weight"], first_game_only=params["first_game_only"]
    )
    scores = arena_hard.scores(found, baseline=params["baseline"], rounds=2)
    return {
        "weighted_winner_counts": arena_hard.winner_counts(found),
        "elo": {one.model: one.elo for one in scores},
        "win_rate_percent_vs_baseline": {one.model: one.win_rate for one in scores},
    }


def run_verdict(case: Case) -> Case:
    score, again = arena_hard.verdict(case["inputs"]["text"], case["params"]["pattern"])
    return {"score": score, "try_again": again}


def run_summary(case: Case) -> Case:
    table = summarise(case["inputs"]["files"])
    return {"columns": table.columns, "rows": table.rows}


ADAPTERS: dict[str, Adapter] = {
    "self_instruct_prompt": run_prompt,
    "self_instruct_parse": run_parse,
    "self_instruct_loop": run_loop,
    "preference_pair": run_pair,
    "filter_urls": run_urls,
    "filter_truncation": run_truncation,
    "filter_prompt": run_filter_prompt,
    "chunk": run_chunk,
    "chat_template": run_template,
    "dpo_row": run_dpo_row,
    "generation_row": run_generation_row,
    "arena_hard_score": run_arena_score,
    "arena_verdict": run_verdict,
    "summary_table": run_summary,
}
