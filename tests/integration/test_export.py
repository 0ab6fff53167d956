"""`swiftlike export` of adapters that were really trained: what is written answers as model and adapter do."""

from __future__ import annotations

import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from swiftlike.cli.commands import load
from swiftlike.cli.layers import build_run
from swiftlike.core.errors import UserError
from swiftlike.core.files import read_args
from swiftlike.engines.base import Request, Sampling
from swiftlike.engines.prompts import Prompts
from swiftlike.models.load import auto_class, fit_separator, load_model, locate
from swiftlike.models.published import is_published
from swiftlike.models.reward_files import load_reward_model
from swiftlike.pipelines.export.command import run
from swiftlike.pipelines.export.samples import built_in
from swiftlike.pipelines.serving import open_engine, open_model, open_scorer, prompts_of

from .runs import Ran, train

TINY = {"max_steps": 3, "save_strategy": "steps", "save_steps": 3, "learning_rate": 2e-2, "batch_size": 4}
VISION = ("tiny-llava1_6", "tiny-internvl3", "tiny-qwen2_5-vl")
Trained = Callable[..., Path]


def words(flags: dict[str, Any]) -> list[str]:
    found = []
    for name, value in flags.items():
        values = value if isinstance(value, list) else [value]
        found += [f"--{name}", *(str(one).lower() if isinstance(one, bool) else str(one) for one in values)]
    return found


def export(**flags: Any) -> Path | None:
    asked, _ = build_run(load("export"), words(flags), {})
    return run(asked)


def opened(command: str = "infer", **flags: Any) -> Any:
    return open_model(build_run(load(command), words(flags), {})[0])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, pairs: Path, mixed: Path) -> Trained:
    """A checkpoint, made once for each choice of flags."""
    made: dict[str, Ran] = {}

    def checkpoint(name: str = "tiny-llama", **flags: Any) -> Path:
        key = json.dumps([name, flags], default=str)
        if key not in made:
            usual = {"rlhf_type": "dpo", "dataset": mixed if name in VISION else pairs, "system": "Be brief."}
            usual |= {"model": name} if "/" in name else {"model_type": name}
            made[key] = train("rlhf", tmp_path_factory.mktemp("runs"), **(TINY | usual | flags))
        return made[key].checkpoint

    return checkpoint


def facts(text: str) -> dict[str, float]:
    """Numbers of the line that export prints."""
    found = re.search(r"difference (\S+) over .* up to ([\d.e+-]+?)(?:;|,).*; bound ([\d.e+-]+)", text)
    assert found, text
    return {"difference": float(found[1]), "bound": float(found[3])}


@torch.no_grad()
def greedy(model: Any, prompts: Prompts, pictures: bool) -> list[list[int]]:
    """Tokens by transformers' own generate."""
    out = []
    for row in built_in(pictures=pictures):
        prepared = prompts.ids(Request(prompt=row.prompt, sampling=Sampling()))
        ids = torch.tensor([prepared.ids])
        more: dict[str, Any] = prompts.adapter.join(prepared.pictures) if prompts.adapter and prepared.images else {}
        if prompts.adapter is not None and prompts.adapter.mrope:
            more["mm_token_type_ids"] = (ids == prompts.placeholder).int()
        made = model.eval().generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False, **more
        )
        out.append(made[0, ids.shape[1] :].tolist())
    return out


def same_answers(checkpoint: Path, merged: Path, *, moved: bool = True) -> None:
    """Base and adapter, and the merged folder alone, through transformers and PEFT only."""
    from peft import PeftModel

    found = opened(ckpt_dir=checkpoint)
    prompts, pictures = prompts_of(found.run, found), found.checkpoint.adapter is not None
    base: Any = load_model(found.checkpoint.source, dtype=torch.float32)
    fit_separator(base, found.checkpoint.tokenizer)
    bare = greedy(base, prompts, pictures)
    wanted = greedy(PeftModel.from_pretrained(base, str(checkpoint)), prompts, pictures)
    plain = auto_class(merged).from_pretrained(merged, dtype=torch.float32)
    assert greedy(plain, prompts, pictures) == wanted
    assert (wanted != bare) == moved


