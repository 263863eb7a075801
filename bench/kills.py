"""Kill and interrupt real jobs at random moments, resume each until it is done, and compare with an undisturbed run.

    python bench/kills.py --kills 200 --real-model FOLDER
    python bench/kills.py --kills 20 --llama-cpp FILE.gguf --only llama.cpp
    python bench/kills.py --kills 20 --vllm embedded --only vllm

Signals: SIGINT, SIGTERM, SIGUSR1 (Slurm's warning), SIGINT twice, SIGKILL. After each, no more may have been shown as
done than is on disk; at the end, no line of an earlier start may have changed, no sample may be there twice, and all
answers must be those of the undisturbed run. The processes start warm (tests/support/warm_process.py). With
--llama-cpp, the server of llama.cpp is killed, too (`make llama_cpp` installs it): then the job fails, and is resumed.
With --vllm, one of the processes of vLLM's server is killed while it answers (`make vllm` installs it).
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))
import warm_process  # noqa: E402
from heading import parse_arguments  # noqa: E402

KINDS = {
    "interrupt": (signal.SIGINT,),
    "terminate": (signal.SIGTERM,),
    "Slurm's warning": (signal.SIGUSR1,),
    "interrupt twice": (signal.SIGINT, signal.SIGINT),
    "kill": (signal.SIGKILL,),
}
SERVER = "kill of the server"
VLLM_READY = "Application startup complete"  # in its log
VLLM_PROCESSES = ("API server", "engine core", "worker")  # each has spawned the next
BETWEEN_S = 0.3  # two signals; closer ones count as one
LONGEST_S = 300.0
LONGEST_VLLM_S = 1200.0  # its start alone takes a minute of a busy machine
MAX_NEW_ANSWERS, MAX_DELAY_S = 9, 1.0  # before vLLM is killed
ANSWER = (
    "index",
    "text",
    "token_ids",
    "finish_reason",
    "verdict",
    "extracted",
    "choices",
    "likelihood",
    "error",
)
SAMPLED = ["generation=sampling"]
TASKS = {
    "gsm8k": ["task=gsm8k", "task.limit=16", "generation.max_new_tokens=48"],
    "gsm8k sampled": ["task=gsm8k", "task.limit=8", "task.samples=2", *SAMPLED, "generation.max_new_tokens=48"],
    "agents": ["task=agents", "task.limit=4", "generation.max_new_tokens=32"],
    "likelihood": ["task=likelihood", "task.limit=48"],
    "generate": ["task=generate", *SAMPLED, "generation.max_new_tokens=64"],
}  # fmt: skip
EMBEDDED = {"agents": ["lora=embedded_team", "task.domain=brief"]}


@dataclass
class Case:
    """One job, which is killed again and again."""

    name: str
    words: list[str]
    server_option: str = ""  # in the command line of its server, if it has one
    is_killed_while_answering: bool = False  # its server only, and not while it starts
    longest_s: float = LONGEST_S
    seconds: float = 0.0  # of the undisturbed run
    answers: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Seen:
    """What a process has written to its terminal."""

    text: str = ""

    def shown(self, total: int) -> int:
        """Return the largest count of done samples that the progress bar has shown."""
        return max((int(done) for done in re.findall(rf"(?<![\d/])(\d+)/{total}\b", self.text)), default=0)


def start(words: list[str], folder: Path) -> tuple[Any, Seen, threading.Thread]:
    """Start a job with a terminal, on which it shows its progress."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "runner", *words, "tracking=none", "print=none", f"output_dir={folder}"]
    process = warm_process.popen(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs,
        env=os.environ | {"COLUMNS": "200", "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    seen = Seen()

    def read() -> None:
        try:
            while data := os.read(ours, 65536):
                seen.text += data.decode(errors="replace")
        except OSError:  # the process has ended
            pass
        os.close(ours)

    thread = threading.Thread(target=read)
    thread.start()
    return process, seen, thread


def lines_of(folder: Path, name: str) -> list[str]:
    """Return the whole lines of a file of the only job in a folder."""
    job = next((folder / "jobs").glob("*-*"), None)
    path = None if job is None else job / name
    text = path.read_text() if path is not None and path.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def answers_of(lines: list[str]) -> list[dict[str, Any]]:
    """Return what a job has answered, in the order of its questions."""
    found = [{key: value for key, value in json.loads(line).items() if key in ANSWER} for line in lines]
    return sorted(found, key=lambda it: int(it["index"]))


def undisturbed(case: Case, folder: Path) -> None:
    """Run the job to its end."""
    started = time.perf_counter()
    process, seen, thread = start(case.words, folder)
    code = process.wait(timeout=case.longest_s)
    thread.join()
    case.seconds = time.perf_counter() - started
    case.answers = answers_of(lines_of(folder, "samples.jsonl"))
    assert code == 0, seen.text


def disturbed(case: Case, folder: Path, rng: random.Random, said: Counter[str], max_kills: int) -> int:
    """Kill the job at random moments until it is done; return how often it was killed."""
    kills, before = 0, dict[str, list[str]]()
    total = len(case.answers)
    while True:
        num_starts = _count_starts(folder)
        process, seen, thread = start(case.words, folder)
        if case.is_killed_while_answering:
            num_answers = len(before.get("samples.jsonl", [])) + rng.randint(0, MAX_NEW_ANSWERS)
            wait_s, killed_process = rng.uniform(0, MAX_DELAY_S), ""
            if kills < max_kills and _wait_for_answers(process, folder, num_starts + 1, num_answers):
                time.sleep(wait_s)
                killed_process = _kill_any(servers_of(process.pid, case.server_option), rng)
            code = process.wait(timeout=case.longest_s)
            kind = f"{SERVER}: {killed_process}"
        else:
            kind = rng.choice([*KINDS, *([SERVER] * 3 if case.server_option else [])])
            # others may slow the machine down meanwhile
            wait_s = rng.uniform(0.05, 0.95) * case.seconds * (1 + kills / 4)
            try:
                code = process.wait(timeout=wait_s if kills < max_kills else case.longest_s)
            except subprocess.TimeoutExpired:
                for pid in servers_of(process.pid, case.server_option) if kind == SERVER else ():
                    os.kill(pid, signal.SIGKILL)
                for number, sent in enumerate(KINDS.get(kind, ())):
                    time.sleep(BETWEEN_S * bool(number))
                    if process.poll() is None:
                        process.send_signal(sent)
                code = process.wait(timeout=case.longest_s)
        thread.join()
        after = {name: lines_of(folder, name) for name in ("samples.jsonl", "calls.jsonl")}
        where = f"{case.name}, {kind} after {wait_s:.1f} s:\n{seen.text[-2000:]}"
        for name, lines in before.items():
            assert after[name][: len(lines)] == lines, f"{name} has lost or changed lines: {where}"
        assert len({json.loads(line)["index"] for line in after["samples.jsonl"]}) == len(
            after["samples.jsonl"]
        ), where
        asked = [json.loads(line) for line in after["calls.jsonl"]]
        calls = [call["id"] for call in asked if "code" not in call]
        assert len({*calls}) == len(calls), f"a recorded call was asked again: {where}"
        assert seen.shown(total) <= len(after["samples.jsonl"]), f"more was shown than is on disk: {where}"
        before = after
        if code == 0:
            break
        expected = (130, -signal.SIGKILL, -signal.SIGINT, -signal.SIGTERM, -signal.SIGUSR1)
        assert code in (*expected, *([1] if kind.startswith(SERVER) else [])), where
        kills += 1
        said[kind] += 1
        if case.is_killed_while_answering:
            done, open_ones = len(after["samples.jsonl"]), total - len(after["samples.jsonl"])
            print(f"  {kind}, {done} of {total} answered, {open_ones} left", flush=True)
        if kept := re.findall(r"interrupted: .*", seen.text):
            kept_words = re.sub(r"\d+", "N", kept[-1]).strip()
            said[f"  {kept_words}"] += 1
    for seen_again, first in zip(answers_of(before["samples.jsonl"]), case.answers, strict=True):
        assert seen_again == first, f"{case.name}: {seen_again}\nundisturbed: {first}\n{folder}"
    assert not lines_of(folder, "partial.jsonl")
    return kills


def _count_starts(folder: Path) -> int:
    """Return how often vLLM has started for the job in a folder."""
    return sum(VLLM_READY in line for line in lines_of(folder, "vllm.log"))


def _wait_for_answers(process: Any, folder: Path, num_starts: int, num_answers: int) -> bool:
    """Wait until vLLM has started so often and so many answers are on disk; False if the job has
    ended."""
    while process.poll() is None:
        if _count_starts(folder) >= num_starts and len(lines_of(folder, "samples.jsonl")) >= num_answers:
            return True
        time.sleep(0.05)
    return False


def _kill_any(pids: list[int], rng: random.Random) -> str:
    """Kill one of a server's processes with SIGKILL and return which one."""
    if not pids:
        return ""
    at = rng.randrange(len(pids))
    os.kill(pids[at], signal.SIGKILL)
    return VLLM_PROCESSES[min(at, len(VLLM_PROCESSES) - 1)]


def servers_of(parent: int, option: str) -> list[int]:
    """Return the processes below a job's that serve a model, each before those that it has
    spawned."""
    parents = dict[int, int]()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    servers = [pid for pid in _descendants(parent, parents) if option in _command(pid)]
    below = [child for server in servers for child in _descendants(server, parents)]
    return servers + [pid for pid in below if "spawn_main" in " ".join(_command(pid))]


def _descendants(parent: int, parents: dict[int, int]) -> list[int]:
    found = [parent]
    for pid in found:
        found += [child for child, owner in parents.items() if owner == pid]
    return found[1:]


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return [""]


def cases(real_model: str | None, llama_cpp: str | None, vllm: str | None, prompts: Path) -> list[Case]:
    """Return the jobs: each task with the embedded model and the real one, one each with llama.cpp and vLLM."""
    found = []
    for name, words in TASKS.items():
        given = [*words, *([f"task.prompts={prompts}"] if name == "generate" else [])]
        found.append(Case(f"{name}, embedded", [*given, *EMBEDDED.get(name, [])]))
        if real_model:
            # one thread: on a busy machine, several wait for each other
            real = ["model=local", f"model.name={real_model}", "model.threads=1"]
            found.append(Case(f"{name}, real", [*given, *real]))
        if llama_cpp and name == "gsm8k":
            served = [
                "model=llama_cpp",
                f"model.name={llama_cpp}",
                "model.threads=1",
                "model.parallel=1",
                "model.compare=false",
                f"model.python={ROOT / '.llama_cpp'}",
            ]
            found.append(Case(f"{name}, llama.cpp", [*given, *served], "--alias"))
    if vllm:
        served = [
            "task=gsm8k",
            "task.limit=200",
            "generation.max_new_tokens=48",
            "model=vllm",
            f"model.name={vllm}",
            "model.dtype=float32",
            "model.concurrency=4",
            "model.compare=false",
            "model.args=[--enforce-eager]",
            f"model.python={ROOT / '.vllm'}",
        ]
        found.append(Case("gsm8k, vllm", served, "--served-model-name", True, LONGEST_VLLM_S))
    return found


def main() -> None:
    """Kill so many times, in turn for each job."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--real-model", help="a model folder; without it, the embedded model only")
    parser.add_argument("--llama-cpp", help="a .gguf file that llama.cpp runs")
    parser.add_argument("--vllm", help="a model that vLLM runs: a folder, or embedded")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="jobs whose name contains this")
    options = parse_arguments(parser)
    rng, said, total = random.Random(options.seed), Counter[str](), 0
    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        prompts = Path(place, "prompts.txt")
        prompts.write_text(
            "".join(f"Write a short story about {number} cats and a dog.\n" for number in range(2, 14))
        )
        jobs, of_case = (
            [
                it
                for it in cases(options.real_model, options.llama_cpp, options.vllm, prompts)
                if options.only in it.name
            ],
            Counter[str](),
        )
        # the first one once more: it has waited for the imports, which the time until a kill must not have
        warming = [] if jobs[0].is_killed_while_answering else jobs[:1]
        for number, case in enumerate([*warming, *jobs]):
            folder = Path(place, f"undisturbed-{number}")
            folder.mkdir()
            undisturbed(case, folder)
            print(f"{case.name}: {len(case.answers)} samples in {case.seconds:.1f} s", flush=True)
        chain = 0
        while total < options.kills:
            case = min(jobs, key=lambda it: of_case[it.name])
            folder, chain = Path(place, f"disturbed-{chain}"), chain + 1
            folder.mkdir()
            killed = disturbed(case, folder, rng, said, options.kills - total)
            of_case[case.name] += max(killed, 1)
            total += killed
            print(f"{case.name}: {killed} kills, the same answers ({total} in all)", flush=True)
    print(f"{total} kills: nothing that was shown as done was asked again, all answers as undisturbed")
    for words, count in sorted(said.items()):
        print(f"{count:5d}  {words}")


if __name__ == "__main__":
    main()
