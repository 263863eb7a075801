"""The official client against a real server: chats, completions, streams, log-probabilities,
errors."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from openai import AsyncOpenAI, OpenAI
from serving import FLOAT32, Serving, serving
from transformers import AutoModelForCausalLM, AutoTokenizer

from runner_engine import embedded

pytestmark = pytest.mark.slow  # as a group

QUESTION = "Tom has 8 pens. Tom buys 5 more. How many pens does Tom have now?\nSolve it step by step. End with '#### ' and the number."
CHAT: list[Any] = [{"role": "user", "content": QUESTION}]
TEXT = "Ann has 3 apples. Ann buys 4 more."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("server"), *FLOAT32, "tracking=none") as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="not needed", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(embedded.MODEL_DIR, dtype="float32").eval()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(embedded.MODEL_DIR)


def greedy(model: Any, tokenizer: Any, text: str, new: int) -> str:
    ids = torch.tensor([tokenizer(text, add_special_tokens="<|im_start|>" not in text)["input_ids"]])
    answer = model.generate(ids, max_new_tokens=new, do_sample=False)[0, ids.shape[1] :]
    return tokenizer.decode(answer, skip_special_tokens=True)


@pytest.mark.thorough
def test_a_chat_is_answered_as_the_model_answers_alone(client: OpenAI, model: Any, tokenizer: Any) -> None:
    done = client.chat.completions.create(
        model="embedded", messages=CHAT, temperature=0, max_completion_tokens=64
    )
    prompt = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        alone = model.generate(torch.tensor([ids]), max_new_tokens=64, do_sample=False)[0, len(ids) :]
    assert done.choices[0].message.content == tokenizer.decode(alone, skip_special_tokens=True)
    assert (done.choices[0].message.role, done.choices[0].finish_reason) == ("assistant", "stop")
    assert done.usage is not None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (len(ids), len(alone))
    assert (done.object, done.model) == ("chat.completion", "embedded")


def test_penalties_are_those_of_openai(client: OpenAI, model: Any, tokenizer: Any) -> None:
    """By their definition, from the logits of transformers' model; min_p=1 leaves only the most
    probable token."""
    prompt: list[int] = tokenizer(TEXT)["input_ids"]
    answer: list[int] = []
    for _ in range(24):
        with torch.no_grad():
            scores = model(torch.tensor([prompt + answer])).logits[0, -1].float()
        for token, times in Counter(answer).items():
            scores[token] += 2.0 * times + 2.0
        if (token := int(scores.argmax())) in (
            tokenizer.eos_token_id,
            tokenizer.convert_tokens_to_ids("<|im_end|>"),
        ):
            break
        answer.append(token)
    drawn: dict[str, Any] = {"frequency_penalty": -2.0, "presence_penalty": -2.0}
    done = client.completions.create(model="embedded", prompt=TEXT, max_tokens=24, temperature=0, **drawn)
    expected = tokenizer.decode(answer, skip_special_tokens=True)
    assert done.choices[0].text == expected != greedy(model, tokenizer, TEXT, 24)
    one = client.completions.create(
        model="embedded", prompt=TEXT, max_tokens=24, temperature=5, seed=1, extra_body={"min_p": 1}, **drawn
    )
    assert one.choices[0].text == expected


def test_a_stream_has_the_same_text_and_its_usage_last(client: OpenAI) -> None:
    whole = client.chat.completions.create(model="embedded", messages=CHAT)
    chunks = list(
        client.chat.completions.create(
            model="embedded", messages=CHAT, stream=True, stream_options={"include_usage": True}
        )
    )
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == whole.choices[0].message.content
    assert sum(map(bool, texts)) > 5, "the text came in several chunks"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage == whole.usage
    assert chunks[-1].choices == []


@pytest.mark.parametrize("interval", [1, 4, 99])
def test_an_event_has_as_many_tokens_as_were_asked_for(client: OpenAI, interval: int) -> None:
    asked: dict[str, Any] = {"model": "embedded", "prompt": "7 pens", "max_tokens": 12, "temperature": 0}
    whole = client.completions.create(**asked)
    assert whole.usage is not None
    chunks = [*client.completions.create(**asked, stream=True, extra_body={"stream_interval": interval})]
    texts = list(filter(None, (chunk.choices[0].text for chunk in chunks)))
    assert "".join(texts) == whole.choices[0].text
    assert len(texts) == 1 + -(-(whole.usage.completion_tokens - 1) // interval), (
        "the first token comes at once"
    )


def test_the_asynchronous_client_is_answered_in_parallel(server: Serving, client: OpenAI) -> None:
    texts = [f"{number} pens and {number + 3} pens" for number in range(24)]
    alone = [
        client.completions.create(model="embedded", prompt=text, max_tokens=12).choices[0].text
        for text in texts
    ]

    async def ask() -> tuple[list[str], str]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x") as several:
            done = await asyncio.gather(
                *(several.completions.create(model="embedded", prompt=text, max_tokens=12) for text in texts)
            )
            stream = await several.completions.create(
                model="embedded", prompt=texts[0], max_tokens=12, stream=True
            )
            return [one.choices[0].text for one in done], "".join(
                [chunk.choices[0].text async for chunk in stream]
            )

    together, streamed = asyncio.run(ask())
    assert together == alone
    assert streamed == alone[0]


def test_prompts_of_every_form_are_completed(client: OpenAI, model: Any, tokenizer: Any) -> None:
    ids: list[int] = tokenizer(TEXT)["input_ids"]
    expected = greedy(model, tokenizer, TEXT, 10)
    prompts: list[Any] = [TEXT, ids, [TEXT, "7"], [ids, ids[:5]]]
    for prompt in prompts:
        done = client.completions.create(model="embedded", prompt=prompt, max_tokens=10)
        assert done.choices[0].text == expected
        assert [one.index for one in done.choices] == list(range(2 if prompt in prompts[2:] else 1))
    short = client.completions.create(model="embedded", prompt=TEXT, max_tokens=2).choices[0]
    assert (short.finish_reason, expected.startswith(short.text)) == ("length", True)


def test_a_stop_text_ends_the_answer_before_it(client: OpenAI) -> None:
    free = client.completions.create(model="embedded", prompt=TEXT, max_tokens=40).choices[0].text
    stop = free[10:14]
    cut = free[: free.index(stop)]
    for stops in (stop, ["never said", stop]):
        done = client.completions.create(model="embedded", prompt=TEXT, max_tokens=40, stop=stops)
        assert (done.choices[0].text, done.choices[0].finish_reason) == (cut, "stop")
        stream = client.completions.create(
            model="embedded", prompt=TEXT, max_tokens=40, stop=stops, stream=True
        )
        assert "".join(chunk.choices[0].text for chunk in stream) == cut


@pytest.mark.thorough
def test_a_seed_decides_what_is_drawn_and_choices_differ(client: OpenAI) -> None:
    def draw(**changes: Any) -> list[str | None]:
        body: dict[str, Any] = {
            "model": "embedded",
            "messages": CHAT,
            "temperature": 1.5,
            "n": 3,
            "max_tokens": 24,
        }
        return [one.message.content for one in client.chat.completions.create(**(body | changes)).choices]

    first = draw(seed=7)
    assert first == draw(seed=7)
    assert len(set(first)) == 3
    assert first != draw(seed=8)
    assert draw() != draw(), "without a seed, answers differ"
    pieces: dict[int, str] = {}
    for chunk in client.chat.completions.create(
        model="embedded", messages=CHAT, temperature=1.5, n=3, max_tokens=24, seed=7, stream=True
    ):
        for choice in chunk.choices:
            pieces[choice.index] = pieces.get(choice.index, "") + (choice.delta.content or "")
    assert [pieces[index] for index in range(3)] == first


# -------------------------------------------------------------------------------- log-probabilities


def by_one_pass(model: Any, ids: list[int]) -> torch.Tensor:
    """Return the log-probabilities of all tokens at each position but the first."""
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits[0, :-1].float().log_softmax(dim=-1)


def test_log_probabilities_of_a_chat_are_those_of_one_forward_pass(
    client: OpenAI, model: Any, tokenizer: Any
) -> None:
    done = client.chat.completions.create(model="embedded", messages=CHAT, logprobs=True, top_logprobs=4)
    prompt = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert done.choices[0].logprobs is not None
    content = done.choices[0].logprobs.content
    assert content is not None
    answer = done.choices[0].message.content
    assert answer is not None
    assert "".join(one.token for one in content) == answer
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    scores = by_one_pass(model, before + ids)[len(before) - 1 :]
    assert len(content) == len(ids)
    for token, row, one in zip(ids, scores, content, strict=True):
        assert math.isclose(one.logprob, row[token], abs_tol=1e-4)
        assert one.bytes == list(one.token.encode())
        best = row.topk(4)
        assert [top.token for top in one.top_logprobs] == [
            tokenizer.decode([other]) for other in best.indices
        ]
        torch.testing.assert_close(
            torch.tensor([top.logprob for top in one.top_logprobs]), best.values, atol=1e-4, rtol=0
        )
    chunks = client.chat.completions.create(
        model="embedded", messages=CHAT, logprobs=True, top_logprobs=4, stream=True
    )
    streamed = [
        one
        for chunk in chunks
        for one in (chunk.choices[0].logprobs and chunk.choices[0].logprobs.content) or []
    ]
    assert [one.token for one in streamed] == [one.token for one in content]


def test_echo_scores_the_prompt_as_lm_eval_asks_for_it(client: OpenAI, model: Any, tokenizer: Any) -> None:
    ids: list[int] = tokenizer(TEXT)["input_ids"]
    scores = by_one_pass(model, ids)
    for new in (0, 1):
        done: Any = client.completions.create(
            model="embedded",
            prompt=[ids, ids[:6]],
            max_tokens=new,
            echo=True,
            logprobs=1,
            temperature=0,
            seed=1,
        )
        one = done.choices[0]
        assert one.text.startswith(TEXT)
        values, tops = one.logprobs.token_logprobs, one.logprobs.top_logprobs
        assert len(values) == len(ids) + new
        assert values[0] is None
        expected = [float(row[token]) for row, token in zip(scores, ids[1:], strict=True)]
        assert values[1 : len(ids)] == pytest.approx(expected, abs=1e-4)
        for row, token, value, top in zip(scores, ids[1:], values[1:], tops[1:], strict=False):
            assert (value == max(top.values())) == (int(row.argmax()) == token)
        assert "".join(one.logprobs.tokens or []) == one.text
        assert one.logprobs.text_offset == [len("".join(one.logprobs.tokens[:n])) for n in range(len(values))]
        assert len(done.choices[1].logprobs.token_logprobs) == 6 + new
        assert done.usage.completion_tokens == 2 * new


def test_echo_alone_returns_the_prompt(client: OpenAI, tokenizer: Any) -> None:
    ids: list[int] = tokenizer(TEXT)["input_ids"]
    answer = client.completions.create(model="embedded", prompt=TEXT, max_tokens=5).choices[0].text
    for prompt in (TEXT, ids):
        done = client.completions.create(model="embedded", prompt=prompt, max_tokens=5, echo=True)
        assert (done.choices[0].text, done.choices[0].logprobs) == (TEXT + answer, None)
        chunks = client.completions.create(
            model="embedded", prompt=prompt, max_tokens=5, echo=True, stream=True
        )
        assert "".join(chunk.choices[0].text for chunk in chunks) == TEXT + answer
    nothing = client.completions.create(model="embedded", prompt=TEXT, max_tokens=0, echo=True)
    assert nothing.choices[0].text == TEXT


def test_neither_the_stop_text_nor_the_end_is_among_the_tokens(client: OpenAI) -> None:
    free = client.completions.create(model="embedded", prompt=TEXT, max_tokens=40).choices[0].text
    done = client.completions.create(
        model="embedded", prompt=TEXT, max_tokens=40, stop=free[10:14], logprobs=0
    )
    assert done.choices[0].logprobs is not None
    assert "".join(done.choices[0].logprobs.tokens or []).startswith(done.choices[0].text)
    assert len("".join((done.choices[0].logprobs.tokens or [])[:-1])) < len(done.choices[0].text)


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"messages": []}, "messages: give at least one"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role: no role 'function'. Choices: assistant, developer"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages[0].content: content of type 'image_url' is not supported"),
        ({"messages": [{"role": "user"}]}, "messages[0].content: give a text"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"temperature": -1}, "temperature=-1.0: must be 0, or lie in 1e-10..10"),
        ({"top_p": 0}, "top_p=0.0: must lie in (0, 1]"),
        ({"n": 0}, "n=0: must be 1 or more"),
        ({"n": 1000}, "1000 completions in one request: the limit is 256 (task.max_open)"),
        ({"max_tokens": 0}, "max_tokens=0: must be 1 or more"),
        ({"max_tokens": 5000}, "max_tokens=5000: the server's limit is 4096 tokens (task.max_new_tokens)"),
        ({"stop": ""}, "stop: give at most 16 non-empty strings"),
        ({"top_logprobs": 2}, "top_logprobs needs logprobs=true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs=21: must lie in 0..20"),
        ({"frequency_penalty": 2.5}, "frequency_penalty=2.5: must lie in -2..2 (0 = off)"),
        ({"functions": [{"name": "f"}]}, "functions: this server does not support this parameter. Omit this parameter, or use []"),
        ({"logit_bias": {"5": 1}}, "logit_bias: this server does not support this parameter"),
        ({"extra_body": {"temprature": 1}}, "no parameter 'temprature'. Did you mean temperature?"),
        ({"messages": [{"role": "user", "content": "x" * 20_000}]}, "the model has room for 1024"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused_with_the_reason(
    client: OpenAI, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**({"model": "embedded", "messages": CHAT} | changes))
    assert message in refused.value.message
    assert refused.value.type == "invalid_request_error"


def test_parameters_without_effect_are_accepted(client: OpenAI) -> None:
    plain = client.chat.completions.create(model="embedded", messages=CHAT)
    same = client.chat.completions.create(
        model="embedded", messages=[{"role": "user", "content": [{"type": "text", "text": QUESTION}]}],
        frequency_penalty=0, presence_penalty=0.0, logit_bias={}, response_format={"type": "text"}, user="somebody",
        parallel_tool_calls=True, tool_choice="none", service_tier="auto", store=False, extra_body={"top_k": -1},
    )  # fmt: skip
    assert same.choices[0].message.content == plain.choices[0].message.content
    again = [plain.choices[0].message.model_dump(), *CHAT]
    assert client.chat.completions.create(model="embedded", messages=[*CHAT, *again]).choices


def test_other_models_are_not_found(client: OpenAI) -> None:
    assert [one.id for one in client.models.list()] == ["embedded"]
    assert client.models.retrieve("embedded").id == "embedded"
    for ask in (
        lambda: client.models.retrieve("gpt-4o"),
        lambda: client.chat.completions.create(model="gpt-4o", messages=CHAT),
    ):
        with pytest.raises(
            openai.NotFoundError, match="model 'gpt-4o' not found. This server has 'embedded'"
        ):
            ask()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "the request body is not JSON"),
        (b"", "the request body must be a JSON object"),
        (b"[1]", "the request body must be a JSON object"),
        (b'{"prompt": []}', "prompt: give a string, token ids, or a list of them"),
        (b'{"prompt": ""}', "prompt is empty"),
        (b'{"prompt": "\\ud800"}', "prompt"),
        (b'{"prompt": [999999]}', "token id 999999 is invalid: embedded has token ids from 0 to"),
        (b'{"prompt": [-1]}', "token id -1 is invalid: embedded has token ids from 0 to"),
        (b'{"prompt": "x", "temperature": NaN}', "temperature=nan"),
        (b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}", ""),
        (b'{"prompt": ' + b"[" * 100_000, ""),
        (b'{"prompt": "x", "n": "many"}', "n: Input should be a valid integer"),
        (b'{"prompt": "x", "max_tokens": 0}', "max_tokens=0: must be 1 or more"),
        (b"\xff\xfe", ""),
    ],
)
def test_malformed_bodies_are_refused_and_the_server_goes_on(
    server: Serving, body: bytes, message: str
) -> None:
    status, answer = server.ask("/v1/completions", body)
    assert status == 400, answer
    assert message in answer["error"]["message"]
    assert server.ask("/v1/completions", {"prompt": "7", "max_tokens": 2})[0] == 200
    assert "Traceback" not in server.err


def test_requests_that_another_site_could_send_are_refused(server: Serving) -> None:
    """A form on another site can send text/plain to this machine, but not JSON."""
    body = json.dumps({"prompt": "7"}).encode()
    assert server.ask("/v1/completions", body, Content_Type="text/plain")[0] == 400
    status, answer = server.ask("/v1/models", Host="evil.example")
    assert (status, answer["error"]["type"]) == (403, "permission_error")
    assert server.ask("/v1/models", Host=f"localhost:{server.port}")[0] == 200
    headers = json.dumps({"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"})
    done = subprocess.run(
        ["curl", "-sSi", "-X", "OPTIONS", *(f"-H{k}: {v}" for k, v in json.loads(headers).items()), f"{server.url}/v1/completions"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "access-control" not in done.stdout.lower()
    assert " 405 " in done.stdout.splitlines()[0]


def test_the_old_tools_curl_command_works_as_it_is_written(server: Serving) -> None:
    command = f"""curl -X POST http://localhost:{server.port}/generate \\
  -H "Content-Type: application/json" \\
  -d '{{"prompt": "你好", "max_new_tokens": 100}}'"""
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert list(answer) == ["response"]
    assert answer["response"]
    same = server.ask("/v1/completions", {"prompt": "你好", "max_tokens": 100})[1]["choices"][0]["text"]
    assert answer["response"] == same
    status, refused = server.ask("/generate", {"prompt": "x", "max_tokens": 5})
    assert (status, refused["error"]["param"]) == (400, "max_tokens")
    assert "Did you mean max_new_tokens?" in refused["error"]["message"]


def test_an_unknown_path_is_answered_with_the_known_ones(server: Serving) -> None:
    for path in ("/nothing", "/redoc", "/v1/embeddings"):
        status, answer = server.ask(path)
        assert status == 404
        assert "/v1/chat/completions" in answer["error"]["message"]
    assert server.ask("/v1/completions")[0] == 405
    folder = Path(server.folder)
    assert not list(folder.rglob("samples.jsonl")), "requests are not logged"
