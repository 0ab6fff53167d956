"""A served model, asked with OpenAI's own client over real sockets."""

from __future__ import annotations

import base64
import io
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import PIL.Image
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from swiftlike.engines.text import whole
from swiftlike.models.tiny import cached

from .servers import Deployed, deployed

KEY = "a-key-of-the-test"
ASKED = [{"role": "user", "content": "Name a fruit."}]
# Tokens that were there become far likelier: it never gets to an end of its own.
ENDLESS = {"prompt": "A plum", "temperature": 0, "extra_body": {"repetition_penalty": 0.01}}


def adapter(folder: Path, seed: int) -> Path:
    """A LoRA adapter of tiny-llama whose numbers are drawn so large that answers change."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(cached("tiny-llama"))
    config = LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "v_proj", "o_proj"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {"red": adapter(folder / "one", 1), "blue": adapter(folder / "two", 2)}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory, adapters: dict[str, Path]) -> Iterator[Deployed]:
    """tiny-llama and two adapters, behind a key."""
    named = [f"{name}={folder}" for name, folder in adapters.items()]
    words = ["--model_type", "tiny-llama", "--adapters", *named, "--api_key", KEY, "--max_body", 1]
    with deployed(tmp_path_factory.mktemp("text"), *words) as server:
        yield server


@pytest.fixture(scope="module")
def client(text: Deployed) -> openai.OpenAI:
    return text.client(KEY)


def by_hand(adapter: Path | None, tokens: int, messages: list[dict[str, str]] = ASKED) -> str:
    """What transformers itself answers, greedily."""
    folder = cached("tiny-llama")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    made = model.generate(**prompt, max_new_tokens=tokens, do_sample=False)
    return whole(tokenizer, made[0, prompt["input_ids"].shape[1] :].tolist())


def chunks_text(stream: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


@pytest.mark.parametrize("name", ["tiny-llama", "red", "blue"])
def test_each_name_answers_as_transformers_does_and_says_who_it_is(
    client: openai.OpenAI, adapters: dict[str, Path], name: str
) -> None:
    asked: dict[str, Any] = {"model": name, "messages": ASKED, "max_tokens": 24, "temperature": 0}
    answer = client.chat.completions.create(**asked)
    assert answer.choices[0].message.content == by_hand(adapters.get(name), 24)
    assert answer.model == name
    streamed = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert chunks_text(streamed) == answer.choices[0].message.content
    assert streamed[-1].usage == answer.usage
    assert {chunk.model for chunk in streamed} == {name}


def test_adapters_differ_from_the_model_and_from_each_other(client: openai.OpenAI) -> None:
    answers = {
        client.chat.completions.create(model=name, messages=ASKED, max_tokens=16, temperature=0)
        .choices[0]
        .message.content
        for name in ("tiny-llama", "red", "blue")
    }
    assert len(answers) == 3


def test_models_are_listed(client: openai.OpenAI) -> None:
    models = client.models.list().data
    assert [model.id for model in models] == ["tiny-llama", "red", "blue"]
    assert client.models.retrieve("red").id == "red"


def test_usage_counts_the_tokens_of_the_template(client: openai.OpenAI) -> None:
    tokenizer = AutoTokenizer.from_pretrained(cached("tiny-llama"))
    prompt = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_dict=True)["input_ids"]
    usage = client.chat.completions.create(model="tiny-llama", messages=ASKED, max_tokens=5, temperature=0).usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (len(prompt), 5, len(prompt) + 5)


def test_n_answers_with_a_seed_come_again(client: openai.OpenAI) -> None:
    def ask(seed: int) -> list[str | None]:
        answer = client.chat.completions.create(
            model="tiny-llama", messages=ASKED, max_tokens=12, temperature=1.5, n=3, seed=seed
        )
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.message.content for choice in answer.choices]

    first = ask(7)
    assert len(set(first)) == 3
    assert ask(7) == first
    assert ask(8) != first


def test_a_stop_text_ends_the_answer_and_is_left_out(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny-llama", "messages": ASKED, "temperature": 0, "max_tokens": 24}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    assert whole is not None
    stop = whole[5:8]
    for stream in (False, True):
        answer = client.chat.completions.create(**asked, stop=[stop], stream=stream)
        said = chunks_text(answer) if stream else answer.choices[0].message.content
        assert said == whole[: whole.index(stop)]
    assert client.chat.completions.create(**asked, stop=stop).choices[0].finish_reason == "stop"


def test_logprobs_have_as_many_alternatives_as_asked_for(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="red", messages=ASKED, max_tokens=6, temperature=0, logprobs=True, top_logprobs=3
    )
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.content is not None
    assert len(found.content) == 6
    for token in found.content:
        assert [one.logprob for one in token.top_logprobs] == sorted(o.logprob for o in token.top_logprobs)[::-1]
        assert (token.token, token.logprob) == (token.top_logprobs[0].token, token.top_logprobs[0].logprob)
    texts = client.completions.create(model="red", prompt="A plum", max_tokens=6, temperature=0, logprobs=2)
    likely = texts.choices[0].logprobs
    assert likely is not None
    assert [len(one) for one in likely.top_logprobs or ()] == [2] * 6
    assert likely.text_offset is not None
    assert likely.text_offset[0] == 0


def test_completions_take_texts_and_token_ids(client: openai.OpenAI) -> None:
    tokenizer = AutoTokenizer.from_pretrained(cached("tiny-llama"))
    ids = tokenizer("A plum")["input_ids"]
    asked: dict[str, Any] = {"model": "tiny-llama", "max_tokens": 8, "temperature": 0}
    both = client.completions.create(**asked, prompt=["A plum", "The sea"], n=2)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert client.completions.create(**asked, prompt=ids).choices[0].text == both.choices[0].text
    assert both.choices[2].text == client.completions.create(**asked, prompt="The sea").choices[0].text
    streamed = client.completions.create(**asked, prompt="A plum", stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == both.choices[0].text


def test_an_answer_of_the_server_may_be_sent_back(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model="tiny-llama", messages=ASKED, max_tokens=6, temperature=0)
    said = first.choices[0].message
    conversation = [*ASKED, {"role": "assistant", "content": said.content}, {"role": "user", "content": "Another."}]
    again = client.chat.completions.create(
        model="tiny-llama", messages=[*ASKED, said, conversation[-1]], max_tokens=6, temperature=0
    )
    assert again.choices[0].message.content == by_hand(None, 6, conversation)


def test_a_wrong_key_is_refused(text: Deployed) -> None:
    with pytest.raises(openai.AuthenticationError) as error:
        text.client("wrong").models.list()
    assert error.value.code == "invalid_api_key"
    assert httpx.get(f"{text.url}/v1/models").status_code == 401
    assert httpx.get(f"{text.url}/health").json() == {"status": "ok"}


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="did you mean 'blue'") as error:
        client.chat.completions.create(model="bleu", messages=ASKED)
    assert (error.value.code, error.value.param) == ("model_not_found", "model")


WRONG: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": -1},
    "max_tokens": {"max_tokens": 0},
    "top_logprobs": {"logprobs": True, "top_logprobs": 21},
    "stop": {"stop": [""]},
    "temprature": {"extra_body": {"temprature": 0.5}},
    "response_format": {"response_format": {"type": "json_object"}},
    "n": {"n": 1000},
    "stream_options": {"stream_options": {"include_usage": True}},
}


@pytest.mark.parametrize("field", WRONG)
def test_a_wrong_field_is_named(client: openai.OpenAI, field: str) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(**{"model": "tiny-llama", "messages": ASKED, **WRONG[field]})
    assert error.value.param == field


@pytest.mark.parametrize("words", [3_000, 60_000])  # read by the tokenizer, and too long even for that
def test_a_prompt_beyond_the_context_is_refused(client: openai.OpenAI, words: int) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="tiny-llama", messages=[{"role": "user", "content": "plum xyz " * words}])
    assert error.value.code == "context_length_exceeded"


def test_a_large_body_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as error:
        client.chat.completions.create(model="tiny-llama", messages=[{"role": "user", "content": "x" * (2 << 20)}])
    assert error.value.status_code == 413


def test_what_is_not_offered_says_so(client: openai.OpenAI, text: Deployed) -> None:
    with pytest.raises(openai.BadRequestError, match="not offered"):
        client.embeddings.create(model="tiny-llama", input="x")
    key = {"Authorization": f"Bearer {KEY}"}
    answer = httpx.post(f"{text.url}/score", headers=key, json={"text_1": "a", "text_2": "b"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "not_offered")
    assert httpx.get(f"{text.url}/v1/nothing", headers=key).json()["error"]["code"] == "not_found"
    assert httpx.get(f"{text.url}/v1/chat/completions", headers=key).status_code == 405


def test_a_client_that_goes_away_ends_its_answer(client: openai.OpenAI, text: Deployed) -> None:
    before = text.metric("swiftlike_completion_tokens_total")
    stream = client.completions.create(model="tiny-llama", max_tokens=3000, stream=True, **ENDLESS)
    next(iter(stream))
    stream.close()
    text.wait_for("swiftlike_answers_running", 0)
    assert text.metric("swiftlike_completion_tokens_total") - before < 2000


def test_a_client_that_does_not_wait_for_the_whole_ends_its_answer(text: Deployed) -> None:
    impatient = text.client(KEY, timeout=0.4)
    with pytest.raises(openai.APITimeoutError):
        impatient.completions.create(model="tiny-llama", max_tokens=3000, **ENDLESS)
    text.wait_for("swiftlike_answers_running", 0)


def test_signals_drain_and_then_end(tmp_path: Path) -> None:
    with deployed(tmp_path, "--model_type", "tiny-llama", "--max_queue", 2) as server:
        client = server.client()
        stream = client.completions.create(model="tiny-llama", max_tokens=800, stream=True, **ENDLESS)
        first = next(iter(stream))
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(model="tiny-llama", messages=ASKED, n=2)
        server.signal(signal.SIGTERM)
        while (health := httpx.get(f"{server.url}/health")).status_code == 200:
            pass
        assert health.status_code == 503
        with pytest.raises(openai.InternalServerError) as error:
            client.chat.completions.create(model="tiny-llama", messages=ASKED)
        assert error.value.status_code == 503
        *_, last = stream
        assert last.choices[0].finish_reason == "length"
        assert first.id == last.id
        assert server.process.wait(60) == 0
        assert "stopped" in server.log.read_text()


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with deployed(tmp_path, "--model_type", "tiny-llama") as server:
        stream = server.client().completions.create(model="tiny-llama", max_tokens=3000, stream=True, **ENDLESS)
        next(iter(stream))
        server.signal(signal.SIGINT)
        while httpx.get(f"{server.url}/health").status_code == 200:
            pass
        server.signal(signal.SIGINT)
        assert server.process.wait(20) == 128 + signal.SIGINT
        with pytest.raises((openai.APIError, httpx.HTTPError)):
            list(stream)


def test_a_limit_of_the_drain_cuts_answers_off(tmp_path: Path) -> None:
    with deployed(tmp_path, "--model_type", "tiny-llama", "--drain_timeout", 0) as server:
        stream = server.client().completions.create(model="tiny-llama", max_tokens=3000, stream=True, **ENDLESS)
        next(iter(stream))
        server.signal(signal.SIGTERM)
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)
        assert server.process.wait(60) == 0


def test_a_port_that_is_taken_and_a_model_that_is_not_there(tmp_path: Path, text: Deployed) -> None:
    port = text.url.rpartition(":")[2]
    for words, reason in (
        (("--model_type", "tiny-llama", "--port", port), "cannot listen"),
        (("--model", "/nowhere"), "nowhere"),
    ):
        with pytest.raises(AssertionError, match=reason), deployed(tmp_path, *words):
            pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the vision server may read files, with a picture in it."""
    place = tmp_path_factory.mktemp("pictures")
    PIL.Image.new("RGB", (96, 64), "red").save(place / "red.png")
    PIL.Image.new("RGB", (96, 64), "blue").save(place.parent / "outside.png")
    return place


