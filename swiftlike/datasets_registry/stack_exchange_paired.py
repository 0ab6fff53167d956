"""Stack Exchange answers, the better voted against the worse. Tens of gigabytes: use --streaming."""

from swiftlike.datasets_registry.card import DatasetCard
from swiftlike.datasets_registry.kinds import FROM_PAIRS

STACK_EXCHANGE_PAIRED = DatasetCard(
    name="stack-exchange-paired",
    hf="lvwerra/stack-exchange-paired",
    ms="AI-ModelScope/stack-exchange-paired",
    kinds=FROM_PAIRS,
    columns={"question": "query", "response_j": "response", "response_k": "rejected_response"},
    licence="CC-BY-SA-4.0",
    help="question, response_j (better), response_k",
)
