"""What the program answers to a command, without what differs from run to run or from machine to
machine.

Kept are exit codes, job ids, metrics that are no measurements, params, facts, prompts, tokens,
texts, verdicts, the runs in MLflow, JSON on stdout, and error messages. Left out are times, speeds,
measured memory, and how sentences are worded.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import warm_process
from serving import Serving, serving
from stored import read_together

from runner.config.gate import GateConfig
from runner.config.groups import GROUPS
from runner.config.root import RunnerConfig
from runner.records.flat_config import format_config_value
from runner_base.fields import (
    InIdentityUnless,
    NotInIdentity,
    get_identity_rule,
    get_value_omitted_from_job_id,
)

TREE = Path(__file__).parents[2]
MODULES = {  # of the programs that are installed
    script.name: script.module.removesuffix(".__main__")
    for script in metadata.distribution("runner-llm").entry_points.select(group="console_scripts")
}
TEXTS = {
    "$Q3": "Ann has 3 apples. Ann buys 4 more. Then Ann gives away 2 apples. How many apples does Ann have now? "
    "Solve it step by step. End with '#### ' and the number.",
    "$Q5": "Yusuf has 30 cards. Yusuf buys 4 more. Then Yusuf gives away half of the cards. Then Yusuf gives away 9 "
    "cards. Then Yusuf doubles the number of cards. How many cards does Yusuf have now? "
    "Solve it step by step. End with '#### ' and the number.",
}
MEASURED = re.compile(
    r"(^|[_/.])(measured|seconds|rss|peak|anon|steady|cuda|gpu|rest|bubble|busy|pss|best|mapped|unpacked|spread|draft|accepted)"
    r"([_/.]|$)|_(s|ms)($|[_/])|_per_s|over_baseline|on_front|off_front|dominated"
)
# Of a run, of a machine, or of an installation; and what is kept once, beside the other values
LEFT_OUT = {
    *(
        "mlflow_run_id",
        "mlflow_uri",
        "run_id",
        "started_at",
        "versions",
        "checksum",
        "tracking.parent_run_id",
        "begun",
    ),
    *(
        "created",
        "id",
        "grid_id",
        "output_dir",
        "contention",
        "company",
        "mtime_ns",
        "inode",
        "state",
        "place",
        "key",
    ),
    *("model_mib", "activation_mib", "ran_short_mib", "products", "int8_products", "shared_attention"),
    *("batch_invariant", "server_probe"),
    *("machine", "threads", "question", "gold"),
}
JOB_ID = re.compile(r"\b([a-z0-9]+-)[0-9a-f]{12}\b")
MEASURING = ("sweep", "memory")
# So that every x86 gives the same bits: products of bfloat16 add up in another order
PLAIN_PROCESSOR = {"RUNNER_WITHOUT": "amx,avx512"}
# what is measured is a job of its machine
OF_MACHINE = re.compile(r"\b((?:sweep|memory)-)[0-9a-f]{12}\b")
# Sentences that depend on speed, and on other work of the machine
OF_SPEED = re.compile(
    r"(• )?(There is no Pareto front|The Pareto front ignores|Dominated beyond noise"
    r"|decoding is faster than memory)"
)
TIME = re.compile(r", [\d.e+-]+ s (?=at this job's speed)")
RELATIVE = 2e-4  # float32 sums in another order
# of log-probabilities near 0 in float32, between kinds of processors: logits of 16 to 32 are known to
# 1e-6, and some thirty tokens are added
ABSOLUTE = 2e-5


@dataclass
class Case:
    """Some commands that run one after another in one folder."""

    name: str
    recorded: Path  # the folder with the answers
    commands: list[str] = field(default_factory=list)

    @property
    def file(self) -> Path:
        """The file in which its answers are written down."""
        return self.recorded / (re.sub(r"\W+", "_", self.name).strip("_") + ".json")


def parse(file: Path) -> list[Case]:
    """Read a list of cases, whose answers are in the folder beside it."""
    cases: list[Case] = []
    for line in file.read_text().splitlines():
        depth = len(line) - len(line.lstrip())
        if not line.strip() or line.startswith("#"):
            continue
        if not depth:
            cases.append(Case(line, file.parent / "recorded"))
        elif depth == 4:
            cases[-1].commands.append(line.strip())
        else:
            cases[-1].commands[-1] += f" {line.strip()}"
    return cases


@dataclass
class Place:
    """A folder in which a case runs, and the server that it has started."""

    folder: Path
    model: Path
    stdin: str
    stack: ExitStack
    server: Serving | None = None
    has_own_ids: bool = (
        False  # the ids of its jobs are others each time: of a server's port, of the times in a manifest
    )

    def named(self, text: str) -> str:
        """Replace what differs from place to place by names."""
        url = self.server.url if self.server else "{url}"
        for word, name in (
            (str(self.folder), "{here}"),
            (str(self.model), "{model}"),
            (str(TREE), "{tree}"),
            (url, "{url}"),
        ):
            text = text.replace(word, name)
        return (JOB_ID if self.has_own_ids else OF_MACHINE).sub(r"\1{id}", text)

    def run(self, command: str) -> dict[str, Any]:
        """Run one command; return what it answers."""
        for short, whole in (("float32 ", "run model.dtype=float32 "), ("run ", "runner tracking=none ")):
            command = whole + command.removeprefix(short) if command.startswith(short) else command
        command = command.replace("{tree}", str(TREE)).replace("{model}", str(self.model))
        kind, _, rest = command.partition(" ")
        if kind == "serve":
            self.server = self.stack.enter_context(
                serving(self.folder / "server", "tracking=none", *rest.split(), **PLAIN_PROCESSOR)
            )
            return {}
        if self.server:
            command = command.replace("{url}", self.server.url)
        if kind == "ask":
            return self._asked(*rest.partition(" ")[::2])
        program, *arguments = [_with_texts(word) for word in shlex.split(command)]
        words = ["-m", MODULES[program], *arguments] if program in MODULES else arguments
        hidden = ("MLFLOW_TRACKING_URI", "COLUMNS")
        variables = {key: value for key, value in os.environ.items() if key not in hidden}
        variables |= {"HF_HUB_OFFLINE": "1"} | PLAIN_PROCESSOR
        done = warm_process.complete(
            [sys.executable, *words], data=self.stdin, cwd=self.folder, env=variables
        )
        assert "Traceback" not in done.stderr, done.stderr
        errors = [
            line
            for line in self.named(done.stderr).splitlines()
            if re.search(r"^(error|runner[\w-]*): |FAILED: ", line)
        ]
        answer = {
            "exit_code": done.returncode,
            "errors": sorted(errors),
            "json": [*_json_in(self.named(done.stdout))],
        }
        return {key: value for key, value in answer.items() if value not in ([], None)}

    def _asked(self, path: str, body: str) -> dict[str, Any]:
        assert self.server is not None
        status, answer = self.server.ask(path, _with_texts(body).encode() if body else None)
        return {"status": status, "json": [kept(json.loads(self.named(json.dumps(answer))))]}

    def left(self) -> dict[str, Any]:
        """Return what the commands have left in the folder: jobs, runs in MLflow, and other
        files."""
        jobs: dict[str, Any] = {}
        found = [self._job(path.parent) for path in self.folder.glob("**/jobs/*/result.json")]
        for job in sorted(found, key=lambda job: (job["job_id"], job["name"], str(job["params"]))):
            same = sum(name.startswith(job["job_id"]) for name in jobs)
            jobs[f"{job['job_id']} {same + 1}" if same else job["job_id"]] = job
        paths = {path.relative_to(self.folder).as_posix(): path for path in sorted(self.folder.rglob("*"))}
        files = {
            name: self._file(path)
            for name, path in paths.items()
            if path.is_file() and not re.match(r"outputs/|server/|multirun/|\.", name)
        }
        params = dict(next(iter(jobs.values()))["params"]) if jobs else {}
        for job in jobs.values():
            job["params"] = {key: value for key, value in job["params"].items() if params.get(key) != value}
        return {"jobs": jobs, "params": params, "mlflow": [*self._runs()], "files": files}

    def _job(self, folder: Path) -> dict[str, Any]:
        """Return a job's record and samples."""
        record: dict[str, Any] = kept(json.loads(self.named((folder / "result.json").read_text())))
        result = record.pop("result")
        record |= {key: value for key, value in result.items() if value not in ([], {}, None, "")}
        record["model"].pop("params", None)  # some of the job's
        if self.has_own_ids:
            record["model"].pop("digest", None), record.get("facts", {}).pop("model_sha256", None)
        if record["task"] in MEASURING:
            record |= {
                key: without_numbers(value)
                for key, value in record.items()
                if key in ("metrics", "rows", "facts", "tables")
            }
            record.pop("notes", None), record.pop("series", None)
        record["files"] = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        lines = (
            (folder / "samples.jsonl").read_text().splitlines() if (folder / "samples.jsonl").exists() else []
        )
        samples = sorted(
            (json.loads(self.named(line)) for line in lines), key=lambda line: line.get("index", 0)
        )
        return record | {"samples": [kept(_without_empty(_with_digests(line))) for line in samples]}

    def _runs(self) -> Iterator[dict[str, Any]]:
        """Return each run in MLflow: what differs from its job's record, and the rest in full."""
        if not (database := self.folder / "outputs" / "mlflow.db").exists():
            return
        with read_together(database) as store:
            runs = store.execute("select run_uuid, name, status from runs").fetchall()
            tables = [
                store.execute(f"select run_uuid, key, value from {table}").fetchall()
                for table in ("params", "tags", "latest_metrics")
            ]
        for run, name, status in sorted(runs, key=lambda run: run[1:]):
            params, tags, metrics = (
                {key: value for of, key, value in table if of == run} for table in tables
            )
            job = self.folder / "outputs" / "jobs" / tags.get("job_id", "") / "result.json"
            record = (
                json.loads(job.read_text()) if "job_id" in tags else {"params": {}, "result": {"metrics": {}}}
            )
            # how many metrics exceed MLflow's share depends on measured ones, so on the processes before
            has_all_metrics = tags.pop("metrics_left_out", None) is None
            here = {"params": params, "metrics": metrics, "tags": sorted(tags)}
            here["params"] = {
                key: value for key, value in params.items() if record["params"].get(key) != value
            }
            recorded = record["result"]["metrics"].keys()
            here["metrics"] = sorted(
                metrics.keys() ^ recorded if has_all_metrics else metrics.keys() - recorded
            )
            yield {"name": name, "status": status, "job_id": self.named(tags.get("job_id", ""))} | kept(here)

    def _file(self, path: Path) -> Any:
        """Return the content of a file that a user gets."""
        if path.suffix in (".json", ".jsonl"):
            values = [*_json_in(self.named(path.read_text()))]
            whole = json.dumps(values, sort_keys=True)
            return values if len(whole) < 2000 else hashlib.sha256(whole.encode()).hexdigest()[:16]
        return (
            hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            if path.suffix == ".safetensors"
            else "is there"
        )


