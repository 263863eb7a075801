"""How long do commands take to start? `python bench/startup.py [--model FILE.gguf|FOLDER] [--other TREE]`.

Without a model: `--help` and `--cfg job`, compared with the smallest possible Hydra program (one config file, one key).
With one: a whole process that generates 50 tokens, with the parts of its time; `task=chat` to its first token, and
`task=serve` until /health answers. Cold is the first process with an empty cache, in which only the kernels are
built; each job has a new output folder. `--other` is another state of the program, and `--llama` a Python with the
package xllamacpp, whose whole process loads the same file and generates as many tokens.

Whole processes, interleaved round by round so that a busy machine affects all equally; the median of each is printed
with its spread. Processor seconds are those of a process and all that it started.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from heading import parse_arguments
from latest import Figure, add_option, save

BARE = """
import hydra
@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(config):
    pass
main()
"""
PROMPT = "Write a long story about a cat who travels by train through the Alps."
LLAMA = Path(__file__).with_name("xllamacpp_chat_side.py")
Measured = tuple[float, float, dict[str, float]]  # seconds, processor seconds, seconds of parts


def quick_commands(rounds: int) -> list[Figure]:
    """Measure commands that load nothing, print, and return our figures."""
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE)
        (Path(folder) / "config.yaml").write_text("key: 1\n")
        runner = [sys.executable, "-m", "runner"]
        commands = {
            "bare Hydra --cfg job": [sys.executable, str(bare), "--cfg", "job"],
            "runner --cfg job": [*runner, "--cfg", "job"],
            "bare Hydra --help": [sys.executable, str(bare), "--help"],
            "runner --help": [*runner, "--help"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for counted in [False] + [True] * rounds:
            for name, command in commands.items():
                started = time.perf_counter()
                subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
                if counted:
                    seconds[name].append(time.perf_counter() - started)
    print(f"python bench/startup.py --rounds {rounds}   (whole processes, interleaved, 1 warm-up round)")
    print(f"{'command':24} {'median_s':>9} {'min_s':>7} {'max_s':>7} {'x bare':>7}")
    for name, times in seconds.items():
        bare_median = statistics.median(seconds[name.replace("runner", "bare Hydra")])
        median = statistics.median(times)
        print(f"{name:24} {median:9.3f} {min(times):7.3f} {max(times):7.3f} {median / bare_median:7.2f}")
    ours = (name for name in commands if name.startswith("runner"))
    return [Figure.of("whole commands", "s", seconds[name], name, 3) for name in ours]


class Side:
    """One state of the program, and how its commands are measured."""

    def __init__(self, tree: Path, model: str, tokens: int, folder: Path) -> None:
        self.tree, self.tokens, self.folder = tree, tokens, folder
        choices = (
            [f"model.name={model}", "quantization=gguf"]
            if model.endswith(".gguf")
            else [f"model.name={model}"]
        )
        self.keys = [
            "model=local",
            *choices,
            "generation.speculate=off",
            f"generation.max_new_tokens={tokens}",
        ]
        self.cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "runner"
        python = tree / ".venv/bin/python"
        self.python = str(python if python.is_file() else sys.executable)

    def measured(self, task: str, is_cold: bool) -> Measured:
        """Run a task's command in a new output folder; cold: with an empty cache but for the
        kernels."""
        out, parts = self.folder / "out", self.folder / "parts.json"
        shutil.rmtree(out, ignore_errors=True)
        environment = os.environ | {"PYTHONPATH": str(self.tree)}
        if is_cold:
            cold = self.folder / "cold"
            shutil.rmtree(cold, ignore_errors=True)
            (cold / "runner").mkdir(parents=True)
            for file in self.cache.glob("kernels-*"):
                shutil.copy2(file, cold / "runner")
            environment["XDG_CACHE_HOME"] = str(cold)
        prompts = self.folder / "prompts.jsonl"
        prompts.write_text(json.dumps({"prompt": PROMPT}) + "\n")
        # knows this tree's modules
        keys, side = ([*self.keys, f"output_dir={out}"], self.tree / "bench/startup_side.py")
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        if task == "generate":
            command = [self.python, str(side), str(parts), "task=generate", f"task.prompts={prompts}", *keys]
            subprocess.run(command, env=environment, check=True, capture_output=True, cwd=self.folder)
            took = time.perf_counter() - started
        else:
            until = self._first_token if task == "chat" else self._health
            took = until([self.python, "-m", "runner", f"task={task}", *keys], environment, started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        if task != "generate":
            return took, spent, {}
        found: dict[str, float] = json.loads(parts.read_text())
        return took, spent, found | {"python's start and end": took - sum(found.values())}

    def _first_token(self, command: list[str], environment: dict[str, str], started: float) -> float:
        """Return when the first letter of an answer is printed."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, env=environment, cwd=self.folder, **pipes) as process:  # type: ignore[call-overload]
            process.stdin.write(PROMPT.encode() + b"\n")
            process.stdin.close()
            while process.stdout.read(1).isspace():
                pass
            took = time.perf_counter() - started
            process.stdout.read()
        return took

    def _health(self, command: list[str], environment: dict[str, str], started: float) -> float:
        """Return when the server answers that it is healthy."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        quiet = subprocess.DEVNULL
        command = [*command, f"task.port={port}"]
        with subprocess.Popen(
            command, env=environment, cwd=self.folder, stdout=quiet, stderr=quiet
        ) as process:
            while process.poll() is None:
                with (
                    suppress(OSError),
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer,
                ):
                    if answer.status == 200:
                        break
                time.sleep(0.02)
            took = time.perf_counter() - started
            process.terminate()
        return took


def llama(python: str, model: str, tokens: int) -> Measured:
    """Return what llama.cpp takes for the same, as a whole process."""
    command = [python, str(LLAMA), model, str(tokens), str(os.cpu_count()), PROMPT]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    took, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, {}


def jobs(arguments: argparse.Namespace) -> list[Figure]:
    """Measure jobs by turns, print, and return the figures."""
    with tempfile.TemporaryDirectory() as temporary:
        trees = {
            "here": Path(__file__).parents[1],
            "other": arguments.other and Path(arguments.other).resolve(),
        }
        ways: dict[str, Callable[[], Measured]] = {}
        for name, tree in trees.items():
            if tree is None:
                continue
            side = Side(tree, arguments.model, arguments.tokens, Path(temporary))
            for task in arguments.tasks:
                for is_cold in (False, True) if task == "generate" else (False,):
                    label = f"{task}, {'cold' if is_cold else 'warm'}, {name}"
                    ways[label] = lambda side=side, task=task, is_cold=is_cold: side.measured(task, is_cold)  # type: ignore[misc]
        if arguments.llama:
            ways["llama.cpp"] = lambda: llama(arguments.llama, arguments.model, arguments.tokens)
        found: dict[str, list[Measured]] = {way: [] for way in ways}
        for _ in range(arguments.rounds):
            for way, measure in ways.items():
                found[way].append(measure())
    print(f"python bench/startup.py {' '.join(sys.argv[1:])}   (whole processes, interleaved)")
    print(f"{'':24} {'median_s':>9} {'min_s':>7} {'max_s':>7} {'cpu_s':>7}")
    for way, all_of in found.items():
        times = [took for took, _, _ in all_of]
        spent = statistics.median(cpu for _, cpu, _ in all_of)
        print(f"{way:24} {statistics.median(times):9.2f} {min(times):7.2f} {max(times):7.2f} {spent:7.2f}")
    with_parts = {way: all_of for way, all_of in found.items() if all_of[0][2]}
    names = sorted({name for all_of in with_parts.values() for one in all_of for name in one[2]})
    print(f"\n{'seconds of':24}" + "".join(f" {way:>23}" for way in with_parts))
    for name in names:
        medians = [
            statistics.median(one[2].get(name, 0.0) for one in all_of) for all_of in with_parts.values()
        ]
        print(f"{name:24}" + "".join(f" {median:23.2f}" for median in medians))
    what = f"{arguments.tokens} tokens of {Path(arguments.model).stem}"
    return [Figure.of(what, "s", [took for took, _, _ in all_of], way) for way, all_of in found.items()]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", help="a .gguf file or a folder with a model")
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--tasks", nargs="+", default=["generate", "chat", "serve"])
    parser.add_argument("--other", help="another checkout of this program")
    parser.add_argument("--llama", help="a Python that has xllamacpp, for a .gguf file")
    add_option(parser)
    arguments = parse_arguments(parser)
    figures = jobs(arguments) if arguments.model else quick_commands(arguments.rounds)
    if arguments.save:
        save(figures, "" if arguments.model else "startup commands")


if __name__ == "__main__":
    main()
