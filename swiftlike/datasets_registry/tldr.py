"""Reddit posts with their authors' summaries, and comparisons of summaries (Stiennon et al. 2020), as TRL has them."""

import dataclasses as dc

from swiftlike.datasets_registry.card import DatasetCard
from swiftlike.datasets_registry.kinds import FROM_ANSWERS, FROM_PAIRS, differing
from swiftlike.datasets_registry.shapes import to_row

TLDR = DatasetCard(
    name="tldr",
    hf="trl-lib/tldr",
    kinds=FROM_ANSWERS,
    help="prompt (SUBREDDIT, TITLE, POST, TL;DR:), completion",
)
TLDR_TEST = dc.replace(TLDR, name="tldr-test", split="test", help="its held-out posts")
TLDR_PREFERENCE = DatasetCard(
    name="tldr-preference",
    hf="trl-lib/tldr-preference",
    kinds=FROM_PAIRS,
    to_row=lambda record: differing(to_row(record, "pair")[0]),
    help="prompt as in tldr, chosen and rejected summary",
)
TLDR_PREFERENCE_VALIDATION = dc.replace(
    TLDR_PREFERENCE, name="tldr-preference-validation", split="validation", help="its held-out comparisons"
)