@pytest.fixture(scope="module", params=["tiny-llava1_6", "tiny-qwen2_5-vl"])
def vision(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, folder: Path
) -> Iterator[Deployed]:
    words = ["--model_type", request.param, "--allowed_local_media_path", folder, "--served_model_name", "eyes"]
    with deployed(tmp_path_factory.mktemp("vision"), *words, "--allowed_media_domains", "127.0.0.1") as server:
        yield server


def shown(url: str, text: str = "What colour is it?") -> list[dict[str, Any]]:
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    return [{"role": "user", "content": parts}]


def data_url(picture: PIL.Image.Image) -> str:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


@pytest.fixture(scope="module")
def web(folder: Path) -> Iterator[str]:
    """A web server with the folder's files."""
    import functools
    import http.server
    import threading

    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_pictures_come_as_data_files_and_from_the_web(vision: Deployed, folder: Path, web: str) -> None:
    client = vision.client()
    red = data_url(PIL.Image.open(folder / "red.png"))

    def ask(messages: list[dict[str, Any]], **more: Any) -> Any:
        return client.chat.completions.create(
            model="eyes", messages=messages, max_tokens=12, temperature=0, logprobs=True, **more
        )

    whole = ask(shown(red))
    assert whole.usage.prompt_tokens > 12
    assert ask(shown(f"file://{folder}/red.png")).choices[0] == whole.choices[0]
    assert ask(shown(f"{web}/red.png")).choices[0] == whole.choices[0]
    swift = [{"role": "user", "content": "<image>What colour is it?"}]
    assert ask(swift, extra_body={"images": [red]}).choices[0] == whole.choices[0]
    assert chunks_text(ask(shown(red), stream=True)) == whole.choices[0].message.content
    other = ask(shown(data_url(PIL.Image.new("RGB", (96, 64), "blue"))))
    assert other.choices[0].logprobs != whole.choices[0].logprobs


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "file://{folder}/../outside.png",
        "file://{folder}/%2e%2e/outside.png",
        "file://{folder}/missing.png",
        "{folder}/red.png",
        "http://localhost/red.png",
        "http://169.254.169.254/latest/meta-data",
        "{web}/missing.png",
        "data:image/png;base64,AAAA",
        "data:image/png",
        "ftp://127.0.0.1/red.png",
    ],
)
def test_pictures_that_cannot_be_had_are_refused(vision: Deployed, folder: Path, web: str, url: str) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        vision.client().chat.completions.create(
            model="eyes", messages=shown(url.format(folder=folder, web=web)), max_tokens=4
        )
    assert error.value.code == "invalid_image"
    assert error.value.param == "messages.0.content.0"
    assert "root:" not in json.dumps(error.value.body)


def test_a_reward_model_gives_scores(tmp_path: Path, pairs: Path) -> None:
    from .runs import train

    model = train(
        "rlhf", tmp_path / "out", rlhf_type="rm", model_type="tiny-llama", dataset=pairs, max_steps=1,
        save_strategy="steps", save_steps=1,
    ).checkpoint  # fmt: skip
    with deployed(tmp_path, "--ckpt_dir", model) as server:
        name = server.client().models.list().data[0].id
        two = httpx.post(f"{server.url}/score", json={"text_1": "Name a fruit.", "text_2": ["A plum.", "A saw."]})
        scores = [one["score"] for one in two.json()["data"]]
        messages = [{"role": "user", "content": "Name a fruit."}, {"role": "assistant", "content": "A plum."}]
        pooled = httpx.post(f"{server.url}/pooling", json={"model": name, "messages": messages}).json()
        assert pooled["data"][0]["data"] == pytest.approx([scores[0]], abs=1e-5)
        assert scores[0] != scores[1]
        with pytest.raises(openai.BadRequestError, match="reward model"):
            server.client().chat.completions.create(model=name, messages=ASKED)
