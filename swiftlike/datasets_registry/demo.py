"""Built-in data, made on this machine from a seed: a first run needs no download."""

from swiftlike.datasets_registry.card import DatasetCard
from swiftlike.datasets_registry.kinds import FROM_PAIRS

TEXT = DatasetCard(
    name="demo",
    build="swiftlike.data.demo:text",
    subsets=("train",),
    known_subsets=("train", "test"),
    kinds=FROM_PAIRS,
    licence="Apache-2.0",
    help="words by kind: 'Pick the fruit: plum or hammer.'; 648 pairs, 216 held out",
)

VISION = DatasetCard(
    name="demo-vl",
    build="swiftlike.data.demo:vision",
    subsets=("train",),
    known_subsets=("train", "test"),
    kinds=FROM_PAIRS,
    vision=True,
    licence="Apache-2.0",
    help="drawn pictures: 'What colour is the square?', which only the picture tells; 720 pairs, 180 held out",
)

WORDS = DatasetCard(
    name="demo-words",
    build="swiftlike.data.demo:words",
    subsets=("train",),
    known_subsets=("train", "prompts", "test", "pairs", "test_pairs", "golden"),
    kinds=("completion",),
    licence="Apache-2.0",
    help="'Name four fruit words.' with answers that are half right, to begin iterative training with; "
    "swiftlike.data.demo:asked_words is the rule that knows how right; 45 prompts held out; pairs of such answers, "
    "golden answers",
)
