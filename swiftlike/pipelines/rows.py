"""The rows of a training run as groups: prepared once, taken up again by later runs that would prepare the same."""

from __future__ import annotations

import dataclasses as dc
import functools
import itertools
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import swiftlike
from swiftlike.core.errors import UserError
from swiftlike.core.files import file_facts
from swiftlike.core.log import get_logger
from swiftlike.core.merge import DEFAULT, Run
from swiftlike.data.encode import Encoded, Encoder
from swiftlike.data.kept import WORTH, kept_or_made, key_of
from swiftlike.data.load import max_bytes, sources_of
from swiftlike.data.media import open_image
from swiftlike.data.packed import Packed
from swiftlike.data.prepared import Prepared, Preparing, prepare
from swiftlike.data.vision import Adapter, Pixels
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import Image
from swiftlike.losses.base import LossCard
from swiftlike.pipelines.prepare import Checkpoint, encoder, settle
from swiftlike.pipelines.rewards import is_reward
from swiftlike.pipelines.streaming import Streamed

log = get_logger(__name__)
SAMPLE = 64  # streamed rows that the plan looks at
# data flags that change how fast rows are prepared, or what is done with them afterwards
_NO_MATTER = {"dataset_num_proc", "load_from_cache_file", "dataset_shuffle", "shuffle_buffer_size", "streaming"}
_LIBRARIES = ("transformers", "tokenizers", "jinja2", "numpy", "pillow")
_TOKENIZER_FILES = {".json", ".jinja", ".model", ".txt", ".tiktoken", ".vocab", ".bpe", ".py"}


@dc.dataclass(frozen=True, kw_only=True)
class Data:
    """Groups of a run. When they are streamed, `train` is only a sample to plan with."""

    train: Packed
    val: Packed
    stream: Streamed | None = None

    @property
    def pictures(self) -> bool:
        """Whether any row has a picture."""
        return self.train.pictures or self.val.pictures


def read_data(run: Run, checkpoint: Checkpoint, card: LossCard) -> Data:
    """Rows, checked and encoded. Bad ones stop the run here, before weights are loaded."""
    encode = dc.replace(
        encoder(run, checkpoint, every=card.data == "completion"),
        refuse=functools.partial(card.refuse, args=run.loss),
        scaled=functools.partial(card.scaled, args=run.loss),
        # otherwise a cut from the right may leave nothing of an answer
        whole=is_reward(card) and run.data.truncation_strategy == "left_each",
    )
    decides = functools.partial(_decides, card=card, args=run.loss)
    given = run.origin.get("dataset_num_proc", DEFAULT) != DEFAULT
    how = Preparing(encode=encode, decides=decides, processes=run.data.dataset_num_proc if given else None)
    streaming = run.data.streaming
    known = run.replace("streaming", dataset=[], interleave_prob=[]) if streaming else run
    found, again = prepared(known, checkpoint, card, how)
    for number, line in enumerate(found.report.splitlines()):
        log.info("%s", line + " (from cache)" * (again and not number))
    val = found.val
    if streaming:
        stream = Streamed(run, card, encode, pixel_maker(checkpoint, run))
        settle(found.bad_val, run, "validation")
        sample = (item.group for item in itertools.islice(stream.one_pass(), SAMPLE))
        return Data(train=Packed.of(sample, decides), val=val, stream=stream)
    settle(found.bad_train, run, "training")
    settle(found.bad_val, run, "validation")
    if not found.train:
        raise UserError("no training row is left")
    if card.record == "labelled" and len(found.train) < 2:
        raise UserError("this objective compares each row with another one: at least two training rows are needed")
    if card.record == "labelled" and len(val) == 1:
        log.warning("the only validation row is left out: this objective compares each row with another one")
        val = val[:0]
    return Data(train=found.train, val=val)


