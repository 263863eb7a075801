"""A model's own head (MTP) guesses: the answers are those of single steps, and the guesses those of
the published formula."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import own_heads
import pytest
import torch
from guessing import asked_of, check, ended, guessing_engine
from own_heads import FAMILIES, Reference
from streams import PROMPTS

from runner_base import ConfigError
from runner_engine.decode.drafting.own_head import Way
from runner_engine.decode.rows import Row
from runner_engine.local.engine import LocalEngine
from runner_engine.sessions.base import Request

Make = Callable[..., LocalEngine]
LEARNED = PROMPTS[:4]  # prompts by whose answers heads are trained
TOKENS = 3
FAMILY = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture
def engine_of(opened: Make) -> Make:
    return partial(guessing_engine, opened)


@pytest.fixture
def with_head(made_once: Callable[..., Path], engine_of: Make) -> Callable[[str], Path]:
    """Return a function that gives a model whose head has learned some of the model's answers."""

    def folder(family: str) -> Path:
        def make(into: Path) -> None:
            own_heads.save(into, family)
            engine = engine_of(into)
            answers = ended(engine, greedy_of(LEARNED), None)
            texts = [
                (encoded(engine, LEARNED[at]), answers[at, 0][0]) for at in range(len(LEARNED))
            ]
            own_heads.train(into, family, texts)

        return made_once(f"own_head_{family}", make)

    return folder


def encoded(engine: LocalEngine, text: str) -> list[int]:
    return engine.encode(Request(0, text))[1]


def greedy_of(texts: Sequence[str]) -> list[Request]:
    return [Request(at, text) for at, text in enumerate(texts)]


@pytest.mark.parametrize("rows", [1, 5, None])
@FAMILY
def test_answers_are_those_of_single_steps(
    family: str, rows: int | None, engine_of: Make, with_head: Callable[[str], Path]
) -> None:
    """Rows of different acceptance in one batch, which come and go, with shared prefixes."""
    plain, guessing = engine_of(with_head(family)), engine_of(with_head(family), "mtp")
    asked = asked_of(ended(plain, greedy_of(PROMPTS), rows))
    expected = ended(plain, asked, rows)
    assert ended(guessing, asked, rows) == expected
    stats = guessing.stats
    assert stats.decode_tokens == sum(len(it[0]) - 1 for it in expected.values())
    assert stats.drafted_at[0] > stats.drafted_at[1] > stats.drafted_at[2] > 0
    learned = engine_of(with_head(family), "mtp")
    ended(learned, greedy_of(LEARNED), rows)
    assert learned.stats.acceptance["acceptance_share/token_1"] > 0.7
    assert guessing.fused is not None


@FAMILY
def test_a_head_with_wrong_weights_is_right_by_chance_alone(
    family: str, engine_of: Make, with_head: Callable[[str], Path], tmp_path: Path
) -> None:
    weights = own_heads.save(tmp_path / "wrong", family)
    own_heads.put(tmp_path / "wrong", family, own_heads.shuffled(weights))
    plain, guessing = engine_of(with_head(family)), engine_of(tmp_path / "wrong", "mtp")
    asked = greedy_of(PROMPTS)
    assert ended(guessing, asked, None) == ended(plain, asked, None)
    assert guessing.stats.acceptance["acceptance_share/token_1"] < 0.1 < guessing.stats.draft_tokens


class Spied(Way):
    """Notes each guess with the text behind which it was made."""

    made: list[tuple[list[int], list[int]]]

    def propose(self, rows: Sequence[Row], most: Sequence[int]) -> list[list[int]]:
        guesses = super().propose(rows, most)
        self.made += [
            ([*row.prompt, *row.tokens], guess)
            for row, guess in zip(rows, guesses, strict=True)
            if guess
        ]
        return guesses


@pytest.mark.parametrize("attention", ["", "sdpa"])
@FAMILY
def test_guesses_are_those_of_the_published_formula(
    family: str,
    attention: str,
    engine_of: Make,
    with_head: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each guess of rows with shared prefixes, in slots that move, behind right and wrong ones."""
    folder = with_head(family)
    if attention:
        monkeypatch.setenv("RUNNER_ATTENTION", attention)
    monkeypatch.setattr(Spied, "made", [], raising=False)
    monkeypatch.setattr("runner_engine.decode.drafting.own_head.Way", Spied)
    guessing = engine_of(folder, {"kind": "mtp", "tokens": TOKENS})
    ended(guessing, greedy_of(PROMPTS), 5)
    reference = Reference.of(folder, family)
    assert len(Spied.made) > len(PROMPTS)
    for text, guess in Spied.made:
        assert guess == reference.guess(text, len(guess)), text


@FAMILY
def test_logits_are_those_of_the_published_formula(
    family: str, engine_of: Make, with_head: Callable[[str], Path]
) -> None:
    folder = with_head(family)
    engine = engine_of(folder, "mtp")
    engine.load()
    reference = Reference.of(folder, family)
    ids = encoded(engine, PROMPTS[1])
    states = reference.hidden(ids)[:-1]
    head = engine.draft.loaded.model
    head.get_input_embeddings().hidden = states
    with torch.inference_mode():
        found = head(input_ids=torch.tensor([ids[1:]])).logits[0]
    expected = reference.logits(reference(states, ids[1:]))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))
    others = reference.logits(reference(states.roll(1, 0), ids[1:]))
    assert float((others - expected).abs().max()) > 0.1 * float(expected.std()), "a control"


def test_what_has_no_head_is_refused(with_head: Callable[[str], Path], tmp_path: Path) -> None:
    own_heads.save(tmp_path, "glm4_moe")
    path = tmp_path / "config.json"
    settings = json.loads(path.read_text())

    def refused(said: str, **keys: Any) -> None:
        path.write_text(json.dumps(settings | keys))
        with pytest.raises(ConfigError, match=said):
            check(tmp_path, "mtp")

    check(tmp_path, {"kind": "mtp", "tokens": 1})
    refused(
        r"^generation.speculate=mtp: the model carries no head for several tokens \(MTP\): its config.json .* "
        r"use generation.speculate=draft",
        num_nextn_predict_layers=0,
    )
    refused("models with one head alone", num_nextn_predict_layers=2)
    refused(r"no tensors model\.layers\.3\.\*", num_hidden_layers=3)
    refused(
        "of longcat are not supported, those of glm4_moe, qwen3_5_text are", model_type="longcat"
    )
