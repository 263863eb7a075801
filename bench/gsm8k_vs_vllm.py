"""GSM8K compared with vLLM, OpenVINO, llama.cpp and others on one CPU: `python bench/gsm8k_vs_vllm.py [--rows 1 8]`.

So many concurrent questions, with the same token ids, the same number of new tokens, greedily, each run in a fresh
process and by turns; loading counts separately. vLLM's CPU build is in an environment of its own (`make vllm`); its
settings are the best of several, tried first. It loads for a minute or two, so one process answers all numbers of
questions of a round, with an empty prefix cache each time. `zentorch` is vLLM with AMD's plugin of that name, in an
environment below outputs/, where the processor is AMD's. llama.cpp is built from llama-cpp-python's source into an
environment below outputs/, and reads the same weights from a .gguf file that is written here; it takes part with few
questions (`--llamacpp-rows`). OpenVINO GenAI (continuous batching with a prefix cache, settings searched, too) is
installed below outputs/ and reads what optimum-intel converts there: weights as they are stored, or in 8 bits
(`openvino-int8`). `lmeval` is lm-evaluation-harness' HF backend and `generate` transformers' own, each with --batch
concurrent rows. A side that cannot be installed or fails has the reason in its line, and the others go on.
`--device cuda --sides runner generate` compares these two on a GPU.

`--overhead` compares model=vllm with a bare client of the same server, by turns: the same requests, so many at once.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from engines import (
    ROOT,
    Job,
    Outcome,
    answer_of,
    greedy,
    head_line,
    markdown,
    model_folder,
    run_counts,
    run_fresh,
    same_tokens,
    spread,
)
from gguf_of import gguf_of
from heading import parse_arguments
from other_engines import (
    VLLM_DEFAULTS,
    best_openvino,
    best_vllm,
    harness_python,
    llamacpp_python,
    openvino_python,
    openvino_settings,
    vllm_python,
    zentorch_python,
)
from questions import add_options, load_prompts

from runner.config.resolved import resolve_job
from runner.engines.kinds import get_model_kind
from runner.options.remote.server_connection import started_keys
from runner.options.remote.vllm.engine import VllmEngine
from runner.options.remote.vllm.keys import VllmConfig
from runner_base import Dtype, machine
from runner_engine.sessions.base import Request
from runner_engine.sessions.contract import complete_requests

SIDES = ("runner", "vllm", "zentorch", "openvino", "openvino-int8", "llamacpp", "lmeval", "generate")
LOAD_ONCE = ("vllm", "zentorch")  # a round; they load for longer than most runs take
FAILURES = (SystemExit, OSError, subprocess.CalledProcessError)


@dataclass
class Side:
    """An engine that takes part: how it is started, and what it reached."""

    name: str
    python: str
    job: Job
    rows: Sequence[int]  # how many questions at once, each number once
    outcomes: dict[int, list[Outcome]] = field(default_factory=dict)  # by rows, one for each round
    failure: str = ""

    def run(self, texts: Sequence[str], batch: int) -> None:
        """Run each number of questions once."""
        if self.name in LOAD_ONCE:
            for count, outcome in run_counts(self.job, self.rows, self.python).items():
                self.outcomes.setdefault(count, []).append(outcome)
            return
        for count in self.rows:
            fed = list(texts[:count]) if self.name == "lmeval" else self.job.prompts[:count]
            rows = min(batch, count) if self.name in ("lmeval", "generate") else None
            some = replace(self.job, prompts=fed, new_tokens=self.job.new_tokens[:count], rows=rows)
            self.outcomes.setdefault(count, []).append(run_fresh(some, self.python))


def line(side: str, runs: list[Outcome], ours: list[Outcome]) -> list[str]:
    """A side's figures: median (least..most)."""
    total = sum(map(len, runs[-1].tokens))
    times = [one.total_s / other.total_s for one, other in zip(runs, ours, strict=True)]
    late = "> " if runs[-1].notes == ["the time was up"] else ""
    return [
        side,
        late + spread([run.total_s for run in runs]),
        "1" if side == "runner" else late + spread(times, 2),
        f"{statistics.median(total / run.total_s for run in runs):,.0f}",
        f"{statistics.median(run.load_s for run in runs):.1f}",
        f"{statistics.median(run.peak_mib for run in runs):,.0f}",
        "" if side == "runner" else f"{same_tokens(ours[-1], runs[-1])} of {runs[-1].done}",
    ]


def line_of(side: Side, count: int, runner: Side) -> list[str]:
    """Return a side's figures, or why it has none."""
    runs, ours = side.outcomes.get(count, []), runner.outcomes[count]
    if runs:
        return line(side.name, runs, ours[: len(runs)])
    few = "left out by --llamacpp-rows"
    return [side.name, f"failed: {side.failure}" if side.failure else few, *[""] * 5]


