"""The engine's benchmarks compare like with like: every way through gives the same answers to the
same prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.usefixtures("warm_children")
@pytest.mark.thorough
def test_every_way_through_gives_the_same_tokens(tiny_llama: Path) -> None:
    from engine_ladder import BESIDE, ladder
    from engines import Job, check_prompts, run_fresh

    head = list(range(20, 80))
    prompts = [[*head, *range(80 + at, 100 + at)] for at in range(5)]
    job = Job("stream", str(tiny_llama), "float32", prompts, [3, 9, 5, 12, 7], None, threads=1)
    # generate_batch takes its cache by the memory of the machine, which others need, too
    steps = {
        name: step for name, step in ladder(job).items() if "rows at once" not in name and name != BESIDE
    }
    outcomes = {name: run_fresh(step) for name, step in steps.items()}
    check_prompts(list(outcomes.values()))
    first, *others = outcomes.values()
    assert [len(row) for row in first.tokens] == job.new_tokens
    for outcome in others:
        assert outcome.tokens == first.tokens
        assert not any("memory" in note for note in outcome.notes)
    everything, unshared = outcomes["+ packed weights"], outcomes["a stream: rows enter and leave"]
    # read once instead of five times
    assert unshared.positions - everything.positions == 4 * len(head)
    assert run_fresh(replace(steps["`generate`, batch 16"], rows=2, order="answer")).tokens == first.tokens


def test_prompts_that_differ_are_not_compared() -> None:
    from engines import Outcome, check_prompts

    def outcome(prompts: str, ids: str) -> Outcome:
        return Outcome(1, 0, 1, 0, 0, 0, 0, 1, [[1]], ["a"], prompts, [ids], 1, 1, 1, 1, {"plain": 1.0}, [])

    check_prompts([outcome("p", "i"), outcome("p", "i")])
    with pytest.raises(SystemExit, match="differ by their bytes"):
        check_prompts([outcome("p", "i"), outcome("q", "i")])
    with pytest.raises(SystemExit, match="differ by their token ids"):
        check_prompts([outcome("p", "i"), outcome("p", "j")])
