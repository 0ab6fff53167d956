"""A scalar head on a causal or image-text model: what a reward model is beyond its trunk."""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor, nn

from swiftlike.models.logps import NOT_MODEL, hidden_states


class ValueHead(nn.Module):
    """`s = w . dropout(h) + b`, in float32. Its parameters are called as TRL and ms-swift call them.

    The same `seed` gives the same weights, whatever else was drawn before.
    """

    def __init__(
        self, hidden: int, *, bias: bool = True, dropout: float = 0.0, std: float = 0.02, seed: int = 0
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.summary = nn.Linear(hidden, 1, bias=bias)
        nn.init.normal_(self.summary.weight, std=std, generator=torch.Generator().manual_seed(seed))
        if bias:
            nn.init.zeros_(self.summary.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """[N, H] to [N]. Autocast would round a reward to three digits."""
        weight = self.summary.weight
        with torch.autocast(weight.device.type, enabled=False):
            return self.summary(self.dropout(pooled.to(weight))).squeeze(-1)


def add_value_head(model: nn.Module, head: ValueHead, pooling: str) -> None:
    """Teach a model to score completions: `model(**batch, pool_at=..., pool_slots=...)` gives rewards, one per slot.

    Without `pool_at` its forward is what it was. The head becomes the model's `v_head`, in float32: wrapping engines
    (PEFT, DDP, FSDP, DeepSpeed) see a parameter like the others.
    """
    plain_forward = model.forward
    model.v_head = head.to(device=model.get_output_embeddings().weight.device)

    def forward(self: nn.Module, *args: Any, pool_at: Tensor | None = None, **kwargs: Any) -> Any:
        if pool_at is None:
            return plain_forward(*args, **kwargs)
        return rewards(self, pooling, pool_at=pool_at, **kwargs)

    model.forward = types.MethodType(forward, model)


def base_of(model: Any) -> nn.Module:
    """The transformers model inside an adapter, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def hidden_size(model: nn.Module) -> int:
    """Features of the last hidden state."""
    weight = model.get_output_embeddings().weight
    return getattr(weight, "ds_shape", weight.shape)[1]  # ZeRO-3 leaves nothing of a weight but its shape


def freeze_language_head(model: nn.Module) -> None:
    """Nothing reads the language-model head: it is not trained, unless it is the input embedding as well."""
    head = model.get_output_embeddings()
    if head.weight is not model.get_input_embeddings().weight:
        head.requires_grad_(False)


def rewards(model: nn.Module, pooling: str, *, pool_at: Tensor, pool_slots: Tensor, **batch: Tensor) -> Tensor:
    """One forward pass of the trunk, then the head once for each slot; slots without a position get no number. Of a
    model on several cards, pooling is done where the trunk ends, and the numbers come back to the batch's."""
    hidden = hidden_states(model, **batch)
    slots, index = torch.unique_consecutive(pool_slots, return_inverse=True)
    pooled = pool(hidden[pool_at.to(hidden.device)], index.to(hidden.device), len(slots), pooling)
    return model.v_head(pooled).to(pool_slots.device)


def pool(hidden: Tensor, index: Tensor, slots: int, pooling: str) -> Tensor:
    """[P, H] to [slots, H]: the mean, the largest of each feature, or the only position. Means and maxima in float32
    at least."""
    if pooling not in ("mean", "max"):
        return hidden
    hidden = hidden if hidden.dtype == torch.float64 else hidden.float()
    start = hidden.new_zeros(slots, hidden.shape[1])
    if pooling == "mean":
        return start.index_add(0, index, hidden) / torch.bincount(index, minlength=slots)[:, None]
    where = index[:, None].expand_as(hidden)
    return start.scatter_reduce(0, where, hidden, "amax", include_self=False)


def reward_inputs(batch: dict[str, Any]) -> dict[str, Tensor]:
    """The part of a batch that a reward model sees."""
    return {name: value for name, value in batch.items() if name not in NOT_MODEL}


def group_rewards(values: Tensor, batch: dict[str, Any]) -> Tensor:
    """Rewards of the batch's slots to [B, K]; 0 where a prompt has fewer completions."""
    rows, size = batch["tokens"].shape
    slots = torch.unique_consecutive(batch["pool_slots"])
    return values.new_zeros(rows * size).index_add(0, slots, values).view(rows, size)