def reason(error: BaseException) -> str:
    """Return the last line of what an error says."""
    return str(error).strip().splitlines()[-1].replace("|", "/")


def started(name: str, options: argparse.Namespace, folder: Path, job: Job) -> Side:
    """Return a side, its environment installed and its best settings found."""
    python, settings, tried = sys.executable, dict[str, object](), ""
    kind = "stream" if name == "runner" else name.removesuffix("-int8")
    most = max(options.rows)
    largest = replace(job, prompts=job.prompts[:most], new_tokens=job.new_tokens[:most])
    if name in ("vllm", "zentorch"):
        python = vllm_python() if name == "vllm" else zentorch_python(ROOT / "outputs" / ".zentorch")
        settings = VLLM_DEFAULTS
        if not options.no_search:
            settings, tried = best_vllm(largest, python, name)
    elif kind == "openvino":
        python = openvino_python(ROOT / "outputs" / ".openvino")
        weights = "int8" if name.endswith("int8") else "as-stored"
        settings = openvino_settings(folder, python, options.dtype, weights)
        if not options.no_search:
            settings, tried = best_openvino(largest, python, settings)
    elif name == "llamacpp":
        python = llamacpp_python(ROOT / "outputs" / ".llamacpp")
        settings = {"gguf": str(gguf_of(folder, options.dtype, ROOT / "outputs"))}
    elif name == "lmeval":
        python = harness_python(ROOT / "outputs" / ".lmeval")
    if tried:
        print(f"{tried}\n", flush=True)
    rows = [count for count in options.rows if name != "llamacpp" or count in options.llamacpp_rows]
    return Side(name, python, replace(job, kind=kind, settings=settings), rows)


def take_turns(sides: Sequence[Side], texts: Sequence[str], options: argparse.Namespace) -> None:
    """Run every side by turns, so many rounds; one that fails takes no part any more."""
    for turn in range(options.repeats):
        for side in sides:
            if side.failure:
                continue
            print(f"round {turn + 1} of {options.repeats}: {side.name}", file=sys.stderr, flush=True)
            try:
                side.run(texts, options.batch)
            except FAILURES as error:
                if side.name == "runner":
                    raise
                side.failure = reason(error)
                print(f"{side.name} failed:\n{error}", file=sys.stderr, flush=True)
    fed = {
        count: [some[-1] for side in sides if (some := side.outcomes.get(count))] for count in options.rows
    }
    for some in fed.values():
        if len({tuple(one.ids_sha256) for one in some}) > 1:
            raise SystemExit("the sides were fed different token ids: nothing can be compared")


def overhead(options: argparse.Namespace, folder: Path, prompts: list[list[int]]) -> None:
    """Let the runner and a bare client ask the same server by turns, and print how much longer the
    first takes."""
    keys = {"args": options.vllm_args, "concurrency": max(options.rows), "compare": False}
    model = VllmConfig(name=str(folder), dtype=Dtype(options.dtype), python=vllm_python(), **keys)
    requests = [
        Request(at, tuple(ids), max_new_tokens=options.new_tokens, ignore_eos=True)
        for at, ids in enumerate(prompts)
    ]
    config = greedy(model, max_new_tokens=options.new_tokens)
    engine = VllmEngine(resolve_job(config), get_model_kind(model).capabilities(config))
    tokens, sides = options.new_tokens * len(prompts), dict[str, list[Turn]]()
    try:
        engine.load()
        server = engine.model
        settings = {"url": server.base_url, "key": started_keys[str(server.base_url)], "model": server.name}
        settings |= {"concurrency": model.concurrency}
        for turn in range(options.repeats + 1):  # the first one fills the server's prefix cache
            for name in ("bare, streamed", "runner", "bare, whole answers"):
                before = processor_s(os.getpid())
                if name == "runner":
                    started, spent = time.perf_counter(), time.process_time()
                    failed = [one.error for one in complete_requests(engine, requests) if one.error]
                    took, spent = time.perf_counter() - started, time.process_time() - spent
                    if failed:
                        raise SystemExit(failed[0])
                else:
                    job = Job("vllm", str(folder), options.dtype, prompts, [options.new_tokens] * len(prompts), None,
                              settings=settings | {"stream": name == "bare, streamed"})  # fmt: skip
                    took, spent = answer_of(job, vllm_python(), None)
                if turn:
                    sides.setdefault(name, []).append(Turn(took, spent, processor_s(os.getpid()) - before))
    finally:
        engine.close()
    bare = sides["bare, streamed"]
    lines = [
        [
            name,
            spread([one.seconds for one in turns]),
            f"{tokens / statistics.median(one.seconds for one in turns):,.0f}",
            spread([100 * (one.seconds / other.seconds - 1) for one, other in zip(turns, bare, strict=True)], 1),
            spread([one.client_s for one in turns], 2),
            spread([one.server_s for one in turns], 1),
            spread([100 * (one.client_s - other.client_s) / other.server_s
                    for one, other in zip(turns, bare, strict=True)], 2),
        ]
        for name, turns in sides.items()
    ]  # fmt: skip
    head = [f"{len(prompts)} requests, {model.concurrency} at once, {options.repeats} turns", "s", "tokens/s"]
    head += ["% longer than bare, streamed", "processor s, client", "processor s, server"]
    print(markdown([*head, "% more than bare of the server's processor time"], lines))


