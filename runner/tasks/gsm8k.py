"""task=gsm8k: put word problems to the engine, extract the number, compare it with the gold answer.

Data: the embedded generator, a local JSONL file (or a folder with `<split>.jsonl`), or a data set of the hub
such as openai/gsm8k. Each line holds `question` and `answer`; the gold number stands after `####`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from pathlib import Path

from runner.config.root import RunnerConfig
from runner.config.task import Extractor, Gsm8kConfig, PromptStyle
from runner.core.errors import ConfigError, DataError, check, unknown
from runner.core.result import FinishReason, Result, Sample, Verdict
from runner.core.stats import wilson_interval
from runner.embedded.problems import Split, problems
from runner.engines.base import Completion, Engine, Message, Prompt, Request
from runner.store.jobs import Recorder
from runner.tasks.completing import complete_missing, sample_of, token_counts

VERSION = 1
READS_MODEL = True
MEASURES = False

TEXT_STOPS = ("\n\nQuestion:", "\nQuestion:")  # a completion of plain text goes on to the next question
_NUMBER = r"(?:-?\$\s?|\$-|-)?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"  # -5, $70,000.50, -$3, $-3, .5
_STRICT = re.compile(rf"####[\s*]*({_NUMBER})")  # **18**: bold is no part of the number
_FLEXIBLE = re.compile(rf"(?<![\w.])({_NUMBER})")  # in 10-5 the hyphen is no sign, in x2 the 2 no number


@dataclass(frozen=True)
class Item:
    """One word problem with its worked answer."""

    question: str
    answer: str
    gold: str


def evidence(config: RunnerConfig) -> dict[str, str]:
    """SHA-256 of the questions and of the worked examples that the job will use."""
    task = _task(config)
    items, shots = load_items(task), load_shots(task)
    return {"data": _items_sha256(items), "shots": _items_sha256(shots)}


def execute(config: RunnerConfig, engine: Engine, recorder: Recorder) -> Result:
    """Generate what is not on disk yet, judge each completion, add up."""
    task = _task(config)
    items, shots = load_items(task), load_shots(task)
    stop = TEXT_STOPS if task.prompt is PromptStyle.text else ()
    requests = [Request(index, build_prompt(task, item, shots), stop) for index, item in enumerate(items)]

    tally = Counter(sample.verdict for sample in recorder.done.values())

    def accuracy(sample: Sample) -> dict[str, str]:
        tally[sample.verdict] += 1
        return {"accuracy": f"{tally[Verdict.correct] / tally.total():.1%}"}

    def judged(completion: Completion) -> Sample:
        return judge(task, items[int(completion.id)], completion)

    done = complete_missing("gsm8k", requests, engine, recorder, judged, accuracy)
    if done.failed:
        count, why = len(done.failed), done.failed[0].error
        done.notes.append(f"{count} questions ended in an error and count as cut off, e.g. {why}")
    return Result(metrics=score(done.samples) | done.metrics, facts=done.facts, notes=done.notes)


def score(samples: list[Sample]) -> dict[str, float]:
    """Add up verdicts and tokens; accuracy is correct ÷ n, with its 95 % Wilson interval."""
    counts = {verdict: sum(sample.verdict is verdict for sample in samples) for verdict in Verdict}
    n = len(samples)
    low, high = wilson_interval(counts[Verdict.correct], n)
    return {
        "accuracy": counts[Verdict.correct] / n,
        "accuracy_low": low,
        "accuracy_high": high,
        "n": n,
        **{verdict.value: count for verdict, count in counts.items()},
        **token_counts(samples),
    }


# ---------------------------------------------------------------------------------------- prompts


def build_prompt(task: Gsm8kConfig, item: Item, shots: list[Item]) -> Prompt:
    """Put the question as a chat or as plain text, after the worked examples."""
    if task.prompt is PromptStyle.text:
        blocks = [f"Question: {shot.question}\nAnswer: {shot.answer}" for shot in shots]
        return "\n\n".join([*blocks, f"Question: {item.question}\nAnswer:"])
    turns = [Message("system", task.system)] if task.system else []
    for shot in shots:
        turns += [Message("user", _ask(task, shot)), Message("assistant", shot.answer)]
    return (*turns, Message("user", _ask(task, item)))


def _ask(task: Gsm8kConfig, item: Item) -> str:
    return f"{item.question}\n\n{task.instruction}" if task.instruction else item.question


# ---------------------------------------------------------------------------------------- judging


def extract(text: str, extractor: Extractor) -> str | None:
    """Return the answer's number in plain form, or None: the first after ####, or else the last of the text."""
    text = text.replace("\N{MINUS SIGN}", "-")
    strict = _STRICT.search(text)
    if strict:
        return plain_number(strict[1])
    if extractor is Extractor.strict:
        return None
    found = _FLEXIBLE.findall(text)
    return plain_number(found[-1]) if found else None


def plain_number(text: str) -> str:
    """Write a number without thousands commas, currency sign and trailing zeros: `$70,000.0` is `70000`."""
    digits = re.sub(r"[,$\s]", "", text)
    try:
        value = Decimal(digits)
    except InvalidOperation as error:
        raise ValueError(f"not a number: {text!r}") from error
    plain = f"{value.normalize():f}"
    return "0" if plain == "-0" else plain


