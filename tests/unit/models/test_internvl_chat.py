"""InternVL in OpenGVLab's layout against the logits and ids of OpenGVLab's own code (tests/golden/internvl_*.json)."""

import base64
import copy
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoTokenizer, GotOcr2ImageProcessorPil

sys.path.insert(0, str(Path(__file__).parent))
from internvl_original import (
    GOLDEN,
    IMAGE_TOKEN,
    INTERNLM2,
    VIT,
    inputs,
    original_logits,
    original_model,
    published_config,
    tensor,
    write_checkpoint,
)

from swiftlike.core.errors import UserError
from swiftlike.models import internvl_chat

CASES = {case["name"]: case for case in json.loads(GOLDEN.read_text())["cases"]}
TOKENIZERS = {
    case["name"]: case for case in json.loads(GOLDEN.with_name("internvl_tokenizer.json").read_text())["cases"]
}
ORIGINAL = os.environ.get("SWIFTLIKE_INTERNVL_ORIGINAL")
LIMIT = 1e-5  # largest difference of a logit, float32
ONE = "internlm2_gqa_three_tiles"


def logits(model, case):
    pixels, ids = inputs(case["name"], case["config"], case["prompt"])
    with torch.no_grad():
        return model.eval()(pixel_values=pixels, input_ids=ids).logits[0]


@pytest.fixture
def checkpoint(tmp_path):
    def write(name=ONE, **changes):
        case = CASES[name]
        config = copy.deepcopy(case["config"]) | changes
        return write_checkpoint(tmp_path / "published", name, config, case["shapes"])

    return write


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", CASES)
def test_logits_equal_the_originals(checkpoint, name, attention):
    model = internvl_chat.load(checkpoint(name), "float32", attention)
    wanted = torch.tensor(CASES[name]["logits"])
    assert wanted.abs().max() > 1
    assert (logits(model, CASES[name]) - wanted).abs().max() <= LIMIT
    assert model.config.image_token_id == IMAGE_TOKEN


@pytest.mark.skipif(not ORIGINAL, reason="SWIFTLIKE_INTERNVL_ORIGINAL names no folder with OpenGVLab's sources")
@pytest.mark.parametrize("name", CASES)
def test_logits_equal_the_originals_live(checkpoint, name):
    case = CASES[name]
    original = original_model(Path(ORIGINAL), case["config"])
    original.load_state_dict({key: tensor(name, key, shape) for key, shape in case["shapes"].items()}, strict=True)
    pixels, ids = inputs(name, case["config"], case["prompt"])
    model = internvl_chat.load(checkpoint(name), "float32", "eager")
    assert (logits(model, case) - original_logits(original, pixels, ids)).abs().max() <= LIMIT


def test_longer_prompts_use_the_scaled_rope(checkpoint):
    # without scaling the same weights answer differently: the case above cannot pass by ignoring rope_scaling
    name = "internlm2_longer_than_rope"
    config = copy.deepcopy(CASES[name]["config"])
    config["llm_config"]["rope_scaling"] = None
    plain = internvl_chat.load(checkpoint(name, llm_config=config["llm_config"]), "float32")
    assert (logits(plain, CASES[name]) - torch.tensor(CASES[name]["logits"])).abs().max() > 0.05


@pytest.mark.parametrize("name", [ONE, "llama3_rope_qk_norm", "qwen2_gqa_three_tiles", "force_image_size"])
def test_saves_as_a_native_folder(checkpoint, tmp_path, name):
    internvl_chat.load(checkpoint(name), "float32").save_pretrained(tmp_path / "native")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "native")
    assert type(again).__name__ == "InternVLForConditionalGeneration"
    assert (logits(again, CASES[name]) - torch.tensor(CASES[name]["logits"])).abs().max() <= LIMIT
    assert json.loads((tmp_path / "native/config.json").read_text())["model_type"] == "internvl"


