"""BFCL's own checker of syntax trees, where the package bfcl-eval is installed; and calls to
compare verdicts on.

`python tests/support/bfcl_peer.py FILE` (with bfcl-eval on PYTHONPATH, 2026.3.23) records its
verdicts: one line has functions with parameters of every type and what is wanted of them, the
others calls and what its checker says of them.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from random import Random
from types import ModuleType
from typing import Any

Calls = list[dict[str, dict[str, Any]]]
Check = Callable[[list[dict[str, Any]], Calls, list[dict[str, Any]], str], bool]
PLACE = "bfcl_eval.eval_checker.ast_eval"
MODELS = "bfcl_eval.constants.model_config"  # imports the clients of all vendors


def their_checker() -> Check:
    """Return BFCL's checker; ModuleNotFoundError where it is not installed. Its lists of models are
    left out."""
    import_module("bfcl_eval.constants")
    for name in (
        MODELS,
        f"{PLACE}.type_convertor.java_type_converter",
        f"{PLACE}.type_convertor.js_type_converter",
    ):
        module = ModuleType(name)
        vars(module).update(MODEL_CONFIG_MAPPING=_Models(), java_type_converter=None, js_type_converter=None)
        sys.modules[name] = module
    checker = import_module(f"{PLACE}.ast_checker").ast_checker
    python = import_module("bfcl_eval.constants.enums").Language.PYTHON

    def check(
        functions: list[dict[str, Any]], calls: Calls, wanted: list[dict[str, Any]], category: str
    ) -> bool:
        found = checker(copy.deepcopy(functions), copy.deepcopy(calls), wanted, python, category, "any")
        return bool(found["valid"])

    return check


class _Models(dict[str, Any]):
    """Every model takes dots in names."""

    def __missing__(self, name: str) -> Any:
        return type("Config", (), {"underscore_to_dot": False})


def _function(name: str, required: list[str], **types: Any) -> dict[str, Any]:
    kinds = {
        key: {"type": kind[0], "items": {"type": kind[1]}} if isinstance(kind, tuple) else {"type": kind}
        for key, kind in types.items()
    }
    return {
        "name": name,
        "description": "",
        "parameters": {"type": "dict", "properties": kinds, "required": required},
    }


FUNCTIONS = [
    _function("shop.find", ["text", "count"], text="string", count="integer", price="float", exact="boolean", kind="any"),
    _function(
        "draw", ["points"], points=("array", "float"), names=("array", "string"), sizes=("array", "integer"), pair=("tuple", "integer")
    ),
    _function("store", ["item"], item="dict", items=("array", "dict"), grid=("array", "array")),
]  # fmt: skip
WANTED: list[dict[str, Any]] = [
    {"shop.find": {"text": ["April 1, 2024", "1/4/2024"], "count": [3], "price": [2.5, 3, ""], "exact": [True, ""], "kind": ["a-b", ""]}},
    {"shop.find": {"text": ["User's"], "count": ["n", 2], "price": [4], "exact": [False], "kind": [""]}},
    {"draw": {"points": [[1.5, 2.0], [1, 2]], "names": [["A b", "c"], ""], "sizes": [[1, 2], [2, 1], ""], "pair": [[1, 2], ""]}},
    {"store": {"item": [{"name": ["X-1", "x2"], "n": [1, ""]}], "items": [[{"a": [1]}, {"b": ["Q", ""]}], ""], "grid": [[[1, 2], [3]], ""]}},
]  # fmt: skip


def changed_calls(count: int, seed: int, wanted: list[list[dict[str, Any]]]) -> Iterator[tuple[int, Calls]]:
    """Yield so many calls, right ones and such with something changed, each with the number of what
    is wanted."""
    random = Random(seed)
    for _ in range(count):
        number = random.randrange(len(wanted))
        calls = [_right(random, call) for call in wanted[number]]
        for _ in range(random.choice((0, 1, 1, 1, 2))):
            _change(random, calls)
        random.shuffle(calls)
        yield number, calls


def _right(random: Random, call: dict[str, Any]) -> dict[str, dict[str, Any]]:
    [(name, allowed)] = call.items()
    drawn = {key: random.choice(values) for key, values in allowed.items() if values}
    return {
        name: {
            key: _plain(random, value) for key, value in drawn.items() if value != "" or random.random() < 0.2
        }
    }


def _plain(random: Random, value: Any) -> Any:
    """Return a value as a call has it: in wanted objects each key has a list of values."""
    if isinstance(value, dict):
        drawn = {
            key: random.choice(one) if isinstance(one, list) and one else one for key, one in value.items()
        }
        return {key: _plain(random, one) for key, one in drawn.items() if one != ""}
    return [_plain(random, one) for one in value] if isinstance(value, list) else value


def _change(random: Random, calls: Calls) -> None:
    """Change one call, or their number."""
    what = random.random()
    at = random.randrange(len(calls)) if calls else 0
    if what < 0.06:
        calls.append(copy.deepcopy(calls[at])) if calls else None
    elif what < 0.12 and calls:
        calls.pop(at)
    elif calls:
        [(name, arguments)] = calls[at].items()
        if what < 0.2:
            calls[at] = {f"{name}x": arguments}
        elif what < 0.26:
            arguments["further"] = 1
        elif arguments:
            key = random.choice([*arguments])
            if what < 0.34:
                del arguments[key]
            else:
                arguments[key] = _other(random, arguments[key])


def _other(random: Random, value: Any) -> Any:
    """Return another value, or the same one in another form."""
    if isinstance(value, list) and value and random.random() < 0.7:
        changed = [*value]
        changed[random.randrange(len(changed))] = _other(random, changed[0])
        return random.choice((changed, [*reversed(value)], value[:-1], [*value, value[0]]))
    if isinstance(value, dict) and value and random.random() < 0.7:
        key = random.choice([*value])
        return random.choice(
            (
                value | {key: _other(random, value[key])},
                {k: v for k, v in value.items() if k != key},
                value | {"z": 1},
            )
        )
    if isinstance(value, bool):
        return random.choice((not value, int(value), str(value)))
    if isinstance(value, int | float):
        return random.choice((value + 1, float(value), int(value), str(value), [value]))
    if isinstance(value, str):
        return random.choice(
            (
                value.upper(),
                f"{value}.",
                f" {value.replace(' ', '_')}",
                f"{value}x",
                [value],
                3,
                value.replace("'", '"'),
            )
        )
    return random.choice((None, "x", [], {}))


def record(count: int = 600) -> Iterator[str]:
    """Yield the lines of a recording."""
    check = their_checker()
    groups = [[one] for one in WANTED] + [[WANTED[0], WANTED[1]], [WANTED[0], WANTED[2], WANTED[0]], WANTED]
    yield json.dumps({"functions": FUNCTIONS, "wanted": groups})
    for number, calls in changed_calls(count, 1, groups):
        functions = (
            FUNCTIONS
            if len(groups[number]) > 1
            else [it for it in FUNCTIONS if it["name"] in groups[number][0]]
        )
        category = "parallel" if len(groups[number]) > 1 else "simple"
        yield json.dumps([number, calls, check(functions, calls, groups[number], category)])


if __name__ == "__main__":
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in record()))
