"""What the description of every kind of model must keep to."""

from __future__ import annotations

from pathlib import Path

from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.engines.kinds import ModelKind, RunsUnderTorchrun, get_model_kind
from runner_engine.sessions.base import Capability


def check_description(
    config: RunnerConfig,
    tmp_path: Path,
    notes: tuple[str, ...] = (),
    starts_processes: bool = False,
    is_served: bool = False,
) -> None:
    """Check it for a job.

    notes: how those of its check begin; starts_processes: each job starts its own; is_served: here,
    by a process that several jobs share.
    """
    kind, resolved = get_model_kind(config.model), resolve_job(config)
    assert isinstance(kind, ModelKind)
    assert kind.fingerprint(resolved, tmp_path / "hashes.json")["model"]
    said = kind.check_job(resolved)
    assert len(said) == len(notes)
    assert all(note.startswith(start) for note, start in zip(said, notes, strict=True))
    assert kind.capabilities(config) <= frozenset(Capability)
    predicted = kind.predict_memory(resolved, (1, 8, 8))
    assert predicted is not None
    assert bool(predicted.weight_mib) == kind.HAS_WEIGHTS
    assert bool(kind.base_key(config)) == (is_served or (kind.HAS_WEIGHTS and not starts_processes))
    assert not isinstance(kind, RunsUnderTorchrun) or kind.run_as_torchrun_worker(config) is None
    assert (kind.predict_resources(resolved).mib > 0) == (is_served or kind.HAS_WEIGHTS)
