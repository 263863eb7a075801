"""A draft guesses at every step of every row: the answers are those of single steps, whatever it
guesses."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from guessing import asked_of, check, ended, guessing_engine
from raising import raises
from scipy.stats import chisquare
from streams import PROMPTS

from runner_base import ConfigError
from runner_base.errors import Code
from runner_engine.decode.drafting import draft_model
from runner_engine.decode.sequences import TokenSequence
from runner_engine.decode.tokens import Stopping, create_sampler, verify_draft_tokens
from runner_engine.local.engine import LocalEngine
from runner_engine.sessions.base import Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.sampling import Sampling
from tools import families

TOKENS = 3

Make = Callable[..., LocalEngine]


@pytest.fixture
def engine_of(opened: Make) -> Make:
    return partial(guessing_engine, opened)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("rows", [1, 5, None])
@pytest.mark.parametrize("draft", ["the same", "one layer", "another", "lookup"])
def test_answers_are_those_of_single_steps(
    draft: str, rows: int | None, engine_of: Make, saved_family: Callable[..., Path]
) -> None:
    """Rows of different acceptance in one batch, which come and go, with shared prefixes."""
    folder = saved_family(max_position_embeddings=512)
    speculate: Any = {
        "the same": {"kind": "draft", "model": str(folder), "tokens": TOKENS},
        "one layer": {"kind": "draft", "layers": 1, "tokens": TOKENS},
        "another": {
            "kind": "draft",
            "model": str(saved_family(seed=3, num_hidden_layers=1, max_position_embeddings=512)),
        },
        "lookup": "ngram",
    }[draft]
    plain, guessing = engine_of(folder), engine_of(folder, speculate)
    asked = asked_of(ended(plain, [Request(at, text) for at, text in enumerate(PROMPTS)], rows))
    expected = ended(plain, asked, rows)
    assert ended(guessing, asked, rows) == expected
    stats = guessing.stats
    assert stats.draft_tokens > 0
    assert stats.decode_tokens == sum(len(it[0]) - 1 for it in expected.values())
    assert stats.drafted_at[0] >= stats.drafted_at[1] >= stats.drafted_at[2]
    assert stats.accepted_at[0] >= stats.drafted_at[1]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("family", "keys"),
    [
        ("mixtral", {}),
        ("qwen3_moe", {}),
        ("gemma2", {"sliding_window": 16}),
        ("mistral", {"sliding_window": 16}),
        ("deepseek_v3", {}),
    ],
)
def test_families(
    family: str, keys: dict[str, Any], engine_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mixtures, windows and latents; the whole model as a draft is always right."""
    monkeypatch.setitem(families.OVERRIDES, family, families.OVERRIDES.get(family, {}) | keys)
    families.build(family, tmp_path)
    layers = {"kind": "draft", "layers": 1}
    plain, guessing = engine_of(tmp_path), engine_of(tmp_path, layers)
    asked = asked_of()
    expected = ended(plain, asked, 6)
    assert ended(guessing, asked, 6) == expected
    assert 0 < guessing.stats.accepted_tokens <= guessing.stats.draft_tokens
    whole = engine_of(tmp_path, {"kind": "draft", "model": str(tmp_path)})
    greedy = [Request(at, prompt) for at, prompt in enumerate(PROMPTS)]
    assert ended(whole, greedy, 6) == {
        key: it for key, it in expected.items() if key[0] in range(len(PROMPTS))
    }
    assert whole.stats.draft_acceptance_metrics["acceptance_share/token_1"] == 1
    assert whole.stats.accepted_at == whole.stats.drafted_at


@pytest.mark.thorough
def test_rows_with_and_without_guesses_decode_together(
    engine_of: Make, saved_family: Callable[..., Path]
) -> None:
    folder, layers = saved_family(max_position_embeddings=512), {"kind": "draft", "layers": 1}
    asked = [Request(at, prompt) for at, prompt in enumerate(PROMPTS)]
    expected = ended(engine_of(folder), asked, None)
    drafted = []
    for guessed in (range(len(asked)), range(1, len(asked)), ()):
        engine = engine_of(folder, layers)
        mixed = [dataclasses.replace(one, is_guessed=one.id in guessed) for one in asked]
        assert ended(engine, mixed, None) == expected
        drafted.append(engine.stats.draft_tokens)
    assert drafted[0] > drafted[1] > drafted[2] == 0


