"""Log-probabilities of chosen tokens without ever holding [tokens, vocabulary] logits.

The language-model head runs only where a token is predicted, in chunks, fused with the log-softmax gather. It is done
inside the head module's own `forward`, so that DDP, FSDP and ZeRO hooks gather its weight as they always do.
"""

from __future__ import annotations

import types
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from swiftlike.models import attention
from swiftlike.models.layout import group_mask

Scores = tuple[Tensor, Tensor]  # log-probabilities [N] float32, mean logit [N] float32 without gradient


class _Head(NamedTuple):
    """How a head's output becomes logits, and how many rows at a time."""

    chunk: int
    cap: float | None
    scale: float
    temperature: float = 1.0

    def logits(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        logits = nn.functional.linear(hidden, weight, bias)
        logits = logits.double() if logits.dtype == torch.float64 else logits.float()
        logits = logits if self.scale == 1 else logits * self.scale
        logits = logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)
        return logits if self.temperature == 1 else logits / self.temperature

    def slope(self, logits: Tensor) -> Tensor | float:
        """d logits / d the head's output."""
        scale = self.scale / self.temperature
        return scale if self.cap is None else scale * (1 - (logits * self.temperature / self.cap).square())


class _Trained(torch.autograd.Function):
    """Head with gradient: logits are made again in backward, chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, head: _Head) -> Scores:
        logps, means, sums = [], [], []
        for part, wanted in zip(hidden.split(head.chunk), targets.split(head.chunk), strict=True):
            logits = head.logits(part, weight, bias)
            total = logits.logsumexp(-1)
            logps.append(logits.gather(1, wanted[:, None]).squeeze(1) - total)
            means.append(logits.mean(-1))
            sums.append(total)
        ctx.save_for_backward(hidden, weight, bias, targets, torch.cat(sums))
        ctx.head = head
        mean = torch.cat(means)
        ctx.mark_non_differentiable(mean)
        return torch.cat(logps), mean

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _mean: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, total = ctx.saved_tensors
        head: _Head = ctx.head
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=total.dtype) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=total.dtype) if needs_bias and bias is not None else None
        for start in range(0, len(hidden), head.chunk):
            part = slice(start, start + head.chunk)
            logits = head.logits(hidden[part], weight, bias)
            slope = head.slope(logits)
            wrong = logits.sub_(total[part, None]).exp_().mul_(-grad[part, None])
            wrong.scatter_add_(1, targets[part, None], grad[part, None])
            wrong.mul_(slope)
            if grad_bias is not None:
                grad_bias += wrong.sum(0)
            if grad_weight is not None:
                grad_weight.addmm_(wrong.T, hidden[part].to(wrong.dtype))
            if grad_hidden is not None:
                grad_hidden[part] = wrong.to(weight.dtype) @ weight
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(weight.dtype),
            None,
            None,
        )


class _Frozen(torch.autograd.Function):
    """Frozen head (LoRA): d logp / d hidden does not depend on the loss, so it is made in forward, [tokens, hidden],
    and no logits are computed a second time."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, head: _Head) -> Scores:
        logps, means = [], []
        slopes = torch.empty_like(hidden)
        for start in range(0, max(len(hidden), 1), head.chunk):
            part = slice(start, start + head.chunk)
            logits = head.logits(hidden[part], weight, bias)
            total = logits.logsumexp(-1, keepdim=True)
            wanted = targets[part, None]
            picked = logits.gather(1, wanted)
            logps.append((picked - total).squeeze(1))
            means.append(logits.mean(-1))
            slope = head.slope(logits)
            wrong = logits.sub_(total).exp_().neg_()
            wrong.scatter_add_(1, wanted, torch.ones_like(picked))
            wrong.mul_(slope)
            slopes[part] = wrong.to(weight.dtype) @ weight
        ctx.save_for_backward(slopes)
        mean = torch.cat(means)
        ctx.mark_non_differentiable(mean)
        return torch.cat(logps), mean

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _mean: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return slopes * grad[:, None].to(slopes.dtype), None, None, None, None


def token_logps(  # noqa: PLR0913 - what a head is, by keyword
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    chunk: int = 256,
    cap: float | None = None,
    scale: float = 1.0,
    temperature: float = 1.0,
) -> Scores:
    """Log-probabilities of `targets` [N] under `softmax(z / temperature)`, where
    `z = cap * tanh(scale * (hidden @ weight.T + bias) / cap)`.

    `hidden` [N, H], `weight` [V, H]. Memory beyond the inputs is `chunk` rows of logits. Log-softmax runs in float32
    (float64 for float64 inputs).
    """
    compute = _compute_dtype(hidden, weight)
    hidden, weight = hidden.to(compute), weight.to(compute)
    head = _Head(chunk, cap, scale, temperature)
    trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    if not torch.is_grad_enabled() or not (hidden.requires_grad or trained):
        with torch.no_grad():
            return _forward_only(hidden, weight, bias, targets, head)
    return (_Trained if trained else _Frozen).apply(hidden, weight, bias, targets, head)


