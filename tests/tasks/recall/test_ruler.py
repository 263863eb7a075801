"""RULER's strings beside those of lm-evaluation-harness, from the same random numbers and the same
size."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar

import numpy
import pytest

from runner.tasks.recall.kinds.ruler_niah import PAIRS, TASKS
from runner.tasks.recall.kinds.ruler_niah import render_niah_case as niah_by
from runner.tasks.recall.kinds.ruler_tracking import render_variable_tracking_case as tracking_by
from runner.tasks.recall.kinds.ruler_tracking import render_variable_tracking_example
from runner.tasks.recall.kinds.ruler_words import render_common_words_case, render_frequent_words_case
from runner.tasks.recall.vocabulary import ADJECTIVES, NOUNS

RULER = "lm_eval.tasks.ruler"
VERBS = ["carry", "find", "hold"]


class RandomWord:
    """Our words in the place of those of the package wonderwords, which the harness takes them
    from."""

    _categories: ClassVar = {
        "noun": [*NOUNS],
        "nouns": [*NOUNS],
        "adjective": [*ADJECTIVES],
        "adjectives": [*ADJECTIVES],
        "verb": VERBS,
        "verbs": VERBS,
    }


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Return a function that imports one of the harness's modules anew, with our words and without
    a download."""
    # the harness sets it, and it ends with the test
    monkeypatch.setenv("HF_XET_HIGH_PERFORMANCE", "1")
    pytest.importorskip("lm_eval")
    words = ModuleType("wonderwords")
    words.RandomWord = RandomWord  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wonderwords", words)
    nltk = pytest.importorskip("nltk")
    monkeypatch.setattr(nltk.data, "find", lambda *_: "")
    before = {name for name in sys.modules if name.startswith(RULER)}
    yield lambda name: import_module(f"{RULER}.{name}")
    for name in {name for name in sys.modules if name.startswith(RULER)} - before:
        del sys.modules[name]


def seeded(seed: int) -> random.Random:
    random.seed(seed)
    numpy.random.seed(seed)
    return random.Random(seed)


@pytest.mark.sampled(23)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", TASKS)
def test_needles(theirs: Callable[[str], Any], name: str, seed: int) -> None:
    module, utils, kind = theirs("prepare_niah"), theirs("niah_utils"), TASKS[name]
    haystack = "needle" if kind.in_needles else "repeat"
    own = seeded(seed)
    text, answers, _ = module.generate_input_output(
        30,
        module.get_haystack(haystack),
        type_haystack=haystack,
        num_needle_k=kind.keys,
        type_needle_k=kind.key_type,
        num_needle_v=kind.values_of_each,
        type_needle_v=kind.value_type,
        num_needle_q=kind.asked,
        template=utils.TEMPLATE,
    )
    asked = niah_by(own, kind, 30, module.WORDS)
    assert module.WORDS == PAIRS
    assert asked.prompt_text == text
    assert [*asked.gold] == answers
    assert niah_by(random.Random(seed + 1), kind, 30).prompt_text != text


def test_what_the_harness_draws_is_what_it_asks_of_each_task(
    theirs: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    utils = theirs("niah_utils")
    keys = {"num_needle_k": "keys", "num_needle_v": "values_of_each", "num_needle_q": "asked"}
    types = {"type_needle_k": "key_type", "type_needle_v": "value_type"}
    monkeypatch.setattr(utils, "generate_samples", lambda *_, **given: [given])
    monkeypatch.setattr(utils, "get_tokenizer", lambda _: None)
    monkeypatch.setattr(utils, "get_haystack", lambda **_: "")
    monkeypatch.setattr(utils, "download_dataset", lambda given: next(iter(given))[0])
    for name, kind in TASKS.items():
        given = getattr(utils, name)()
        assert (given["type_haystack"] == "needle") == kind.in_needles
        assert {key: given[key] for key in types} == {key: getattr(kind, own) for key, own in types.items()}
        of_keys = {key: given.get(key, 1) for key in keys}
        of_keys["num_needle_k"] = max(of_keys["num_needle_k"], of_keys["num_needle_q"])
        assert of_keys == {key: getattr(kind, own) for key, own in keys.items()}


@pytest.mark.parametrize("size", [5, 6, 40])
@pytest.mark.parametrize("seed", range(3))
def test_tracking(theirs: Callable[[str], Any], seed: int, size: int) -> None:
    module, own = theirs("vt_utils"), seeded(seed)
    draw = numpy.random.RandomState(seed).randint
    example_input, names = module.generate_input_output(15, 1, 4, is_icl=True)
    example = f"{example_input} {' '.join(names)}\n\n"
    text, gold = module.generate_input_output(size, 1, 4)
    whole = module.randomize_icl(example) + "\n\n" + text
    at = whole.rfind(" Answer: According to the chain(s) of variable assignment")
    asked = tracking_by(own, draw, size, render_variable_tracking_example(own, draw, 15))
    assert (asked.prompt_text, asked.beginning) == (whole[:at], whole[at:].strip())
    assert [*asked.gold] == gold


@pytest.mark.parametrize("length", [2048, 4096])
def test_common_words(theirs: Callable[[str], Any], length: int) -> None:
    module, own, order = theirs("cwe_utils"), seeded(3), random.Random(42)
    order.shuffle(sorted({*ADJECTIVES, *NOUNS, *VERBS}))
    for size in (20, 60):
        _, text, gold = module.generate_input_output(size, length)
        asked = render_common_words_case(own, order, size, length, module.WORDS)
        assert f"{asked.prompt_text} {asked.beginning}" == text
        assert [*asked.gold] == gold


@pytest.mark.parametrize("length", [1024, 8192])
def test_frequent_words(theirs: Callable[[str], Any], length: int) -> None:
    def tokens(text: str) -> Any:
        return type("Tokens", (), {"input_ids": text.split()})

    for seed in range(3):
        own = seeded(seed)
        text, gold, size = theirs("fwe_utils").generate_input_output(
            length, tokens, num_words=length // 2, vocab_size=length // 50
        )
        asked = render_frequent_words_case(own, size, length)
        assert f"{asked.prompt_text} {asked.beginning}" == text
        assert [*asked.gold] == gold