@pytest.mark.thorough
def test_a_draft_that_is_wrong_everywhere_changes_no_answer(
    engine_of: Make, saved_family: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved_family(max_position_embeddings=512)
    plain = engine_of(folder)
    guessing = engine_of(folder, {"kind": "draft", "model": str(folder)})
    propose = draft_model.TokenDrafter.propose

    def wrong(*given: Any) -> list[list[int]]:
        return [[(token + 1) % 259 for token in guess] for guess in propose(*given)]

    monkeypatch.setattr(draft_model.TokenDrafter, "propose", wrong)
    asked = [Request(at, prompt) for at, prompt in enumerate(PROMPTS)]
    assert ended(guessing, asked, None) == ended(plain, asked, None)
    assert guessing.stats.accepted_tokens == 0 < guessing.stats.draft_tokens
    assert guessing.stats.draft_acceptance_metrics["acceptance_share"] == 0


@pytest.mark.thorough
def test_a_guess_that_is_not_checked_changes_answers(
    engine_of: Make, saved_family: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: an engine that takes what a wrong draft says gives other answers."""
    folder = saved_family(max_position_embeddings=512)
    other = saved_family(seed=3, num_hidden_layers=1, max_position_embeddings=512)
    plain = engine_of(folder)
    guessing = engine_of(folder, {"kind": "draft", "model": str(other)})
    monkeypatch.setattr(
        "runner_engine.decode.drafting.drafter_speculator.verify_draft_tokens",
        lambda forward, own, rows, drafts, sampler, stopping: _believed(rows, drafts),
    )
    asked = [Request(at, prompt) for at, prompt in enumerate(PROMPTS[:3])]
    assert ended(guessing, asked, None) != ended(plain, asked, None)


def _believed(rows: Any, drafts: list[list[int]]) -> list[list[int]]:
    for row, draft in zip(rows, drafts, strict=True):
        row.kv.places += max(len(draft), 1)
    return [draft or [1] for draft in drafts]


def test_a_draft_must_fit_the_model(saved_family: Callable[..., Path], tmp_path: Path) -> None:
    folder, hybrid = saved_family(max_position_embeddings=512), tmp_path / "hybrid"
    families.build("qwen3_next", hybrid)
    with raises(ConfigError, "bad_value", "generation.speculate"):
        check(folder, {"kind": "draft", "layers": 9})
    with raises(ConfigError, "unknown_choice", "generation.speculate"):
        check(folder, {"kind": "draft", "quantization": "nf5"})
    check(hybrid, "ngram")
    with raises(ConfigError, "unsupported", "generation.speculate"):
        check(hybrid, {"kind": "draft", "layers": 1})
    check(hybrid, {"kind": "draft", "layers": 2})
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    tokens = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokens["model"]["vocab"]
    one, two = list(vocabulary)[40:42]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    (other / "tokenizer.json").write_text(json.dumps(tokens))
    check(folder, {"kind": "draft", "model": str(folder)})
    with raises(ConfigError, "mismatch", "generation.speculate"):
        check(folder, {"kind": "draft", "model": str(other)})


@pytest.mark.parametrize("speculate", ["draft", {"kind": "draft", "quantization": "torchao_int8"}])
def test_a_library_that_a_draft_lacks_is_said_before_a_load(
    speculate: Any, saved_family: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved_family(max_position_embeddings=512)
    check(folder, speculate)
    monkeypatch.setattr("runner_engine.quantization.base.find_spec", lambda _: None)
    check(folder, "ngram")
    with raises(ConfigError, "needs_package", "generation.speculate"):
        check(folder, speculate)


def test_a_mistake_in_a_draft_names_its_key(saved_family: Callable[..., Path], tmp_path: Path) -> None:
    folder = saved_family(max_position_embeddings=512)
    with raises(ConfigError, "mismatch", "generation.speculate"):
        check(folder, {"quantization": "awq"})
    with raises(ConfigError, "not_found", "generation.speculate"):
        check(folder, {"model": str(tmp_path / "nothing")})


PROBABILITIES = torch.tensor([[0.5, 0.05, 0.3, 0.15], [0.1, 0.2, 0.3, 0.4], [0.25] * 4])
GUESS = [2, 3]  # by no means the most probable token first
DRAWS = 2000


class Known:
    """Passes with known probabilities behind the last token, and behind each of a guess."""

    states = None

    def run_token_spans(self, _: Any, pieces: Sequence[Any], is_decoding: bool) -> torch.Tensor:
        assert is_decoding
        return PROBABILITIES.log().repeat(len(pieces), 1)

    def ensure_capacity(self, *_: int) -> None:
        """As a store."""

    set_num_filled = ensure_capacity


def drawn(believes: bool = False) -> list[list[int]]:
    """Return the new tokens of many sampled rows with the same guess; believes: the first token of
    the guess is taken as it is."""
    sampling = Sampling(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0)
    sampling = dataclasses.replace(sampling, frequency_penalty=0.0, presence_penalty=0.0)
    rows = [TokenSequence(Request(at, ()), [1], "", 9, sampling=sampling, tokens=[1]) for at in range(DRAWS)]
    sampler, known = create_sampler(rows, 4, torch.device("cpu")), Known()
    given: Any = known, known, rows, [GUESS] * DRAWS, sampler, Stopping(None)
    new = verify_draft_tokens(*given)
    return [[GUESS[0], *tokens[1:]] for tokens in new] if believes else new


def p_of(tokens: Sequence[int], probabilities: torch.Tensor) -> float:
    counts = torch.bincount(torch.tensor(tokens), minlength=4)
    return float(chisquare(counts, probabilities.numpy() * len(tokens)).pvalue)


@pytest.mark.thorough
def test_sampled_rows_follow_the_models_own_distribution() -> None:
    """2,000 draws behind the last token, and behind the guessed ones where those were drawn."""
    new = drawn()
    assert p_of([tokens[0] for tokens in new], PROBABILITIES[0]) > 0.001
    seconds = [tokens[1] for tokens in new if len(tokens) > 1]
    thirds = [tokens[2] for tokens in new if len(tokens) > 2]
    assert len(seconds) == sum(tokens[0] == GUESS[0] for tokens in new) > DRAWS // 5
    assert len(thirds) == seconds.count(GUESS[1]) > DRAWS // 20
    assert p_of(seconds, PROBABILITIES[1]) > 0.001
    assert p_of(thirds, PROBABILITIES[2]) > 0.001
    believed = [tokens[0] for tokens in drawn(believes=True)]
    assert p_of(believed, PROBABILITIES[0]) < 1e-9, "the control: what the draft says is not drawn"


def test_words() -> None:
    def text(value: Any) -> str:
        return str(GenerationConfig(speculate=value).speculate)

    assert [text(name) for name in ("auto", "off", "ngram", "draft")] == ["auto", "off", "ngram", "draft"]
    assert text("none") == text({"kind": "none"}) == text(False) == "off"
    assert text("mtp") == text({"kind": "mtp"}) == text({"kind": "mtp", "tokens": 3}) == "mtp"
    assert text({"kind": "mtp", "tokens": 2}) == "{kind: mtp, tokens: 2}"
    assert text({"kind": "draft", "quantization": "nf4"}) == "draft"
    assert text("{kind: draft, layers: 10, tokens: 4}") == "{kind: draft, tokens: 4, layers: 10}"
    assert text(text({"layers": 10, "tokens": 4})) == "{kind: draft, tokens: 4, layers: 10}"
    wrong: dict[str, Code] = {
        "{kind: eagle}": "unknown_choice",
        "{kind: mtp, layers: 3}": "conflict",
        "{kind: ngram, layers: 3}": "conflict",
        "{kind: auto, tokens: 3}": "no_effect",
        "{tokens: 17}": "bad_value",
        "{drafts: 3}": "unknown_choice",
        "fast": "unknown_choice",
    }
    for value, code in wrong.items():
        with raises(ConfigError, code, "generation.speculate"):
            GenerationConfig(speculate=value)
