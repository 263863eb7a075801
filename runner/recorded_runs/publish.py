"""`--publish FOLDER`: what a comparison says about a model, as files for its repository on the
Hugging Face Hub.

`evaluation.md` is a section for the model card, `.eval_results/DATASET.yaml` what the Hub shows on
the model's page and the leaderboard. The YAML follows the documented schema
(https://huggingface.co/docs/hub/eval-results), and is checked before anything is written. Nothing
is uploaded.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from runner.core.prompt_facts import PromptFact
from runner.datasets.shapes import KNOWN_CHOICES
from runner.records.jobs import Job
from runner.render import model_cards
from runner_base import ConfigError, cannot_write, replace_text, say
from runner_compare import Run, Table, TableRow, in_markdown, name_of

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


def publish(tables: Sequence[Table], folder: Path, benchmark: str) -> list[Path]:
    """Write the files, in a folder for each model if there are several; return their paths.

    `benchmark` is `DATASET_ID:TASK_ID` of the Hub, where task.data does not say it.
    """
    rows = [(table, row) for table in tables for row in table.rows if row.run.interval is not None]
    if not rows:
        raise ConfigError(
            "no run here has verdicts on questions, so there is no accuracy to publish; nor "
            "a divergence, which task=likelihood has with task.reference=OVERRIDES",
            key="--publish",
            code="empty",
        )
    check_single_jobs([row.run for _, row in rows])
    by_model: dict[tuple[tuple[str, str], ...], list[tuple[Table, TableRow]]] = {}
    for table, row in rows:
        weights = tuple(sorted(param for param in row.run.params.items() if param[0].startswith(OF_WEIGHTS)))
        by_model.setdefault(weights, []).append((table, row))
    paths: list[Path] = []
    for number, of_model in enumerate(by_model.values(), 1):
        folder_of_model = folder if len(by_model) == 1 else folder / _folder_name(number, *of_model[0])
        files = {CARD: card(of_model)}
        for dataset, entries in _entries(of_model, benchmark).items():
            files[f"{RESULTS}/{dataset}.yaml"] = as_yaml(entries)
        for name, text in files.items():
            try:
                replace_text(folder_of_model / name, text)
            except OSError as error:
                raise cannot_write(folder_of_model, error, "--publish") from error
            paths.append(folder_of_model / name)
    return paths


def check_single_jobs(runs: Sequence[Run]) -> None:
    """Raise ConfigError for a run of another tool, or of several jobs."""
    if foreign := next((run for run in runs if run.tool or run.parts), None):
        raise ConfigError(
            f"{foreign.job_id} is from {foreign.tool or 'several runs pooled by --by or --seeds'}: only single jobs of "
            "the runner are published",
            key="--publish",
            code="unsupported",
        )


def _folder_name(number: int, table: Table, row: TableRow) -> str:
    name = re.sub(r"[^\w.=+-]+", "-", name_of(row, table.keys)).strip("-.")
    return f"{number}-{name}"[:80]


def card(rows: Sequence[tuple[Table, TableRow]]) -> str:
    """Return the section of a model card."""
    lines = [
        "## Evaluation",
        "",
        "| data | n | accuracy | 95 % interval | compared | form |",
        "|---|---|---|---|---|---|",
    ]
    for _, row in rows:
        run = row.run
        accuracy, low, high = _interval(run)
        data = f"{run.params.get('task.data', run.task)} {run.params.get('task.split', '')}".strip()
        cells = (
            data,
            _count(run),
            f"{accuracy:.1%}",
            f"{low:.1%} – {high:.1%}",
            _compared(row),
            form_of(run),
        )
        lines.append(f"| {' | '.join(in_markdown(cell).replace('|', '/') for cell in cells)} |")
    lines += ["", model_cards.FORM, ""]
    commands = dict.fromkeys(command_of(row.run) for _, row in rows)
    return "\n".join([*lines, *(f"    {command}" for command in commands), ""])


def _entries(rows: Sequence[tuple[Table, TableRow]], benchmark: str) -> dict[str, list[dict[str, Any]]]:
    """Return the Hub's entries by the name of their file; runs on data that are no benchmark have
    none."""
    found: dict[str, list[dict[str, Any]]] = {}
    for _, row in rows:
        names = _benchmark(row.run, benchmark)
        if names is None:
            data = row.run.params.get("task.data")
            say(f"note: {model_cards.no_benchmark(row.run.job_id, data, RESULTS)}")
            continue
        entry = entry_of(row.run, *names)
        check_entry(entry)
        of_file = found.setdefault(names[0].replace("/", "--"), [])
        if any(listed["dataset"] == entry["dataset"] for listed in of_file):
            raise ConfigError(f"several runs of one model on {names[0]} ({names[1]}): choose one of them "
                              "with --runs or --where", key="--publish", code="ambiguous")  # fmt: skip
        of_file.append(entry)
    return found


def _benchmark(run: Run, benchmark: str) -> tuple[str, str] | None:
    """Return the data set on the Hub and its task; None if the data are of another place."""
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


def entry_of(run: Run, dataset: str, task: str) -> dict[str, Any]:
    """Return the Hub's entry of a run."""
    accuracy, low, high = _interval(run)
    notes = (
        f"accuracy in %, 95 % interval {100 * low:.1f} to {100 * high:.1f}, n = {_count(run)}, form {form_of(run)}, "
        f"task version {run.task_version}; {command_of(run)}"
    )
    entry = {"dataset": {"id": dataset, "task_id": task}, "value": round(100 * accuracy, 2), "notes": notes}
    record = Job(run.job_id, Path(run.folder)).last_record() if run.folder else None
    return entry | ({"date": record.started_at} if record is not None and record.started_at else {})