# -- merging ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny-llama", *VISION])
def test_a_merged_model_answers_as_its_adapter_does(
    name: str, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = trained(name)
    merged = export(ckpt_dir=checkpoint, merge_lora=True, output_dir=tmp_path / "merged")
    assert merged == tmp_path / "merged"
    said = facts(capsys.readouterr().out)
    assert said["difference"] < said["bound"] < 1e-2
    same_answers(checkpoint, merged)
    assert is_published(merged)
    assert not list(merged.glob("adapter_*"))
    assert list(tmp_path.iterdir()) == [merged]
    mine, theirs = (opened(**flags) for flags in ({"model": merged}, {"ckpt_dir": checkpoint}))
    assert mine.checkpoint.template.system == "Be brief."
    row = built_in(pictures=name in VISION)[-1]
    one, other = (prompts_of(at.run, at).ids(Request(prompt=row.prompt, sampling=Sampling())) for at in (mine, theirs))
    assert one.ids == other.ids


@pytest.mark.parametrize(
    "flags",
    [
        {"use_rslora": True, "lora_rank": 4},
        {"use_dora": True},
        {"modules_to_save": ["embed_tokens"]},
        {"lora_target_modules": ["ALL", "EMBEDDING"]},
        {"template": "apo", "modules_to_save": ["embed_tokens", "lm_head"]},
        {"template": "apo"},
        {"init_lora_weights": "pissa"},
        {"lora_dtype": "bfloat16"},
    ],
    ids=lambda flags: "-".join(map(str, flags)),
)
def test_every_kind_of_adapter(flags: dict[str, Any], trained: Trained, tmp_path: Path) -> None:
    checkpoint = trained(**flags)
    merged = export(ckpt_dir=checkpoint, merge_lora=True, output_dir=tmp_path / "merged")
    assert merged
    same_answers(checkpoint, merged)
    separator = flags.get("template") == "apo"
    assert load_file(merged / "model.safetensors")["lm_head.weight"].shape[0] == 704 + separator
    config = json.loads((merged / "config.json").read_text())
    assert config["vocab_size"] == 704 + separator


@pytest.mark.parametrize(
    "flags", [{"modules_to_save": ["embed_tokens"]}, {"lora_target_modules": ["q_proj", "EMBEDDING"]}]
)
def test_tied_embeddings_come_apart_where_only_one_was_trained(
    flags: dict[str, Any], trained: Trained, tmp_path: Path
) -> None:
    tied = tmp_path / "tied"
    source = locate(build_run(load("infer"), ["--model_type", "tiny-llama"], {})[0].model)
    model: Any = load_model(source)
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.model.embed_tokens.weight
    model.save_pretrained(tied)
    for file in (*source.folder.glob("*token*"), *source.folder.glob("chat_template*")):
        (tied / file.name).write_bytes(file.read_bytes())
    assert "lm_head.weight" not in load_file(tied / "model.safetensors")
    checkpoint = trained(str(tied), **flags)
    merged = export(ckpt_dir=checkpoint, merge_lora=True, output_dir=tmp_path / "merged")
    assert merged
    same_answers(checkpoint, merged)


def test_weights_keep_the_type_of_the_base(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = export(model_type="tiny-llama", torch_dtype="bfloat16", output_dir=tmp_path / "half")
    checkpoint = trained(str(half))
    merged = export(ckpt_dir=checkpoint, merge_lora=True, max_shard_size="300KB")
    assert merged == checkpoint.with_name(checkpoint.name + "-merged")
    said = facts(capsys.readouterr().out.splitlines()[-2])
    assert 1e-4 < said["difference"] < said["bound"] < 1
    files = sorted(merged.glob("model-*.safetensors"))
    assert len(files) > 2
    for file in files:
        assert {value.dtype for value in load_file(file).values()} == {torch.bfloat16}
    assert auto_class(merged).from_pretrained(merged).dtype == torch.bfloat16
    exact = export(ckpt_dir=checkpoint, merge_lora=True, torch_dtype="float32", output_dir=tmp_path / "exact")
    assert exact
    assert facts(capsys.readouterr().out)["difference"] < 1e-4
    same_answers(checkpoint, exact)


def test_a_difference_above_the_bound_leaves_nothing(trained: Trained, tmp_path: Path) -> None:
    flags = {"ckpt_dir": trained(), "merge_lora": True, "output_dir": tmp_path / "merged"}
    with pytest.raises(UserError, match=r"nothing is written[\s\S]*--torch_dtype float32"):
        export(**flags, torch_dtype="bfloat16", bound=1e-6)
    assert list(tmp_path.iterdir()) == []


def test_rows_of_data_are_compared(trained: Trained, mixed: Path, tmp_path: Path, capsys: Any) -> None:
    export(ckpt_dir=trained(VISION[2]), merge_lora=True, output_dir=tmp_path / "m", dataset=mixed, rows=3)
    assert "of 6 samples" in capsys.readouterr().out


def test_several_adapters_are_weighed(trained: Trained, tmp_path: Path) -> None:
    one, other = trained(), trained(use_rslora=True, lora_rank=4)
    flags = {"adapters": [f"a={one}", f"b={other}"], "merge_lora": True, "output_dir": tmp_path / "sum"}
    with pytest.raises(UserError, match="--adapter_weights"):
        export(**flags)
    export(**flags, adapter_weights=[0.25, 0.5])
    found = load_file(tmp_path / "sum" / "model.safetensors")
    base = load_file(opened(model_type="tiny-llama").model_folder / "model.safetensors")
    for name in ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.v_proj.weight"):
        wanted = base[name] + 0.25 * update(one, name, 32 / 8) + 0.5 * update(other, name, 32 / 4**0.5)
        assert torch.allclose(found[name], wanted, atol=1e-6)


def update(checkpoint: Path, name: str, scale: float) -> torch.Tensor:
    """scale * B A of one layer."""
    state = load_file(checkpoint / "adapter_model.safetensors")
    stem = f"base_model.model.{name.removesuffix('.weight')}"
    return scale * state[f"{stem}.lora_B.weight"] @ state[f"{stem}.lora_A.weight"]


# -- reward models ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [{}, {"rm_pooling": "mean"}], ids=["classifier", "value head"])
def test_a_merged_reward_model_gives_the_same_rewards(flags: dict[str, Any], trained: Trained, tmp_path: Path) -> None:
    checkpoint = trained(rlhf_type="rm", **flags)
    merged = export(ckpt_dir=checkpoint, merge_lora=True, output_dir=tmp_path / "merged")
    assert merged
    talks = [
        row.prompt.__class__((*row.prompt.messages, *row.completions[0].messages)) for row in built_in(pictures=False)
    ]
    wanted, found = (scores(talks, **one) for one in ({"ckpt_dir": checkpoint}, {"model": merged}))
    assert found == pytest.approx(wanted, abs=1e-4)
    assert max(wanted) - min(wanted) > 1e-2
    assert (merged / "value_head.safetensors").is_file() == bool(flags)
    if not flags:
        assert plain_scores(merged, talks) == pytest.approx(wanted, abs=1e-4)


def scores(talks: list[Any], **flags: Any) -> list[float]:
    asked = build_run(load("infer"), words(flags), {})[0]
    return [float(one) for one in open_scorer(asked, open_model(asked)).score(talks)]


@torch.no_grad()
def plain_scores(folder: Path, talks: list[Any]) -> list[float]:
    """By transformers alone."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for talk in talks:
        turns = [{"role": "system", "content": "Be brief."}]
        turns += [{"role": one.role, "content": one.content} for one in talk.messages]
        text = tokenizer.apply_chat_template(turns, tokenize=False).removesuffix("\n")
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        found.append(float(model(input_ids=ids).logits))
    return found


def test_a_reward_model_that_sees_pictures(trained: Trained, tmp_path: Path) -> None:
    checkpoint = trained(VISION[0], rlhf_type="rm")
    merged = export(ckpt_dir=checkpoint, merge_lora=True, output_dir=tmp_path / "merged")
    assert merged
    assert is_published(merged)
    head = load_reward_model(merged).model.v_head.summary.weight
    assert torch.equal(head, load_reward_model(checkpoint).model.v_head.summary.weight)


# -- copies -----------------------------------------------------------------------------------------------------------


def test_a_whole_checkpoint_is_copied_without_its_optimiser(trained: Trained, tmp_path: Path) -> None:
    checkpoint = trained(sft_type="full", learning_rate=1e-3)
    clean = export(ckpt_dir=checkpoint, output_dir=tmp_path / "clean")
    assert clean
    left = {path.name for path in checkpoint.iterdir()} - {path.name for path in clean.iterdir()}
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "swiftlike.json"} <= left
    assert {"model.safetensors", "config.json", "tokenizer.json", "args.json"} <= {one.name for one in clean.iterdir()}
    mine, theirs = (load_file(folder / "model.safetensors") for folder in (clean, checkpoint))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs | mine)
    asked = build_run(load("infer"), ["--model", str(clean), "--temperature", "0", "--max_new_tokens", "4"], {})[0]
    found = open_model(asked)
    assert found.checkpoint.template.system == "Be brief."
    engine = open_engine(asked, found)
    (answer,) = engine.generate(
        [Request(prompt=built_in(pictures=False)[0].prompt, sampling=Sampling(max_new_tokens=4))]
    )
    engine.close()
    assert answer.error == ""
    half = export(ckpt_dir=checkpoint, output_dir=tmp_path / "half", torch_dtype="bfloat16")
    assert half
    assert (half / "model.safetensors").stat().st_size < 0.6 * (clean / "model.safetensors").stat().st_size


def test_a_folder_is_replaced_only_when_asked_and_when_it_is_an_export(trained: Trained, tmp_path: Path) -> None:
    flags = {"ckpt_dir": trained(), "output_dir": tmp_path / "copy"}
    export(**flags)
    with pytest.raises(UserError, match="--exist_ok true"):
        export(**flags)
    (tmp_path / "copy" / "old.txt").touch()
    export(**flags, exist_ok=True)
    assert not (tmp_path / "copy" / "old.txt").exists()
    (tmp_path / "copy" / "export.json").unlink()
    with pytest.raises(UserError, match="not written by an export"):
        export(**flags, exist_ok=True)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_killed_export_leaves_nothing_under_the_name(trained: Trained, tmp_path: Path) -> None:
    flags = {"ckpt_dir": trained(), "merge_lora": True, "output_dir": tmp_path / "merged"}
    argv = [sys.executable, "-m", "swiftlike", "export", *words(flags)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".merged.*/*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    _, text = process.communicate()
    assert process.returncode == -9, text.decode()
    assert not (tmp_path / "merged").exists()
    assert list(tmp_path.glob(".merged.*"))
    export(**flags)
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


# -- what is refused --------------------------------------------------------------------------------------------------


def test_quantised_bases_are_refused_with_the_way_out(trained: Trained, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint-3"
    checkpoint.mkdir()
    for file in trained().iterdir():
        (checkpoint / file.name).write_bytes(file.read_bytes())
    record = json.loads((checkpoint / "args.json").read_text())
    record["args"] |= {"quant_bits": 4, "model": (base := record["args"]["model"] or "tiny-llama"), "model_type": None}
    (checkpoint / "args.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"4 bits[\s\S]*--model " + re.escape(base)):
        export(ckpt_dir=checkpoint, merge_lora=True)
    merged = export(ckpt_dir=checkpoint, merge_lora=True, model=base)
    assert merged
    assert (read_args(merged) or (None, {}))[1]["system"] == "Be brief."
    config = json.loads((merged / "config.json").read_text())
    (merged / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(UserError, match="is quantised"):
        export(ckpt_dir=trained(), merge_lora=True, model=merged, output_dir=tmp_path / "x")


def test_a_head_inside_an_adapter_is_not_lost_in_silence(trained: Trained, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    copy = export(ckpt_dir=trained(), output_dir=tmp_path / "copy")
    assert copy
    state = load_file(copy / "adapter_model.safetensors")
    save_file(state | {"base_model.model.score.weight": torch.ones(1, 128)}, copy / "adapter_model.safetensors")
    with pytest.raises(UserError, match="would be lost"):
        export(ckpt_dir=copy, merge_lora=True, output_dir=tmp_path / "merged")


# -- ms-swift's layout ------------------------------------------------------------------------------------------------


def test_adapters_of_ms_swift_become_pefts_and_back(trained: Trained, tmp_path: Path) -> None:
    checkpoint = trained()
    swift = export(ckpt_dir=checkpoint, to_swift_format=True, output_dir=tmp_path / "swift")
    assert swift
    assert not (swift / "adapter_config.json").exists()
    config = json.loads((swift / "default" / "adapter_config.json").read_text())
    assert config["swift_type"] == "LORA"
    own = {"lora_dtype": None, "lorap_lr_ratio": 16.0, "use_qa_lora": False, "model_key_mapping": None}
    (swift / "default" / "adapter_config.json").write_text(json.dumps(config | own))
    with safe_open(swift / "default" / "adapter_model.safetensors", "pt") as file:
        assert "model.layers.0.self_attn.q_proj.lora_A.default.weight" in file.keys()  # noqa: SIM118 - not a mapping
    peft = export(ckpt_dir=swift, to_peft_format=True, output_dir=tmp_path / "peft")
    assert peft
    mine, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (peft, checkpoint))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    same_answers(peft, export(ckpt_dir=peft, merge_lora=True) or Path())


# -- the hub ----------------------------------------------------------------------------------------------------------


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of a hub as an upload of small and large files asks for."""

    def answer(self, value: Any, code: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Not shown."""

    def do_GET(self) -> None:
        self.server.seen.append(("GET", self.path))
        self.answer({"id": "me/model", "sha": "0" * 40, "siblings": [], "private": True})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((self.headers.get("Authorization"), self.path))
        root = f"http://127.0.0.1:{self.server.server_address[1]}"
        if self.headers.get("Authorization") != "Bearer hf_right":
            self.answer({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            self.server.made.append(json.loads(raw))
            self.answer({"url": f"{root}/me/model", "name": "me/model"})
        elif "/preupload/" in self.path:
            files = json.loads(raw)["files"]
            kinds = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["size"] > 100_000 else "regular",
                    "shouldIgnore": False,
                }
                for one in files
            ]
            self.answer({"files": kinds})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(raw)["objects"]
            links = [{**one, "actions": {"upload": {"href": f"{root}/lfs/{one['oid']}"}}} for one in objects]
            self.answer({"transfer": "basic", "objects": links})
        elif "/commit/" in self.path:
            self.server.commits.append([json.loads(line) for line in raw.splitlines()])
            self.answer({"success": True, "commitOid": "1" * 40, "commitUrl": f"{root}/me/model/commit/1"})
        else:
            self.answer({}, 200)

    def do_PUT(self) -> None:
        self.server.stored[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({})


@pytest.fixture
def hub() -> Iterator[Any]:
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.seen, server.made, server.commits, server.stored = [], [], [], {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def push(hub: Any, token: str, **flags: Any) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's address is read when the library is imported."""
    env = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}", "HF_HUB_OFFLINE": "0"}
    env |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    flags |= {"push_to_hub": True, "hub_model_id": "me/model", "hub_token": token}
    argv = [sys.executable, "-m", "swiftlike", "export", *words(flags)]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120)


def test_a_merged_model_is_uploaded(hub: Any, trained: Trained, tmp_path: Path) -> None:
    flags = {"ckpt_dir": trained(), "merge_lora": True, "output_dir": tmp_path / "merged", "hub_private_repo": True}
    done = push(hub, "hf_right", **flags, commit_message="first")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "uploaded:" in done.stdout
    assert hub.made[0]["name"] == "model"
    assert hub.made[0].get("private", hub.made[0].get("visibility") == "private")
    lines = [line for commit in hub.commits for line in commit]
    assert lines[0]["value"]["summary"] == "first"
    paths = {line["value"]["path"] for line in lines if line["key"] in ("file", "lfsFile")}
    assert paths == {one.name for one in (tmp_path / "merged").iterdir()} - {"export.json"}
    assert (tmp_path / "merged" / "model.safetensors").read_bytes() in hub.stored.values()


def test_a_token_that_the_hub_refuses(hub: Any, trained: Trained) -> None:
    done = push(hub, "hf_wrong", ckpt_dir=trained())
    assert done.returncode == 2
    assert "did not take me/model" in done.stderr
    assert "Traceback" not in done.stderr
    assert "hf_wrong" not in done.stderr + done.stdout
