"""What a training step needs of memory: the step is gone through with tensors that have shapes and no numbers.

Layers save what they save: nothing is assumed of a family, of LoRA, of autocast, or of what is recomputed. Only the
vision tower is left out, which keeps nothing where it is frozen.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses as dc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from swiftlike.models import attention
from swiftlike.models.layout import PAD, allowed, group_mask
from swiftlike.models.logps import add_scoring


@dc.dataclass(frozen=True)
class Step:
    """Bytes at the moment when a step needs most: gradients, logits (all that is as wide as the vocabulary), and the
    rest. Weights are not among them."""

    gradients: int
    logits: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.gradients + self.logits + self.activations

    def plus(self, each: Step, times: int) -> Step:
        """This one and so many times another."""
        return Step(*(max(a + times * b, 0) for a, b in zip(dc.astuple(self), dc.astuple(each), strict=True)))

    def less(self, other: Step) -> Step:
        """The difference, part by part."""
        return Step(*(a - b for a, b in zip(dc.astuple(self), dc.astuple(other), strict=True)))

    def over(self, parts: int) -> Step:
        """One of so many equal parts."""
        return Step(*(one // parts for one in dc.astuple(self)))


@dc.dataclass(frozen=True, kw_only=True)
class Batch:
    """The part of a batch that decides shapes: real tensors, on the CPU."""

    input_ids: Tensor
    position_ids: Tensor
    predict: Tensor
    segments: Tensor | None = None
    lines: Tensor | None = None
    attention_mask: Tensor | None = None


@dc.dataclass(frozen=True, kw_only=True)
class Way:
    """How a step is computed. `weights` and `trained` are the types of frozen weights and of those that learn; where
    they differ from `compute` autocast is on. `accumulates`: gradients of earlier micro-batches are there already.
    `every`: one layer in so many is recomputed; 0: none. `reference`: a pass without gradients comes before the
    backward pass. `head` False: a reward model's.
    """

    weights: torch.dtype
    trained: torch.dtype
    compute: torch.dtype
    accumulates: bool
    every: int
    reference: bool
    head: bool
    chunk: int


class Watch(TorchDispatchMode):
    """Counts the bytes of what is made while it is on, and of what is still alive."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.peak = vocabulary, Step(0, 0, 0)
        self.now = {"gradients": 0, "logits": 0, "activations": 0}
        self._known: dict[int, tuple[str, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation as it is, its results noted."""
        made = func(*args, **(kwargs or {}))
        given = {id(one.untyped_storage()) for one in tree_iter((args, kwargs)) if isinstance(one, Tensor)}
        for one in tree_iter(made):
            if isinstance(one, Tensor) and id(one.untyped_storage()) not in given:
                self._note(one)
        return made

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)  # storages keep their Python object as long as they live
        if key in self._known:
            return
        wide = tensor.ndim > 1 and tensor.shape[-1] == self.vocabulary
        self._known[key] = ("logits" if wide else "activations", storage.nbytes())
        weakref.finalize(storage, self._gone, key)
        self._add(key)

    def _add(self, key: int) -> None:
        kind, size = self._known[key]
        self.now[kind] += size
        if sum(self.now.values()) > self.peak.total:
            self.peak = Step(**self.now)

    def _gone(self, key: int) -> None:
        kind, size = self._known.pop(key)
        self.now[kind] -= size

    def gradient(self, parameter: Tensor) -> None:
        """What has become a weight's gradient counts as one from now on."""
        key = id(parameter.grad.untyped_storage()) if parameter.grad is not None else 0
        if key in self._known:
            kind, size = self._known[key]
            self._known[key] = ("gradients", size)
            self.now[kind] -= size
            self.now["gradients"] += size


def rehearse(build: Callable[[Any], Any], config: Any, batch: Batch, way: Way) -> tuple[Step, Step]:
    """The peak of one micro-batch of the model that `build` makes, without weights, of a configuration; and what each
    layer adds to it.

    Two passes over models of few layers tell what more of them add; a model has many that are alike. Where one layer
    in n is recomputed, n more are looked at together.
    """
    layers, period = config.get_text_config().num_hidden_layers, max(way.every, 1)
    few = min(2, layers)
    more = min(few + period, layers)
    low, high = (_rehearsed(build, shortened(config, n), batch, way) for n in (few, more))
    each = high.less(low).over(max(more - few, 1))
    return high.plus(each, layers - more), each


def shortened(config: Any, layers: int) -> Any:
    """The configuration of the same model with fewer layers in its language model."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    types = getattr(text, "layer_types", None)
    text.num_hidden_layers = layers
    if types:
        text.layer_types = (types * layers)[:layers]
    return config


def _rehearsed(build: Callable[[Any], Any], config: Any, batch: Batch, way: Way) -> Step:
    from torch._subclasses.fake_tensor import FakeTensorMode

    text = config.get_text_config()
    model = build(config).train()
    mask = _mask(model, batch, way)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _fake(model, way)
        watch = Watch(text.vocab_size)
        for weight in model.parameters():
            if weight.requires_grad:
                weight.grad = torch.empty_like(weight) if way.accumulates else None
                weight.register_post_accumulate_grad_hook(watch.gradient)
        with watch:
            _step(model, mask, batch, way)
    held = sum(w.numel() * w.element_size() for w in model.parameters() if w.requires_grad) if way.accumulates else 0
    return dc.replace(watch.peak, gradients=watch.peak.gradients + held)


def _mask(model: Any, batch: Batch, way: Way) -> Any:
    """The mask that the layers see, made of real numbers. Rows without padding are causal, and need none: `pack` says
    so without one."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    text = base.config.get_text_config()
    logical = batch.position_ids if batch.position_ids.ndim == 2 else batch.position_ids[0]
    if text._attn_implementation != "eager":
        text._attn_implementation = "sdpa"
        attention.use(base)
    segments = batch.segments
    if segments is None and batch.attention_mask is not None and not bool(batch.attention_mask.all()):
        dense = allowed(torch.where(batch.attention_mask > 0, 0, PAD), logical)
        if text._attn_implementation == "eager":
            dense = torch.zeros(dense.shape, dtype=way.compute).masked_fill(~dense, torch.finfo(way.compute).min)
        types = set(getattr(text, "layer_types", None) or ())
        return dict.fromkeys(("full_attention", "sliding_attention"), dense) if "sliding_attention" in types else dense
    if segments is None:
        segments = torch.zeros_like(logical)
        if text._attn_implementation != "eager":
            return _causal(text, segments)
    return group_mask(base.config, segments, logical, way.compute, batch.lines)


def _causal(text: Any, segments: Tensor) -> Any:
    packed = attention.pack(segments, None)
    types = set(getattr(text, "layer_types", None) or ())
    return dict.fromkeys(("full_attention", "sliding_attention"), packed) if "sliding_attention" in types else packed


def _fake(model: nn.Module, way: Way) -> None:
    """Weights without numbers in the types that they are trained in; weights that are tied stay tied."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for own in (module._parameters, module._buffers):
            for name, tensor in own.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    bare = torch.empty(tensor.shape, dtype=_type(tensor, way))
                    trained = isinstance(tensor, nn.Parameter)
                    made[id(tensor)] = nn.Parameter(bare, tensor.requires_grad) if trained else bare
                own[name] = made[id(tensor)]


def _type(tensor: Tensor, way: Way) -> torch.dtype:
    if not tensor.is_floating_point() or not isinstance(tensor, nn.Parameter):
        return tensor.dtype
    return way.trained if tensor.requires_grad else way.weights


def _step(model: Any, mask: Any, batch: Batch, way: Way) -> None:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if way.every:
        recompute(base, way.every)
    add_scoring(base, way.chunk)
    mixed = way.compute if {way.weights, way.trained} != {way.compute} else None
    with _autocast(mixed):
        scored = _scores(base, mask, batch, way)
        if way.reference:
            with torch.no_grad():
                _scores(base, mask, batch, way)
        loss = scored.float().sum()
    loss.backward()


def recompute(model: Any, every: int) -> None:
    """Gradient checkpointing as the trainer turns it on, under the name that this transformers has for it."""
    enable = getattr(model, "activation_checkpointing_enable", None)
    if enable is None:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        enable({"use_reentrant": False}, every_n_layers=every)


@contextlib.contextmanager
def _autocast(dtype: torch.dtype | None) -> Iterator[None]:
    with torch.autocast("cpu", dtype) if dtype else contextlib.nullcontext():
        yield


def _scores(base: Any, mask: Any, batch: Batch, way: Way) -> Tensor:
    """The language model from its embeddings on: where pictures stand does not change a shape."""
    embedded = base.get_input_embeddings()(batch.input_ids)
    out = base.get_decoder()(
        inputs_embeds=embedded, attention_mask=mask, position_ids=batch.position_ids, use_cache=False
    ).last_hidden_state
    hidden = out.flatten(0, 1)[batch.predict]
    if not way.head:
        return hidden
    return base.get_output_embeddings()(hidden, torch.zeros_like(batch.predict))[0]
