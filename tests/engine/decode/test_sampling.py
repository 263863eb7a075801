"""Rows with different settings in one batch: each gets the tokens that it gets alone and from
transformers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from scipy import stats
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from runner_engine.decode.sequences import NO_TOKEN, NOT_SAMPLED
from runner_engine.decode.tokens import sampling
from runner_engine.decode.tokens.sampling import Sampler, create_random_generator
from runner_engine.kernels import native, token_selection
from runner_engine.settings.sampling import GREEDY, Sampling

VOCABULARY, STEPS = 200, 6


def settings_of(
    temperature: float, top_p: float, top_k: int, repetition_penalty: float, seed: int, **more: float
) -> Sampling:
    values = {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "repetition_penalty": repetition_penalty,
    }
    return replace(GREEDY, **{**values, **more}, seed=seed)  # type: ignore[arg-type]


CPU = torch.device("cpu")
SETTINGS = [
    settings_of(0.0, 1.0, 0, 1.0, 0),
    settings_of(0.8, 1.0, 0, 1.0, 0),
    settings_of(0.8, 1.0, 0, 1.0, 5),  # like the one before, with another seed
    settings_of(0.0, 1.0, 0, 1.5, 0),
    settings_of(1.4, 0.9, 30, 1.2, 0),
    settings_of(0.0, 0.5, 3, 1.0, 0),  # greedy, since the temperature is 0
    settings_of(0.8, 1.0, 0, 1.0, 0),
    settings_of(1.2, 0.95, 0, 1.1, 0, min_p=0.2),
    settings_of(0.0, 1.0, 0, 1.0, 0, frequency_penalty=1.5),
    settings_of(0.9, 1.0, 60, 1.0, 0, presence_penalty=-2.0),
    settings_of(1.0, 1.0, 0, 1.3, 0, frequency_penalty=2.0, presence_penalty=0.7),
]
TEXTS = [[row, row + 1, 2 * row] for row in range(len(SETTINGS))]
NAMED_SETTINGS = {
    "temperature": settings_of(0.7, 1.0, 0, 1.0, 3),
    "top_k": settings_of(1.0, 1.0, 50, 1.0, 3),
    "top_k, most of them": settings_of(1.3, 1.0, 1800, 1.0, 3),
    "top_p": settings_of(1.0, 0.9, 0, 1.0, 3),
    "little top_p": settings_of(1.0, 0.05, 0, 1.0, 3),
    "hot": settings_of(5.0, 0.6, 0, 1.0, 3),
    "chat": settings_of(0.7, 0.9, 50, 1.1, 3),
    "agents": settings_of(0.2, 0.95, 0, 1.1, 3),
    "greedy with a penalty": settings_of(0.0, 1.0, 0, 1.3, 3),
    "min_p": settings_of(1.0, 1.0, 0, 1.0, 3, min_p=0.1),
    "min_p beside others": settings_of(2.0, 0.9, 100, 1.0, 3, min_p=0.02),
    "frequency and presence": settings_of(0.8, 1.0, 0, 1.0, 3, frequency_penalty=0.7, presence_penalty=0.4),
}


@pytest.fixture(params=["kernels", "torch"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Pick tokens by the kernels, then by torch."""
    if request.param == "torch":
        without_kernels(monkeypatch)
    elif native.load_kernels() is None:
        pytest.skip("no kernels here")
    return str(request.param)


def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_selection, "get_kernels_for_logits", lambda _: None)


def logits_at(step: int) -> torch.Tensor:
    return 4 * torch.randn(len(SETTINGS), VOCABULARY, generator=torch.Generator().manual_seed(step))


def sampler_of(rows: list[int]) -> Sampler:
    generators = [create_random_generator(SETTINGS[row], row) for row in rows]
    return Sampler(VOCABULARY, CPU, [TEXTS[row] for row in rows], [SETTINGS[row] for row in rows], generators)


def uniform_sampler(settings: Sampling, texts: list[list[int]], vocab_size: int) -> Sampler:
    """Return a sampler of rows with equal settings, each with its own random numbers."""
    generators = [create_random_generator(settings, row) for row in range(len(texts))]
    return Sampler(vocab_size, CPU, texts, [settings] * len(texts), generators)


