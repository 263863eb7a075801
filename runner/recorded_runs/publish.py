"""Implements `--publish FOLDER`: writes comparison results for a Hugging Face model repository.

`evaluation.md` is a section for the model card, `.eval_results/DATASET.yaml` the data for the
model's page and the leaderboard. The YAML follows the documented schema
(https://huggingface.co/docs/hub/eval-results), and is checked before anything is written.
Nothing is uploaded.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from runner.core.prompt_facts import PromptFact
from runner.datasets.row_layouts import KNOWN_CHOICES
from runner.records.jobs import Job
from runner.render import model_cards
from runner_base import ConfigError, convert_write_error, print_message, replace_text_file_atomically
from runner_compare import Run, Table, TableRow, escape_markdown, format_row_name

CARD, RESULTS = "evaluation.md", ".eval_results"
DATASET_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")  # of the Hub
GROUPS = ("model", "quantization", "lora", "rope", "generation", "task")
OF_WEIGHTS = ("model.", "quantization.", "lora.", "rope.")
REQUIRED = {"dataset": dict, "value": (int, float)}
OPTIONAL = {"verifyToken": str, "date": str, "source": dict, "notes": str}
OF_DATASET, OF_SOURCE = (
    {"id": str, "task_id": str, "revision": str},
    {"url": str, "name": str, "user": str, "org": str},
)


def publish_accuracies(tables: Sequence[Table], folder: Path, benchmark: str) -> list[Path]:
    """Write accuracy files for model cards, and return their paths. Several models get one folder
    each.

    `benchmark` is `DATASET_ID:TASK_ID` of the Hub, if task.data does not contain it.
    """
    rows = [(table, row) for table in tables for row in table.rows if row.run.accuracy_interval is not None]
    if not rows:
        raise ConfigError(
            (
                "no run has an accuracy to publish. To publish a divergence, run task=likelihood "
                "with task.reference=OVERRIDES"
            ),
            key="--publish",
            code="empty",
        )
    require_runs_of_single_jobs([row.run for _, row in rows])
    by_model: dict[tuple[tuple[str, str], ...], list[tuple[Table, TableRow]]] = {}
    for table, row in rows:
        weights = tuple(sorted(param for param in row.run.params.items() if param[0].startswith(OF_WEIGHTS)))
        by_model.setdefault(weights, []).append((table, row))
    paths: list[Path] = []
    for number, of_model in enumerate(by_model.values(), 1):
        folder_of_model = folder if len(by_model) == 1 else folder / _model_folder_name(number, *of_model[0])
        files = {CARD: format_model_card_accuracy_section(of_model)}
        for dataset, entries in _build_hub_entries_by_file(of_model, benchmark).items():
            files[f"{RESULTS}/{dataset}.yaml"] = format_hub_entries_as_yaml(entries)
        for name, text in files.items():
            try:
                replace_text_file_atomically(folder_of_model / name, text)
            except OSError as error:
                raise convert_write_error(folder_of_model, error, "--publish") from error
            paths.append(folder_of_model / name)
    return paths


def require_runs_of_single_jobs(runs: Sequence[Run]) -> None:
    """Raise ConfigError for a run of another tool, or one that combines several jobs."""
    if foreign := next((run for run in runs if run.tool or run.parts), None):
        raise ConfigError(
            (
                f"{foreign.job_id} comes from "
                f"{foreign.tool or 'several runs that --by or --seeds has combined'}. Only a single "
                "job of the runner can be published"
            ),
            key="--publish",
            code="unsupported",
        )


def _model_folder_name(number: int, table: Table, row: TableRow) -> str:
    name = re.sub(r"[^\w.=+-]+", "-", format_row_name(row, table.keys)).strip("-.")
    return f"{number}-{name}"[:80]


def format_model_card_accuracy_section(table_rows: Sequence[tuple[Table, TableRow]]) -> str:
    lines = [
        "## Evaluation",
        "",
        "| data | n | accuracy | 95 % interval | compared | form |",
        "|---|---|---|---|---|---|",
    ]
    for _, row in table_rows:
        run = row.run
        accuracy, low, high = _require_interval(run)
        data = f"{run.params.get('task.data', run.task)} {run.params.get('task.split', '')}".strip()
        cells = (
            data,
            _format_count(run),
            f"{accuracy:.1%}",
            f"{low:.1%} – {high:.1%}",
            _format_baseline_difference(row),
            format_prompt_hash(run),
        )
        lines.append(f"| {' | '.join(escape_markdown(cell).replace('|', '/') for cell in cells)} |")
    lines += ["", model_cards.FORM, ""]
    commands = dict.fromkeys(format_reproduction_command(row.run) for _, row in table_rows)
    return "\n".join([*lines, *(f"    {command}" for command in commands), ""])


def _build_hub_entries_by_file(
    table_rows: Sequence[tuple[Table, TableRow]], benchmark: str
) -> dict[str, list[dict[str, Any]]]:
    """Return evaluation entries for the Hugging Face Hub, by file name.

    Runs on data sets that are not on the Hub are skipped.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for _, row in table_rows:
        names = _find_benchmark_ids(row.run, benchmark)
        if names is None:
            data = row.run.params.get("task.data")
            print_message(f"note: {model_cards.not_on_hub_message(row.run.job_id, data, RESULTS)}")
            continue
        entry = build_hub_accuracy_entry(row.run, *names)
        validate_hub_eval_result(entry)
        of_file = found.setdefault(names[0].replace("/", "--"), [])
        if any(listed["dataset"] == entry["dataset"] for listed in of_file):
            raise ConfigError(f"a model has several runs on {names[0]} ({names[1]}). Select one run with "
                              "--runs or --where", key="--publish", code="ambiguous")  # fmt: skip
        of_file.append(entry)
    return found


