"""Whether whole distributions are compared where task.exact leaves it open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from likely import model_overrides, samples

from runner.config.root import RunnerConfig
from runner.records.top_k import TOP_K
from runner.run import run
from runner.tasks.likelihood import task as likelihood
from runner_base import machine
from runner_base.notes import Note, note

Two = Callable[..., RunnerConfig]


def free(monkeypatch: pytest.MonkeyPatch, mib: float) -> None:
    """Let so much memory be free, beside a process of 600 MiB."""
    monkeypatch.setattr(machine, "available_memory_mib", lambda: 600 + mib)


def test_both_models_are_loaded_if_the_prediction_says_that_they_fit(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = two(0, reference=model_overrides(two(1)))
    needed = 0.0
    for mib in (5, 40, 80, 160, 320, 640, 1280):  # of which 64 MiB are distributions that wait
        free(monkeypatch, mib)
        inputs = likelihood.prepare(config)
        assert inputs.task.exact is (inputs.second is not None)
        if inputs.task.exact:
            needed = mib
            break
        assert inputs.why_kept is not None
        reason, fix = (inputs.why_kept.values[key] for key in ("reason", "fix"))
        assert isinstance(reason, Note)
        assert (reason.code, fix) == ("both_too_large", "task.exact=true")
        assert inputs.after == inputs.hashes["reference"]
    assert 80 <= needed <= 640


@pytest.mark.thorough
def test_a_record_says_which_way_it_was(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 1000)
    config = two(0, reference=model_overrides(two(1)))
    record = run(config)
    assert record.params["task.exact"] == "true"
    assert "side by side" in record.result.facts["reference"]
    assert record.job_id == run(two(0, reference=model_overrides(two(1)), exact=True)).job_id
    assert run(two(0)).params["task.exact"] == "false", "as it was recorded before the key could be left open"


@pytest.mark.sampled(1)
@pytest.mark.parametrize("begins_exact", [True, False])
def test_what_has_begun_goes_on_in_its_way(
    two: Two, monkeypatch: pytest.MonkeyPatch, begins_exact: bool
) -> None:
    config = two(0, reference=model_overrides(two(1)))
    run(two(1, keep_top_k=64))
    free(monkeypatch, 1000 if begins_exact else 5)
    monkeypatch.setattr("runner.engines.kinds.local.check_memory_fits", lambda *_: [])
    record = run(config)
    (Path(record.output_dir) / "result.json").unlink()  # as an interrupted job leaves it
    free(monkeypatch, 5 if begins_exact else 1000)
    again = run(config)
    assert again.job_id == record.job_id
    assert any("3 of 3 samples come from an earlier" in note for note in again.result.notes)
    assert ("divergence is an estimate" in " ".join(again.result.notes)) is not begins_exact


@pytest.mark.thorough
def test_a_reference_that_no_model_can_be_loaded_of_is_what_it_kept(two: Two) -> None:
    kept = run(two(1, keep_top_k=8))
    inputs = likelihood.prepare(two(0, reference=kept.job_id))
    assert inputs.task.exact is False
    assert inputs.why_kept is not None
    assert inputs.why_kept.values["reason"] == note(
        "reference_is_job", key="task.reference", named_as=kept.job_id
    )


@pytest.mark.thorough
def test_a_job_that_names_itself_keeps_what_the_others_need(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = model_overrides(two(1))
    named = run(two(1, reference=words, exact=False))
    assert (Path(named.output_dir) / TOP_K).is_file()
    assert named.params["task.keep_top_k"] == "64"
    assert named.job_id == run(two(1, keep_top_k=64)).job_id
    compared = run(two(0, reference=words, exact=False))
    assert all(sample.likelihood.kl_nats > 0 for sample in samples(compared))
    free(monkeypatch, 1000)
    assert run(two(1, reference=words)).job_id == named.job_id, "it has begun so"
    other = two(1, reference=words, limit=2)
    assert likelihood.prepare(other).hashes == likelihood.prepare(two(1, limit=2)).hashes, (
        "nothing has to be kept"
    )
