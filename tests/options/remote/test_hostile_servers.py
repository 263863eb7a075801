"""Servers that send anything: a correct answer, or a named error of that question, within limits of
time and memory.

Most attacks happen in one job at the same time: each question is the name of an attack, which the
server then does.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hostile_server
import pytest
from arena import peak_mib
from hostile_server import OK, STREAM, TEXT, Attack, Bytes, Hostile, chunk, event, stream, usage, whole
from raising import raises

from runner.config.root import RunnerConfig
from runner.options.remote import api_kind as api
from runner.options.remote.keys import ApiConfig
from runner.records.jobs import read_samples
from runner.run import run
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.errors import JobFailed, RunnerError
from runner_base.result import Record, Sample, Status

pytestmark = [pytest.mark.slow, pytest.mark.smoke(2)]

Make = Callable[..., RunnerConfig]
FIRST_S, ANSWER_S, RETRIES = 3.0, 6.0, 1
MAX_MIB = 250
MAX_REDIRECTS = 20  # that the HTTP client follows
END = (chunk(None, "stop"), usage())
SOUND = b"".join(stream(chunk(TEXT), *END))
EVENTS = SOUND.split(b"\r\n\r\n", 1)[1]
CHUNKED = OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
NO_ANSWER, BROKEN, SILENT = (
    "sent an invalid answer",
    "aborted the answer|closed the connection",
    "sent nothing for|sent no text within",
)


def says(*events: object) -> Attack:
    return lambda body: stream(*events)


def sends(*pieces: bytes) -> Attack:
    return lambda body: iter(pieces)


def for_ever(head: bytes, piece: bytes, pause_s: float = 0.02) -> Attack:
    def go(body: dict[str, Any]) -> Bytes:
        yield head
        while True:
            yield piece
            time.sleep(pause_s)

    return go


def then_silent(*pieces: bytes) -> Attack:
    def go(body: dict[str, Any]) -> Bytes:
        yield from pieces
        time.sleep(3 * ANSWER_S)

    return go


def part(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def answered(status: bytes, body: object = None, more: bytes = b"") -> Attack:
    return sends(
        whole(body if isinstance(body, bytes) else json.dumps(body).encode(), status=status, more=more)
    )


def choice(**keys: Any) -> dict[str, Any]:
    """Return an event with one choice, with these keys."""
    return chunk() | {"choices": [{"index": 0, "delta": {}, "finish_reason": None} | keys]}


def raw(old: bytes, new: bytes) -> bytes:
    """Return an event whose JSON has bytes that no library would write."""
    return json.dumps(chunk(old.decode())).encode().replace(old, new)


# Attacks that still give an answer: attack and answer.
ANSWERED: dict[str, tuple[Attack, str]] = {
    "sound": (hostile_server.sound, TEXT),
    "comments, then an answer": (sends(STREAM + b"\r\n", *[b": x\n\n"] * 50, EVENTS), TEXT),
    "a length that is too long": (sends(STREAM + b"Content-Length: 9999\r\n\r\n", EVENTS), TEXT),
    "an unknown charset": (
        sends(OK + b"Content-Type: text/event-stream; charset=klingon\r\nConnection: close\r\n\r\n" + EVENTS),
        TEXT,
    ),
    "half a character": (says(chunk("a \ud800 b"), *END), "a \ufffd b"),
    "a character in two events": (says(chunk("\ud83d"), chunk("\ude00"), *END), "\U0001f600"),
    "a character in two packets": (
        sends(CHUNKED, *(part(bytes([it])) for it in EVENTS.replace(b"It is", "Ää 你".encode())), b"0\r\n\r\n"),
        "Ää 你 7.\n#### 7",
    ),
    "half a character as the model": (says(chunk(TEXT) | {"model": "\ud800"}, *END), TEXT),
    "NUL and control characters": (says(chunk("a\0\x1b[2J\u202e"), *END), "a\0\x1b[2J\u202e"),
    "signs that end lines elsewhere": (says(chunk("a\u2028b\x85c\x0bd\x1ce"), *END), "a\u2028b\x85c\x0bd\x1ce"),
    "continues after its end": (says(chunk(TEXT), chunk(None, "stop"), chunk("more"), chunk(None, "length")), TEXT),
    "an unknown reason": (says(chunk(TEXT), chunk(None, "cosmic rays")), TEXT),
    "an empty reason until the end": (says(chunk("It is", ""), chunk(" 7.\n#### 7", ""), *END), TEXT),
    "no choices between": (says(chunk() | {"choices": []}, chunk() | {"choices": None}, {}, chunk(TEXT), *END), TEXT),
    "the same key twice": (
        says(b'{"choices": [{"index": 0, "delta": {"content": "a", "content": "b"}, "finish_reason": "stop"}]}'),
        "b",
    ),
    "an event of several lines": (
        sends(STREAM + b'\r\ndata: {"choices": [{"index": 0,\ndata: "delta": {"content": "b"},\n'
              b'data: "finish_reason": "stop"}]}\n\n'),
        "b",
    ),
    "a BOM": (sends(STREAM + b"\r\n\xef\xbb\xbf" + EVENTS), TEXT),
    "CR as the end of lines": (sends(STREAM + b"\r\n" + EVENTS.replace(b"\n", b"\r")), TEXT),
    "an error behind the answer": (says(chunk(TEXT), chunk(None, "stop"), {"error": "boom"}), TEXT),
    "silent behind the answer": (
        then_silent(STREAM + b"\r\n", event(chunk(TEXT)), event(chunk(None, "stop"))), TEXT,
    ),
    "no end of the chunks": (sends(CHUNKED, part(EVENTS)), TEXT),
    "endless trailers": (for_ever(CHUNKED + part(EVENTS) + b"0\r\n", b"X-A: b\r\n"), TEXT),
    "status 206": (sends(SOUND.replace(b"200 OK", b"206 Part")), TEXT),
    "status 103 before it": (sends(b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + SOUND), TEXT),
    "a usage that is none": (says(chunk(TEXT), chunk(None, "stop") | {"usage": [1]}), TEXT),
}  # fmt: skip

# Attacks that are errors: attack and a pattern of the message.
REJECTED: dict[str, tuple[Attack, str]] = {
    "comments without end": (for_ever(STREAM + b"\r\n", b": ping\n\n"), SILENT),
    "empty texts without end": (for_ever(STREAM + b"\r\n", event(chunk(""))), SILENT),
    "counts without end": (for_ever(STREAM + b"\r\n", event(usage())), SILENT),
    "dripping headers": (lambda body: hostile_server.drip(SOUND, 0.2), SILENT),
    "dripping events": (
        lambda body: itertools.chain([STREAM + b"\r\n"], hostile_server.drip(EVENTS, 0.2)), SILENT,
    ),
    "dripping text": (for_ever(STREAM + b"\r\n", event(chunk("a ")), 0.2), "took longer than 6 s"),
    "silent": (then_silent(), SILENT),
    "silent behind the headers": (then_silent(STREAM + b"\r\n"), SILENT),
    "redirects in a loop": (
        sends(b"HTTP/1.1 307 X\r\nLocation: /v1/chat/completions\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        "redirects",
    ),
    "a redirect to no address": (
        sends(b"HTTP/1.1 307 X\r\nLocation: http://[::1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        f"{NO_ANSWER}|{BROKEN}",
    ),
    "a redirect to nowhere": (sends(b"HTTP/1.1 307 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"), "answered 307"),
    "a length that is too short": (sends(STREAM + b"Content-Length: 90\r\n\r\n", EVENTS), BROKEN),
    "a length below zero": (sends(STREAM + b"Content-Length: -5\r\n\r\n", EVENTS), BROKEN),
    "a length of many digits": (then_silent(STREAM + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n"), f"{BROKEN}|{SILENT}"),
    "two lengths": (sends(STREAM + b"Content-Length: 5\r\nContent-Length: 7\r\n\r\n", EVENTS), BROKEN),
    "text that is no UTF-8": (sends(STREAM + b"\r\n", event(raw(b"XX", b"\xff\xfe")), EVENTS), NO_ANSWER),
    "text in too many bytes": (sends(STREAM + b"\r\n", event(raw(b"XX", b"\xc0\x80")), EVENTS), NO_ANSWER),
    **{f"index {value!r}"[:40]: (says(chunk(TEXT, index=value), *END), NO_ANSWER)
       for value in (-1, 1, 10**30, 0.5, "0", True, [0], float("nan"))},
    **{f"text {value!r}": (says(chunk(value), *END), NO_ANSWER)
       for value in (5, 0, False, True, ["a"], [], {"a": 1}, [{"type": "text", "text": "7"}])},
    **{f"delta {value!r}": (says(choice(delta=value), *END), NO_ANSWER) for value in (None, [1], "abc", 5)},
    **{f"choices {value!r}": (says(chunk() | {"choices": value}, *END), NO_ANSWER)
       for value in ({"a": 1}, 5, "abc", [1, 2], [None])},
    **{f"reason {value!r}": (says(chunk(TEXT), chunk(None, value), usage()), NO_ANSWER) for value in (7, ["stop"], False)},
    **{f"reason {value}": (says(chunk(TEXT), chunk(None, value), usage()), BROKEN) for value in ("error", "abort")},
    **{f"event {value!r}": (says(value, chunk(TEXT), *END), NO_ANSWER) for value in (None, 5, [1], "abc", b"{nope", b"")},
    **{f"counts {value!r}"[:40]: (says(chunk(TEXT), chunk(None, "stop"), usage(value, 3)), "usage.prompt_tokens=")
       for value in ("5", 5.7, -5, True, [1], 10**30, 10**400, float("nan"), float("inf"))},
    "deep lists": (says(b"[" * 100_000, chunk(TEXT), *END), NO_ANSWER),
    "deep objects": (says(b'{"a":' * 50_000 + b"1" + b"}" * 50_000, chunk(TEXT), *END), NO_ANSWER),
    "a number of many digits": (says(b'{"choices": [], "created": ' + b"9" * 5000 + b"}", chunk(TEXT), *END), NO_ANSWER),
    "the end at once": (sends(STREAM + b"\r\n", event(b"[DONE]"), EVENTS), BROKEN),
    "nothing": (sends(STREAM + b"\r\n"), BROKEN),
    "HTML": (sends(whole(b"<html>It works</html>", b"text/html")), "instead of an event stream"),
    "HTML as a stream": (sends(STREAM + b"\r\n<html>\n<body>It works</body>\n\n"), BROKEN),
    "no content type": (sends(OK + b"Connection: close\r\n\r\n" + EVENTS), "instead of an event stream"),
    "chunks broken off": (sends(CHUNKED, part(event(chunk("half"))) + b"ffff\r\nabc"), BROKEN),
    "chunks of no size": (sends(CHUNKED + b"zz\r\nabc\r\n0\r\n\r\n"), BROKEN),
    "chunks that end early": (sends(CHUNKED, part(event(chunk("half"))) + b"0\r\n\r\n"), BROKEN),
    "endless headers": (for_ever(OK, b"X-A: b\r\n" * 2000), BROKEN),
    "status 204": (sends(b"HTTP/1.1 204 No\r\nConnection: close\r\n\r\n"), "instead of an event stream"),
    "status 304": (sends(b"HTTP/1.1 304 No\r\nConnection: close\r\n\r\n"), "answered 304"),
    "status 101": (then_silent(b"HTTP/1.1 101 Switch\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"), BROKEN),
    "status 100 without end": (for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), SILENT),
    "status 999": (answered(b"999 No", {}), "answered 999"),
    "no HTTP": (sends(b"SSH-2.0-OpenSSH_9.0\r\n"), BROKEN),
    "noise": (sends(bytes(range(256)) * 10), BROKEN),
    "closed at once": (sends(), BROKEN),
    "NUL in a header": (sends(STREAM + b"X: a\0b\r\n\r\n" + EVENTS), BROKEN),
    "an error as an event": (says({"error": {"message": "boom \ud800"}}), "reported an error in its answer: boom"),
    "an error that is a list": (says({"error": [1]}), "reported an error in its answer"),
    **{f"400 with {name}": (answered(b"400 Bad", body), "answered 400") for name, body in {
        "half a character": {"error": {"message": "a\ud800b"}}, "bytes": b'{"error":{"message":"\xe4\xff"}}', "a list": [1],
        "a number": {"error": 7}, "an object": {"error": {"message": {"a": [1]}}}, "depth": b"[" * 50_000, "nothing": b"",
    }.items()},
    **{f"429, Retry-After: {value}": (answered(b"429 Busy", {}, b"Retry-After: %s\r\n" % value.encode()), "answered 429")
       for value in ("soon", "-5", "nan", "inf", "1e400", "Mon, 01 Jan 1900 00:00:00 GMT", "Mon, 01 Jan 99999 00:00:00 GMT",
                     "Mon, 01 Jan 2024 00:00:00 +9999999999999")},
}  # fmt: skip


def job(make_config: Make, server: Hostile, folder: Path, **keys: Any) -> RunnerConfig:
    limits: dict[str, Any] = {
        "first_token_timeout_s": FIRST_S,
        "request_timeout_s": ANSWER_S,
        "retries": RETRIES,
        "backoff_s": 0.01,
    }
    model = ApiConfig(name="tiny", base_url=server.url, price_in=1.0, price_out=1.0, **(limits | keys))
    return make_config(model=model, task=Gsm8kConfig(limit=None, data=str(folder / "questions.jsonl")))


def ask(folder: Path, names: list[str]) -> None:
    """Write a data set whose questions are the names of attacks."""
    lines = [json.dumps({"question": f"<{name}>", "answer": "#### 7"}) for name in names]
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    api._reports.clear()
    yield
    api._reports.clear()


def samples_of(folder: Path) -> list[Sample]:
    (file,) = folder.glob("outputs/jobs/*/samples.jsonl")
    return list(read_samples(file).values())


def test_each_attack_is_an_error_of_its_question_or_a_right_answer(make_config: Make, tmp_path: Path) -> None:
    attacks = ANSWERED | REJECTED
    assert not ANSWERED.keys() & REJECTED.keys()
    ask(tmp_path, list(attacks))

    asked = Counter[str]()

    def attack(body: dict[str, Any]) -> Bytes:
        question = str(body["messages"][-1]["content"])
        name = question[question.index("<") + 1 : question.index(">")]
        asked[name] += 1
        return attacks[name][0](body)

    memory = peak_mib()
    with Hostile(attack) as server:
        record = run(job(make_config, server, tmp_path, concurrency=len(attacks) + 1))
    assert asked.keys() == attacks.keys()
    assert asked.pop("redirects in a loop") <= (RETRIES + 1) * (MAX_REDIRECTS + 1)
    assert not {name: times for name, times in asked.items() if times > RETRIES + 1}
    assert peak_mib() - memory < MAX_MIB
    by_attack = {str(sample.question)[1:-1]: sample for sample in samples_of(tmp_path)}
    assert by_attack.keys() == attacks.keys()
    texts = {name: by_attack[name].answer.text for name in ANSWERED}
    odd = {name: texts[name] for name, (_, text) in ANSWERED.items() if texts[name] != text}
    assert not odd, "wrong answers"
    odd = {
        name: str(by_attack[name].error)
        for name, (_, message) in REJECTED.items()
        if not by_attack[name].failed or not re.search(message, str(by_attack[name].error))
    }
    assert not odd, "errors with the wrong message"
    right = sum("#### 7" in text for _, text in ANSWERED.values())
    assert record.result.metrics["correct"] == right, "an error does not count as an answer"
    assert record.error is not None
    for sample in by_attack.values():
        assert 0 <= sample.prompt_tokens < 100
        assert 0 <= (sample.answer.new_tokens or 0) < 100
        assert 0 <= (sample.cost_usd or 0) < 1


def test_a_wait_of_decades_ends_the_job_at_once(make_config: Make, tmp_path: Path) -> None:
    ask(tmp_path, ["x"])
    with Hostile(answered(b"429 Busy", {}, b"Retry-After: 1000000000\r\n")) as server:
        with raises(JobFailed, "refused"):
            run(job(make_config, server, tmp_path))
        assert server.seen == 1


@pytest.mark.parametrize("name", ["comments", "interim answers", "header"])
def test_the_client_ends_floods_by_itself(make_config: Make, tmp_path: Path, name: str) -> None:
    floods = {
        "comments": for_ever(STREAM + b"\r\n", b": ping" * 1000 + b"\n\n", 0),
        "interim answers": for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, 0),
        "header": for_ever(OK + b"X-A: ", b"b" * 65536, 0),
    }
    ask(tmp_path, ["x"])
    memory = peak_mib()
    with Hostile(floods[name]) as server, pytest.raises(JobFailed, match="all requests failed"):
        # without an end this would not return
        run(job(make_config, server, tmp_path, first_token_timeout_s=1.0))
    assert 1 <= server.seen <= RETRIES + 1
    assert peak_mib() - memory < MAX_MIB


def listing(own: dict[str, Any], *others: object) -> bytes:
    return json.dumps({"object": "list", "data": [{"id": "tiny", "object": "model"} | own, *others]}).encode()


# Lists of models: the error's message, or the number of positions that is used.
LISTS: dict[str, tuple[bytes, str | float | None]] = {
    **{f"{body!r}"[:30]: (body, NO_ANSWER) for body in (b"null", b"5", b"[1]", b'"x"', b"", b"<html>", b'{"data": null}',
       b'{"data": 5}', b'{"data": "abc"}', b'{"data": [1]}', b'{"data": [null]}', b"[" * 100_000, b'{"data":[{"id":"\xff"}]}')},
    "other ids": (listing({}, {"id": 5}, {"id": None}, {"id": ["tiny"]}, {"id": "\ud800"}), None),
    "half a character": (listing({"root": "a\ud800"}), None),
    "roots": (listing({"root": "\x1b[2J\n" + "x" * 10**6}), None),
    "names of methods": (listing({"to_dict": 5, "get": 1, "__class__": "x", "model_config": 3}), None),
    "512": (listing({"max_model_len": 512}), 512.0),
    **{f"room {value!r}"[:30]: (listing({"max_model_len": value}), None)
       for value in (float("nan"), float("inf"), -5, 10**400, [1], "many")},
}  # fmt: skip


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_models(make_config: Make, tmp_path: Path, name: str) -> None:
    body, expected = LISTS[name]
    ask(tmp_path, ["x"])
    with Hostile(None, lambda: iter([whole(body)])) as server:
        config = job(make_config, server, tmp_path)
        if isinstance(expected, str):
            with pytest.raises(RunnerError, match=expected):
                run(config)
            return
        record: Record = run(config)
    assert record.result.metrics.get("max_positions") == expected
    (file,) = tmp_path.glob("outputs/jobs/*/result.json")
    assert "NaN" not in file.read_text()
    assert "Infinity" not in file.read_text()


def test_a_server_that_does_not_stream_is_asked_once_and_one_that_did_before_again(
    make_config: Make, tmp_path: Path
) -> None:
    ask(tmp_path, ["never"])
    asked = Counter[str]()
    plain = whole(json.dumps({"choices": [{"message": {"content": "#### 7"}}]}).encode())

    def attack(body: dict[str, Any]) -> Bytes:
        asked["all"] += 1
        return sends(plain)({}) if asked["all"] in (1, 3, 4) else hostile_server.sound(body)

    said = r"application/json instead of an event stream.*\(1 attempt\)"
    with Hostile(attack) as server, pytest.raises(JobFailed, match=said):
        run(job(make_config, server, tmp_path, retries=6))
    assert asked["all"] == 1
    ask(tmp_path, ["at first", "later"])
    with Hostile(attack) as server:
        record = run(job(make_config, server, tmp_path, retries=6, concurrency=1))
    assert (record.status, asked["all"]) == (Status.FINISHED, 5)
