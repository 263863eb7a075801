"""From a spec to an engine or to a session: what a program needs that has no jobs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from runner_base import machine
from runner_engine.checkpoints import adapter_header, formats, random_weights
from runner_engine.checkpoints.memory_check import check_memory, limited
from runner_engine.checkpoints.resolve import ResolvedModel, resolve
from runner_engine.sessions.session import Session
from runner_engine.spec import ModelSpec

if TYPE_CHECKING:  # imports torch
    from runner_engine.local.engine import LocalEngine


def check(resolved: ResolvedModel) -> list[str]:
    """Reject what cannot work, as far as the files tell; return notes on what is close to a limit."""
    formats.check(resolved)
    adapter_header.check(resolved.files)
    model = resolved.files.model
    if model.random_weights:
        random_weights.check_disk(model)
    notes = formats.notes_of_reach(resolved)
    if machine.device_class(model.device) == "cuda":
        return notes  # only torch knows how much memory of a GPU is free
    return notes + check_memory(resolved, limited({"cpu": machine.available_mib()}, model.max_memory))


def open_engine(spec: ModelSpec) -> LocalEngine:
    """Return the engine of a model on this machine; it loads when a session is opened, or when `load` is called."""
    resolved = resolve(spec)
    check(resolved)
    from runner_engine.local.engine import LocalEngine  # imports torch: only when the files are right

    return LocalEngine(resolved)


@contextmanager
def open_session(spec: ModelSpec, batch_size: int | None = None) -> Iterator[Session]:
    """Load a model, and free it at the end; batch_size: most requests at once, None: what fits."""
    engine = open_engine(spec)
    try:
        with engine.open(batch_size) as session:
            yield session
    finally:
        engine.close()