def prepared(run: Run, checkpoint: Checkpoint, card: LossCard, how: Preparing) -> tuple[Prepared, bool]:
    """The groups of a run's data, and whether an earlier run prepared them. Small data is not kept."""
    seed, hub = run.train.seed, "hf" if run.model.use_hf else "ms"

    def make(folder: Path | None) -> Prepared:
        return prepare(run.data, card.data, seed, hub, how, folder)

    try:
        sources = sources_of(run.data, [*run.data.dataset, *run.data.val_dataset], hub)
        size = sum(source.identity()[0] for source in sources)
    except (UserError, OSError, AttributeError):  # preparing says it in its own order; no fingerprint
        return make(None), False
    if size < WORTH:
        return make(None), False

    def key() -> str:
        return key_of(_decisive(run, checkpoint, card, how.encode, sources))

    return kept_or_made(key, size, run.data.load_from_cache_file, make)


def _decisive(run: Run, checkpoint: Checkpoint, card: LossCard, encode: Encoder, sources: Any) -> Iterator[Any]:
    """Everything that decides what rows become."""
    yield swiftlike.__version__, [metadata.version(name) for name in _LIBRARIES]
    code = Path(swiftlike.__file__).parent
    yield [(str(path.relative_to(code)), _stamp(path)) for path in sorted(code.rglob("*.py"))]
    data = run.data
    yield [(field.name, getattr(data, field.name)) for field in dc.fields(data) if field.name not in _NO_MATTER]
    yield card.data, run.train.seed, run.model.use_hf, str(Path.cwd())
    for source in sources:
        yield source.name, source.identity()[1]
        yield source.columns, source.wanted.card and _code(source.wanted.card.to_row)
    yield [file_facts(Path(name)) for name in (*run.train.plugin, *data.custom_dataset_info) if Path(name).is_file()]
    fields = (one.name for one in dc.fields(encode) if one.name not in ("template", "adapter", "refuse", "scaled"))
    yield [(name, getattr(encode, name)) for name in fields]
    yield from _model(checkpoint)
    untouched = LossCard.refuse, LossCard.scaled, LossCard.units
    if (card.refuse, card.scaled, card.units) != untouched:  # the objective's own flags may decide
        yield card.name, run.loss


def _model(checkpoint: Checkpoint) -> Iterator[Any]:
    """What templates, tokenizes and counts picture tokens."""
    template, tokenizer = checkpoint.template, checkpoint.tokenizer
    yield template.card, template.vision, template.system
    yield type(tokenizer).__name__, len(tokenizer), tokenizer.chat_template, tokenizer.special_tokens_map
    files = (path for path in sorted(checkpoint.source.folder.iterdir()) if path.suffix in _TOKENIZER_FILES)
    yield [(path.name, file_facts(path)[1:]) for path in files if path.is_file()]
    if checkpoint.adapter is not None:
        yield type(checkpoint.adapter).__name__, checkpoint.config.to_json_string()


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _code(function: Callable[..., Any] | None) -> Any:
    """Where a function is written, and the state of that file."""
    if function is None:
        return None
    path = Path(function.__code__.co_filename) if hasattr(function, "__code__") else None
    return repr(getattr(function, "__qualname__", type(function))), str(path), path and path.is_file() and _stamp(path)


def decided(data: Data, card: LossCard) -> Data:
    """Without the rows that the objective has nothing to learn from, because all their scores are equal. UserError when
    there are no others to train on."""
    train, val = data.train.decided, data.val.decided
    if not train:
        raise UserError(f"no training row has a preference: {card.name} learns nothing from equal scores")
    if data.val and not val:
        log.warning("no validation row has a preference: there is no evaluation")
    return dc.replace(data, train=train, val=val)


def _decides(group: Encoded, card: LossCard, args: Any) -> bool:
    if not group.scores:
        return True
    scores = torch.tensor([group.scores])
    return int(card.units(scores, torch.ones_like(scores, dtype=torch.bool), args)) > 0


def pixel_maker(checkpoint: Checkpoint, run: Run) -> Callable[[Image], Pixels] | None:
    """What turns a picture into tensors; None for text models."""
    return checkpoint.adapter and functools.partial(_pixels, checkpoint.adapter, max_bytes(run.data))


def _pixels(adapter: Adapter, limit: int, image: Image) -> Pixels:
    try:
        return adapter.pixels(open_image(image, max_bytes=limit))
    except BadRow as error:  # its header was fine when the row was checked
        raise UserError(f"a picture cannot be read any more: {error}") from error
