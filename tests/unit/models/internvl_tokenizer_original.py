"""Writes tests/golden/internvl_tokenizer.json: small sentencepiece files and what InternLM2's own tokenizer says.

Needs sentencepiece and a transformers of the original's time (4.44), which this project does not use otherwise; run it
there with SWIFTLIKE_INTERNVL_ORIGINAL naming the folder with the fetched sources (see internvl_original.py).
"""

import base64
import importlib.util
import json
import os
import tempfile
from pathlib import Path

CORPUS = """The quick brown fox jumps over the lazy dog, and the dog does not mind it at all.
A picture shows three ships in the harbour; the second ship is larger than the other ships.
def area(width, height):
    return width * height
for number in range(10):
    total = total + number
What is in the picture? There is a red house with a green door.
这张图片里有什么? 图片里有一只猫和一只狗。
这只猫在看窗外的鸟,那只狗在睡觉。
0 1 2 3 4 5 6 7 8 9 10 11 12"""
CHAT = ["<|im_end|>", "<|im_start|>", "<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<box>", "</box>"]
TEXTS = [
    "",
    "The picture shows a ship.",
    " leading",
    "trailing ",
    "two  spaces   three",
    "        indented\n    twice\n\n\n",
    "\ttab\r\n",
    "这张图片里有什么?",
    "日本語 émoji 🙂🙂 ∑",
    "aaaaaaaaaaa ========== 1234567890",
    "a\u2581b",
    "<img><IMG_CONTEXT><IMG_CONTEXT></img>\nWhat is in the picture?",
    "<|im_start|>user\nthe ships<|im_end|><|im_start|>assistant\n",
    "the <box> house </box> door",
    "<|im_end|> <|im_end|>",
    "<IMG_CONTEXT",
    "a<fim>b     c   d  e",
    "<s>the</s> dog",
    "def area(width, height):\n    return width * height",
]


def train(folder, **settings):
    """A byte-pair model of 400 pieces on the corpus above."""
    import sentencepiece

    (folder / "corpus.txt").write_text(CORPUS)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        character_coverage=0.99,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        minloglevel=2,
        **settings,
    )


def case(name, reserved, **settings):
    """The files of a tokenizer folder, and (text, ids) of the original."""
    path = Path(os.environ["SWIFTLIKE_INTERNVL_ORIGINAL"]) / "internvl/model/internlm2/tokenization_internlm2.py"
    spec = importlib.util.spec_from_file_location("original", path)
    source = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(source)
    symbols = [f"[UNUSED_TOKEN_{number}]" for number in range(reserved)]
    symbols += ["<fim>", "\u2581\u2581\u2581"] if reserved else []  # kept as they are
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        train(folder, user_defined_symbols=symbols, **settings)
        ids = [*range(3, 3 + reserved), *range(400, 400 + len(CHAT) - reserved)]
        tokens = dict(zip([0, 1, 2, *ids], ["<unk>", "<s>", "</s>", *CHAT], strict=True))
        config = {
            "tokenizer_class": "InternLM2Tokenizer",
            "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
            "additional_special_tokens": CHAT,
            "added_tokens_decoder": {
                str(number): {
                    "content": text,
                    "lstrip": False,
                    "normalized": False,
                    "rstrip": False,
                    "single_word": False,
                    "special": True,
                }
                for number, text in tokens.items()
            },
            "model_max_length": 8192,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        original = source.InternLM2Tokenizer.from_pretrained(folder)
        return {
            "name": name,
            "model": base64.b64encode((folder / "tokenizer.model").read_bytes()).decode(),
            "config": config,
            "length": len(original),
            "texts": [[text, original(text).input_ids] for text in TEXTS],
        }


def main():
    """Two files: InternLM2's settings with reserved pieces renamed, and one with a dummy prefix and stripping."""
    cases = [
        case("internlm2", 2, add_dummy_prefix=False, remove_extra_whitespaces=False),
        case("prefix", 0, add_dummy_prefix=True, remove_extra_whitespaces=False),
        case("prefix_and_strip", 0, add_dummy_prefix=True, remove_extra_whitespaces=True),
    ]
    head = {
        "schema": "swiftlike-golden/1",
        "title": "ids of InternLM2's published tokenizer code on small sentencepiece files",
        "source": "github.com/OpenGVLab/InternVL tokenization_internlm2.py at 2410d1d, transformers 4.44.2",
    }
    lines = ",\n".join("  " + json.dumps(case) for case in cases)
    target = Path(__file__).parents[2] / "golden" / "internvl_tokenizer.json"
    target.write_text(json.dumps(head)[:-1] + ', "cases": [\n' + lines + "\n]}\n")


if __name__ == "__main__":
    main()