@dataclass
class Turn:
    """What a client of a server took: seconds, and those of processors, which other work changes
    least."""

    seconds: float
    client_s: float
    server_s: float


def processor_s(ancestor: int) -> float:
    """Return the processor time of all that a process has started and that runs."""
    parents, times = dict[int, int](), dict[int, float]()
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            words = file.read_text().rpartition(")")[2].split()
            parents[int(file.parent.name)] = int(words[1])
            times[int(file.parent.name)] = (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def is_below(process: int) -> bool:
        parent = parents.get(process, 0)
        return parent == ancestor or (parent > 1 and is_below(parent))

    return sum(seconds for process, seconds in times.items() if is_below(process))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="random", help="random (a 135M Llama shape) or a FOLDER with a Llama"
    )
    add_options(parser)
    parser.set_defaults(repeats=2)
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[1, 8, 32, 128], help="how many questions at once"
    )
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["runner", "vllm", "llamacpp"])
    parser.add_argument("--batch", type=int, default=32, help="rows at once of lmeval and generate")
    parser.add_argument(
        "--llamacpp-rows", type=int, nargs="+", default=[1, 8], help="where llama.cpp takes part"
    )
    parser.add_argument(
        "--limit-s", type=float, default=300.0, help="llama.cpp and lm-eval begin nothing after this"
    )
    parser.add_argument(
        "--no-search", action="store_true", help="take the first settings of vLLM and OpenVINO"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of runner and generate")
    parser.add_argument(
        "--overhead", action="store_true", help="model=vllm against a bare client of its server"
    )
    parser.add_argument(
        "--vllm-args", nargs="*", default=["--enforce-eager"], help="of the server, with --overhead"
    )
    options = parse_arguments(parser)
    if options.device != "cpu" and (elsewhere := set(options.sides) - {"runner", "generate"}):
        raise SystemExit(
            f"--device {options.device}: only runner and generate can use it, not {', '.join(elsewhere)}"
        )
    if "runner" not in options.sides:
        raise SystemExit("--sides: the others are compared with runner, so it has to be among them")
    folder = model_folder(options.model)
    texts = load_prompts(options.gsm8k or "embedded", max(options.rows), options.shots)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = [tokenizer(text)["input_ids"] for text in texts]
    if options.overhead:
        print(
            f"### {options.model}, {options.dtype}\n\n{head_line(sys.argv, machine.count_available_cpu_cores())}\n",
            flush=True,
        )
        overhead(options, folder, prompts)
        return
    job = Job(
        "stream",
        str(folder),
        options.dtype,
        prompts,
        [options.new_tokens] * len(prompts),
        None,
        device=options.device,
    )
    # builds kernels
    trial = run_fresh(replace(job, prompts=prompts[:1], new_tokens=[2], threads=options.threads))
    job = replace(job, threads=trial.threads, limit_s=options.limit_s)
    how = f"{options.shots} worked examples, exactly {options.new_tokens} new tokens"
    print(f"### {options.model}, {options.dtype}: {how}")
    print(f"\n{head_line(sys.argv, trial.threads)}\n", flush=True)

    sides: list[Side] = []
    for name in options.sides:
        try:
            sides.append(started(name, options, folder, job))
        except FAILURES as error:
            sides.append(Side(name, "", job, [], failure=reason(error)))
    take_turns(sides, texts, options)
    runner = next(side for side in sides if side.name == "runner")
    for count in options.rows:
        head = [
            f"{count} question(s), {options.repeats} runs",
            "s, load left out",
            "x the runner",
            "tokens/s",
        ]
        lines = [line_of(side, count, runner) for side in sides]
        print(
            markdown([*head, "load, s", "peak MiB", "outputs as the runner's"], lines), end="\n\n", flush=True
        )
        share = statistics.median(run.matmul_fraction for run in runner.outcomes[count])
        print(
            f"The runner reached {share:.0%} of the machine's matrix rate, attention not counted as work.\n",
            flush=True,
        )


if __name__ == "__main__":
    main()
