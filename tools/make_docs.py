"""Write docs/reference/*.md from the cards. `--check` writes nothing and fails when a page is not what they say.

python tools/make_docs.py [--check]
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from swiftlike.args import environment, hf, refused
from swiftlike.cli.commands import COMMANDS, load
from swiftlike.cli.help import groups, shown
from swiftlike.core.flags import Flag, Flags, word_for
from swiftlike.datasets_registry import DATASETS
from swiftlike.losses import LOSSES
from swiftlike.losses.base import LossCard
from swiftlike.model_registry import MODELS, TEMPLATES
from swiftlike.model_registry.builtin import BUILTIN
from swiftlike.model_registry.card import ModelCard

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
MADE = "<!-- made by tools/make_docs.py from the cards; edit those -->"
Row = tuple[str, ...]


def table(head: Row, rows: Iterable[Row]) -> list[str]:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return [f"| {' | '.join(_cell(one) for one in line)} |" for line in lines]


def _cell(text: str) -> str:
    """One cell: a bar would end it, and words in angle brackets would be taken for HTML."""
    parts = text.replace("|", "\\|").replace("\n", " ").split("`")
    parts[::2] = [part.replace("<", "\\<") for part in parts[::2]]
    return "`".join(parts)


def code(words: Iterable[str]) -> str:
    """Words as inline code, separated by commas."""
    return ", ".join(f"`{word}`" for word in words if word)


# -- flags ------------------------------------------------------------------------------------------------------------


def flags_page() -> Iterator[str]:
    """Every flag of every command, then what else is read or refused."""
    yield from (
        "# Flags",
        "",
        "One table per group. A flag can be written in a YAML file (`--config run.yaml`), in the environment "
        "(`SWIFTLIKE_BATCH_SIZE=4`) or on the command line; later ones win. `-` and `_` are the same in names, and "
        "`--flag value` and `--flag=value` too. `none` is no value.",
        "",
    )
    homes: dict[tuple[str, Any], list[str]] = {}
    for name in COMMANDS:
        command = load(name)
        for section, cls in command.sections.items():
            homes.setdefault((section, cls), []).append(name)
    seen: set[tuple[str, ...]] = set()
    for name in COMMANDS:
        flags = Flags(load(name))
        found, sections = groups(flags), flags.command.sections
        for title, members in found.items():
            users = homes.get((title, sections.get(title)), [name])
            key = (title, *users)
            if members and key not in seen:
                seen.add(key)
                yield from (f"## {_title(title, users)}", "", *_flag_table(flags, members), "")
    yield from _environment()
    yield from _other_flags()


def _title(group: str, users: list[str]) -> str:
    return f"{group} ({code(users)})"


def _flag_table(flags: Flags, members: Iterable[Flag]) -> list[str]:
    rows = [
        (
            f"`--{flag.name}`",
            f"`{_values(flags, flag)}`",
            f"`{shown(flag.default)}`",
            flag.help,
            code(f"--{alias}" for alias in flag.aliases),
        )
        for flag in members
    ]
    return table(("flag", "values", "default", "meaning", "also written"), rows)


def _values(flags: Flags, flag: Flag) -> str:
    choices = flags.choices(flag.name)
    return "{" + "|".join(choices) + "}" if choices else word_for(flag.kind)


def _environment() -> Iterator[str]:
    yield from (
        "## Environment",
        "",
        "`SWIFTLIKE_<FLAG>` sets any flag. These names of ms-swift are read as well; its other picture variables are "
        "refused with the flag to use instead, and names a slip away from a known one are refused too.",
        "",
        *table(("variable", "flag"), [(f"`{name}`", f"`--{flag}`") for name, flag in environment.READ.items()]),
        "",
        "Launching reads `NPROC_PER_NODE`, `NNODES`, `NODE_RANK`, `MASTER_ADDR`, `MASTER_PORT`, `MAX_RESTARTS` and "
        "`CUDA_VISIBLE_DEVICES`. `SWIFTLIKE_CACHE` is the folder of built-in models, built-in data and stored "
        "reference log-probabilities; `SWIFTLIKE_LOG_LEVEL` is `info` unless set.",
        "",
    )


def _other_flags() -> Iterator[str]:
    yield from (
        "## Other fields of TrainingArguments (`sft`, `rlhf`)",
        "",
        "Every other field of transformers' `TrainingArguments` is accepted under its own name, apart from those that "
        "training sets itself:",
        "",
        *table(("field", "instead"), [(f"`--{name}`", why) for name, why in hf.MANAGED.items()]),
        "",
        "## Known flags of ms-swift that are refused",
        "",
        "They stop the run with the text on the right, because leaving them out in silence would train something else. "
        "A value that asks for what happens anyway is accepted.",
        "",
    )
    found = dict.fromkeys(refused.REFUSED.values())
    rows = [(code(f"--{name}" for name in one.flags.split()), code(one.neutral), one.reason) for one in found]
    yield from table(("flags", "accepted values", "instead"), rows)


# -- losses -----------------------------------------------------------------------------------------------------------


def losses_page() -> Iterator[str]:
    """One section per objective: what it needs, its formula, its flags, its paper."""
    yield from (
        "# Losses",
        "",
        "`S(y)` is the summed log-probability of the counted tokens of answer `y` under the policy, `n(y)` their "
        "number, `A(y) = S(y)/n(y)`, `d(y) = S(y) - S_reference(y)`, `w` the chosen and `l` the rejected answer, `s` "
        "the logistic function. `NLL` is normalised by all its tokens of the optimiser step. "
        "[Choosing a loss](../guides/losses.md) explains them.",
        "",
        *table(("name", "command", "rows", "reference", "loss of the defaults", "paper"), map(_loss_row, LOSSES)),
    )
    for card in LOSSES:
        yield from ("", f"## {card.name}", "", f"{card.summary[0].upper()}{card.summary[1:]}.", "")
        yield from inspect.cleandoc(card.fn.__doc__ or "").splitlines()
        yield from _loss_types(card)
        yield from ("", f"**When:** {card.when}", "", f"**Defaults:** {card.defaults}")
        if card.differs:
            yield from ("", "**Where the original differs:**", "", *(f"- {text}" for text in card.differs))
        flags = Flags(load("sft" if card.name == "sft" else "rlhf"))
        members = [flag for homes in flags.by_name.values() for flag in homes if _belongs(flag, card)]
        yield from ("", *(_flag_table(flags, members) if members else ["It has no flags of its own."]))


def _loss_row(card: LossCard) -> Row:
    args = card.args()
    command = "`sft`" if card.name == "sft" else f"`rlhf --rlhf_type {card.name}`"
    reference = "yes" if card.needs_reference(args) else "no"
    return (f"[{card.name}](#{card.name})", command, card.data, reference, card.words(args), _paper(card.paper))


def _paper(address: str) -> str:
    return f"[{address.rpartition('/')[2]}]({address})"


def _loss_types(card: LossCard) -> Iterator[str]:
    """The formulas behind --loss_type, where an objective has several."""
    terms: dict[str, Callable[..., Any]] = getattr(sys.modules[card.fn.__module__], "TERMS", {})
    if terms:
        rows = [(f"`{name}`", " ".join(inspect.cleandoc(term.__doc__ or "").split())) for name, term in terms.items()]
        yield from ("", *table(("loss_type", "formula"), rows))


def _belongs(flag: Flag, card: LossCard) -> bool:
    return flag.choice == f"rlhf_type={card.name}" or (card.name == "sft" and flag.section == "loss")


# -- models -----------------------------------------------------------------------------------------------------------


def models_page() -> Iterator[str]:
    """Families, built-in models, published checkpoints, templates."""
    yield from (
        "# Models",
        "",
        "`--model_type NAME` takes a checkpoint named below; `--model` takes a hub id or a folder, whose family "
        "is read from its config.json. A text model of no known family is trained by its own chat template.",
        "",
        "## Built in",
        "",
        "Made on this machine from a configuration and a seed, without a download.",
        "",
        *table(("name", "family", "what it is"), [(f"`{one.name}`", one.family, one.help) for one in BUILTIN]),
        "",
        "## Families",
        "",
        *table(
            ("family", "also written", "pictures", "template of a bare folder", "layouts", "attention", "checkpoints"),
            map(_family_row, MODELS),
        ),
    )
    for card in MODELS:
        if card.checkpoints:
            yield from ("", f"## {card.name}", "", *_checkpoints(card))
    yield from (
        "",
        "## Templates",
        "",
        "`--template NAME` overrides the one of the model. `chat_template` is the checkpoint's own Jinja template.",
        "",
        *table(
            ("name", "also written", "default system prompt"),
            [(f"`{one.name}`", code(one.aliases), one.default_system) for one in TEMPLATES],
        ),
    )


def _family_row(card: ModelCard) -> Row:
    name = f"[{card.name}](#{card.name})" if card.checkpoints else card.name
    tokens = (card.vision.max_tokens or "yes") if card.vision else ""
    count = str(len(card.checkpoints) or "any causal model")
    return (
        name,
        code(card.aliases),
        tokens,
        f"`{card.template}`",
        code(card.layouts),
        code(card.attention),
        count,
    )


def _checkpoints(card: ModelCard) -> list[str]:
    rows = [
        (f"`{name}`", one.hf, one.ms, f"`{one.template or card.template}`", one.quant)
        for name, one in card.checkpoints.items()
    ]
    return table(("--model_type", "Hugging Face", "ModelScope", "template", "stored as"), rows)


# -- data sets --------------------------------------------------------------------------------------------------------


def datasets_page() -> Iterator[str]:
    """Known data sets."""
    rows = [
        (
            f"`{card.name}`",
            code(card.aliases),
            card.hf or ("" if card.ms else "built in"),
            card.ms,
            code(card.known_subsets or card.subsets),
            ", ".join(card.kinds) + (", pictures" if card.vision else ""),
            card.licence,
            card.help,
        )
        for card in DATASETS
    ]
    subsets = [(f"`{card.name}`", code(card.subsets)) for card in DATASETS if card.known_subsets and card.subsets]
    yield from (
        "# Data sets",
        "",
        "Names that `--dataset` and `--val_dataset` know; any hub id, file or folder works too "
        "([data guide](../guides/data.md)). *Trains* says which kinds of rows a set can give.",
        "",
        *table(
            ("name", "also written", "Hugging Face", "ModelScope", "subsets", "trains", "licence", "holds"),
            rows,
        ),
        "",
        "A name without a subset means:",
        "",
        *table(("name", "subsets"), subsets),
    )


PAGES = {"flags.md": flags_page, "losses.md": losses_page, "models.md": models_page, "datasets.md": datasets_page}


def pages() -> dict[Path, str]:
    """Path to text of every generated page."""
    return {FOLDER / name: "\n".join([MADE, "", *page()]).rstrip() + "\n" for name, page in PAGES.items()}


def stale() -> list[Path]:
    """The pages that are missing or not what the cards say."""
    return [path for path, text in pages().items() if not path.is_file() or path.read_text(encoding="utf-8") != text]


def main() -> int:
    """Write the pages, or look at them. Gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a page is stale")
    if parser.parse_args().check:
        found = stale()
        sys.stderr.writelines(f"stale: {path.relative_to(FOLDER.parents[1])}; run `make docs`\n" for path in found)
        return 1 if found else 0
    for path, text in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
