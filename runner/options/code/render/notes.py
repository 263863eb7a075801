"""Message texts of notes about programs that a model writes."""

from __future__ import annotations

from collections.abc import Mapping

from runner_base.render.notes import Template

NOTES: Mapping[str, Template] = {"programs_not_sandboxed": "the programs are not fully sandboxed: {missing}"}