def referring(value: Any, jobs: dict[str, Any]) -> Any:
    """Return JSON in which the metrics of a job that is known are named, and not repeated."""
    match value:
        case {"job_id": job_id, "metrics": metrics} if metrics == jobs.get(job_id, {}).get("metrics"):
            return {key: referring(one, jobs) for key, one in value.items()} | {"metrics": "the job's"}
        case dict():
            return {key: referring(one, jobs) for key, one in value.items()}
        case list():
            return [referring(one, jobs) for one in value]
    return value


def _with_texts(words: str) -> str:
    for name, text in TEXTS.items():
        words = words.replace(name, text)
    return words


def _json_in(text: str) -> Iterator[Any]:
    """Return the JSON in a text: the whole, or each line that is an object."""
    try:
        yield kept(json.loads(text))
    except ValueError:
        yield from (
            kept(json.loads(line))
            for line in text.splitlines()
            if line.startswith("{") and line.endswith("}")
        )


def _with_digests(sample: dict[str, Any]) -> dict[str, Any]:
    """Return a sample with a digest of its tokens: its text says how they differ, and its prompt
    has a digest already."""
    if "token_ids" in sample:
        sample["token_ids"] = hashlib.sha256(str(sample["token_ids"]).encode()).hexdigest()[:12]
    return sample


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value not in (None, [], {})}


