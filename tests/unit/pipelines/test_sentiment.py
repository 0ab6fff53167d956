"""EXO's reward of film reviews, with a classifier of random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from swiftlike.models.tiny import build
from swiftlike.pipelines.judges.sentiment import positive

LABELS = {"positive first": {0: "POSITIVE", 1: "NEGATIVE"}, "no such name": {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}}


@pytest.mark.parametrize(("labels", "best"), [("positive first", 0), ("no such name", 2)])
def test_log_odds_of_the_positive_label(
    labels: str, best: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = LABELS[labels]
    tokenizer = AutoTokenizer.from_pretrained(build("tiny-llama", tmp_path / "tokenizer"))
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), pad_token_id=0, max_position_embeddings=12, id2label=names, **sizes)
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    monkeypatch.setenv("SENTIMENT_MODEL", str(tmp_path))
    ids = tokenizer("A red circle" + " and a long story", return_tensors="pt").input_ids[:, :10]
    with torch.inference_mode():
        chances = model(ids).logits[0].softmax(0)
    expected = torch.log(chances[best] / (1 - chances[best])).item()
    assert positive("A red circle", " and a long story", {}) == pytest.approx(expected, abs=1e-5)
