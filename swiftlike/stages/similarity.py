"""What texts there are already, and whether another one is too near to one of them."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Set
from typing import Any

from swiftlike.core.optional import require

_ROUNDING = 1e-9


class Known:
    """Texts that others are held against: word for word (`exact`), and by ROUGE-L above `rouge` where that is given."""

    def __init__(self, texts: Iterable[str] = (), *, exact: bool = True, rouge: float | None = None) -> None:
        self._texts: set[str] | None = set() if exact else None
        self._near = None if rouge is None else _Near(rouge)
        for text in texts:
            self.add(text)

    def __contains__(self, text: str) -> bool:
        if self._texts is not None and text in self._texts:
            return True
        return self._near is not None and text in self._near

    def add(self, text: str) -> None:
        """From now on this text is known."""
        if self._texts is not None:
            self._texts.add(text)
        if self._near is not None:
            self._near.add(text)


class _Near:
    """Texts by their words. A text is in it when the ROUGE-L F-measure (Lin 2004) to one of them is above the threshold
    (0.7 in Wang et al. 2023).

    With m and n words the measure is 2 L / (m + n), where the longest common subsequence L has at most the common words
    C. Above t it follows that C > t m / (2 - t) (from C <= n), so that one of the other words' number plus one, the
    rarest, must be in a near text: only texts that hold one of those, and enough in common, are measured.
    """

    def __init__(self, threshold: float) -> None:
        package = {"because": f"--dedup_rouge {threshold}", "extra": "self_instruct", "package": "rouge-score"}
        self.threshold = threshold
        self._split = require("rouge_score.tokenize", **package).tokenize
        scorer: Any = require("rouge_score.rouge_scorer", **package)
        self._scorer = scorer.RougeScorer(["rougeL"], use_stemmer=False)
        self._texts: list[tuple[str, Set[tuple[str, int]]]] = []
        self._places: defaultdict[tuple[str, int], list[int]] = defaultdict(list)  # word to the texts it is in

    def add(self, text: str) -> None:
        words = self._words(text)
        for word in words:
            self._places[word].append(len(self._texts))
        self._texts.append((text, words))

    def __contains__(self, text: str) -> bool:
        words = self._words(text)
        common = math.ceil(self.threshold * len(words) / (2 - self.threshold) - _ROUNDING)
        rarest = sorted(words, key=lambda word: (len(self._places.get(word, ())), word))
        looked_at = rarest[: len(words) - common + 1]
        found = sorted({place for word in looked_at for place in self._places.get(word, ())})
        return any(self._is_near(place, text, words) for place in found)

    def _is_near(self, place: int, text: str, words: Set[tuple[str, int]]) -> bool:
        other, others = self._texts[place]
        most = 2 * len(words & others) / (len(words) + len(others))
        if most + _ROUNDING < self.threshold:
            return False
        return bool(self._scorer.score(other, text)["rougeL"].fmeasure > self.threshold)

    def _words(self, text: str) -> Set[tuple[str, int]]:
        """Words with their number among equal ones, so that common elements of two sets count repeated words."""
        seen: Counter[str] = Counter()
        found = set()
        for word in self._split(text, None):
            seen[word] += 1
            found.add((word, seen[word]))
        return found
