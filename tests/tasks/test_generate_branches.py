"""task=generate with branches: as a user asks for them, goes on after a kill, and gets them back in
order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm_process
from raising import raises

from runner.config.model import StubConfig
from runner.config.prompts import Framing
from runner.config.root import PrintMode, RunnerConfig
from runner.datasets.prompts import BranchedPrompt, load_user_prompts
from runner.report import print_record
from runner.run import run
from runner.tasks.generate import task as generate
from runner.tasks.generate.keys import GenerateConfig
from runner_base.errors import ConfigError, DataError
from runner_base.result import Answer, FinishReason, Record, Sample
from runner_engine.sessions.base import Message
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import Attention, LocalModelConfig
from runner_engine.settings.rope import Rope2dConfig

pytestmark = pytest.mark.slow

Make = Callable[..., RunnerConfig]
Run = Callable[..., Any]
Job = Callable[..., Record]
BEGUN = ["one: ", "", "two: "]


def write(path: Path, *lines: dict[str, Any]) -> str:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return str(path)


def completions(record: Record) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (Path(record.output_dir) / "completions.jsonl").read_text().splitlines()
    ]


def samples(record: Record) -> dict[int, Sample]:
    lines = (Path(record.output_dir) / "samples.jsonl").read_text().splitlines()
    return {sample.index: sample for sample in map(Sample.from_json, lines)}


@pytest.fixture
def job(make_config: Make, saved_family: Callable[..., Path]) -> Job:
    """Return a function that generates with a tiny model, raw and greedy where nothing else is
    said."""

    def generated(generation: GenerationConfig | None = None, seed: int = 0, **keys: Any) -> Record:
        model = LocalModelConfig(name=str(saved_family()), device="cpu")
        greedy = generation or GenerationConfig(max_new_tokens=8)
        task = GenerateConfig(**({"format": Framing.raw} | keys))
        return run(make_config(model=model, rope=Rope2dConfig(), task=task, generation=greedy, seed=seed))

    return generated


# ------------------------------------------------------------------------------------------- asking
# for them


def test_where_branches_come_from(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "u"}]
    file = write(
        tmp_path / "p.jsonl", {"prompt": "a", "branches": ["b", ""]}, {"prompt": "c"}, {"messages": turns, "branches": ["d"]}
    )  # fmt: skip
    with_own = [BranchedPrompt("a", ("b", "")), "c", BranchedPrompt((Message("user", "u"),), ("d",))]
    assert load_user_prompts(GenerateConfig(prompts=file)) == with_own
    given = load_user_prompts(GenerateConfig(prompts=file, branches=["x"]))
    assert given == [with_own[0], BranchedPrompt("c", ("x",)), with_own[2]], "a prompt's own branches stand"
    assert load_user_prompts(GenerateConfig(prompt="a", branches=["b", ""])) == [with_own[0]]


@pytest.mark.parametrize("branches", ["[]", '"text"', "[3]", "null", '["a", "\\ud800"]'])
def test_bad_branches_are_named_by_line(tmp_path: Path, branches: str) -> None:
    (tmp_path / "bad.jsonl").write_text(f'{{"prompt": "fine"}}\n{{"prompt": "a", "branches": {branches}}}\n')
    with raises(DataError, "damaged", f"{tmp_path / 'bad.jsonl'}, line 2"):
        load_user_prompts(GenerateConfig(prompts=str(tmp_path / "bad.jsonl")))


def test_what_is_refused_before_anything_loads(make_config: Make, tmp_path: Path) -> None:
    with raises(ConfigError, "bad_value", "task.branches"):
        GenerateConfig(prompt="a", branches=[])
    file = write(tmp_path / "p.jsonl", {"prompt": "a"}, {"prompt": "a", "branches": ["b"]})
    for task in (GenerateConfig(prompt="a", branches=["b"]), GenerateConfig(prompts=file)):
        with raises(ConfigError, "conflict"):
            run(make_config(model=LocalModelConfig(name="embedded"), task=task))
    flash = LocalModelConfig(name="embedded", attention=Attention.flash_attention_2)
    with raises(ConfigError, "conflict"):
        run(make_config(model=flash, rope=Rope2dConfig(), task=GenerateConfig(prompt="a", branches=["b"])))


def test_branches_count_as_a_part_of_the_prompts(make_config: Make, tmp_path: Path) -> None:
    file = write(tmp_path / "p.jsonl", {"prompt": "a", "branches": ["b"]})
    evidence = [
        generate.prepare(make_config(rope=Rope2dConfig(), task=task)).hashes["prompts"]
        for task in (
            GenerateConfig(prompt="a", branches=["b"]),
            GenerateConfig(prompts=file),
            GenerateConfig(prompt="a", branches=["b", "b"]),
            GenerateConfig(prompt="a"),
        )
    ]
    assert evidence[0] == evidence[1]
    assert len(set(evidence)) == 3


def test_main_is_framed_and_branches_follow_as_they_are(
    job: Job, caplog: pytest.LogCaptureFixture, saved_family: Callable[..., Path]
) -> None:
    from transformers import AutoTokenizer

    framed = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    with caplog.at_level("INFO", logger="runner"):
        chat = job(prompt="hi", branches=BEGUN, format=Framing.chat, debug=True)
    raw = job(prompt=framed, branches=BEGUN)
    assert samples(chat)[0].branches == samples(raw)[0].branches
    tokenizer = AutoTokenizer.from_pretrained(saved_family())
    expected = sum(len(tokenizer(text)["input_ids"]) for text in (framed, *BEGUN))
    assert samples(chat)[0].prompt_tokens == chat.result.metrics["prompt_tokens"] == expected
    assert f"prompt 0 after the chat template: {framed!r}" in caplog.text
    assert "prompt 0: branch 2 begins with ''" in caplog.text


# ------------------------------------------------------------------------------------- what becomes
# of them


@pytest.mark.thorough
def test_completions_keep_the_order_and_every_branch_counts(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "p.jsonl", {"prompt": "a", "branches": BEGUN}, {"prompt": "plain"}, {"prompt": "longer", "branches": [""]})  # fmt: skip
    record = job(prompts=file, output=str(tmp_path / "out.jsonl"))
    assert (record.result.metrics["n"], record.result.metrics["new_tokens"]) == (5, 40)
    lines = completions(record)
    assert [line["index"] for line in lines] == [0, 1, 2]
    assert [set(line) for line in lines] == [
        {"index", "prompt", "branches", "prompt_tokens", "completions"},
        {"index", "prompt", "text", "finish_reason", "prompt_tokens", "new_tokens"},
        {"index", "prompt", "branches", "prompt_tokens", "completions"},
    ]
    kept = samples(record)
    for line in (lines[0], lines[2]):
        said = kept[line["index"]].branches
        assert said is not None
        assert len(said) == len(line["branches"])
        for one, listed in zip(said, line["completions"], strict=True):
            assert listed == {"text": one.text, "finish_reason": "length", "new_tokens": 8}
    assert kept[1].branches is None
    assert (tmp_path / "out.jsonl").read_bytes() == (
        Path(record.output_dir) / "completions.jsonl"
    ).read_bytes()
    print_record(record, {}, PrintMode.table)
    assert [(row[""], row.get("branch"), row["prompt"]) for row in record.result.rows] == [
        (0, 1, "a | one:"), (0, 2, "a | "), (0, 3, "a | two:"), (1, None, "plain"), (2, 1, "longer | "),
    ]  # fmt: skip
    again = job(prompts=file, show=2)
    assert again.from_ledger
    assert len(again.result.rows) == 4, "a prompt is shown with all its branches"


@pytest.mark.thorough
def test_a_sampled_branch_depends_on_seed_prompt_and_number_alone(job: Job, tmp_path: Path) -> None:
    sampling = GenerationConfig(
        max_new_tokens=10, temperature=1.0, top_k=50, repetition_penalty=1.1, batch_size=1
    )
    first = {"prompt": "a", "branches": ["x", "x", "x"]}
    alone = completions(job(sampling, prompts=write(tmp_path / "a.jsonl", first)))[0]
    among = job(
        sampling,
        prompts=write(tmp_path / "b.jsonl", first, {"prompt": "b" * 30}, {"prompt": "c", "branches": ["x"]}),
    )
    assert completions(among)[0] == alone
    texts = [one["text"] for one in alone["completions"]]
    assert len(set(texts)) == 3, "each branch has random numbers of its own"
    other = completions(job(sampling, seed=1, prompts=str(tmp_path / "a.jsonl")))[0]
    assert other["completions"] != alone["completions"]
    twin = completions(job(sampling, prompts=write(tmp_path / "c.jsonl", first, first)))
    assert twin[0]["completions"] != twin[1]["completions"], (
        "the same prompt in another place is another sample"
    )


@pytest.mark.thorough
def test_stop_texts_and_limits_count_for_each_branch(job: Job) -> None:
    free = samples(job(prompt="a", branches=BEGUN))[0].branches
    assert free is not None
    stop = next(text for text in free[0].text[1:] if text != "\ufffd" and text not in free[1].text)
    stopped = samples(job(prompt="a", branches=BEGUN, stop=[stop]))[0]
    assert stopped.branches is not None
    one = stopped.branches[0]
    assert (one.finish_reason, one.text) == (FinishReason.stop, free[0].text[: free[0].text.index(stop)])
    assert len(one.token_ids) < 8
    others = [said for said, whole in zip(stopped.branches, free, strict=True) if stop not in whole.text]
    assert others
    assert all(said.finish_reason is FinishReason.length and len(said.token_ids) == 8 for said in others)
    assert stopped.answer.finish_reason is FinishReason.length, "one branch at least was cut off"


def test_room_is_what_the_longest_branch_leaves(job: Job, tmp_path: Path) -> None:
    generation = GenerationConfig(max_new_tokens=50)
    file = write(
        tmp_path / "p.jsonl", {"prompt": "a" * 200, "branches": ["b" * 40, "c"]}, {"prompt": "a" * 200, "branches": ["b" * 56, "c"]}
    )  # fmt: skip
    record = job(generation, prompts=file)
    fits, too_long = samples(record)[0], samples(record)[1]
    assert fits.branches is not None
    assert [len(said.token_ids) for said in fits.branches] == [16, 50], "256 positions in all"
    assert too_long.error == (
        "the prompt and its longest branch have 256 tokens, but the model has room for "
        "256. Shorten one of them"
    )
    assert record.result.metrics["errors"] == 1
    assert completions(record)[1]["completions"] == []
    assert completions(record)[1]["error"] == too_long.error
    print_record(record, {}, PrintMode.table)


@pytest.mark.thorough
def test_a_sliding_window_bounds_the_room(make_config: Make, saved_family: Callable[..., Path]) -> None:
    model = LocalModelConfig(name=str(saved_family("mistral", sliding_window=32)), device="cpu")
    task = GenerateConfig(prompt="a" * 20, branches=["b", "cc"], format=Framing.raw)
    generation = GenerationConfig(max_new_tokens=50)
    record = run(make_config(model=model, rope=Rope2dConfig(), task=task, generation=generation))
    said = samples(record)[0].branches
    assert said is not None
    assert [len(one.token_ids) for one in said] == [11, 10]


def test_the_stub_answers_in_branches(make_config: Make) -> None:
    task = GenerateConfig(prompt="main", branches=[" one", " two"], format=Framing.raw)
    record = run(make_config(model=StubConfig(), rope=Rope2dConfig(), task=task))
    assert [one["text"] for one in completions(record)[0]["completions"]] == [
        "[STUB_GENERATION]\nmain one...", "[STUB_GENERATION]\nmain two...",
    ]  # fmt: skip
    assert record.result.text is not None
    assert record.result.text.startswith("[branch 1]  one[STUB_GENERATION]")


def test_a_sample_with_branches_survives_the_disk() -> None:
    branches = [Answer("x", [1], FinishReason.stop), Answer("", [2, 3], FinishReason.length)]
    sample = Sample(Answer("", [], FinishReason.length), "sha", 3, 0.5, 4, branches=branches)
    back = Sample.from_json(sample.to_json())
    assert back == sample
    assert isinstance(back.answers[0].finish_reason, FinishReason)
    plain = Sample(Answer("t", [1], FinishReason.stop), "sha", 3, 0.5, 4)
    assert "branches" not in json.loads(plain.to_json())
    assert plain.answers == [Answer("t", [1], FinishReason.stop)]


# ---------------------------------------------------------------------------------------- on the
# command line

FAST = ("task=generate", "rope=rope_2d", "tracking=none")


@pytest.mark.thorough
def test_the_embedded_model_in_branches(runner: Run, tmp_path: Path) -> None:
    ask = "task.prompt=Ann has 3 apples. Ann buys 4 more. How many apples does Ann have now?"
    done = runner(
        *FAST, ask, 'task.branches=["Ann has 3","Then it\'s, at first, ",""]', "generation.max_new_tokens=24", "task.output=out.jsonl"
    )  # fmt: skip
    assert done.code == 0, done.err
    (line,) = [json.loads(text) for text in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert line["branches"] == ["Ann has 3", "Then it's, at first, ", ""]
    shown = [f"[branch {n}] {b}{c['text']}" for n, (b, c) in enumerate(zip(line["branches"], line["completions"], strict=True), 1)]  # fmt: skip
    assert done.out.startswith("\n\n".join(shown) + "\n\n")
    assert line["completions"][0]["text"].startswith("+4=7"), "it goes on where its branch began"
    write(tmp_path / "p.jsonl", {"prompt": ask.partition("=")[2], "branches": line["branches"]})
    again = runner(*FAST, "task.prompts=p.jsonl", "generation.max_new_tokens=24")
    assert "is already complete" in again.err, "the same prompts from a file are the same job"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["task.prompt=a", "task.branches=[b]", "rope=native"], "rope=native does not support branches"),
        (["task.prompt=a", "task.branches=[]"], "task.branches=[]: give a list with the beginning of each branch"),
        (["task.prompt=a", "task.branches=b"], "task.branches"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_message_and_exit_2(runner: Run, arguments: list[str], message: str) -> None:
    done = runner(*FAST, *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert "Traceback" not in done.err


@pytest.mark.thorough
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL], ids=["SIGINT", "SIGKILL"])
def test_interrupt_then_go_on(runner: Run, tmp_path: Path, sent: signal.Signals) -> None:
    write(
        tmp_path / "p.jsonl",
        *({"prompt": f"p{n}", "branches": ["a", "b", "c"][: n % 3 + 1]} for n in range(8)),
    )
    job = [*FAST, "model=stub", "task.prompts=p.jsonl", "task.output=out.jsonl"]
    slow = [*job, "model.delay_s=1"]  # so that it is not done before it is interrupted
    process = warm_process.popen(
        [sys.executable, "-m", "runner", *slow], cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    give_up_at = time.monotonic() + 90
    while _lines(tmp_path) < 2:
        assert time.monotonic() < give_up_at
        time.sleep(0.05)
    os.kill(process.pid, sent)
    assert process.wait(timeout=200) in (130, -signal.SIGKILL)
    kept = _lines(tmp_path)
    assert 2 <= kept < 8
    (file,) = tmp_path.glob("outputs/jobs/*/samples.jsonl")
    file.write_text(file.read_text()[:-9])  # and the last line was torn
    again = runner(*job)
    assert again.code == 0, again.err
    assert f"{kept - 1} of 8 samples come from an earlier" in again.out
    handed = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in handed] == [f"p{n}" for n in range(8)]
    assert [len(line["completions"]) for line in handed] == [n % 3 + 1 for n in range(8)]


def _lines(folder: Path) -> int:
    return sum(file.read_text().count("\n") for file in folder.glob("outputs/jobs/*/samples.jsonl"))
