"""Compares a server with the record of a job, so that a job never mixes the answers of two models."""

from __future__ import annotations

from collections.abc import Mapping

from runner.options.remote.keys import ApiConfig
from runner.options.remote.render.notes import NOTES
from runner.options.remote.server_pool import ServerPool
from runner.options.remote.server_probe import (
    FACT,
    ProbeDifference,
    ServerProbe,
    compare_probes,
    probe_server,
)
from runner_base import ConfigError, RunnerError, announce
from runner_base.notes import Note, note
from runner_base.render.notes import render_note


def require_unchanged_server_if_reachable(
    model: ApiConfig, is_chat: bool, job_id: str, facts: Mapping[str, str]
) -> None:
    """Raise ConfigError if the server of a finished job has another model now. An unreachable server is
    not checked.
    """
    if FACT not in facts:
        return
    try:
        with ServerPool(model) as servers:
            probe = probe_server(servers, is_chat)
    except RunnerError:
        return
    if probe is not None:
        require_unchanged_server(model, job_id, facts, probe)


def require_unchanged_server(
    model: ApiConfig, job_id: str, facts: Mapping[str, str], current: ServerProbe
) -> None:
    """Raise ConfigError if a probe differs from the recorded one by more than noise."""
    recorded = ServerProbe.from_fact(facts.get(FACT, ""))
    if recorded is None:
        return
    difference = compare_probes(recorded, current)
    if difference.is_other_model:
        why = render_note(_note_difference(difference), NOTES)
        raise ConfigError(
            f"the server's model has changed since {job_id} ran: {why}. "
            "To run the job with the present model, use rerun=all",
            key=f"{model.key}.base_url",
            value=model.joined_addresses,
            code="changed",
        )
    if difference.gap is None and difference.changed_texts:
        changed = note("texts_changed", address=model.joined_addresses, job=job_id)
        announce(f"note: {render_note(changed, NOTES)}")


def _note_difference(difference: ProbeDifference) -> Note:
    if difference.prompt_tokens:
        recorded, current = difference.prompt_tokens[0]
        return note("other_prompt_tokens", recorded=recorded, current=current)
    return note("other_logprobs", gap=difference.gap, max_gap=difference.max_gap)
