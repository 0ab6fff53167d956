"""Every file in examples/ is accepted and means what its name says; the tiny ones, and the plugins of the docs, run."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from swiftlike.cli.layers import build_run
from swiftlike.core.merge import Run
from swiftlike.datasets_registry.syntax import parse_all
from swiftlike.losses import LOSSES
from swiftlike.model_registry.match import find

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").rglob("*.yaml"))
TINY = [path for path in EXAMPLES if path.name.startswith("tiny-")]
FEW = {"max_steps": "2", "batch_size": "4", "dataset_seed": "1", "report_to": "none", "save_strategy": "no"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def read(path: Path, *more: str) -> Run:
    from swiftlike.cli.commands import load

    return build_run(load(path.parent.name), [str(path), *more], {})[0]


def test_every_method_has_examples() -> None:
    assert len(EXAMPLES) == 47
    assert {path.parent.parent for path in EXAMPLES} == {ROOT / "examples"}
    seen = {
        (path.stem.rpartition("-")[2], find("", read(path).model.model_type).card.vision is not None) for path in TINY
    }
    assert seen == {(method, vision) for method in LOSSES.names() for vision in (False, True)}


@pytest.mark.parametrize("path", EXAMPLES, ids=name)
def test_examples_mean_what_their_names_say(path: Path) -> None:
    run = read(path)
    model, _, method = path.stem.rpartition("-")
    assert path.parent.name == ("sft" if method == "sft" else "rlhf")
    assert (method == "sft") or run.rlhf.rlhf_type == method
    assert run.model.model_type == model
    kinds = LOSSES.get(method).data
    for wanted in parse_all([*run.data.dataset, *run.data.val_dataset]):
        assert wanted.card is not None
        assert kinds in wanted.card.kinds or wanted.card.name.startswith("demo")
    assert f"# swiftlike {path.parent.name} {name(path)}\n" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", TINY, ids=name)
def test_tiny_examples_run(path: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from swiftlike.pipelines import train

    monkeypatch.setenv("SWIFTLIKE_CACHE", str(cache))
    data = read(path).data
    flags = FEW | {"dataset": f"{data.dataset[0]}#16", "val_dataset": f"{data.val_dataset[0]}#4"}
    words = [word for flag, value in {**flags, "output_dir": str(tmp_path)}.items() for word in (f"--{flag}", value)]
    done = train.run(read(path, *words))
    assert done is not None
    assert math.isfinite(done.metrics["loss"])
    assert math.isfinite(done.metrics["eval_loss"])
    lines = (done.folder / "logging.jsonl").read_text(encoding="utf-8").splitlines()
    assert '"step": "2/2"' in lines[-1]


def snippets() -> dict[str, str]:
    """Title to text of every code block with a title in docs/extend."""
    pages = (ROOT / "docs" / "extend").glob("*.md")
    texts = "".join(page.read_text(encoding="utf-8") for page in pages)
    return dict(re.findall(r'^```\w+ title="(.+?)"\n(.*?)^```$', texts, re.MULTILINE | re.DOTALL))


def olmo2(folder: Path) -> None:
    """A tiny model of a family that is not in the registry, with the tokenizer and chat template of tiny-llama."""
    import torch
    from transformers import AutoTokenizer, Olmo2Config, Olmo2ForCausalLM

    from swiftlike.models.tiny import build

    tokenizer = AutoTokenizer.from_pretrained(build("tiny-llama", folder.with_name("tokenizer")))
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = Olmo2Config(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, **sizes
    )
    Olmo2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_the_plugins_of_the_docs_work(swiftlike: Any) -> None:
    found = snippets()
    assert set(found) == {"slic.py", "votes.py", "votes.json", "olmo2.py"}
    for title, text in found.items():
        (swiftlike.folder / title).write_text(text, encoding="utf-8")
    olmo2(swiftlike.folder / "model")
    checked = swiftlike("check", "votes", "--plugin", "votes.py")
    assert checked.code == 0, checked.err
    assert "votes: found 3, got 2 rows" in checked.out
    words = "rlhf --plugin slic.py votes.py olmo2.py --rlhf_type slic --delta 2 --dataset votes#16 --model model"
    ran = swiftlike(*words.split(), "--max_steps", 2, "--save_strategy", "no")
    assert ran.code == 0, ran.err
    assert "loss = SLiC(delta 2.0) + 0.5 x NLL(chosen)" in ran.err
    assert "model = olmo2 (model), template chat_template" in ran.err
    assert "step 2/2" in ran.err
    assert "votes.json:3" in ran.err  # the tie, left out and named
    base = swiftlike(*words.split(), "--template", "question-answer", "--dry_run")
    assert base.code == 0, base.err
    assert "template question-answer" in base.err
