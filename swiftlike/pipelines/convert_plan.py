"""What `swiftlike convert` was asked for: which formats, which files are read, and where each is written."""

from __future__ import annotations

import dataclasses as dc
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from swiftlike.core.errors import UserError, suggestion
from swiftlike.data.files import files_of
from swiftlike.data.sources import Source, open_source
from swiftlike.datasets_registry.custom import register
from swiftlike.datasets_registry.formats import ANY, AUTO, FORMATS, GIVES, Format, targets
from swiftlike.datasets_registry.syntax import DATA_SUFFIXES, Wanted, parse_all

WRITABLE = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
_NAMES = {  # what the original scripts call their outputs
    ("exo_preference", "exo_reward"): "_p2r",
    ("apo_golden", "apo_comparison"): "_text_scores.json",
}
_ALL = ""  # no split: every file of a folder


@dc.dataclass(frozen=True)
class Order:
    """Two formats and the arguments (a ConvertArgs)."""

    source: Format
    target: Format
    args: Any

    @property
    def compares(self) -> bool:
        """Whether golden answers are set against samples."""
        return (self.source.name, self.target.name) == ("apo_golden", "apo_comparison")

    @property
    def ranks(self) -> bool:
        """Whether scores rank the samples."""
        return bool(self.args.scores)

    def opened(self, words: Iterable[str]) -> list[Source]:
        """The data sets that some words name."""
        return [self.open(wanted) for wanted in parse_all(words)]

    def open(self, wanted: Wanted) -> Source:
        """One data set."""
        return open_source(wanted, self.args.columns, "hf" if self.args.use_hf else "ms")


@dc.dataclass(frozen=True)
class Job:
    """One file to write, and what goes into it."""

    sources: tuple[Source, ...]
    output: Path


def order_of(args: Any) -> Order:
    """The formats that the first two words name. UserError when the one cannot become the other."""
    if len(args.from_to_input) < 3:
        raise UserError(
            "convert needs a format to read, a format to write, and data",
            hint="swiftlike convert auto swift_v2 pairs.jsonl   (see `swiftlike list formats`)",
        )
    source, target = (_format(word) for word in args.from_to_input[:2])
    order = Order(source, target, args)
    if target.write is None:
        raise UserError(f"{target.name} is a format to read, not to write", hint=f"to write: {_listed(source.kinds)}")
    _refuse_flags(order)
    kinds = ("ranked",) if order.ranks else source.kinds
    if target.name not in targets(kinds) and not order.compares:
        missing = f"it has {_words(kinds)}, {target.name} needs {_words(target.kinds)}"
        more = "; with --scores also the others" if source.name == "apo_sample" else ""
        raise UserError(
            f"{source.name} cannot become {target.name}: {missing}",
            hint=f"{source.name} can become {_listed(kinds)}{more}",
        )
    return order


def _format(word: str) -> Format:
    name = word.replace("-", "_").lower()
    if name != AUTO and name not in FORMATS:
        raise UserError(
            f"unknown format {word!r}{suggestion(name, (*FORMATS, AUTO))}", hint="`swiftlike list formats` has them all"
        )
    return ANY if name == AUTO else FORMATS[name]


def _words(kinds: Sequence[str]) -> str:
    names = {"completion": "single answers", "labelled": "labelled answers", "ranked": "rankings", "pair": "pairs"}
    return " or ".join(names.get(kind, "answers without a judgement") for kind in kinds)


def _listed(kinds: Sequence[str]) -> str:
    return ", ".join(targets([kind for kind in kinds if kind in GIVES]))


def _refuse_flags(order: Order) -> None:
    args = order.args
    if (args.samples or args.sampling) and not order.compares:
        raise UserError("--samples and --sampling go with `convert apo_golden apo_comparison`")
    if args.scores and order.source.name != "apo_sample":
        raise UserError("--scores goes with `convert apo_sample ...`")


def plan(order: Order) -> list[Job]:
    """Every file to write. UserError when one is there already, or is one of those that are read."""
    register(order.args.custom_dataset_info)
    wanted = parse_all(order.args.from_to_input[2:])
    output = order.args.output
    if len(wanted) == 1 and _is_plain_folder(wanted[0]) and not str(output or "").lower().endswith(WRITABLE):
        jobs = list(_folder(order, wanted[0].path or Path()))
    elif output is None:
        jobs = [Job((order.open(one),), _default(order, one)) for one in wanted]
    elif output.lower().endswith(WRITABLE):
        jobs = [Job(tuple(order.open(one) for one in wanted), Path(output).expanduser())]
    else:
        raise UserError(
            f"--output {output}: a file to write ends in {', '.join(WRITABLE)}",
            hint="a folder is written when a single folder is read",
        )
    _refuse_outputs(order, jobs)
    return jobs


def _is_plain_folder(wanted: Wanted) -> bool:
    return wanted.path is not None and wanted.path.is_dir() and not wanted.subsets and wanted.count is None


def _folder(order: Order, folder: Path) -> Iterator[Job]:
    """Every data file of a folder, whatever its split, to a file of that name."""
    suffix = _NAMES.get((order.source.name, order.target.name), f"_{order.target.name}").partition(".")[0]
    absolute = folder.absolute()
    base = Path(order.args.output or absolute.with_name(absolute.name + suffix)).expanduser()
    for file in files_of(folder, _ALL):
        place = file.relative_to(folder)
        name = file.name if file.name.lower().endswith(WRITABLE) else f"{_stem(file)}.jsonl"
        yield Job((order.open(Wanted(str(file), path=file)),), base / place.parent / name)


def _default(order: Order, wanted: Wanted) -> Path:
    """A name made of the input's, beside it; in the working folder when it comes from a hub."""
    suffix = _NAMES.get((order.source.name, order.target.name), "")
    if not suffix.endswith(".json"):
        suffix = f"_{order.target.name}.jsonl"
    if order.args.sampling:
        suffix = f"_sampled{suffix}"
    if wanted.path is None:
        return Path(wanted.name.rpartition("/")[2] + suffix)
    return wanted.path.absolute().with_name(_stem(wanted.path.absolute()) + suffix)


def _stem(path: Path) -> str:
    name = path.name
    for suffix in (".gz", *DATA_SUFFIXES):
        name = name.removesuffix(suffix)
    return name or path.name


def _refuse_outputs(order: Order, jobs: Sequence[Job]) -> None:
    beside = order.opened([*order.args.samples, *order.args.scores])
    roots = [path for source in (*(one for job in jobs for one in job.sources), *beside) for path in source.paths]
    files = {file.resolve() for root in roots for file in files_of(root, _ALL)}
    folders = [root.resolve() for root in roots if root.is_dir()]
    outputs = [job.output.resolve() for job in jobs]
    problems = [f"{output} is one of the files that are read" for output in outputs if output in files]
    problems += [f"{one} lies in a folder that is read" for one in outputs for f in folders if f in one.parents]
    problems += [f"{one} would be written {n} times" for one, n in Counter(outputs).items() if n > 1]
    if problems:
        raise UserError("cannot write there:", hint="give another --output", problems=dict.fromkeys(problems))
    there = [str(job.output) for job in jobs if job.output.exists()]
    if there and not order.args.overwrite:
        raise UserError("the output exists already:", hint="--overwrite replaces it", problems=there)
    if any(output.is_dir() for output in outputs):
        raise UserError(f"{next(one for one in outputs if one.is_dir())} is a folder", hint="give another --output")
