"""task=generate as a user sees it: errors in one message, stdin, prompts full of punctuation,
resuming."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm_process
from grids import wait_for
from hydra.core.override_parser.overrides_parser import OverridesParser

from runner.config.groups import collect_key_types
from runner.config.override_quoting import quote_override_values

pytestmark = pytest.mark.slow

Run = Callable[..., Any]  # the fixture `runner`: takes arguments, returns a finished command
STUB = ("task=generate", "model=stub", "tracking=none")


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "task=generate needs either task.prompt=TEXT or task.prompts=FILE (.txt, .jsonl, or - for stdin): neither is given"),
        (["task.prompt=a", "task.prompts=p.txt"], "both are given"),
        (["task.prompts=nope.txt"], "task.prompts=nope.txt: prompt file does not exist: /"),
        (["task.prompts=empty.txt"], "task.prompts=empty.txt: empty.txt holds no prompts"),
        (["task.prompts=bad.jsonl"], "bad.jsonl, line 2: no prompt: each line is an object with `prompt`"),
        (["task.prompts=extra.jsonl"], "extra.jsonl, line 1: no key 'branchs'. Did you mean branches? Choices: branches, messages, prompt"),
        (["task.prompts=p.csv"], "task.prompts=p.csv: give FILE.txt (one prompt per line)"),
        (["task.prompts=-"], "task.prompts=-: stdin holds no prompts"),
        (["task.prompt=a", "task.format=plain"], "task.format=plain: unknown choice. Choices: chat, raw"),
        (["task.prompt=a", "task.format=raw", "task.system=b"], "task.system needs task.format=chat"),
        (["task.prompt=a", "task.output=bad.jsonl"], "bad.jsonl exists and contains something other than this job's completions"),
        (["task.prompt=a", "task.output=/proc/nope/x.jsonl"], "cannot write /proc/nope/x.jsonl"),
        (["task.prompts=-", "seed=1,2", "-m"], "task=generate reads stdin, which jobs of a grid cannot do. Give a file (task.prompts=FILE), or run it as a single job, without -m"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_wrong_input_is_one_message_and_exit_2(
    runner: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "fine"}\n{"promt": "not"}\n')
    (tmp_path / "extra.jsonl").write_text('{"prompt": "fine", "branchs": ["no"]}\n')
    done = runner(*STUB, *arguments)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    assert "{\"promt\"" in (tmp_path / "bad.jsonl").read_text(), "nothing was replaced"  # fmt: skip


def pipe(tmp_path: Path, data: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runner", *STUB, "task.prompts=-", *arguments]
    return warm_process.complete(command, data, cwd=tmp_path)


@pytest.mark.thorough
def test_stdin_is_the_same_job_as_a_file(runner: Run, tmp_path: Path) -> None:
    piped = pipe(tmp_path, "one\n\ntwo\n", "print=json")
    assert piped.returncode == 0, piped.stderr
    line = json.loads(piped.stdout)
    assert set(line) == {"job_id", "status", "output_dir", "metrics", "mlflow_run_id", "completions"}
    assert [completion["text"] for completion in line["completions"]] == [
        "[STUB_GENERATION]\none...",
        "[STUB_GENERATION]\ntwo...",
    ]
    assert line["metrics"]["n"] == 2
    (tmp_path / "p.txt").write_text("one\ntwo\n")
    from_file = runner(*STUB, "task.prompts=p.txt", "print=json", "task.output=out.jsonl")
    assert from_file.json()["job_id"] == line["job_id"]
    assert "is already complete" in from_file.err
    assert [json.loads(text)["prompt"] for text in (tmp_path / "out.jsonl").read_text().splitlines()] == [
        "one",
        "two",
    ]
    chats = pipe(tmp_path, json.dumps({"messages": [{"role": "user", "content": "three"}]}) + "\n")
    assert chats.returncode == 0, chats.stderr
    assert chats.stdout.startswith("[STUB_GENERATION]\nthree...\n\n")
    planned = pipe(tmp_path, "one\ntwo\n", "plan=true")
    assert planned.returncode == 0, planned.stderr
    assert line["job_id"] in planned.stdout
    bad = pipe(tmp_path, '{"prompt": "a"}\nb\n')
    assert (bad.returncode, bad.stderr.startswith("error: stdin, line 2: not JSON")) == (2, True)


@pytest.mark.thorough
def test_one_prompt_is_a_text_a_file_or_all_of_stdin(runner: Run, tmp_path: Path) -> None:
    (tmp_path / "p.md").write_text("one\n\ntwo\n")
    from_file = runner(*STUB, "task.prompt=@p.md", "print=json").json()
    (only,) = from_file["completions"]
    assert only["prompt"] == "one\n\ntwo"
    command = [sys.executable, "-m", "runner", *STUB, "task.prompt=-", "print=json"]
    piped = warm_process.complete(command, "one\n\ntwo\n", cwd=tmp_path)
    assert piped.returncode == 0, piped.stderr
    assert json.loads(piped.stdout)["job_id"] == from_file["job_id"], "content counts, not where it came from"
    (tmp_path / "p.md").write_text("three\n")
    assert runner(*STUB, "task.prompt=@p.md", "print=json").json()["job_id"] != from_file["job_id"]
    (escaped,) = runner(*STUB, "task.prompt=@@p.md", "print=json").json()["completions"]
    assert escaped["prompt"] == "@p.md"
    (tmp_path / "at.md").write_text("@p.md")
    (verbatim,) = runner(*STUB, "task.prompt=@at.md", "print=json").json()["completions"]
    assert verbatim["prompt"] == "@p.md", "what a file holds is a text"
    missing = runner(*STUB, "task.prompt=@nobody said so")
    assert missing.code == 2
    assert "For a literal text that begins with @, use task.prompt=@@nobody said so" in missing.err
    empty = warm_process.complete(command, "\n", cwd=tmp_path)
    assert (empty.returncode, empty.stderr) == (2, "error: task.prompt: stdin holds no text\n")
    grid = runner(*STUB, "task.prompt=-", "seed=1,2", "-m")
    assert (grid.code, "task=generate reads stdin, which jobs of a grid cannot do" in grid.err) == (2, True)


TEXTS = (
    "How many, exactly: 3 (or 4)?",
    'it\'s \\ a [test] with "both" {kinds}',
    "你好，请介绍一下你自己",
    "${seed} and \\${seed}",
    "two\nlines = 2",
    "trailing \\",
)


@pytest.mark.thorough
def test_prompts_from_a_file_or_stdin_are_a_data_set_of_the_run(runner: Run, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("one\ntwo\n")
    assert runner("task=generate", "model=stub", "task.prompts=p.txt").code == 0
    assert runner("task=generate", "model=stub", "task.prompt=three").code == 0
    command = [sys.executable, "-m", "runner", "task=generate", "model=stub", "task.prompts=-"]
    assert warm_process.complete(command, "four\n", cwd=tmp_path).returncode == 0
    query = "select name, dataset_source_type, dataset_source, count(*) from datasets join inputs on dataset_uuid = source_id"
    with contextlib.closing(sqlite3.connect(tmp_path / "outputs" / "mlflow.db")) as connection:
        data_sets = connection.execute(f"{query} group by dataset_uuid order by name").fetchall()
    assert [(name, kind, count) for name, kind, _, count in data_sets] == [
        ("p.txt", "local", 1),
        ("stdin", "code", 1),
    ]
    assert json.loads(data_sets[0][2]) == {"uri": str(tmp_path / "p.txt")}


@pytest.mark.thorough
def test_a_prompt_needs_no_quotes_for_hydra(runner: Run, tmp_path: Path) -> None:
    done = runner(*STUB, f"task.prompt={TEXTS[1]}")
    assert done.out.startswith(f"[STUB_GENERATION]\n{TEXTS[1]}...\n"), done.err
    done = runner(*STUB, f"task.prompt={TEXTS[3]}")
    assert done.out.startswith(f"[STUB_GENERATION]\n{TEXTS[3]}...\n"), done.err


@pytest.mark.parametrize("text", TEXTS)
def test_plain_texts_reach_hydra_as_they_are(text: str) -> None:
    (argument,) = quote_override_values([f"task.prompt={text}"])
    value = OverridesParser.create().parse_override(argument).value()
    assert str(value).replace("\\\\\\${", "\\${").replace("\\${", "${") == text.replace("\\${", "${")


def test_what_has_a_meaning_for_hydra_is_unchanged() -> None:
    for same in (
        ["task.prompt=text"],
        ["task.prompt=chat,text"],
        ["task.prompt=null"],
        ["task.prompt='quoted, already'"],
        ["task.data=a b"],
        ["task.output=out_${seed}.jsonl"],
        ["task.prompts=-", "workers=4", "task.ranges=[0-7,8-15]", "task.branches=['a, b',\"\"]"],
        ["model.name=./a,./b", "task.prompt='a, b','c, d'", "task.prompt=yes,no"],
        ["task.prompt=choice(chat,text)", "task.prompt=range(3)"],
        ["-m", "quantization=none,nf4", "seed=1,2", "~task.stop"],
    ):
        assert quote_override_values(same) == same


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("argument", "quoted"),
    [
        ("task.prompt=Ann has 3, Bob has 4", "'Ann has 3, Bob has 4'"),
        ("++task.system=Hi, you", "'Hi, you'"),
        ("task.prompt='tis, isn't it'", r"'\'tis, isn\'t it\''"),
        ("task.prompt=[/INST]", "'[/INST]'"),
        ("task.prompt=true", "'true'"),
        ("task.data=数据,./b (1).jsonl", "'数据','./b (1).jsonl'"),
        ("task.data=choice(数据, b)", "choice('数据',b)"),
        ("task.stop=[。],[[/INST],b]", "['。'],['[/INST]',b]"),
        ("model.revision=12e4567", "'12e4567'"),
        ("model.name=./lr=0.1", "'./lr=0.1'"),
        ("model=模型", "'模型'"),
    ],
)
def test_texts_names_and_paths_are_quoted_for_hydra(argument: str, quoted: str) -> None:
    key = argument.partition("=")[0]
    assert quote_override_values([argument]) == [f"{key}={quoted}"]


def test_the_schema_says_which_keys_hold_text() -> None:
    words = {key for key, kind in collect_key_types().items() if kind.is_free_text}
    assert words == {
        "task.prompt",
        "task.system",
        "task.instruction",
        "task.template",
        "task.stop",
        "task.branches",
        "task.answer_marker",
        "generation.thinking_end",
        "model.answer",
    }
    for key in (
        "model.name",
        "lora.path",
        "task.output",
        "output_dir",
        "tracking.uri",
        "tracking.experiment",
    ):
        assert collect_key_types()[key].is_string
    assert not collect_key_types()["seed"].is_string


@pytest.mark.thorough
def test_a_comma_does_not_split_the_prompt_of_a_grid(runner: Run) -> None:
    prompt = "task.prompt=Ann has 3, Bob has 4"
    done = runner("seed=1", "-m", *STUB, "quantization=none,nf4", prompt, "print=json")
    assert done.code == 0, done.err
    folders = [Path(json.loads(line)["output_dir"]) for line in done.out.splitlines()]
    texts = [json.loads((folder / "completions.jsonl").read_text())["prompt"] for folder in folders]
    assert texts == ["Ann has 3, Bob has 4"] * 2
    several = runner("-m", *STUB, "task.prompt='Ann has 3, Bob has 4','Hi'", "plan=true")
    assert "2 jobs: 2 to do" in several.out, several.err


@pytest.mark.thorough
def test_paths_and_texts_may_be_chinese(runner: Run, tmp_path: Path) -> None:
    (tmp_path / "数据.txt").write_text("一\n二\n")
    (tmp_path / "研究").mkdir()
    study = "defaults: [config, _self_]\nhydra: {mode: MULTIRUN, sweeper: {params: {task.prompt: ['请写, 好', 再见]}}}\n"
    (tmp_path / "研究" / "格.yaml").write_text(study)
    done = runner(*STUB, "task.prompts=数据.txt", "task.stop=[。]", "output_dir=输出", "print=json")
    assert done.code == 0, done.err
    assert (tmp_path / "输出" / "jobs").is_dir()
    grid = runner("-m", *STUB, "task.prompt=请写一首诗, 好吗", "output_dir=输出,其他", "plan=true")
    assert grid.code == 0, grid.err
    assert "2 jobs" in grid.out
    by_study = runner("-cd", "研究", "-cn", "格", *STUB, "print=json")
    assert by_study.code == 0, by_study.err
    texts = [
        json.loads((Path(json.loads(line)["output_dir"]) / "completions.jsonl").read_text())
        for line in by_study.out.splitlines()
    ]
    assert [text["prompt"] for text in texts] == ["请写, 好", "再见"]


@pytest.mark.thorough
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL], ids=["SIGINT", "SIGKILL"])
def test_interrupt_then_resume(runner: Run, tmp_path: Path, sent: signal.Signals) -> None:
    (tmp_path / "p.txt").write_text("".join(f"prompt {number}\n" for number in range(400)))
    whole = [*STUB, "task.prompts=p.txt", "task.output=out.jsonl"]
    command = [sys.executable, "-m", "runner", *whole, "model.delay_s=0.25"]
    process = warm_process.popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    wait_for(lambda: _lines(tmp_path) >= 2)
    os.kill(process.pid, sent)
    assert process.wait(timeout=200) in (130, -signal.SIGKILL)
    kept = _lines(tmp_path)
    assert 2 <= kept < 400
    assert not (tmp_path / "out.jsonl").exists()
    again = runner(*whole)
    assert again.code == 0, again.err
    assert f"{kept} of 400 samples come from an earlier" in again.out
    assert _lines(tmp_path) == 400
    delivered = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in delivered] == [f"prompt {number}" for number in range(400)]


@pytest.mark.thorough
def test_a_grid_generates_and_delivers(runner: Run, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("one\ntwo\n")
    grid = ["-m", *STUB, "task.prompts=p.txt", "seed=1,2"]
    first = runner(*grid, "print=json")
    assert first.code == 0, first.err
    assert [json.loads(line)["metrics"]["n"] for line in first.out.splitlines()] == [2, 2]
    second = runner(*grid, "task.output=out_${seed}.jsonl")
    assert second.code == 0, second.err
    assert sorted(file.name for file in tmp_path.glob("out_*.jsonl")) == ["out_1.jsonl", "out_2.jsonl"]


def _lines(folder: Path) -> int:
    return sum(file.read_text().count("\n") for file in folder.glob("outputs/jobs/*/samples.jsonl"))
