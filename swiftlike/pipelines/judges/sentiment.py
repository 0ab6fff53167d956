"""EXO's reward of film reviews: how much surer a classifier is that a text is positive than that it is negative."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

MODEL = "siebert/sentiment-roberta-large-english"  # SENTIMENT_MODEL names another one, or a folder


def positive(prompt: str, answer: str, row: Mapping[str, Any]) -> float:
    """A rule of `swiftlike score`: log odds of the label POSITIVE, or of the last label, for prompt and answer."""
    import torch

    tokenizer, model, best = _classifier(os.environ.get("SENTIMENT_MODEL", MODEL))
    limit = min(tokenizer.model_max_length, model.config.max_position_embeddings - 2)  # RoBERTa counts from 2
    words = tokenizer(prompt + answer, truncation=True, max_length=limit, return_tensors="pt").to(model.device)
    with torch.inference_mode():
        logits: Tensor = model(**words).logits[0].float()
    others = torch.cat([logits[:best], logits[best + 1 :]])
    return float(logits[best] - others.logsumexp(0))


@functools.cache
def _classifier(name: str) -> tuple[Any, Any, int]:
    """Tokenizer, model, and which of its labels is the positive one."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(name)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    labels = [str(model.config.id2label[k]).upper() for k in range(model.config.num_labels)]
    best = labels.index("POSITIVE") if "POSITIVE" in labels else len(labels) - 1
    return AutoTokenizer.from_pretrained(name), model, best