def alone(row: int) -> list[int]:
    sampler = sampler_of([row])
    return [int(sampler.sample(logits_at(step)[row : row + 1])) for step in range(STEPS)]


def warped(settings: Sampling, scores: torch.Tensor) -> torch.Tensor:
    """Return the scores after transformers' warpers."""
    assert settings.temperature is not None
    assert settings.top_k is not None
    assert settings.top_p is not None
    scores = TemperatureLogitsWarper(float(settings.temperature))(None, scores)
    scores = TopKLogitsWarper(settings.top_k)(None, scores) if settings.top_k else scores
    scores = TopPLogitsWarper(settings.top_p)(None, scores) if settings.top_p < 1 else scores
    return MinPLogitsWarper(settings.min_p)(torch.LongTensor(), scores) if settings.min_p else scores


def by_transformers(row: int) -> list[int]:
    """Return tokens drawn with the row's random numbers after transformers' processors."""
    settings, tokens, generator = SETTINGS[row], list(TEXTS[row]), create_random_generator(SETTINGS[row], row)
    for step in range(STEPS):
        scores = logits_at(step)[row : row + 1]
        assert settings.repetition_penalty is not None
        if settings.repetition_penalty != 1:
            scores = RepetitionPenaltyLogitsProcessor(settings.repetition_penalty)(
                torch.tensor([tokens]), scores
            )
        assert settings.frequency_penalty is not None
        assert settings.presence_penalty is not None
        for token, times in Counter(tokens[len(TEXTS[row]) :]).items():  # OpenAI's definition
            scores[0, token] -= settings.frequency_penalty * times + settings.presence_penalty
        if not settings.temperature:
            tokens.append(int(scores.argmax()))
            continue
        chance = warped(settings, scores).double().softmax(dim=-1)[0].cumsum(0)
        point = torch.rand(1, generator=generator, dtype=torch.float64) * chance[-1]
        tokens.append(int((chance <= point).sum()))
    return tokens[len(TEXTS[row]) :]


@pytest.mark.usefixtures("by")
def test_each_row_of_a_mixed_batch_is_as_alone() -> None:
    """Rows join in two steps, and some leave half way; the others are not affected."""
    expected = [alone(row) for row in range(len(SETTINGS))]
    assert expected == [by_transformers(row) for row in range(len(SETTINGS))]
    assert len({tuple(tokens) for tokens in expected}) == len(SETTINGS)
    sampler = sampler_of([0, 1, 2])
    assert sampler.history is None, "no row has a penalty yet"
    sampler.append_sampler(sampler_of(list(range(3, len(SETTINGS)))))
    rows = list(range(len(SETTINGS)))
    got: list[list[int]] = [[] for _ in SETTINGS]
    for step in range(STEPS):
        for row, token in zip(rows, sampler.sample(logits_at(step)[rows]).tolist(), strict=True):
            got[row].append(token)
        if step == 2:
            kept = [6, 10, 1, 8, 4, 3, 7]
            sampler.keep_sequences_at_indices(kept)
            rows = [rows[at] for at in kept]
        if step == 3:
            sampler.append_sampler(sampler_of([]))
    for row, tokens in enumerate(got):
        assert tokens == (expected[row] if row in rows else expected[row][:3])


def test_rows_with_equal_settings_are_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only with torch, since the kernels make no groups."""
    without_kernels(monkeypatch)
    sampler = uniform_sampler(SETTINGS[1], TEXTS[:3], VOCABULARY)
    sampler.sample(logits_at(0)[:3])
    assert sampler._groups is not None
    assert [group.rows for group in sampler._groups] == [slice(None)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMED_SETTINGS)
def test_kernels_pick_what_torch_picks(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With equal random numbers, for rows from flat to peaked; in 16 bits many logits are equal."""
    if native.load_kernels() is None:
        pytest.skip("no kernels here")
    rows, vocab_size = 64, 2011
    source = torch.Generator().manual_seed(1)
    sharpness = torch.linspace(0.1, 8, rows)[:, None]
    texts = torch.randint(vocab_size, (rows, 300), generator=source).tolist()
    steps = [(sharpness * torch.randn(rows, vocab_size, generator=source)).to(dtype) for _ in range(2)]
    sampler = uniform_sampler(NAMED_SETTINGS[name], texts, vocab_size)
    got = [sampler.sample(step) for step in steps]
    without_kernels(monkeypatch)
    sampler = uniform_sampler(NAMED_SETTINGS[name], texts, vocab_size)
    expected = [sampler.sample(step) for step in steps]
    assert torch.equal(torch.stack(got), torch.stack(expected))


