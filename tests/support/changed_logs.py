"""Changes a log of another tool at random, as damage, other versions and strangers do."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

DEEP, HUGE = "@deep@", "@huge@"  # replaced in the written text: what json.dumps cannot write
TEXTS = {f'"{DEEP}"': "[" * 20_000 + "]" * 20_000, f'"{HUGE}"': "7" * 10_000}
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, -0.5, 1e308, 10**400, -(10**400), HUGE, DEEP),
    *(float("nan"), float("inf"), float("-inf"), "", " ", "7", "nan", "\x1b[2J", "../../x", "\0", "é" * 3000),
    *([], {}, [[]], [{}], [None], {"a": None}, {"": {}}, [1, "a", None, {}], [[[[[[[[]]]]]]]]),
)
Place = tuple[Any, Any]  # an object or a list, and a key in it


def place_in(content: Any, rng: random.Random) -> Place | None:
    """Return a random place, from the top downwards: one in a small object is as likely as one in a
    large list."""
    found: Place | None = None
    while isinstance(content, dict | list) and content and (found is None or rng.random() < 0.8):
        key = rng.choice(list(content) if isinstance(content, dict) else range(len(content)))
        found = content, key
        content = content[key]
    return found


def replace_value(within: Any, key: Any, rng: random.Random) -> None:
    within[key] = rng.choice(VALUES)


def delete(within: Any, key: Any, _rng: random.Random) -> None:
    del within[key]


def negate(within: Any, key: Any, rng: random.Random) -> None:
    value = within[key]
    within[key] = -value if isinstance(value, int | float) else rng.choice((-3, -0.25))


def wrap(within: Any, key: Any, rng: random.Random) -> None:
    within[key] = rng.choice(([within[key]], {"value": within[key]}, str(within[key])[:200]))


def duplicate(within: Any, key: Any, rng: random.Random) -> None:
    if isinstance(within, list):
        within.insert(rng.randrange(len(within) + 1), within[key])
    else:
        within[f"{key}2"] = within[key]


def swap(within: Any, key: Any, rng: random.Random) -> None:
    other = rng.choice(list(within) if isinstance(within, dict) else range(len(within)))
    within[key], within[other] = within[other], within[key]


def rename(within: Any, key: Any, rng: random.Random) -> None:
    if isinstance(within, dict):
        within[rng.choice(("", "x", "\x1b", f"{key}_"))] = within.pop(key)


CHANGES: tuple[Callable[[Any, Any, random.Random], None], ...] = (
    *(replace_value, replace_value, replace_value, delete, delete),
    *(negate, wrap, duplicate, swap, rename),
)


def change_content(content: Any, rng: random.Random) -> str:
    """Change something in JSON; returns what."""
    if rng.random() < 0.02:
        return "nothing"
    place = place_in(content, rng)
    if place is None:
        return "nothing"
    change = rng.choice(CHANGES)
    change(*place, rng)
    return f"{change.__name__} {place[1]!r}"


def written(content: Any) -> bytes:
    """Return JSON with what json.dumps cannot write."""
    text = json.dumps(content)
    for name, replaced in TEXTS.items():
        text = text.replace(name, replaced)
    return text.encode()


def wrong_type(key: str, found: str, expected: str) -> str:
    """Return how a message says that the value of a key has another type than the expected one."""
    return f"{key} has the type {found} instead of {expected}"


def damage(raw: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Cut a file off, or change some of its bytes."""
    at = rng.randrange(len(raw)) if raw else 0
    match rng.randrange(5):
        case 0:
            return raw[:at], f"cut off at {at}"
        case 1:
            return raw[:at] + b"\xff\xfe" + raw[at:], f"no UTF-8 at {at}"
        case 2:
            return raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :], f"another byte at {at}"
        case 3:
            return rng.choice(
                (b"", b" \n", b"null", b"[]", b"{}", b"5", b'"a"', b"[5]", b"\xef\xbb\xbf{}")
            ), "other"
        case _:
            return raw + raw[: at + 1], f"{at + 1} bytes once more"


def change_file(path: Path, rng: random.Random) -> str:
    """Change a file of JSON, of lines of JSON, or YAML; any other one only its bytes."""
    raw = path.read_bytes()
    if path.suffix not in (".json", ".jsonl", ".yaml") or rng.random() < 0.15:
        changed, what = damage(raw, rng)
        path.write_bytes(changed)
        return f"{path.name}: {what}"
    if path.suffix == ".yaml":
        content = yaml.safe_load(raw)
        what = change_content(content, rng)
        path.write_text(yaml.safe_dump(content))
    elif path.suffix == ".json":
        content = json.loads(raw)
        what = change_content(content, rng)
        path.write_bytes(written(content))
    else:
        lines = [json.loads(line) for line in raw.splitlines()]
        is_of_lines = rng.random() < 0.1
        number = rng.randrange(len(lines))
        what = change_content(lines if is_of_lines else [lines[number]], rng)
        path.write_bytes(b"".join(written(line) + b"\n" for line in lines))
    return f"{path.name}: {what}"
