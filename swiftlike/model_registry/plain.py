"""Text without a chat format: what TRL, EXO and beta-DPO train on, and the query and answer of APO's reward model."""

import dataclasses as dc

from swiftlike.model_registry.card import TemplateCard

# The prompt as it is, role words included where the data writes them, then the answer and the end token.
PLAIN = TemplateCard(
    name="plain",
    aliases=("raw", "plain-text"),
    user="{query}",
    stop="{eos}",
    bos="auto",
    moves_space=False,
    verbatim=True,
    system="{system}\n\n",
    between="\n\n",
)

# One sequence per answer, so a prompt that is cut from the left loses its first token like any other.
APO = dc.replace(
    PLAIN,
    name="apo",
    aliases=(),
    user="{query}{sep}",
    bos=True,
    bos_stays=False,
)