def _find_benchmark_ids(run: Run, benchmark: str) -> tuple[str, str] | None:
    """Return the ids of a run's data set and task on the Hub. None if the data set is not on the Hub."""
    if benchmark:
        dataset, _, task = benchmark.partition(":")
        if not DATASET_ID.fullmatch(dataset) or not task:
            raise ConfigError(
                "give DATASET_ID:TASK_ID, such as Idavidrein/gpqa:gpqa_diamond",
                key="--benchmark",
                value=benchmark,
                code="bad_value",
            )
        return dataset, task
    data, subset = run.params.get("task.data", ""), run.params.get("task.subset", "null")
    is_of_hub = bool(DATASET_ID.fullmatch(data)) and not Path(data).exists()
    return (data, "default" if subset == "null" else subset) if is_of_hub else None


def build_hub_accuracy_entry(run: Run, dataset: str, task: str) -> dict[str, Any]:
    accuracy, low, high = _require_interval(run)
    notes = (
        f"accuracy in %, 95 % interval {100 * low:.1f} to {100 * high:.1f}, "
        f"n = {_format_count(run)}, prompt format {format_prompt_hash(run)}, "
        f"task version {run.task_version}; {format_reproduction_command(run)}"
    )
    entry = {"dataset": {"id": dataset, "task_id": task}, "value": round(100 * accuracy, 2), "notes": notes}
    record = Job(run.job_id, Path(run.folder)).read_last_record() if run.folder else None
    return entry | ({"date": record.started_at} if record is not None and record.started_at else {})


def validate_hub_eval_result(entry: Any) -> None:
    """Raise ConfigError where an entry violates the documented schema of `.eval_results/*.yaml`."""
    _check_hub_entry_keys("", entry, REQUIRED, OPTIONAL)
    dataset = entry["dataset"]
    _check_hub_entry_keys("dataset.", dataset, {"id": str, "task_id": str}, OF_DATASET)
    _raise_unless(
        bool(DATASET_ID.fullmatch(dataset["id"])), "dataset.id", dataset["id"], "is no id of the Hub"
    )
    if "source" in entry:
        _check_hub_entry_keys("source.", entry["source"], {"url": str}, OF_SOURCE)
    if "date" in entry:
        try:
            datetime.fromisoformat(entry["date"])
        except ValueError:
            _raise_unless(False, "date", entry["date"], "is no date of ISO 8601")


