"""Guesses for layers that carry a state, and by them: states are copied before a guess and given
back when it was wrong, so that no answer differs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from guessing import asked_of, ended, guessing_engine
from safetensors.torch import load_file, save_file
from streams import PROMPTS

from runner_engine.checkpoints.resolved_model import resolve_model
from runner_engine.decode.decoder import Decoder
from runner_engine.decode.drafting import draft_model
from runner_engine.decode.sequences import TokenSequence
from runner_engine.decode.tokens import get_unprocessed_tokens
from runner_engine.kv_cache import KvStore
from runner_engine.local.engine import LocalEngine
from runner_engine.plan.footprint import predict_footprint
from runner_engine.recurrent import SequenceStates
from runner_engine.sessions.base import Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig
from runner_engine.spec import ModelSpec
from tools import families

TOKENS = 3

Make = Callable[..., LocalEngine]


@pytest.fixture
def engine_of(opened: Make) -> Make:
    return partial(guessing_engine, opened)


HYBRIDS = ("qwen3_5_text", "qwen3_next", "olmo_hybrid", "lfm2", "bamba", "falcon_h1", "jamba", "mamba2")


def knowing(answers: dict[Any, Any], patch: pytest.MonkeyPatch) -> None:
    """Let guesses be of these answers, each of some with a wrong token at one of its places."""

    def propose(_: Any, rows: Sequence[TokenSequence], most: Sequence[int]) -> list[list[int]]:
        guesses = []
        for row, limit in zip(rows, most, strict=True):
            first = len(row.tokens)
            guess = list(answers[row.request.id, row.choice][0][first : first + limit])
            wrong = (first + len(row.prompt)) % (TOKENS + 2)
            guesses.append([(it + (at == wrong)) % 259 for at, it in enumerate(guess)])
        return guesses

    patch.setattr("runner_engine.decode.drafting.ngram.TokenDrafter.propose", propose)


@pytest.fixture
def hybrid(made_once: Callable[..., Path]) -> Callable[[str], Path]:
    """The folder of a tiny model whose layers carry a state."""

    def folder(family: str) -> Path:
        def make(into: Path) -> None:
            with pytest.MonkeyPatch.context() as patch:
                own = families.OVERRIDES.get(family, {}) | {"max_position_embeddings": 512}
                patch.setitem(families.OVERRIDES, family, own)
                families.build(family, into)

        return made_once(f"guessed_{family}", make)

    return folder


@pytest.mark.sampled(1)
@pytest.mark.parametrize("rows", [1, 5, None])
@pytest.mark.parametrize("family", HYBRIDS)
def test_states_are_given_back_when_a_guess_is_wrong(
    family: str,
    rows: int | None,
    engine_of: Make,
    hybrid: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Layers that carry a state: rows of different acceptance, in slots that move."""
    folder = hybrid(family)
    plain, guessing = engine_of(folder), engine_of(folder, "ngram")
    asked = asked_of(ended(plain, [Request(at, text) for at, text in enumerate(PROMPTS)], rows))
    expected = ended(plain, asked, rows)
    knowing(expected, monkeypatch)
    assert ended(guessing, asked, rows) == expected
    assert len(asked) < guessing.stats.accepted_tokens < guessing.stats.draft_tokens


