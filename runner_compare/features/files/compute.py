"""Compare model files with a reference file (--files).

Jobs belong to one file if their models have the same SHA-256 and the same settings for
loading and inference. Equal file names in two folders do not group them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from runner_base import ConfigError, join_first_names
from runner_base.files import find_common_folder
from runner_base.named_jobs import JobReference
from runner_compare.features.files.ranks import (
    KL,
    SPEED_AT,
    FileRow,
    FileTable,
    JobKind,
    rank_model_files_by_kl,
)
from runner_compare.model.data import Run, Table, TableRow
from runner_compare.model.key_rules import KeyRules
from runner_compare.model.selection import has_values, parse_config_values
from runner_compare.model.table import ComparisonOptions, build_comparison_table
from runner_compare.reader import Reader

MODEL_SHA256 = "model_sha256"
# keys of how a file is loaded and read
WAYS = ("model.", "quantization.", "lora.", "rope.", "generation.kv_cache")
NOT_WAYS = ("model.name", "model.revision", "model.cache_dir", "model.threads", "model.check_memory")

FileIdentity = tuple[object, ...]  # what the jobs of one model file share (`identity_of`)
JobsByFile = Mapping[FileIdentity, Mapping[JobKind, Run]]


def compare_model_files(
    runs: Sequence[Run],
    reader: Reader,
    baseline: str = "",
    margins: Mapping[str, float] | None = None,
    tolerance: float | None = None,
) -> FileTable:
    """Build the table of model files, and test which files have a lower KL divergence than others."""
    of_files = _group_jobs_by_file(runs, reader.key_rules)
    reference = _find_reference_model_file(of_files, [*runs], baseline)
    names = _choose_model_file_labels(of_files, reader.key_rules)
    tables, rows = _compare_with_reference(of_files, reference, dict(margins or {}), reader)
    files = [
        FileRow(names[key], {kind: rows[run.run_id] for kind, run in members.items()}, key == reference)
        for key, members in of_files.items()
    ]
    kls = {file.name: file.find_metric(KL, JobKind.likelihood) for file in files}
    files.sort(
        key=lambda file: (not file.is_reference, kls[file.name] is None, kls[file.name] or 0.0, file.name)
    )
    table = FileTable(files, tables, tolerance=tolerance, margin=(margins or {}).get("log_likelihood"))
    rank_model_files_by_kl(table, reader)
    return table


def _group_jobs_by_file(runs: Sequence[Run], rules: KeyRules) -> JobsByFile:
    """Group jobs by model file.

    Raises ConfigError for two jobs of a kind, or if there is only one file.
    """
    of_files: dict[FileIdentity, dict[JobKind, Run]] = {}
    for run in runs:
        if (kind := get_file_job_kind(run)) is None:
            continue
        members = of_files.setdefault(get_model_file_identity(run), {})
        if kind in members:
            raise _build_duplicate_job_error(run, members[kind], kind, rules)
        members[kind] = run
    if len(of_files) < 2:
        raise ConfigError(
            "the selected runs use fewer than two model files. Select runs of at least two files",
            key="--files",
            code="empty",
        )
    return of_files


def _compare_with_reference(
    jobs_by_file: JobsByFile, reference: FileIdentity, margins: dict[str, float], reader: Reader
) -> tuple[dict[JobKind, Table], dict[str, TableRow]]:
    """Compare each model file's jobs with the reference file's job of the same kind, e.g. likelihood.

    Returns the tables, and each job's row by run id, including jobs that were not compared.
    """
    tables: dict[JobKind, Table] = {}
    rows: dict[str, TableRow] = {}
    for kind in JobKind:
        of_kind = [members[kind] for members in jobs_by_file.values() if kind in members]
        base = jobs_by_file[reference].get(kind)
        if len(of_kind) > 1 and base is not None and kind is not JobKind.speed:
            tables[kind] = build_comparison_table(
                of_kind, ComparisonOptions(base=base, margins=margins), reader
            )
            rows |= {row.run.run_id: row for row in tables[kind].rows}
        else:
            rows |= {run.run_id: TableRow(run, {}) for run in of_kind}
    return tables, rows


def get_file_job_kind(run: Run) -> JobKind | None:
    """Return the kind of measurement that a job made: likelihood, accuracy or speed. None for other jobs."""
    if run.likelihood_unit == "token":
        return JobKind.likelihood
    if run.correct_and_total is not None:
        return JobKind.accuracy
    return JobKind.speed if any(SPEED_AT.match(name) for name in run.metrics) else None


def get_model_file_identity(run: Run) -> FileIdentity:
    """Return a key that is equal for all jobs of one model file.

    The key consists of the file's SHA-256 and its settings for loading and inference.
    """
    ways = {key: value for key, value in run.params.items() if key.startswith(WAYS) and key not in NOT_WAYS}
    return run.facts.get(MODEL_SHA256) or run.params.get("model.name", ""), *sorted(ways.items())


def _choose_model_file_labels(jobs_by_file: JobsByFile, rules: KeyRules) -> dict[FileIdentity, str]:
    """Return a unique name for each model file: its relative path, plus settings if the path is
    ambiguous.
    """
    firsts = {key: next(iter(members.values())) for key, members in jobs_by_file.items()}
    folder = find_common_folder(run.params.get("model.name", "") for run in firsts.values())
    names = {key: run.params.get("model.name", "").removeprefix(folder) for key, run in firsts.items()}
    for name in [name for name in dict.fromkeys(names.values()) if [*names.values()].count(name) > 1]:
        same = [key for key in names if names[key] == name]
        differing = [
            key
            for key in rules.find_differing_keys([firsts[file].params for file in same])
            if key.startswith(WAYS)
        ]
        for key in same:
            settings = [f"{way.removesuffix('.name')}={firsts[key].params.get(way)}" for way in differing]
            names[key] = " ".join([name, *(settings or [f"({str(key[0])[:8]})"])])
    return names


def _find_reference_model_file(jobs_by_file: JobsByFile, runs: list[Run], baseline: str) -> FileIdentity:
    """Return the reference file: the file that --baseline selects, or the only one without a KL
    divergence.
    """
    fix = "choose the reference file with --baseline model.name=FILE"
    if baseline:
        wanted = parse_config_values(baseline, runs, "--baseline")
        found = [
            key
            for key, members in jobs_by_file.items()
            if any(has_values(run, wanted) for run in members.values())
        ]
        if len(found) != 1:
            raise ConfigError(
                f"{len(found)} model files match; {fix}",
                key="--baseline",
                value=baseline,
                code="ambiguous" if found else "not_found",
            )
        return found[0]
    likely = {
        key: members[JobKind.likelihood]
        for key, members in jobs_by_file.items()
        if JobKind.likelihood in members
    }
    found = [key for key, run in likely.items() if KL not in run.metrics]
    if len(found) != 1:
        raise ConfigError(
            f"{len(found)} of {len(likely)} likelihood jobs have no reference, but exactly one must have none; {fix}",
            key="--files",
            code="ambiguous" if found else "missing",
        )
    ids = {
        JobReference.from_fact(run.facts.get("reference", "")).job_id
        for run in likely.values()
        if KL in run.metrics
    }
    others = {identifier for identifier in ids if re.fullmatch(r"likelihood-[0-9a-f]{12}", identifier)} - {
        likely[found[0]].job_id
    }
    if others:
        raise ConfigError(
            (
                "some jobs measured KL divergence from another reference: "
                f"{join_first_names(sorted(others))}. Select jobs of one reference with --grid or --where"
            ),
            key="--files",
            code="mismatch",
        )
    return found[0]


def _build_duplicate_job_error(run: Run, other_run: Run, kind: JobKind, rules: KeyRules) -> ConfigError:
    differing = rules.find_differing_keys([run.params, other_run.params])
    difference = f", which differ in {', '.join(differing[:4])}" if differing else ""
    return ConfigError(
        f"--files: {run.params.get('model.name')} has two jobs of {kind}, "
        f"{other_run.job_id} and {run.job_id}{difference}: "
        "choose one with --grid, --where or --runs",
        code="ambiguous",
    )
