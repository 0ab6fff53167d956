"""Built-in models: ordinary folders, the same bytes each time, and pictures that matter."""

import hashlib
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from swiftlike.core.errors import UserError
from swiftlike.models import tiny

TEXT = [name for name, family in tiny.FAMILIES.items() if not family.picture]
VISION = [name for name, family in tiny.FAMILIES.items() if family.picture]
MARK = {
    "tiny-llava1_6": ("<image>", 36),  # 16 patches whole, 16 in the one tile, 4 row ends
    "tiny-internvl3": ("<IMG_CONTEXT>", 16),
    "tiny-qwen2_5-vl": ("<|image_pad|>", 16),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    return {name: tiny.build(name, root / name) for name in tiny.FAMILIES}


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def load(name: str, folder: Path):
    auto = AutoModelForImageTextToText if name in VISION else AutoModelForCausalLM
    model, report = auto.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report  # no weight missing, none left over
    return model.eval()


def look(name: str, folder: Path, model, picture: Image.Image) -> torch.Tensor:
    """Logits after a question about a 64 x 64 picture."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    seen = dict(AutoImageProcessor.from_pretrained(folder)(images=[picture], return_tensors="pt"))
    seen.pop("num_patches", None)
    content = [{"type": "image"}, {"type": "text", "text": "What colour is the square?"}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    mark, count = MARK[name]
    assert text.count(mark) == 1
    batch = tokenizer(text.replace(mark, mark * count), return_tensors="pt")
    if "image_grid_thw" in seen:
        seen["mm_token_type_ids"] = (batch["input_ids"] == tokenizer.convert_tokens_to_ids(mark)).int()
    with torch.no_grad():
        return model(**batch, **seen).logits[0, -1]


@pytest.mark.parametrize("name", TEXT)
def test_text_model_gives_finite_logits(name, folders):
    model = load(name, folders[name])
    tokenizer = AutoTokenizer.from_pretrained(folders[name])
    with torch.no_grad():
        logits = model(**tokenizer("Pick the tool: plum or saw.", return_tensors="pt")).logits
    assert logits.shape[-1] == len(tokenizer)
    assert logits.isfinite().all()
    assert logits.std() > 0.3  # not the near-uniform start of training from scratch


@pytest.mark.parametrize("name", VISION)
def test_picture_changes_the_logits(name, folders):
    model = load(name, folders[name])
    red, blue = (look(name, folders[name], model, Image.new("RGB", (64, 64), colour)) for colour in ("red", "blue"))
    assert red.isfinite().all()
    assert (red - blue).abs().max() > 0.05


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_same_bytes_each_time(name, folders, tmp_path):
    torch.manual_seed(1)  # the global generator has no say
    before = torch.get_rng_state()
    again = tiny.build(name, tmp_path / name)
    assert digests(again) == digests(folders[name])
    assert torch.equal(torch.get_rng_state(), before)  # and is left alone


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_size(name, folders):
    model = load(name, folders[name])
    config = model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    assert width >= 32  # vLLM's CPU kernels take no narrower heads
    assert 200_000 < sum(weight.numel() for weight in model.parameters()) < 2_000_000


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_tokenizer_and_stop(name, folders):
    tokenizer = AutoTokenizer.from_pretrained(folders[name])
    model = load(name, folders[name])
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.decode(tokenizer("Zwölf Äpfel, 3 €\n").input_ids) == "Zwölf Äpfel, 3 €\n"
    for answer in tiny.WORDS:
        assert len(tokenizer(answer).input_ids) == 1, answer


def test_published_weight_names_of_llava(folders):
    from safetensors import safe_open

    with safe_open(folders["tiny-llava1_6"] / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert "vision_tower.vision_model.embeddings.class_embedding" in names
    assert "language_model.model.embed_tokens.weight" in names
    assert not any("vision_model.vision_model" in name for name in names)


def test_cached_is_built_once(tmp_path, monkeypatch):
    monkeypatch.setenv("SWIFTLIKE_CACHE", str(tmp_path))
    first = tiny.cached("tiny-llama")
    assert first.parent == tmp_path / "models"
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    assert tiny.cached("tiny-llama") == first
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp


def test_builders_at_once_leave_one_whole_folder(tmp_path, folders):
    racers = [threading.Thread(target=tiny.build, args=("tiny-qwen3", tmp_path / "model")) for _ in range(3)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    assert digests(tmp_path / "model") == digests(folders["tiny-qwen3"])


def test_unknown_name(tmp_path):
    with pytest.raises(UserError, match="did you mean 'tiny-llama'"):
        tiny.build("tiny-lama", tmp_path / "x")


def test_folder_with_other_content_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        tiny.build("tiny-llama", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
