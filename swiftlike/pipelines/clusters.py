"""Texts that are alike, found by k-means over what a model or their words say of them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.core.files import write_json
from swiftlike.core.log import get_logger
from swiftlike.core.optional import require

_BATCH = 64  # texts
_MODELS = {"bert": "bert-base-uncased", "sentence_transformers": "sentence-transformers/all-MiniLM-L6-v2"}
_ROUNDS = 2000  # of k-means, at most
_log = get_logger(__name__)


def clusters(texts: Sequence[str], args: Any, place: Path) -> dict[int, list[str]]:
    """Cluster numbers, in order, to their texts.

    Kept in the file `place`: of several processes that need them at once all use what the first one found, so that
    small differences between machines do no harm.
    """
    if not place.exists():
        _keep_first(_labels(texts, args), place)
    labels = json.loads(place.read_text(encoding="utf-8"))
    found: dict[int, list[str]] = {label: [] for label in sorted(set(labels))}
    for label, text in zip(labels, texts, strict=True):
        found[label].append(text)
    if len(found) < args.n_clusters:
        _log.warning("there are only %d different clusters of %d", len(found), args.n_clusters)
    return found


def _keep_first(labels: list[int], place: Path) -> None:
    """Write the file unless it is there by now; it appears whole."""
    own = place.with_name(f".{place.name}.{os.uname().nodename}.{os.getpid()}")
    write_json(own, labels)
    with contextlib.suppress(FileExistsError):
        os.link(own, place)
    own.unlink()


def _labels(texts: Sequence[str], args: Any) -> list[int]:
    if len(texts) < args.n_clusters:
        raise UserError(f"--n_clusters {args.n_clusters}: there are only {len(texts)} seeds")
    cluster = require("sklearn.cluster", because="--clustering", extra="self_instruct", package="scikit-learn")
    _log.info("%d seeds to %d clusters by %s", len(texts), args.n_clusters, args.embedding_type)
    embeddings = _EMBEDDINGS[args.embedding_type](texts, args.embedding_model or _MODELS.get(args.embedding_type, ""))
    means = cluster.KMeans(n_clusters=args.n_clusters, random_state=0, max_iter=_ROUNDS)
    return [int(label) for label in means.fit_predict(embeddings)]


def _tf_idf(texts: Sequence[str], model: str) -> Any:
    """[N, words] weights, sparse."""
    text = require("sklearn.feature_extraction.text", because="--embedding_type tf-idf", package="scikit-learn")
    try:
        return text.TfidfVectorizer().fit_transform(texts)
    except ValueError as error:
        raise UserError(f"--embedding_type tf-idf: {error}", hint="see --embedding_type") from error


def _bert(texts: Sequence[str], model: str) -> Any:
    """[N, D] means over tokens of the last hidden states."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        net = AutoModel.from_pretrained(model, trust_remote_code=False).eval()
    except (OSError, ValueError) as error:
        raise _not_there(model, error) from error
    net = net.to("cuda" if torch.cuda.is_available() else "cpu")
    longest = min(
        tokenizer.model_max_length, getattr(net.config, "max_position_embeddings", tokenizer.model_max_length)
    )
    found = []
    for start in range(0, len(texts), _BATCH):
        batch = tokenizer(
            list(texts[start : start + _BATCH]), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(net.device)
        with torch.inference_mode():
            hidden = net(**batch).last_hidden_state.float()
        mask = batch["attention_mask"].unsqueeze(-1)
        found.append(((hidden * mask).sum(1) / mask.sum(1).clamp(min=1)).cpu())
    return torch.cat(found).numpy()


def _sentence_transformers(texts: Sequence[str], model: str) -> Any:
    """[N, D] by the package of that name."""
    because = "--embedding_type sentence_transformers"
    package = require("sentence_transformers", because=because, package="sentence-transformers")
    try:
        net = package.SentenceTransformer(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _not_there(model, error) from error
    return net.encode(list(texts), batch_size=_BATCH)


def _not_there(model: str, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()[0]
    return UserError(f"cannot load {model!r}: {reason}", hint="give a folder with --embedding_model")


_EMBEDDINGS: dict[str, Callable[[Sequence[str], str], Any]] = {
    "tf-idf": _tf_idf,
    "bert": _bert,
    "sentence_transformers": _sentence_transformers,
}