def test_dtype_device_map_and_generation_config(checkpoint):
    folder = checkpoint(torch_dtype="bfloat16")
    (folder / "generation_config.json").write_text('{"eos_token_id": [40, 41]}')
    model = internvl_chat.load(folder, device_map="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert model.generation_config.eos_token_id == [40, 41]
    assert model.name_or_path == str(folder)  # what an adapter notes as its base model
    assert internvl_chat.load(folder, torch.float32).dtype == torch.float32


def test_split_rows_do_not_share_memory(checkpoint):
    model = internvl_chat.load(checkpoint(), "float32")
    attention = model.model.language_model.layers[0].self_attn
    with torch.no_grad():
        before = attention.k_proj.weight.clone()
        attention.q_proj.weight.zero_()
    assert torch.equal(attention.k_proj.weight, before)


def test_training_step_reaches_every_part(checkpoint):
    model = internvl_chat.load(checkpoint(), "float32").train()
    pixels, ids = inputs(ONE, CASES[ONE]["config"], CASES[ONE]["prompt"])
    model(pixel_values=pixels, input_ids=ids, labels=ids).loss.backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def rewrite(folder, change):
    """Apply `change(tensors)` to the first shard and keep the index right."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shard = folder / "model-00001-of-00002.safetensors"
    tensors = load_file(shard)
    change(tensors)
    save_file(tensors, shard)
    where = {name: file for name, file in index["weight_map"].items() if file != shard.name}
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": where | dict.fromkeys(tensors, shard.name)})
    )


def test_unknown_missing_and_misshapen_tensors_are_named(checkpoint):
    folder = checkpoint()
    rewrite(
        folder, lambda tensors: tensors.update({"language_model.model.layers.0.feed_forward.w1.qweight": torch.ones(1)})
    )
    with pytest.raises(UserError, match=r"not part of(?s:.*)layers\.0\.feed_forward\.w1\.qweight"):
        internvl_chat.load(folder)

    gone = "vision_model.encoder.layers.0.attn.qkv.weight"
    folder = checkpoint()
    kept = {name: shape for name, shape in CASES[ONE]["shapes"].items() if name != gone}
    write_checkpoint(folder, ONE, CASES[ONE]["config"], kept)
    with pytest.raises(UserError, match=r"missing: model\.vision_tower\.encoder\.layer\.0\.attention\.q_proj\.weight"):
        internvl_chat.load(folder)

    folder = write_checkpoint(folder, ONE, CASES[ONE]["config"], CASES[ONE]["shapes"] | {"mlp1.3.bias": [31]})
    with pytest.raises(UserError, match=r"linear_2\.bias has shape \(31,\), the configuration asks for \(32,\)"):
        internvl_chat.load(folder)

    extra = {"vision_model.encoder.layers.7.ls1": [24]}
    folder = write_checkpoint(folder, ONE, CASES[ONE]["config"], CASES[ONE]["shapes"] | extra)
    with pytest.raises(UserError, match=r"unexpected: model\.vision_tower\.encoder\.layer\.7\.lambda_1"):
        internvl_chat.load(folder)


def test_missing_files_are_named(checkpoint):
    folder = checkpoint()
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="model-00002-of-00002"):
        internvl_chat.load(folder)
    folder = checkpoint()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match="<IMG_CONTEXT>"):
        internvl_chat.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is missing"):
        internvl_chat.load(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ps_version": "v1"}, "ps_version"),
        ({"pad2square": True}, "pad2square"),
        ({"use_llm_lora": 16}, "use_llm_lora"),
        ({"quantization_config": {"quant_method": "awq"}}, "AWQ"),
        ({"llm_config": INTERNLM2 | {"architectures": ["InternLM3ForCausalLM"]}}, "InternLM3ForCausalLM"),
        ({"vision_config": VIT | {"qk_normalization": True, "layer_norm_eps": 1e-5}}, "layer_norm_eps"),
    ],
)
def test_what_the_native_model_lacks_is_refused(changes, said):
    with pytest.raises(UserError, match=said):
        internvl_chat.convert_config(published_config(VIT, INTERNLM2, changes))


def test_tied_embeddings_follow_the_checkpoint(checkpoint):
    name = "qwen2_gqa_three_tiles"
    config = copy.deepcopy(CASES[name]["config"])
    config["llm_config"]["tie_word_embeddings"] = True
    # both tensors stored: the head is its own, as OpenGVLab's code decides
    model = internvl_chat.load(checkpoint(name, llm_config=config["llm_config"]), "float32")
    assert (logits(model, CASES[name]) - torch.tensor(CASES[name]["logits"])).abs().max() <= LIMIT
    shapes = {key: shape for key, shape in CASES[name]["shapes"].items() if not key.endswith("lm_head.weight")}
    folder = write_checkpoint(checkpoint(name), name, config, shapes)
    model = internvl_chat.load(folder, "float32")
    assert model.lm_head.weight is model.get_input_embeddings().weight
    config["llm_config"]["tie_word_embeddings"] = False
    write_checkpoint(folder, name, config, shapes)
    with pytest.raises(UserError, match=r"missing: lm_head\.weight"):
        internvl_chat.load(folder, "float32")


def test_published_sizes_give_256_tokens_per_tile():
    vision = {"hidden_size": 1024, "num_attention_heads": 16, "image_size": 448, "qk_normalization": False}
    config = internvl_chat.convert_config(published_config(vision, INTERNLM2, {"force_image_size": 448}), 92546)
    assert (config.image_seq_length, config.image_token_id, config.vision_feature_layer) == (256, 92546, -1)
    assert config.vision_config.image_size == (448, 448)
    assert config.vision_config.norm_type == "rms_norm"  # OpenGVLab's default where config.json is silent
    assert not config.tie_word_embeddings


def tokenizer_folder(folder, name):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(base64.b64decode(TOKENIZERS[name]["model"]))
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZERS[name]["config"]))
    return folder


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizer_equals_the_original(tmp_path, name):
    case = TOKENIZERS[name]
    tokenizer = internvl_chat.tokenizer(tokenizer_folder(tmp_path / "published", name))
    for text, ids in case["texts"]:
        assert tokenizer(text).input_ids == ids, text
        assert tokenizer(text, add_special_tokens=False).input_ids == ids[1:], text
    assert len(tokenizer) == case["length"]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    chat = case["config"]["additional_special_tokens"]
    assert set(tokenizer.all_special_tokens) == {"<unk>", "<s>", "</s>", *chat}
    assert tokenizer.context_image_token_id == tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    assert internvl_chat.image_token_id(tmp_path / "published") == tokenizer.context_image_token_id


def test_tokenizer_decodes_and_survives_saving(tmp_path, checkpoint):
    tokenizer = internvl_chat.tokenizer(tokenizer_folder(tmp_path / "published", "internlm2"))
    text = " the  ships 图片 🙂\n    return"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
    internvl_chat.load(checkpoint(), "float32").save_pretrained(tmp_path / "native")
    tokenizer.save_pretrained(tmp_path / "native")
    again = AutoTokenizer.from_pretrained(tmp_path / "native")
    for text, ids in TOKENIZERS["internlm2"]["texts"]:
        assert again(text).input_ids == ids
    assert again.context_image_token_id == tokenizer.context_image_token_id


def test_older_folders_name_added_tokens_in_their_own_file(tmp_path):
    folder = tokenizer_folder(tmp_path, "prefix")
    config = TOKENIZERS["prefix"]["config"]
    tokens = {token["content"]: int(number) for number, token in config["added_tokens_decoder"].items()}
    old = {key: value for key, value in config.items() if key != "added_tokens_decoder"}
    (folder / "tokenizer_config.json").write_text(json.dumps(old))
    (folder / "added_tokens.json").write_text(json.dumps(tokens))
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": {"content": "<s>"}, "eos_token": "</s>"}))
    tokenizer = internvl_chat.tokenizer(folder)
    for text, ids in TOKENIZERS["prefix"]["texts"]:
        assert tokenizer(text).input_ids == ids


def test_tokenizer_files_are_checked(tmp_path):
    folder = tokenizer_folder(tmp_path, "internlm2")
    config = copy.deepcopy(TOKENIZERS["internlm2"]["config"])
    config["added_tokens_decoder"]["300"] = {"content": "<img>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"two ids(?s:.*)<img>"):
        internvl_chat.tokenizer(folder)
    (folder / "tokenizer.model").write_bytes(b"")
    with pytest.raises(UserError, match="byte-pair"):
        internvl_chat.tokenizer(folder)
    (folder / "tokenizer.model").unlink()
    with pytest.raises(UserError, match="is missing"):
        internvl_chat.tokenizer(folder)


@pytest.mark.parametrize(("size", "tiles"), [((640, 480), 13), ((448, 448), 1), ((900, 300), 4), ((300, 1900), 7)])
def test_image_processor_cuts_the_published_tiles(tmp_path, size, tiles):
    config = published_config(VIT | {"image_size": 448}, INTERNLM2, {})
    (tmp_path / "config.json").write_text(json.dumps(config))
    processor = internvl_chat.image_processor(tmp_path)
    image = Image.new("RGB", size, (124, 116, 104))
    pixels = processor(images=[image], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (tiles, 3, 448, 448)
    wanted = (torch.tensor([124, 116, 104]) / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    assert (pixels - wanted[:, None, None]).abs().max() < 1e-5
    processor.save_pretrained(tmp_path / "native")
    again = GotOcr2ImageProcessorPil.from_pretrained(tmp_path / "native")
    assert (again.max_patches, again.crop_to_patches, again.size["height"]) == (12, True, 448)


def test_image_processor_without_thumbnail_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(published_config(VIT, INTERNLM2, {"use_thumbnail": False})))
    with pytest.raises(UserError, match="thumbnail"):
        internvl_chat.image_processor(tmp_path)
