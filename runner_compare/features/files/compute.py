"""--files: the jobs of each model file joined, and all files compared with the reference.

Jobs belong to one file if their models have the same SHA-256 and are loaded and read in the same
way; the names of files, which may be equal in two folders, join nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from runner_base import ConfigError, few
from runner_base.files import shared_folder
from runner_base.named_jobs import NamedJob
from runner_compare.features.files.ranks import KL, SPEED_AT, FileRow, FileTable, Kind, rank_files
from runner_compare.model.data import Run, Table, TableRow
from runner_compare.model.key_rules import KeyRules
from runner_compare.model.selection import matches, parse_pairs
from runner_compare.model.table import ComparisonOptions, tabulate
from runner_compare.reader import Reader

MODEL_SHA256 = "model_sha256"
# keys of how a file is loaded and read
WAYS = ("model.", "quantization.", "lora.", "rope.", "generation.kv_cache")
NOT_WAYS = ("model.name", "model.revision", "model.cache_dir", "model.threads", "model.check_memory")

Identity = tuple[object, ...]  # what the jobs of one model file share (`identity_of`)
JobsOfFiles = Mapping[Identity, Mapping[Kind, Run]]


def file_table(
    runs: Sequence[Run],
    reader: Reader,
    baseline: str = "",
    margins: Mapping[str, float] | None = None,
    tolerance: float | None = None,
) -> FileTable:
    """Join the jobs of each model file, and compare all files with the reference, and their KLs
    with one another."""
    of_files = _jobs_of_files(runs, reader.key_rules)
    reference = _reference(of_files, [*runs], baseline)
    names = _names(of_files, reader.key_rules)
    tables, rows = _compared(of_files, reference, dict(margins or {}), reader)
    files = [
        FileRow(names[key], {kind: rows[run.run_id] for kind, run in members.items()}, key == reference)
        for key, members in of_files.items()
    ]
    kls = {file.name: file.metric(KL, Kind.likelihood) for file in files}
    files.sort(
        key=lambda file: (not file.is_reference, kls[file.name] is None, kls[file.name] or 0.0, file.name)
    )
    table = FileTable(files, tables, tolerance=tolerance, margin=(margins or {}).get("log_likelihood"))
    rank_files(table, reader)
    return table


def _jobs_of_files(runs: Sequence[Run], rules: KeyRules) -> JobsOfFiles:
    """Return the jobs of each model file; ConfigError for two of a kind, or if there is only one
    file."""
    of_files: dict[Identity, dict[Kind, Run]] = {}
    for run in runs:
        if (kind := kind_of(run)) is None:
            continue
        members = of_files.setdefault(identity_of(run), {})
        if kind in members:
            raise _two_jobs(run, members[kind], kind, rules)
        members[kind] = run
    if len(of_files) < 2:
        raise ConfigError(
            "the runs are of fewer than two model files: there is nothing to compare",
            key="--files",
            code="empty",
        )
    return of_files


def _compared(
    of_files: JobsOfFiles, reference: Identity, margins: dict[str, float], reader: Reader
) -> tuple[dict[Kind, Table], dict[str, TableRow]]:
    """Compare the jobs of each kind with that of the reference; return the tables, and the row of
    each job by the id of its run, also of what was not compared."""
    tables: dict[Kind, Table] = {}
    rows: dict[str, TableRow] = {}
    for kind in Kind:
        of_kind = [members[kind] for members in of_files.values() if kind in members]
        base = of_files[reference].get(kind)
        if len(of_kind) > 1 and base is not None and kind is not Kind.speed:
            tables[kind] = tabulate(of_kind, ComparisonOptions(base=base, margins=margins), reader)
            rows |= {row.run.run_id: row for row in tables[kind].rows}
        else:
            rows |= {run.run_id: TableRow(run, {}) for run in of_kind}
    return tables, rows


def kind_of(run: Run) -> Kind | None:
    """Return what a job says about its model file; None for other jobs."""
    if run.unit == "token":
        return Kind.likelihood
    if run.score is not None:
        return Kind.accuracy
    return Kind.speed if any(SPEED_AT.match(name) for name in run.metrics) else None


def identity_of(run: Run) -> Identity:
    """Return what jobs of one model file share: its content, and how it is loaded and read."""
    ways = {key: value for key, value in run.params.items() if key.startswith(WAYS) and key not in NOT_WAYS}
    return run.facts.get(MODEL_SHA256) or run.params.get("model.name", ""), *sorted(ways.items())


def _names(of_files: JobsOfFiles, rules: KeyRules) -> dict[Identity, str]:
    """Return a name for each file: its path below the folder of all, with what tells it from
    another of that path."""
    firsts = {key: next(iter(members.values())) for key, members in of_files.items()}
    folder = shared_folder(run.params.get("model.name", "") for run in firsts.values())
    names = {key: run.params.get("model.name", "").removeprefix(folder) for key, run in firsts.items()}
    for name in [name for name in dict.fromkeys(names.values()) if [*names.values()].count(name) > 1]:
        same = [key for key in names if names[key] == name]
        differing = [
            key
            for key in rules.differing_keys([firsts[file].params for file in same])
            if key.startswith(WAYS)
        ]
        for key in same:
            settings = [f"{way.removesuffix('.name')}={firsts[key].params.get(way)}" for way in differing]
            names[key] = " ".join([name, *(settings or [f"({str(key[0])[:8]})"])])
    return names


def _reference(of_files: JobsOfFiles, runs: list[Run], baseline: str) -> Identity:
    """Return the file that the others are compared with: that of --baseline, or the one without a
    KL."""
    fix = "say which file is the reference: --baseline model.name=FILE"
    if baseline:
        wanted = parse_pairs(baseline, runs, "--baseline")
        found = [
            key for key, members in of_files.items() if any(matches(run, wanted) for run in members.values())
        ]
        if len(found) != 1:
            raise ConfigError(
                f"{len(found)} model files match: {fix}",
                key="--baseline",
                value=baseline,
                code="ambiguous" if found else "not_found",
            )
        return found[0]
    likely = {
        key: members[Kind.likelihood] for key, members in of_files.items() if Kind.likelihood in members
    }
    found = [key for key, run in likely.items() if KL not in run.metrics]
    if len(found) != 1:
        raise ConfigError(
            f"{len(found)} of {len(likely)} likelihood jobs have no reference: {fix}",
            key="--files",
            code="ambiguous" if found else "missing",
        )
    ids = {
        NamedJob.from_fact(run.facts.get("reference", "")).job_id
        for run in likely.values()
        if KL in run.metrics
    }
    others = {identifier for identifier in ids if re.fullmatch(r"likelihood-[0-9a-f]{12}", identifier)} - {
        likely[found[0]].job_id
    }
    if others:
        raise ConfigError(
            f"KL was measured to other references, too: {few(sorted(others))}. Choose with --grid or --where",
            key="--files",
            code="mismatch",
        )
    return found[0]


def _two_jobs(run: Run, other: Run, kind: Kind, rules: KeyRules) -> ConfigError:
    differing = rules.differing_keys([run.params, other.params])
    difference = f", which differ in {', '.join(differing[:4])}" if differing else ""
    return ConfigError(
        f"--files: {run.params.get('model.name')} has two jobs of {kind}, {other.job_id} and {run.job_id}{difference}: "
        "choose one with --grid, --where or --runs",
        code="ambiguous",
    )