def _compute_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """What the head's product runs in: autocast's type where it is on (backward runs outside it), else the weight's."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and weight.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return weight.dtype


def _forward_only(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, head: _Head) -> Scores:
    logps, means = [], []
    for part, wanted in zip(hidden.split(head.chunk), targets.split(head.chunk), strict=True):
        logits = head.logits(part, weight, bias)
        logps.append(logits.gather(1, wanted[:, None]).squeeze(1) - logits.logsumexp(-1))
        means.append(logits.mean(-1))
    return torch.cat(logps), torch.cat(means)


# -- the model's side ---------------------------------------------------------------------------------------------


def add_scoring(model: nn.Module, chunk: int = 256, temperature: float = 1.0) -> None:
    """Teach a causal or image-text model to score tokens: `model(**batch, targets=...)` gives Scores, of log-softmax
    over logits divided by `temperature`.

    Without `targets` its forward is what it was, so generation and everything else stays. The two replaced methods
    belong to this instance only; wrapping engines (PEFT, DDP, FSDP, DeepSpeed) call through them.
    """
    head = model.get_output_embeddings()
    text = model.config.get_text_config()
    cap, scale = getattr(text, "final_logit_softcapping", None), _scale(text)
    plain_forward = model.forward

    def head_forward(self: nn.Module, hidden: Tensor, targets: Tensor | None = None) -> Any:
        if targets is None:
            return type(self).forward(self, hidden)  # not the bound method: PEFT copies heads that it trains whole
        bias = getattr(self, "bias", None)
        settings = {"chunk": chunk, "cap": cap, "scale": scale, "temperature": temperature}
        here = self.weight.device  # of a model on several cards, not where the trunk ends
        return token_logps(hidden.to(here), self.weight, targets.to(here), bias=bias, **settings)

    def forward(self: nn.Module, *args: Any, targets: Tensor | None = None, **kwargs: Any) -> Any:
        if targets is None:
            return plain_forward(*args, **kwargs)
        return score(self, targets=targets, **kwargs)

    # a device map wraps forward: what it wraps is replaced, so that weights kept elsewhere are still fetched
    setattr(head, "_old_forward" if hasattr(head, "_hf_hook") else "forward", types.MethodType(head_forward, head))
    model.forward = types.MethodType(forward, model)


def _scale(text: Any) -> float:
    """What a family multiplies its head's output by. `logits_scaling` is a divisor everywhere but in HyperCLOVA X."""
    if scaling := getattr(text, "logits_scaling", None):
        return scaling if text.model_type == "hyperclovax" else 1 / scaling
    return getattr(text, "logit_scale", None) or getattr(text, "lm_head_multiplier", None) or 1.0


def score(  # noqa: PLR0913 - the tensors of a batch, by name
    model: nn.Module,
    *,
    input_ids: Tensor,
    position_ids: Tensor,
    predict: Tensor,
    targets: Tensor,
    segments: Tensor | None = None,
    lines: Tensor | None = None,
    attention_mask: Tensor | None = None,
    **vision: Tensor,
) -> Scores:
    """One forward pass of the trunk, then the head at the predicting positions only. Where a model lies on several
    cards, the numbers come back to the one that the batch is on."""
    hidden = hidden_states(model, input_ids, position_ids, segments, lines, attention_mask, **vision)
    logps, means = model.get_output_embeddings()(hidden[predict.to(hidden.device)], targets)
    return logps.to(predict.device), means.to(predict.device)


def hidden_states(
    model: nn.Module,
    input_ids: Tensor,
    position_ids: Tensor,
    segments: Tensor | None = None,
    lines: Tensor | None = None,
    attention_mask: Tensor | None = None,
    **vision: Tensor,
) -> Tensor:
    """Last hidden states of the trunk, flat [R * T, H], for either layout."""
    trunk = getattr(model, model.base_model_prefix, None) or model.model  # Llama 4's prefix names no attribute
    if segments is not None:
        attention.use(model)
        logical = position_ids if position_ids.ndim == 2 else position_ids[0]
        attention_mask = group_mask(model.config, segments, logical, model.dtype, lines)
    return trunk(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=position_ids,
        use_cache=False,
        **vision,
    ).last_hidden_state.flatten(0, 1)


NOT_MODEL = ("slots", "tokens", "present", "real", "scores", "label", "margin", "adversarial", "keys", "origins")
PROMPT = ("prompt_predict", "prompt_targets", "prompt_rows")


def model_inputs(batch: dict[str, Any]) -> dict[str, Tensor]:
    """The part of a batch that the model sees; prompt tokens, when asked for, ride along behind the completions'."""
    inputs = {name: value for name, value in batch.items() if name not in (*NOT_MODEL, *PROMPT)}
    if "prompt_predict" in batch:
        inputs["predict"] = torch.cat([batch["predict"], batch["prompt_predict"]])
        inputs["targets"] = torch.cat([batch["targets"], batch["prompt_targets"]])
    return inputs


def group_logps(scores: Scores, batch: dict[str, Any]) -> dict[str, Tensor]:
    """Token log-probabilities to `policy` [B, K] sums and `logits` [B, K] mean logits, and `prompt_nll`,
    `prompt_tokens` [B] where the batch asked for them."""
    logps, logits = scores
    rows, size = batch["tokens"].shape
    n = len(batch["slots"])
    zeros = logps.new_zeros(rows * size)
    out = {
        "policy": zeros.index_add(0, batch["slots"], logps[:n]).view(rows, size),
        "logits": zeros.index_add(0, batch["slots"], logits[:n].to(logps.dtype)).view(rows, size)
        / batch["tokens"].clamp(min=1),
    }
    if "prompt_rows" in batch:
        out["prompt_nll"] = -logps.new_zeros(rows).index_add(0, batch["prompt_rows"], logps[n:])
        out["prompt_tokens"] = torch.bincount(batch["prompt_rows"], minlength=rows)
    return out