@pytest.mark.thorough
def test_states_that_are_not_given_back_change_answers(
    engine_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a state that stands for a wrong guess."""
    families.build("qwen3_5_text", tmp_path)
    asked = [Request(at, prompt) for at, prompt in enumerate(PROMPTS[-2:])]
    expected = ended(engine_of(tmp_path), asked, None)
    knowing(expected, monkeypatch)
    guessing = engine_of(tmp_path, "ngram")
    assert ended(guessing, asked, None) == expected
    assert 0 < guessing.stats.accepted_tokens < guessing.stats.draft_tokens

    def only_counts(states: SequenceStates, saved: Any, slots: Sequence[int]) -> None:
        for slot in slots:
            states.read[slot] = saved.read[saved.slots.index(slot)]

    monkeypatch.setattr(SequenceStates, "restore_states", only_counts)
    assert ended(engine_of(tmp_path, "ngram"), asked, None) != expected


def blurred(folder: Path, into: Path) -> dict[str, str]:
    """Return a draft that often guesses what a model says, and not always: its weights a little
    other."""
    shutil.copytree(folder, into)
    generator = torch.Generator().manual_seed(1)
    tensors = load_file(into / "model.safetensors")
    for name, numbers in tensors.items():
        if numbers.dim() > 1:
            noise = torch.randn(numbers.shape, generator=generator, dtype=torch.float32)
            tensors[name] = numbers + 0.1 * numbers.float().std() * noise.to(numbers.dtype)
    save_file(tensors, into / "model.safetensors", {"format": "pt"})
    return {"kind": "draft", "model": str(into)}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("rows", [1, 5, None])
@pytest.mark.parametrize("family", HYBRIDS)
def test_a_hybrid_guesses_and_no_answer_differs(
    family: str, rows: int | None, engine_of: Make, hybrid: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = hybrid(family)
    plain = engine_of(folder)
    asked = asked_of(ended(plain, [Request(at, text) for at, text in enumerate(PROMPTS)], rows))
    expected = ended(plain, asked, rows)
    guessing = engine_of(folder, blurred(folder, tmp_path / "blurred"))
    assert ended(guessing, asked, rows) == expected
    assert 0 < guessing.stats.accepted_tokens < guessing.stats.draft_tokens
    greedy = [Request(at, prompt) for at, prompt in enumerate(PROMPTS)]
    same = engine_of(folder, {"kind": "draft", "model": str(folder)})
    assert ended(same, greedy, rows) == {
        key: expected[key] for key in expected if key[0] in range(len(PROMPTS))
    }
    assert same.stats.accepted_at == same.stats.drafted_at, "it guesses what it says itself"
    assert same.stats.accepted_tokens > len(PROMPTS)


@pytest.mark.thorough
@pytest.mark.parametrize("family", ["qwen3_5_text", "falcon_h1", "mamba2"])
def test_a_hybrid_guesses_as_if_it_had_read_no_wrong_guess(
    family: str,
    engine_of: Make,
    hybrid: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beside a draft that reads every row anew before each guess; the control gives no state back."""
    folder = hybrid(family)
    draft = blurred(folder, tmp_path / "blurred")
    asked = [Request(at, prompt) for at, prompt in enumerate(PROMPTS)]
    expected = ended(engine_of(folder), asked, None)

    def counts() -> tuple[list[int], list[int]]:
        engine = engine_of(folder, draft)
        assert ended(engine, asked, None) == expected
        return engine.stats.drafted_at, engine.stats.accepted_at

    kept = counts()
    propose = draft_model.TokenDrafter.propose

    def anew(
        way: draft_model.TokenDrafter, rows: Sequence[TokenSequence], most: Sequence[int]
    ) -> list[list[int]]:
        way.reset()
        return propose(way, rows, most)

    with monkeypatch.context() as patch:
        patch.setattr(draft_model.TokenDrafter, "propose", anew)
        assert counts() == kept

    def only_counts(way: draft_model.TokenDrafter, own: KvStore) -> set[TokenSequence]:
        assert own.states is not None
        for slot, one in enumerate(way.rows):
            one.sync_with_target_sequence()
            own.states.read[slot] = min(
                own.states.read[slot], one.row.kv.num_shared_tokens + one.row.kv.places
            )
        return set()

    monkeypatch.setattr(draft_model.TokenDrafter, "_restore_recurrent_states", only_counts)
    assert sum(counts()[1]) / sum(counts()[0]) < 0.9 * sum(kept[1]) / sum(kept[0])


def test_a_plan_counts_the_states_of_a_hybrid_draft_and_their_copies(hybrid: Callable[[str], Path]) -> None:
    folder = str(hybrid("qwen3_5_text"))

    def kv_bytes(speculate: Any) -> int:
        generation = GenerationConfig(speculate=speculate)
        model = LocalModelConfig(name=folder, device="cpu")
        found = predict_footprint(resolve_model(ModelSpec(model, generation=generation)), (4, 20, 20))
        assert found is not None
        return found.decode_kv_bytes

    off, copied = kv_bytes("off"), kv_bytes("ngram")
    assert copied > off, "states are copied before any guess"
    assert kv_bytes({"kind": "draft", "model": folder}) == 2 * copied


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("speculate", "lags"), [("off", False), ("auto", False), ("ngram", True)])
@pytest.mark.parametrize("family", ["qwen3_5_text", "qwen3_next", "falcon_h1"])
def test_states_are_behind_only_where_guesses_are_read_into_them(
    family: str, speculate: str, lags: bool, engine_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So nothing is caught up with elsewhere. The control: guesses of which some are wrong, and some go on
    behind the end of a row, whose state then stands for more than its tokens."""
    own = families.OVERRIDES.get(family, {}) | {"max_position_embeddings": 512}
    monkeypatch.setitem(families.OVERRIDES, family, own)
    families.build(family, tmp_path)
    kept = [Request(at, prompt, recurring=True) for at, prompt in enumerate(PROMPTS)]
    expected = ended(engine_of(tmp_path), kept, 5)
    unread: list[int] = []
    catch_up = Decoder.catch_up_recurrent_states

    def noted(decoder: Decoder, own: KvStore, rows: Sequence[TokenSequence]) -> None:
        unread.extend(len(get_unprocessed_tokens(own, slot, row)) for slot, row in enumerate(rows))
        catch_up(decoder, own, rows)

    monkeypatch.setattr(Decoder, "catch_up_recurrent_states", noted)
    knowing(expected, monkeypatch)
    assert ended(engine_of(tmp_path, speculate), kept, 5) == expected
    assert len(unread) >= len(kept)
    assert (max(unread) > 1) is lags