def check_entry(entry: Any) -> None:
    """Raise ConfigError where an entry breaks the documented schema of `.eval_results/*.yaml`."""
    _check_keys("", entry, REQUIRED, OPTIONAL)
    dataset = entry["dataset"]
    _check_keys("dataset.", dataset, {"id": str, "task_id": str}, OF_DATASET)
    _refuse_unless(
        bool(DATASET_ID.fullmatch(dataset["id"])), "dataset.id", dataset["id"], "is no id of the Hub"
    )
    if "source" in entry:
        _check_keys("source.", entry["source"], {"url": str}, OF_SOURCE)
    if "date" in entry:
        try:
            datetime.fromisoformat(entry["date"])
        except ValueError:
            _refuse_unless(False, "date", entry["date"], "is no date of ISO 8601")


def _check_keys(prefix: str, values: Any, required: dict[str, Any], allowed: dict[str, Any]) -> None:
    _refuse_unless(isinstance(values, dict), prefix.rstrip(".") or "the entry", values, "is no mapping")
    kinds = allowed | required
    for key in [*required, *values]:
        value, is_known = values.get(key), key in kinds
        _refuse_unless(is_known, f"{prefix}{key}", value, "is no key of the schema")
        is_kind = isinstance(value, kinds[key]) and not isinstance(value, bool) and value != ""
        _refuse_unless(is_kind, f"{prefix}{key}", value, "is missing or has another type")


def _refuse_unless(ok: bool, key: str, value: object, problem: str) -> None:
    if not ok:
        raise ConfigError(
            f"{key} ({value}) {problem}: see https://huggingface.co/docs/hub/eval-results",
            key=RESULTS,
            code="bad_value",
        )


def as_yaml(entries: list[dict[str, Any]]) -> str:
    """Return entries as the content of a file."""
    import yaml

    text: str = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=1000)
    return text


def command_of(run: Run) -> str:
    """Return the command of a job: its choices, and the keys that differ from theirs."""
    from runner.config.compose import compose
    from runner.config.hydra import to_config
    from runner.config.plain_text import quote_texts
    from runner.records.flat_config import flatten

    params = run.params
    overrides = [f"task={params['task.name']}", _model_choice(params["model.name"])]
    names = {
        group: params.get(f"{group}.name", "") for group in ("quantization", "lora", "rope", "generation")
    }
    overrides += [f"{group}={name}" for group, name in names.items() if name]
    usual = dict(flatten(to_config(*compose(quote_texts(overrides)))))
    keys = {key: value for key, value in params.items() if key.partition(".")[0] in GROUPS or key == "seed"}
    left_out = {f"{group}.name" for group in GROUPS} | _found_in_data(params)
    changed = [
        f"{key}={value}" for key, value in keys.items() if usual.get(key) != value and key not in left_out
    ]
    if overrides[1] == "model=auto":
        changed.insert(0, f"model.name={params['model.name']}")
    usual_choices = {"task=gsm8k", "quantization=none", "lora=none", "rope=native", "generation=greedy"}
    return shlex.join(
        [
            "runner",
            *quote_texts([*(override for override in overrides if override not in usual_choices), *changed]),
        ]
    )


def _model_choice(name: str) -> str:
    from runner.config.choices import own_files

    is_choice = any(name == file.stem for file in own_files("model"))
    return f"model={name}" if is_choice else "model=auto"


def _found_in_data(params: dict[str, str]) -> set[str]:
    """Return the keys that a job has taken from its data: choices in a known shape, and the words
    that ask for one."""
    is_found = params.get("task.choices_key") in KNOWN_CHOICES and params.get("task.answer_key") == "null"
    return {"task.choices_key", "task.instruction"} if is_found else set()


def form_of(run: Run) -> str:
    """Return the hash of the form of a job's prompts; a dash if it was not recorded."""
    return PromptFact.from_fact(run.facts.get("prompt", "")).form or "–"


def _interval(run: Run) -> tuple[float, float, float]:
    assert run.interval is not None
    return run.interval


def _count(run: Run) -> str:
    families = run.metrics.get("families")
    return f"{run.metrics['n']:.0f}" + (f" in {families:.0f} clusters" if families else "")


def _compared(row: TableRow) -> str:
    """Return the difference from the baseline with its finding."""
    effect = row.effect
    if row.is_baseline or effect is None or row.baseline is None:
        return "the baseline" if row.is_baseline else "–"
    low, high = effect.simultaneous
    ends = f"95 % {100 * low:+.1f} to {100 * high:+.1f}{', simultaneous' * (effect.comparisons > 1)}"
    return f"{100 * effect.value:+.1f} points to {row.baseline.run.job_id} ({ends}): {effect.finding.value}"