def _check_hub_entry_keys(
    prefix: str, values: Any, required: dict[str, Any], optional: dict[str, Any]
) -> None:
    _raise_unless(isinstance(values, dict), prefix.rstrip(".") or "the entry", values, "is no mapping")
    kinds = optional | required
    for key in [*required, *values]:
        value, is_known = values.get(key), key in kinds
        _raise_unless(is_known, f"{prefix}{key}", value, "is no key of the schema")
        is_kind = isinstance(value, kinds[key]) and not isinstance(value, bool) and value != ""
        _raise_unless(is_kind, f"{prefix}{key}", value, "is missing or has another type")


def _raise_unless(condition: bool, key: str, value: object, problem: str) -> None:
    if not condition:
        raise ConfigError(
            f"{key} ({value}) {problem}: see https://huggingface.co/docs/hub/eval-results",
            key=RESULTS,
            code="bad_value",
        )


def format_hub_entries_as_yaml(entries: list[dict[str, Any]]) -> str:
    import yaml

    text: str = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=1000)
    return text


def format_reproduction_command(run: Run) -> str:
    """Return the command that reproduces a job. Contains the config choices and all keys that
    differ from their defaults.
    """
    from runner.config.compose import compose_job
    from runner.config.hydra import to_runner_config
    from runner.config.override_quoting import quote_override_values
    from runner.records.flat_config import flatten_config

    params = run.params
    overrides = [f"task={params['task.name']}", _make_model_override(params["model.name"])]
    names = {
        group: params.get(f"{group}.name", "") for group in ("quantization", "lora", "rope", "generation")
    }
    overrides += [f"{group}={name}" for group, name in names.items() if name]
    usual = dict(flatten_config(to_runner_config(*compose_job(quote_override_values(overrides)))))
    keys = {key: value for key, value in params.items() if key.partition(".")[0] in GROUPS or key == "seed"}
    left_out = {f"{group}.name" for group in GROUPS} | _find_keys_inferred_from_data(params)
    changed = [
        f"{key}={value}" for key, value in keys.items() if usual.get(key) != value and key not in left_out
    ]
    if overrides[1] == "model=auto":
        changed.insert(0, f"model.name={params['model.name']}")
    usual_choices = {"task=gsm8k", "quantization=none", "lora=none", "rope=native", "generation=greedy"}
    return shlex.join(
        [
            "runner",
            *quote_override_values(
                [*(override for override in overrides if override not in usual_choices), *changed]
            ),
        ]
    )


def _make_model_override(name: str) -> str:
    from runner.config.choices import installed_choice_files

    is_choice = any(name == file.stem for file in installed_choice_files("model"))
    return f"model={name}" if is_choice else "model=auto"


def _find_keys_inferred_from_data(params: dict[str, str]) -> set[str]:
    """Return the config keys that the job set automatically, because it recognized the layout of the
    data set.
    """
    is_found = params.get("task.choices_key") in KNOWN_CHOICES and params.get("task.answer_key") == "null"
    return {"task.choices_key", "task.instruction"} if is_found else set()


def format_prompt_hash(run: Run) -> str:
    return PromptFact.from_fact(run.facts.get("prompt", "")).form or "–"


def _require_interval(run: Run) -> tuple[float, float, float]:
    assert run.accuracy_interval is not None
    return run.accuracy_interval


def _format_count(run: Run) -> str:
    families = run.metrics.get("families")
    return f"{run.metrics['n']:.0f}" + (f" in {families:.0f} clusters" if families else "")


def _format_baseline_difference(row: TableRow) -> str:
    effect = row.effect
    if row.is_baseline or effect is None or row.baseline is None:
        return "the baseline" if row.is_baseline else "–"
    low, high = effect.simultaneous_interval
    ends = f"95 % {100 * low:+.1f} to {100 * high:+.1f}{', simultaneous' * (effect.comparisons > 1)}"
    return f"{100 * effect.value:+.1f} points compared with {row.baseline.run.job_id} ({ends}): {effect.finding.value}"