@pytest.mark.usefixtures("by")
@pytest.mark.parametrize("has_kernels", [True, False])
def test_a_row_that_cannot_be_sampled_ends_alone(has_kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings are changed after they were checked, as a fault of the sampler would."""
    if not has_kernels:
        monkeypatch.setattr(token_selection, "get_kernels_for_logits", lambda _: None)
    logits = torch.randn(4, STEPS, VOCABULARY, generator=torch.Generator().manual_seed(1))

    def tokens(broken: int | None) -> list[list[int]]:
        drawn = [settings_of(0.9, 0.9, 30, 1.1, 0) for _ in range(4)]
        generators = [create_random_generator(one, row) for row, one in enumerate(drawn)]
        sampler = Sampler(VOCABULARY, CPU, TEXTS[:4], drawn, generators)
        if broken is not None:
            sampler.samplings[broken] = replace(drawn[broken])
            sampler.samplings[broken].min_p = "much"  # type: ignore[assignment]
        return [sampler.sample(logits[:, step]).tolist() for step in range(STEPS)]

    whole, other = tokens(None), tokens(broken=2)
    assert [one[2] for one in other] == [NOT_SAMPLED] * STEPS
    for row in (0, 1, 3):
        assert [one[row] for one in other] == [one[row] for one in whole], "its draws are as before"


@pytest.mark.usefixtures("by")
def test_a_lost_gpu_is_no_fault_of_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> torch.Tensor:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(token_selection, "get_kernels_for_logits", lambda _: None)
    monkeypatch.setattr(sampling, "_sample_by_inverse_cdf", fail)
    sampler = uniform_sampler(settings_of(0.9, 0.9, 30, 1.1, 0), TEXTS[:4], VOCABULARY)
    with pytest.raises(torch.AcceleratorError):
        sampler.sample(torch.randn(4, VOCABULARY))


def test_min_p_and_penalties_follow_their_definitions() -> None:
    """With 200 random logits each: draws are among the tokens of transformers' min_p, penalties
    follow OpenAI's formula."""
    rows, source = 200, torch.Generator().manual_seed(11)
    logits = 3 * torch.randn(rows, VOCABULARY, generator=source)
    settings = replace(GREEDY, temperature=1.0, min_p=0.15, seed=1)
    possible = MinPLogitsWarper(0.15)(torch.LongTensor(), logits).isfinite()
    assert 1 < possible.sum(dim=1).float().mean() < VOCABULARY / 4
    sampler = uniform_sampler(settings, [[]] * rows, VOCABULARY)
    drawn = torch.stack([sampler.sample(logits) for _ in range(200)])
    assert possible.gather(1, drawn.T).all(), "no removed token is drawn"
    was_drawn = torch.zeros_like(possible).scatter_(1, drawn.T, True)
    assert was_drawn.sum() > 0.5 * possible.sum(), "most of the others are drawn"
    for frequency, presence in ((0.5, 0.0), (0.0, 1.5), (-0.3, 0.8)):
        settings = replace(GREEDY, frequency_penalty=frequency, presence_penalty=presence)
        prompts, answers = torch.randint(VOCABULARY, (2, rows, 50), generator=source).tolist()
        sampler = Sampler(VOCABULARY, CPU, prompts, [settings] * rows, [None] * rows, answers)
        for _ in range(3):
            counts = torch.stack([torch.bincount(torch.tensor(one), minlength=VOCABULARY) for one in answers])
            expected = (logits - frequency * counts - presence * (counts > 0)).argmax(dim=-1).tolist()
            assert sampler.sample(logits).tolist() == expected
            for answer, token in zip(answers, expected, strict=True):
                answer.append(token)


@pytest.mark.thorough
@pytest.mark.parametrize("name", [name for name in NAMED_SETTINGS if "greedy" not in name])
def test_draws_have_the_distribution_of_transformers(name: str) -> None:
    """Chi-square test over many draws from the same logits; rarely expected tokens count
    together."""
    settings = NAMED_SETTINGS[name]
    rows, draws, vocab_size = 200, 100, 2000
    logits = 2 * torch.randn(1, vocab_size, generator=torch.Generator().manual_seed(2))
    settings = replace(settings, repetition_penalty=1.0, frequency_penalty=0.0, presence_penalty=0.0)
    sampler = uniform_sampler(settings, [[]] * rows, vocab_size)
    counts = Counter(token for _ in range(draws) for token in sampler.sample(logits.repeat(rows, 1)).tolist())
    expected = warped(settings, logits).double().softmax(dim=-1)[0] * rows * draws
    often = [token for token in range(vocab_size) if expected[token] >= 5]
    assert all(expected[token] > 0 for token in counts), "no token is drawn that transformers removes"
    observed = [counts[token] for token in often]
    expected_counts = [float(expected[token]) for token in often]
    if (rest := rows * draws - sum(expected_counts)) > 1e-3:
        observed.append(rows * draws - sum(observed))
        expected_counts.append(rest)
    assert len(expected_counts) > 20 or name in ("agents", "little top_p", "min_p")
    if len(expected_counts) > 1:
        assert stats.chisquare(observed, expected_counts).pvalue > 1e-3


@pytest.mark.usefixtures("by")
@pytest.mark.parametrize("settings", [settings_of(1.0, 0.9, 0, 1.0, 0), settings_of(1.0, 1.0, 2, 1.0, 0), settings_of(0.9, 0.4, 7, 1.2, 0)])  # fmt: skip
@pytest.mark.parametrize("vocab_size", [1, 5, 63, 64, 65, 130])
def test_odd_rows(settings: Sampling, vocab_size: int) -> None:
    """A row with NaN has no token; a row with a single possible token gets it; logits may be a
    strided view."""
    sampler = uniform_sampler(settings, [[0]] * 3, vocab_size)
    wide = torch.zeros(3, 2 * vocab_size)
    wide[0, vocab_size - 1] = float("nan")
    wide[1] = -float("inf")
    wide[1, vocab_size // 2] = -3.0
    tokens = sampler.sample(wide[:, :vocab_size]).tolist()
    assert tokens[:2] == [NO_TOKEN, vocab_size // 2]
    assert 0 <= tokens[2] < vocab_size


def test_top_p_removes_the_first_of_equal_tokens() -> None:
    """So the result does not depend on the sorting; it has the same scores as that of
    transformers."""
    scores = torch.randn(50, 2000, generator=torch.Generator().manual_seed(4)).bfloat16().float()
    ours, theirs = sampling._apply_top_p(0.7, scores), TopPLogitsWarper(0.7)(None, scores)
    assert torch.equal(ours.sort().values, theirs.sort().values)
    alike = torch.zeros(1, 10)
    assert sampling._apply_top_p(0.35, alike).isfinite().nonzero()[:, 1].tolist() == [6, 7, 8, 9]


def test_random_numbers_depend_on_seed_id_and_choice() -> None:
    warm = settings_of(1.0, 1.0, 0, 1.0, 7)
    names = [(1, 0), (1, 1), ("1", 0), ("1:1", 0), (2, 0)]
    drawn = [float(torch.rand(1, generator=create_random_generator(warm, *name))) for name in names]  # type: ignore[arg-type]
    assert drawn[0] == drawn[2], "an id is its text"
    assert drawn[1] == drawn[3], "choice k draws like a request whose id ends with k"
    assert len(set(drawn)) == 3
    assert create_random_generator(SETTINGS[0], 1) is None
