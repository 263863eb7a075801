"""The benchmark beside vLLM, which starts its server as model=vllm does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _bench_is_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks are scripts that import each other by bare names."""
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[3] / "bench"), *sys.path])


def test_a_side_that_fails_has_the_reason_in_its_line_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import argparse

    import gsm8k_vs_vllm
    from engines import Job, Outcome
    from gsm8k_vs_vllm import Side, line_of, take_turns

    def outcome(job: Job, python: str) -> Outcome:
        if job.kind == "openvino":
            raise SystemExit("openvino failed:\nTraceback\nno such | model")
        tokens = [[1] * most for most in job.new_tokens]
        return Outcome(
            1, 1, 2, 0, 0, 0, 0, len(tokens), tokens, [], "p", ["i"] * len(tokens), 1, 1, 1, 1, {}, []
        )

    monkeypatch.setattr(gsm8k_vs_vllm, "run_fresh", outcome)
    job = Job("stream", "folder", "bfloat16", [[1], [2]], [3, 3], None)
    runner, openvino, llamacpp = (
        Side(name, "python", Job(kind, "folder", "bfloat16", job.prompts, job.new_tokens, None), rows)
        for name, kind, rows in (
            ("runner", "stream", [1, 2]),
            ("openvino", "openvino", [1, 2]),
            ("llamacpp", "llamacpp", [1]),
        )
    )
    sides = [runner, openvino, llamacpp]
    take_turns(sides, [], argparse.Namespace(repeats=2, batch=32, rows=[1, 2]))
    assert line_of(openvino, 2, runner)[:2] == ["openvino", "failed: no such / model"]
    assert line_of(llamacpp, 1, runner)[1:3] == ["2.00 (2.00..2.00)", "1.00 (1.00..1.00)"]
    assert line_of(llamacpp, 2, runner)[1] == "left out by --llamacpp-rows"
    assert len(runner.outcomes[2]) == 2
