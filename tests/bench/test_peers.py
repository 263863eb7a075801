"""vLLM may answer several numbers of questions in one process: each begins with an empty prefix
cache."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# it knows nothing of models: it repeats a prompt's last token, and remembers prompts as vLLM's
# prefix cache does
STAND_IN = """
from types import SimpleNamespace


class LLM:
    def __init__(self, **settings):
        config = SimpleNamespace(get_vocab_size=lambda: 1000)
        self.llm_engine, self.known = SimpleNamespace(model_config=config), set()

    def reset_prefix_cache(self):
        if RESETS:
            self.known = set()
        return True

    def generate(self, prompts, each, use_tqdm):
        limits = each if isinstance(each, list) else [each] * len(prompts)
        return [self.answer(ids, limit.max_tokens) for ids, limit in zip(prompts, limits, strict=True)]

    def answer(self, ids, most):
        cached = len(ids) if tuple(ids) in self.known else 0
        self.known.add(tuple(ids))
        output = SimpleNamespace(token_ids=ids[-1:] * most)
        return SimpleNamespace(outputs=[output], num_cached_tokens=cached)


def SamplingParams(**settings):
    return SimpleNamespace(**settings)


def TokensPrompt(prompt_token_ids):
    return prompt_token_ids
"""
PLATFORMS = "class current_platform:\n    is_zen_cpu = staticmethod(lambda: False)\n"


def stand_in(folder: Path, resets: bool) -> dict[str, str]:
    """Write a package that stands in for vLLM, and return the environment in which it is found."""
    (folder / "vllm").mkdir()
    (folder / "vllm" / "__init__.py").write_text(f"RESETS = {resets}\n{STAND_IN}")
    (folder / "vllm" / "platforms.py").write_text(PLATFORMS)
    return {"PYTHONPATH": str(folder)}


@pytest.mark.thorough
def test_one_process_answers_several_numbers_of_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engines import Job, run_counts, run_fresh

    settings = {"max_num_seqs": 128, "max_num_batched_tokens": 8192, "eager": True}
    prompts = [[5, 6, 7], [5, 6, 8], [5, 6, 9]]
    job = Job("vllm", "folder", "bfloat16", prompts, [2, 3, 1], None, settings=settings)
    for key, value in stand_in(tmp_path, resets=True).items():
        monkeypatch.setenv(key, value)
    outcomes = run_counts(job, [1, 3])
    assert {count: outcome.tokens for count, outcome in outcomes.items()} == {
        1: [[7, 7]],
        3: [[7, 7], [8, 8, 8], [9]],
    }
    assert [outcome.done for outcome in outcomes.values()] == [1, 3]
    alone = run_fresh(job)
    assert (alone.tokens, alone.ids_sha256) == (outcomes[3].tokens, outcomes[3].ids_sha256)
    assert outcomes[1].ids_sha256 == alone.ids_sha256[:1]


def test_a_prompt_that_is_in_the_cache_already_is_no_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engines import Job, run_counts

    settings = {"max_num_seqs": 128, "max_num_batched_tokens": 8192, "eager": True}
    job = Job("vllm", "folder", "bfloat16", [[5, 6, 7], [5, 6, 8]], [2, 2], None, settings=settings)
    for key, value in stand_in(tmp_path, resets=False).items():
        monkeypatch.setenv(key, value)
    with pytest.raises(SystemExit, match="3 tokens of the first prompt were in vLLM's prefix cache"):
        run_counts(job, [1, 2])
