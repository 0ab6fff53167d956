"""Chinese preference sets."""

from swiftlike.datasets_registry.card import DatasetCard
from swiftlike.datasets_registry.kinds import FROM_PAIRS

ZHIHU_RLHF = DatasetCard(
    name="zhihu-rlhf",
    aliases=("zhihu-rlhf-3k",),
    hf="liyucheng/zhihu_rlhf_3k",
    ms="AI-ModelScope/zhihu_rlhf_3k",
    kinds=FROM_PAIRS,
    help="prompt, chosen, rejected: answers of Zhihu by votes",
)
SHAREAI_EMOJI = DatasetCard(
    name="shareai-llama3-dpo-zh-en-emoji",
    hf="shareAI/DPO-zh-en-emoji",
    ms="hjh0119/shareAI-Llama3-DPO-zh-en-emoji",
    kinds=FROM_PAIRS,
    columns={"question": "query", "answer_zh": "response", "answer_en": "rejected_response"},
    licence="Apache-2.0",
    help="question, answer_zh (chosen), answer_en (rejected)",
)
