"""model=api as a user sees it: jobs with a server that works, misbehaves or stops; one message
each; no secret printed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm_process
from api_standin import Api, Trouble, unreachable

from runner import compare
from runner.datasets.questions import load_questions
from runner.tasks.gsm8k.keys import Gsm8kConfig

pytestmark = pytest.mark.slow

Run = Callable[..., Any]
GOLD = {item.question: item.gold for item in load_questions(Gsm8kConfig(limit=40))}
KEY = "sk-very-secret-0123456789"
QUICK = (
    "model=api",
    "model.name=tiny",
    "model.backoff_s=0.01",
    "model.first_token_timeout_s=1",
    "tracking=none",
)


def solve(body: dict[str, Any]) -> str:
    """Return the right answer to a word problem of the embedded set."""
    question = str(body["messages"][-1]["content"]).split("\n\n")[0]
    return f"Let me think. #### {GOLD[question]}"


def lines(folder: Path) -> list[dict[str, Any]]:
    (samples,) = folder.glob("outputs/jobs/*/samples.jsonl")
    complete = samples.read_text().rpartition("\n")[0]  # the last line may be incomplete
    return [json.loads(line) for line in complete.splitlines()]


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=api"], "model=api needs the server's address, model.base_url=http://HOST:PORT/v1, and a model that it serves, model.name=NAME. Set the API key API_KEY in the environment or in .env"),
        (["model.name=", "model.base_url=http://127.0.0.1:1/v1"], "model=api needs a model that the server serves, model.name=NAME. Set the API key API_KEY"),
        (["model.base_url="], "model=api needs the server's address, model.base_url=http://HOST:PORT/v1. Set the API key API_KEY"),
        (["model.base_url=https://u:pass@h:8443/v1"], "model.base_url=https://h:8443/v1: an address must not contain a password, a query or #, because configs and logs show it. Put the server's key into API_KEY"),
        (["model.base_url=https://h/v1?api-key=pass"], "model.base_url=https://h/v1: an address must not contain a password, a query or #"),
        (["model.base_url=localhost:8000"], "model.base_url=localhost:8000: not an address. Give one such as http://127.0.0.1:8000/v1"),
        (["model.base_url=https://api.example.com/v1"], "model.base_url=https://api.example.com/v1 is another machine, so an API key is required. Set API_KEY in"),
        (["model.key_variable=sk-abc"], "model.key_variable=***: give the name of an environment variable"),
        (["quantization=nf4"], "quantization=nf4: model=api cannot change the weights on the server: use quantization=none"),
        (["rope=rope_2d"], "rope=rope_2d: model=api cannot change the weights on the server"),
        (["generation=sampling", "model.extensions=openai"], "generation.top_k=50 and generation.repetition_penalty=1.1: OpenAI's API does not support this parameter. Use generation.top_k=null generation.repetition_penalty=null. If the server is vLLM or task=serve, use model.extensions=vllm"),
        (["generation.batch_size=9"], "generation.batch_size=9: the batch size exceeds model.concurrency=8"),
        (["model.price_in=1"], "model.price_out=None: set both price_in and price_out, or neither"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_wrong_settings_are_one_message(
    runner: Run, arguments: list[str], message: str, tmp_path: Path
) -> None:
    common = ["model.base_url=http://127.0.0.1:1/v1", *QUICK] if arguments != ["model=api"] else []
    done = runner(*common, *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert "pass@" not in done.err
    assert "=pass" not in done.err
    assert not (tmp_path / "outputs" / "jobs").exists()


def test_a_wrong_key_is_one_error_and_no_second_try(runner: Run, tmp_path: Path) -> None:
    with Api(solve, key=KEY) as api:
        done = runner(*QUICK, f"model.base_url={api.url}", API_KEY="sk-wrong-key-987654321")
    assert done.code == 2
    assert (
        "answered 401: Incorrect API key provided: Bearer *** (the server rejected the key in API_KEY)"
        in done.err
    )
    assert done.err.count("\n") == 1
    assert api.seen == []
    assert not (tmp_path / "outputs" / "jobs").exists()


def test_an_unknown_model_is_named_with_the_known_ones(runner: Run) -> None:
    with Api(solve) as api:
        done = runner(*QUICK, f"model.base_url={api.url}", "model.name=tinny", "task.limit=3")
    assert done.code == 2
    assert "answered 404: The model `tinny` does not exist.; models: tiny" in done.err
    assert len(api.seen) <= 3


@pytest.mark.thorough
def test_an_unreachable_server_is_one_error(runner: Run) -> None:
    with unreachable() as url:
        done = runner(*QUICK, f"model.base_url={url}")
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith(f"error: {url} cannot be reached (")
    assert "Run the same command to resume" in done.err
    assert "Traceback" not in done.err


@pytest.mark.thorough
def test_several_answers_to_a_question_are_one_request(runner: Run, tmp_path: Path) -> None:
    with Api(solve) as api:
        common = (
            *QUICK,
            f"model.base_url={api.url}",
            "task.samples=3",
            "generation.temperature=0.7",
            "print=json",
        )
        done = runner(*common, "task.limit=4", "task.check_invariance=1")
        assert done.code == 0, done.err
        assert [body["n"] for body in api.seen] == [3] * 5
        assert [len(line["choices"]) for line in lines(tmp_path)] == [3] * 4
        smaller = runner(*common, "task.limit=2")
        assert smaller.code == 0, smaller.err
        assert len(api.seen) == 5, "the answers of the larger job are reused"
    metrics = done.json()["metrics"]
    assert (metrics["accuracy"], metrics["pass_at_k/1"], metrics["maj_at_k/2"], metrics["asked_again"]) == (
        1,
        1,
        1,
        1,
    )
    assert "double_bos" not in metrics, "only the server knows which tokens a prompt has"
    assert smaller.json()["metrics"]["accuracy"] == 1


def test_gsm8k_over_a_server_that_misbehaves(runner: Run, tmp_path: Path) -> None:
    # a page before any stream would mean that the address is wrong, so it comes last
    kinds = ["cut", "malformed", "reset", "odd", "error_event", "endless", "stall", "html"]
    with Api(solve) as api:
        for kind in kinds:
            api.troubles.extend([Trouble("status", 429), Trouble(kind), Trouble("status", 500)])
        api.troubles.extend([Trouble("status", 429, {"Retry-After": "0.2"})] * 5)
        done = runner(
            *QUICK,
            f"model.base_url={api.url}",
            "task.limit=40",
            "print=json",
            "model.price_in=1",
            "model.price_out=2",
        )
    assert done.code == 0, done.err
    metrics = done.json()["metrics"]
    assert (metrics["accuracy"], metrics["n"], metrics["errors"]) == (1.0, 40, 0)
    assert Counter(line["index"] for line in lines(tmp_path)) == Counter(range(40)), "nothing is duplicated"
    assert len(api.answered) == 40
    assert len(set(api.answered)) == 40
    assert len(api.seen) == 40 + 3 * len(kinds) + 5
    tokens = sum(len(solve({"messages": [{"content": prompt}]}).split(" ")) for prompt in api.answered)
    assert metrics["new_tokens"] == tokens
    assert metrics["cost_usd"] == pytest.approx((metrics["prompt_tokens"] + 2 * tokens) / 1e6)
    assert "prefill_tok_per_s" not in metrics, "a prefill cannot be measured from outside"
    (record,) = tmp_path.glob("outputs/jobs/*/result.json")
    result = json.loads(record.read_text())["result"]
    assert result["facts"]["reported_model"] == "id tiny, root /models/tiny-v1"
    assert result["facts"]["answered_by"] == "tiny-2026-11 40"
    assert json.loads(result["facts"]["sent"])["max_tokens"] == 256
    notes = "\n".join(result["notes"])
    assert "cannot be hashed" in notes
    assert "29 requests were repeated: the server 13 × answered 429" in notes


@pytest.mark.thorough
@pytest.mark.slow
def test_an_interrupted_job_resumes(runner: Run, tmp_path: Path) -> None:
    with Api(solve) as api:
        api.delay_s = 0.02
        command = [sys.executable, "-m", "runner", *QUICK, f"model.base_url={api.url}", "task.limit=40"]
        process = warm_process.popen(
            [*command, "model.concurrency=2"], cwd=tmp_path, stderr=subprocess.DEVNULL
        )
        while len(api.answered) < 10:
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
        process.wait()
        kept = len(lines(tmp_path))
        assert 5 < kept < 40
        api.delay_s, port, url = 0.0, api.port, api.url
    unreached = runner(*QUICK, f"model.base_url={url}", "task.limit=40")
    assert unreached.code == 1
    assert "cannot be reached" in unreached.err.splitlines()[-1]
    assert len(lines(tmp_path)) == kept, "no line without an answer"
    again = Api(solve)
    again.port = port
    with again as api:
        done = runner(*QUICK, f"model.base_url={api.url}", "task.limit=40", "print=json")
        assert done.code == 0, done.err
        assert done.json()["metrics"]["accuracy"] == 1.0
        assert len(api.seen) == 40 - kept, "nothing is asked again"
        assert sorted(line["index"] for line in lines(tmp_path)) == list(range(40))
    recorded = runner(*QUICK, f"model.base_url={url}", "task.limit=40", "print=json")
    assert recorded.code == 0, "a recorded result needs no server"
    assert "is already complete" in recorded.err


@pytest.mark.thorough
@pytest.mark.parametrize("ends", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_it(tmp_path: Path, ends: signal.Signals) -> None:
    with Api(solve) as api:
        api.delay_s = 0.5
        command = [sys.executable, "-m", "runner", *QUICK, f"model.base_url={api.url}", "task.limit=40"]
        with warm_process.popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
            while not list(tmp_path.glob("outputs/jobs/*/samples.jsonl")) or len(lines(tmp_path)) < 3:
                assert process.poll() is None
                time.sleep(0.02)
            process.send_signal(ends)
            assert process.stderr is not None
            printed = process.stderr.read()
    assert process.wait() == 130
    said = re.fullmatch(
        r"(?:.* sent nothing for 1 s: .*\n)*"  # on a busy machine
        r"interrupted: (\d+) kept(?:, \d+ unfinished will be asked again)?, run the same command to resume\n",
        printed,
    )
    assert said is not None, printed
    assert int(said[1]) == len(lines(tmp_path))
    assert len(lines(tmp_path)) >= 3


@pytest.mark.thorough
def test_another_model_behind_the_name_is_another_job(runner: Run, tmp_path: Path) -> None:
    with Api(solve) as api:
        job = (*QUICK, f"model.base_url={api.url}", "task.limit=2", "print=json")
        first = runner(*job).json()
        assert runner(*job).json()["job_id"] == first["job_id"]
        assert len(api.seen) == 2
        api.models = [{"id": "tiny", "root": "/models/tiny-v2"}]
        assert runner(*job).json()["job_id"] != first["job_id"]
        assert runner(*job, "model.concurrency=3", "model.retries=1", "plan=true").code == 0
    assert len(api.seen) == 4


@pytest.mark.thorough
def test_a_change_of_model_during_a_job_is_reported(runner: Run) -> None:
    with Api(solve) as api:
        job = (*QUICK, f"model.base_url={api.url}", "task.limit=4", "model.retries=0")
        api.troubles.append(Trouble("status", 400))
        assert runner(*job).code == 1
        api.reports = "tiny-2026-12"
        done = runner(*job)
    assert done.code == 0, done.err
    assert "the server switched to another model during the job: tiny-2026-11 3, tiny-2026-12 1" in " ".join(
        done.out.split()
    )


@pytest.mark.thorough
@pytest.mark.slow
def test_generate_and_sweep(runner: Run, tmp_path: Path) -> None:
    with Api() as api:
        one = runner(*QUICK, f"model.base_url={api.url}", "task=generate", "task.prompt=Hello, you")
        assert one.out.startswith("I heard Hello, you\n")
        api.answer = lambda body: " ".join(["word"] * 100)
        vllm = (
            *QUICK,
            f"model.base_url={api.url}",
            "model.extensions=vllm",
            "task=sweep",
            "task.batch_sizes=[1,4]",
        )
        swept = runner(*vllm, "task.new_tokens=5", "print=json", "task.prompt_tokens=[8]")
        assert swept.code == 0, swept.err
        metrics = swept.json()["metrics"]
        assert metrics["best_output_tok_per_s"] > 0
        assert metrics["ttft_s/batch_4_prompt_8"] > 0
        assert not [key for key in metrics if "prefill" in key or "decode" in key]
        assert all(len(body["prompt"]) == 8 and body["ignore_eos"] for body in api.seen[1:])
        api.answer = lambda body: "short"
        short = runner(*vllm, "task.new_tokens=6")
        assert short.code == 1
        assert "an answer had 1 tokens instead of 6" in short.err
        large = runner(*vllm, "task.batch_sizes=[9]")
        assert large.code == 2
        assert "model.concurrency=8: a batch of 9 requests exceeds this limit" in large.err
        refused = runner(*QUICK, f"model.base_url={api.url}", "task=memory")
        assert refused.code == 2
        assert "task=memory needs answers of a fixed length, memory on this machine" in refused.err


@pytest.mark.thorough
@pytest.mark.slow
def test_a_grid(runner: Run, tmp_path: Path) -> None:
    with Api(solve) as api:
        done = runner(
            *QUICK, f"model.base_url={api.url}", "-m", "task.limit=2", "generation.max_new_tokens=8,16,32"
        )
    assert done.code == 0, done.err
    assert len(api.seen) == 6


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
def test_a_grid_of_sweeps_shows_latency_and_speed(
    runner: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Api(lambda body: " ".join(["word"] * 100)) as api:
        sweep = (
            "model=api",
            "model.name=tiny",
            f"model.base_url={api.url}",
            "model.extensions=vllm",
            "task=sweep",
        )
        small = ("task.batch_sizes=[1]", "task.prompt_tokens=[4]", "task.warmup=0", "task.repeats=2")
        done = runner("-m", *sweep, *small, "task.new_tokens=[3],[5]", COLUMNS="250")
    assert done.code == 0, done.err
    assert re.search(r"best output tok/s +best time to first token s +seconds", done.out)
    rows = [line for line in done.out.splitlines() if " finished  " in line]
    assert len(rows) == 2
    assert all(re.search(r"finished +[\d,]+ +0\.\d+ +[\d,.]+", row) for row in rows), rows
    assert len(re.findall(r"\] task.new_tokens=\[[35]\] +at most [\d,]+ tok/s", done.err)) == 2
    monkeypatch.setenv("COLUMNS", "250")
    assert compare.main(["--output-dir", str(tmp_path / "outputs")]) == 0
    table = capsys.readouterr().out
    assert re.search(r"best_output_tok_per_s +best_ttft_s +best_batch_size", table), table


@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.parametrize("tracking", ["none", "sqlite"])
def test_a_job_with_a_server_imports_no_torch(
    tmp_path: Path, tracking: str, new_database: Callable[[Path], None]
) -> None:
    new_database(tmp_path / "outputs" / "mlflow.db")
    with Api(solve) as api:
        arguments = ["runner", *QUICK, f"model.base_url={api.url}", "task.limit=2", f"tracking={tracking}"]
        program = (
            "import atexit, sys\n"
            "atexit.register(lambda: print('TORCH', 'torch' in sys.modules, 'transformers' in sys.modules))\n"
            f"sys.argv = {arguments!r}\n"
            "from runner.__main__ import entry; entry()"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert "TORCH False False" in done.stdout


@pytest.mark.thorough
@pytest.mark.slow
def test_the_key_is_nowhere(runner: Run, tmp_path: Path) -> None:
    """No output and no file of a job contains the key, even if the server sends it back."""
    printed = ""

    def run(*arguments: str, key: str = KEY) -> int:
        nonlocal printed
        done = runner("model=api", "model.name=tiny", "model.backoff_s=0.01", *arguments, API_KEY=key)
        printed += done.out + done.err
        return int(done.code)

    with Api(solve, key=KEY) as api:
        url = f"model.base_url={api.url}"
        assert run(url, "task.limit=3", "hydra.verbose=true") == 0
        assert run(url, "-m", "task.limit=1,2", "print=json") == 0
        assert run(url, "task.limit=3", "--cfg", "job", "--resolve") == 0
        api.answer, api.reports = ((lambda body: f"That is Bearer {KEY}, or {KEY} alone."), f"tiny of {KEY}")
        assert (
            run(url, "task.limit=2", "generation.max_new_tokens=9", "model.price_in=1", "model.price_out=1")
            == 0
        )
        api.always = Trouble("status", 400, message=f"what is Bearer {KEY}?")
        assert run(url, "task.limit=4") == 1
        api.always = Trouble("status", 500, {"Retry-After": KEY}, message=f"what is Bearer {KEY}?")
        assert run(url, "task.limit=5", "model.retries=1") == 1
        api.always = Trouble("error_event", message=KEY)
        assert run(url, "task.limit=6", "model.retries=1") == 1
        api.key = "another"
        assert run(url, "task.limit=7") == 2
    assert run(url, "task.limit=8") == 1, "no server"
    assert run(url, key=f"{KEY}\nX-Evil: 1") == 2
    assert run(url, key=f"{KEY}é") == 2
    assert run(f"model.base_url=http://me:{KEY}@127.0.0.1:1/v1") == 2
    assert run(f"model.base_url=http://127.0.0.1:1/v1/?key={KEY}") == 2
    assert run(url, f"model.key_variable={KEY}") == 2
    assert "***" in printed
    assert KEY not in printed
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 15
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