def judge(task: Gsm8kConfig, item: Item, completion: Completion) -> Sample:
    """Turn a completion into a sample with its verdict; an answer that never came is not a wrong answer."""
    extracted = {extractor.value: extract(completion.text, extractor) for extractor in Extractor}
    answer = extracted[task.extractor.value]
    # a text that was cut off may hold numbers, but not its answer, unless it had said #### by then
    if completion.finish_reason is not FinishReason.stop and extracted[Extractor.strict.value] is None:
        verdict = Verdict.cut_off
    elif answer is None:
        verdict = Verdict.no_answer
    else:
        verdict = Verdict.correct if answer == item.gold else Verdict.wrong
    return replace(
        sample_of(completion),
        question=item.question,
        gold=item.gold,
        extracted=extracted,
        verdict=verdict,
    )


# ------------------------------------------------------------------------------------------- data


def load_items(task: Gsm8kConfig) -> list[Item]:
    """Return the questions of the job, in order."""
    items = _read(task.data, task.split, "task.data", task.limit)
    check(bool(items), "task.data", task.data, f"split {task.split} holds no questions")
    return items


def load_shots(task: Gsm8kConfig) -> list[Item]:
    """Return the worked examples: the first `shots` of shots_data, or of the train split of data."""
    if task.shots == 0:
        return []
    if task.shots_data is None and Path(task.data).expanduser().is_file():
        raise ConfigError(
            f"task.shots={task.shots} needs worked examples, and task.data={task.data} is one file with the "
            "questions: give task.shots_data=FILE.jsonl, or a folder with train.jsonl as task.data"
        )
    source = task.shots_data or task.data
    key = "task.shots_data" if task.shots_data else "task.data"
    shots = _read(source, "train", key, task.shots)
    check(len(shots) == task.shots, "task.shots", task.shots, f"{source} has only {len(shots)} examples")
    if source == task.data and task.split == "train":
        raise ConfigError("task.split=train with task.shots: the examples would be questions too; use another split")
    return shots


def _read(data: str, split: str, key: str, limit: int | None) -> list[Item]:
    if data == "embedded":
        return _read_embedded(split, limit)
    path = Path(data).expanduser()
    if path.is_dir():
        file = path / f"{split}.jsonl"
        splits = [found.stem for found in path.glob("*.jsonl")]
        if not file.exists():
            raise ConfigError(f"task.split={split}: {unknown('file for split', split, splits)} in {path}")
        return _read_jsonl(file, limit)
    if path.is_file():
        return _read_jsonl(path, limit)
    if data.startswith((".", "/", "~")) or path.suffix in (".jsonl", ".json") or "/" not in data:
        raise DataError(f"{key}={data}: data path does not exist: {path.absolute()}")
    return _read_hub(data, split, key, limit)


def _read_embedded(split: str, limit: int | None) -> list[Item]:
    names = [name.value for name in Split]
    if split not in names:
        raise ConfigError(f"task.split={split}: {unknown('split of the embedded data', split, names)}")
    if limit is None:
        raise ConfigError("task.limit=null: the embedded generator has no end; give a number, e.g. task.limit=1000")
    return list(_embedded_items(split, limit))


@lru_cache(maxsize=8)  # a grid of a thousand jobs asks for the same few sets again and again
def _embedded_items(split: str, limit: int) -> tuple[Item, ...]:
    return tuple(Item(item.question, item.answer, plain_number(item.gold)) for item in problems(Split(split), limit))


def _read_jsonl(file: Path, limit: int | None) -> list[Item]:
    items: list[Item] = []
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if limit is not None and len(items) >= limit:
                break
            if line.strip():
                try:
                    items.append(_item(json.loads(line)))
                except (ValueError, KeyError, TypeError) as error:
                    raise DataError(f"{file}, line {number}: {_why(error)}") from error
    return items


def _read_hub(name: str, split: str, key: str, limit: int | None) -> list[Item]:
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            f"{key}={name} is no file or folder here; data sets of the hub need the extra: pip install 'runner[hub]'"
        ) from error
    try:
        rows = datasets.load_dataset(name, "main" if name.endswith("gsm8k") else None, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{key}={name}, task.split={split}: {first_line}") from error
    rows = rows if limit is None else rows.select(range(min(limit, len(rows))))
    return [_item(dict(row)) for row in rows]


def _item(row: dict[str, str]) -> Item:
    gold = _STRICT.findall(row["answer"])
    if not gold:
        raise ValueError("the answer has no '#### NUMBER'")
    return Item(str(row["question"]), str(row["answer"]), plain_number(gold[-1]))


def _why(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"no key {error}: each line is an object with `question` and `answer`"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error}"
    return f"{error} (each line is an object with `question` and `answer`, the answer ending in '#### NUMBER')"


def _items_sha256(items: list[Item]) -> str:
    text = json.dumps([[item.question, item.answer, item.gold] for item in items], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _task(config: RunnerConfig) -> Gsm8kConfig:
    assert isinstance(config.task, Gsm8kConfig)
    return config.task