def pretty(value: Any, indent: str = "") -> str:
    """Return JSON in which what fits into a line is one."""
    line = json.dumps(value, ensure_ascii=False, sort_keys=True)
    if len(indent + line) <= 120 or not isinstance(value, (dict, list)):
        return line
    begin, end = "{}" if isinstance(value, dict) else "[]"
    keys = (
        [f"{json.dumps(key, ensure_ascii=False)}: " for key in sorted(value)]
        if isinstance(value, dict)
        else [""] * len(value)
    )
    values = [value[key] for key in sorted(value)] if isinstance(value, dict) else value
    inside = ",\n".join(
        f"{indent} {key}{pretty(one, indent + ' ')}" for key, one in zip(keys, values, strict=True)
    )
    return f"{begin}\n{inside}\n{indent}{end}"


def kept(value: Any, key: str = "") -> Any:
    """Return JSON without measurements and what is of this run or machine."""
    match value:
        case {"digest": str()} if key.endswith("manifest.json"):  # it has times
            return {}
        case dict():
            return {
                name: kept(one, name)
                for name, one in value.items()
                if name not in LEFT_OUT and not MEASURED.search(name)
            }
        case list():
            return [kept(one, key) for one in value if not OF_SPEED.match(str(one))]
        case str():
            return TIME.sub(", # s ", value)
    return value


