"""Bodies with hostile numbers in every field of the server's endpoints, and clients that ask beside
them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

TEXT, CHAT, GENERATE = "/v1/completions", "/v1/chat/completions", "/generate"
HUGE = "1" + "0" * 400
# As JSON is written: Python could not hold all of them, and json.loads accepts what JSON lacks
# (NaN, Infinity).
NUMBERS = (
    "0", "-0", "-0.0", "1", "-1", "2", "1.0", "0.5", "-0.5", "1.5", "2.5", "1e-5", "1e-39", "1e-45", "1e-46", "1e-300",
    "5e-324", "1e-400", "-5e-324", "0.9999999999999999", "1.0000000000000002", "10", "10.000001", "11", "127", "128", "255",
    "256", "257", "999", "49152", "65535", "65536", "16777217", "2147483647", "2147483648", "-2147483648", "-2147483649",
    "4294967295", "4294967296", "9007199254740993", "9223372036854775807", "9223372036854775808", "-9223372036854775808",
    "-9223372036854775809", "18446744073709551615", "18446744073709551616", "1e15", "1e18", "1e19", "1e38", "3.4e38", "3.5e38",
    "1e300", "1.7976931348623157e308", "1e308", "1e309", "1e400", "-1e400", "NaN", "Infinity", "-Infinity", HUGE, "-" + HUGE,
    HUGE + ".0", "1" * 4301, "true", "false", "null", '"7"', '"1e400"', '"NaN"', '""', "[]", "[7]", "{}", "[[]]", '{"7": 1}',
)  # fmt: skip
SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "seed", "stop",
    "ignore_eos",
)  # fmt: skip
SHARED = (
    *SAMPLING,
    "model",
    "n",
    "stream",
    "stream_options",
    "max_tokens",
    "logit_bias",
    "best_of",
    "min_tokens",
    "user",
)
FIELDS = {
    TEXT: (*SHARED, "prompt", "logprobs", "echo", "suffix"),
    CHAT: (*SHARED, "messages", "max_completion_tokens", "logprobs", "top_logprobs"),
    GENERATE: (*SAMPLING, "prompt", "max_new_tokens"),
}
GOOD: dict[str, dict[str, Any]] = {
    TEXT: {"prompt": "Ann has 3 apples", "max_tokens": 2},
    CHAT: {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2},
    GENERATE: {"prompt": "Ann has 3 apples", "max_new_tokens": 2},
}
# At temperature 0 the parameters of sampling are idle; here each of them has an effect.
DRAWN = {
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.01,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.1,
}


def body_of(path: str, written: dict[str, str]) -> bytes:
    """Return a good body in which these fields have these values, as they are written in JSON."""
    base = {**DRAWN, **GOOD[path]}
    fields = {json.dumps(name): json.dumps(value) for name, value in base.items() if name not in written}
    fields |= {json.dumps(name): value for name, value in written.items()}
    return ("{" + ", ".join(f"{name}: {value}" for name, value in fields.items()) + "}").encode()


def every_body() -> Iterator[tuple[str, bytes]]:
    """Yield (path, body) with each number in each field of each endpoint."""
    for path, fields in FIELDS.items():
        for name in fields:
            for number in NUMBERS:
                yield path, body_of(path, {name: number})


def random_bodies(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield bodies with several hostile fields each, also numbers of random size."""
    draw = random.Random(seed)
    for _ in range(count):
        path = draw.choice([*FIELDS])
        names = draw.sample(FIELDS[path], draw.choice([1, 1, 2, 3]))
        yield path, body_of(path, {name: draw.choice([*NUMBERS, _number(draw)]) for name in names})


def _number(draw: random.Random) -> str:
    sign = draw.choice(["", "-"])
    if draw.random() < 0.5:
        return sign + str(draw.getrandbits(draw.randint(1, 1500)))
    return f"{sign}{draw.random()}e{draw.randint(-400, 400)}"


def every_prompt() -> Iterator[tuple[str, bytes]]:
    """Yield (path, body) with each number as a token id, and as many digits as several prompts can
    make of n."""
    for number in NUMBERS:
        yield TEXT, body_of(TEXT, {"prompt": f"[{number}]"})
        yield TEXT, body_of(TEXT, {"prompt": f"[[5], [5, {number}]]"})
    yield TEXT, body_of(TEXT, {"prompt": json.dumps(["a"] * 100), "n": "9" * 4300})
