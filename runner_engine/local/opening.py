"""Opens engines and sessions for programs that do not run as jobs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from runner_base.notes import Note
from runner_engine.checkpoints.resolved_model import ResolvedModel, resolve_model
from runner_engine.local.preload_checks import check_memory_fits, check_model_and_adapter_files
from runner_engine.plan.format_check import build_planned_quantization_notes
from runner_engine.sessions import Session
from runner_engine.spec import ModelSpec

if TYPE_CHECKING:  # imports torch
    from runner_engine.local.engine import LocalEngine


def check_model_files(resolved: ResolvedModel) -> list[Note]:
    """Raise an error if a model's files show that it cannot run. Returns notes, such as on tight memory."""
    check_model_and_adapter_files(resolved)
    return build_planned_quantization_notes(resolved) + check_memory_fits(resolved)


def open_engine(spec: ModelSpec) -> LocalEngine:
    """Create the engine of a local model.

    The model is loaded when a session is opened or `load` is called.
    """
    resolved = resolve_model(spec)
    check_model_files(resolved)
    # imports torch: only when the files are right
    from runner_engine.local.engine import LocalEngine

    return LocalEngine(resolved)


@contextmanager
def open_session(spec: ModelSpec, max_batch_size: int | None = None) -> Iterator[Session]:
    """Context manager that loads a model and opens a session, and frees the model at the end.

    max_batch_size: None means as many requests as fit.
    """
    engine = open_engine(spec)
    try:
        with engine.open(max_batch_size) as session:
            yield session
    finally:
        engine.close()