def without_numbers(value: Any) -> Any:
    """Return JSON whose numbers were measured: they are left out, and those in texts, too."""
    match value:
        case dict():
            return {key: without_numbers(one) for key, one in value.items()}
        case list():
            return [without_numbers(one) for one in value]
        case str():
            return re.sub(r"[-+−]?\d[\d,.]*", "#", value)
    return "#"


def is_new_key(difference: str) -> bool:
    """Whether a difference is a key that older jobs do not have, with the default by which they
    keep their ids."""
    found = re.fullmatch(r".*\bparams (\S+): is new: (['\"])(.*)\2", difference)
    return found is not None and found[3] in _defaults().get(found[1], ())


@cache
def _defaults() -> dict[str, set[str]]:
    """Return the defaults, as MLflow has them, of keys that count in a job's id unless they have
    these, or never."""
    defaults = {f"gate.{item.name}": {format_config_value(item.default)} for item in fields(GateConfig)}
    schemas = [(f"{group}.", schema) for group, of_group in GROUPS.items() for schema in of_group.values()]
    for prefix, schema in [("", RunnerConfig), *schemas]:
        for item in fields(schema):
            if isinstance(get_identity_rule(item), (InIdentityUnless, NotInIdentity)):
                defaults.setdefault(f"{prefix}{item.name}", set()).add(
                    format_config_value(get_value_omitted_from_job_id(item))
                )
    return defaults


def differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """Compare both recursively, and yield where they differ and how."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            if key not in new or key not in old:
                yield f"{where} {key}: {'is gone' if key not in new else f'is new: {new[key]!r:.200}'}"
            else:
                yield from differences(old[key], new[key], f"{where} {key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for at, pair in enumerate(zip(old, new, strict=True)):
            yield from differences(*pair, f"{where} [{at}]")
    elif (
        isinstance(old, float)
        and isinstance(new, float)
        and math.isclose(old, new, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    ):
        return
    elif old != new or isinstance(old, bool) is not isinstance(new, bool):
        yield f"{where}: {old!r:.300} became {new!r:.300}"
