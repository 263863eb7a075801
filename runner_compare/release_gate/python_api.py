"""`runner_compare.gate(...)`: the release gate from Python."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner_base import JobFailed, environment
from runner_compare.model.missing_jobs import JobState, MissingJob
from runner_compare.release_gate.command import create_gate_parser, decide
from runner_compare.release_gate.render.text import (
    describe_check,
    format_gate_report,
    format_gate_report_as_markdown,
)
from runner_compare.release_gate.verdicts import CandidateVerdict, GateReport, GateVerdict, to_dict
from runner_compare.render.html import escape_html

Margin = float | str


@dataclass(repr=False)
class GateResult:
    """Verdicts of a gate on all candidates. Notebooks display them as a table."""

    report: GateReport

    @property
    def verdict(self) -> GateVerdict:
        return self.report.verdict

    @property
    def exit_code(self) -> int:
        return self.report.exit_code

    @property
    def candidates(self) -> tuple[CandidateVerdict, ...]:
        return self.report.candidates

    def raise_for_verdict(self) -> None:
        """Raise JobFailed unless the verdict on every candidate is GO."""
        if self.verdict is not GateVerdict.go:
            raise JobFailed(str(self), code="refused")

    def to_dict(self) -> dict[str, Any]:
        """Return the verdicts as JSON data, as `--json` prints them."""
        return to_dict(self.report)

    def to_df(self) -> Any:
        """Return a pandas.DataFrame with one line per check."""
        import pandas as pd  # type: ignore[import-untyped]

        candidates = self.to_dict()["candidates"]
        rows = [
            {"name": candidate["name"], "candidate_verdict": candidate["verdict"], **check}
            for candidate in candidates
            for check in candidate["checks"]
        ]
        return pd.DataFrame(rows)

    def to_markdown(self) -> str:
        return format_gate_report_as_markdown(self.report)

    def __str__(self) -> str:
        return format_gate_report(self.report)

    def __repr__(self) -> str:
        return f"<gate: {self.verdict}, {len(self.candidates)} candidates>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td><b>{escape_html(check.verdict)}</b></td><td>{escape_html(candidate.name)}</td>"
            f"<td>{escape_html(describe_check(check))}</td></tr>\n"
            for candidate in self.candidates
            for check in candidate.checks
        )
        return f"<h4>{escape_html(self.verdict)}</h4>\n<table>\n{rows}</table>\n"


def gate(
    baseline: str | Path,
    *results: str | Path,
    margin: Margin | Iterable[Margin] = (),
    min: Mapping[str, float] | None = None,
    max: Mapping[str, float] | None = None,
    expect: Iterable[str] = (),
    each: bool = False,
    history: str | Path | None = None,
    cluster: str = "",
    policy: str | Path | Mapping[str, Any] | None = None,
    pool: bool = False,
    output_dir: str | Path = "outputs",
    where: Iterable[str] = (),
    task: str | None = None,
    grid: str | None = None,
    runs: Iterable[str] = (),
    tracking_uri: str | None = None,
    experiment: str | None = None,
    log: bool = False,
    failed: Mapping[str, str] | None = None,
) -> GateResult:
    """Decide whether candidates may ship. The arguments are those of `runner-compare gate`.

    Example: gate("baseline.runner.gz", "outputs", margin=2, expect=["int8", "nf4"]).
    `failed`: candidates that the caller knows to have no result, with the reasons.
    """
    environment.load_dotenv()
    margins = [margin] if isinstance(margin, str | int | float) else [*margin]
    words = [str(baseline), *map(str, results), "--output-dir", str(output_dir)]
    words += [f"--margin={size}" for size in margins]
    words += [f"--min={key}={value}" for key, value in (min or {}).items()]
    words += [f"--max={key}={value}" for key, value in (max or {}).items()]
    words += [f"--where={text}" for text in where]
    words += ["--each"] * each + ["--log"] * log + ["--pool"] * pool
    for name, value in (
        ("--expect", ",".join(expect)),
        ("--history", history),
        ("--cluster", cluster),
        ("--task", task),
        ("--grid", grid),
        ("--tracking-uri", tracking_uri),
        ("--experiment", experiment),
    ):
        words += [f"{name}={value}"] if value else []
    ids = [*runs]
    words += ["--runs", *ids] if ids else []
    missing = [MissingJob(name, "", JobState.failed, reason) for name, reason in (failed or {}).items()]
    options = create_gate_parser().parse_args(words)
    options.policy = policy
    return GateResult(decide(options, missing))
