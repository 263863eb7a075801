"""Do two checkouts give the same answers? `python bench/same_answers.py BEFORE AFTER`.

Both run the same commands, each in an empty folder of its own, and what they print and write is compared: prompts,
tokens, texts and verdicts of every sample, metrics, facts, notes, exit codes, tables, messages, files. Left out are job
ids, MLflow's ids, times, speeds and measured memory; of sweeps and memory benchmarks only the keys and rows count.
What is meant to differ is listed in meant_differences.py: words of commands, words of the output, and differences.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import warm_commands
from meant_differences import RENAMED, REWORDED, reason_for
from said import Masks, differences, files, printed, progress

# Name, then commands, one per line; a line with a deeper indent continues the last one. `run` is
# `runner tracking=none`, {model} a copy of the embedded model, {tree} the checkout. The files of INPUTS are in the
# folder of each case.
CASES = """
cli/help
    runner --help
    runner --cfg job
    runner hydra/launcher=submitit_slurm --cfg hydra --package hydra.launcher
    COMP_LINE="runner quantization=n" COMP_POINT=21 runner -sc query=bash
    runner -sc install=bash
    runner-compare --help
    runner-convert-lora --help
    runner-sync --help
cli/one job, its ledger, MLflow
    runner task.limit=40
    runner task.limit=40
    runner task.limit=40 rerun=all print=json
    runner-sync
    runner-compare --format markdown
readme/default
    run
readme/hard5 in 4 bits
    run quantization=nf4 task.limit=500 task.split=hard5
readme/grid, resumed and compared
    runner -m quantization=none,nf4 task.split=test,hard5 task.limit=20 workers=1 plan=true
    runner -m quantization=none,nf4 task.split=test,hard5 task.limit=20 workers=1
    runner -m quantization=none,nf4 task.split=test,hard5 task.limit=20 workers=1
    runner -m quantization=none,nf4 task.split=test,hard5 task.limit=20 workers=1 plan=true
    runner-compare --baseline quantization=none
    runner-compare --baseline quantization=none --format json
    runner-compare --by quantization --baseline quantization=none --format csv
    runner-compare --flips quantization=none,task.split=test quantization=nf4,task.split=test
    runner-compare --where "quantization.name='nf4' and accuracy > 0.1" --format json
    runner-compare --grid last --baseline quantization=none --save comparison
readme/text prompt with shots
    run task.shots=3 task.prompt=text task.limit=20
readme/prompts from a file
    run task=generate task.prompts=prompts.txt task.output=answers.jsonl
readme/an adapter at work
    run task=generate task.prompt="$Q5" lora=none
    run task=generate task.prompt="$Q5" lora=embedded
readme/branches
    run task=generate rope=rope_2d rope.ratio=0 task.prompt="$Q3" 'task.branches=["Ann has 3+4=","Ann has 3-2=",""]'
readme/sweep
    run task=sweep task.batch_sizes=[1,2] task.prompt_tokens=[16] task.new_tokens=4 task.repeats=2
readme/memory
    run task=memory quantization=nf4 task.batch_size=2 task.prompt_tokens=32 task.new_tokens=4 task.repeats=1
readme/an 8B model is sized
    run task=split model=llama32_1b model.random_weights=true task.num_parts=4 plan=quick
    run -m model=qwen3_8b,qwen25_7b_instruct,mistral_7b_instruct model.random_weights=true
        quantization=nf4,int8 generation.batch_size=8 plan=quick
readme/a model in parts
    run task=split task.num_parts=2 task.output_dir=parts
    run task=split task.num_parts=2 task.output_dir=parts
    run task=verify task.parts=parts
    run task=merge task.parts=parts task.output_dir=merged
    run task=archive task.parts=parts task.output_dir=packed
    run task=verify task.parts=packed
    run task=archive task.parts=packed task.output_dir=unpacked task.archive=none
    run task=generate model=parts model.name=parts task.prompt="2+2?"
experiments/quantization_grid
    run -cd {tree}/experiments -cn quantization_grid task.limit=8 hydra.launcher.fresh=false workers=1
experiments/adapter_grid
    run -cd {tree}/experiments -cn adapter_grid task.limit=8 workers=1
experiments/inference_sweep
    run -cd {tree}/experiments -cn inference_sweep
        task.batch_sizes=[1] task.prompt_tokens=[16,32] task.new_tokens=2 task.repeats=1
experiments/memory_quantization
    run -cd {tree}/experiments -cn memory_quantization
        task.batch_size=1 task.prompt_tokens=16 task.new_tokens=2 task.repeats=1
experiments/split_parts
    run -cd {tree}/experiments -cn split_parts workers=1
experiments/a study with zip and exclude
    run -cd . -cn study
docs/early stop, trust
    run -m quantization=none,nf4 task.early_stop_vs=quantization=none task.limit=60 workers=1
    run quantization=nf4 task.limit=6 task.check_invariance=3 task.check_contamination=4
    run generation=sampling task.samples=4 task.limit=6
docs/likelihood
    run task=likelihood task.limit=20 task.keep_top_k=8
    run task=likelihood task.limit=20 quantization=nf4 task.reference=quantization=none
    run task=likelihood task.limit=5 task.data=prompts.txt task.window=16
docs/agents
    run -m task=agents task.domain=brief lora=embedded_team task.mode=chain,star,debate task.limit=4 workers=1
docs/memory, several points
    run task=memory task.batch_sizes=[1,2] task.context_lengths=[24,40] task.new_tokens=4 task.repeats=1
docs/profiles
    run -m profile=none,low_memory,standard,high_performance task.limit=4 workers=1
docs/vllm
    run task=split task.num_parts=2 task.explain=vllm
docs/launchers
    run -m hydra/launcher=basic model=stub seed=1,2 task.limit=4
    run -m hydra/launcher=joblib hydra.launcher.n_jobs=1 model=stub seed=1,2 task.limit=4
    run -m hydra/launcher=submitit_slurm model=stub seed=1,2
    run -m hydra/launcher=joblib job_timeout_s=9 model=stub seed=1,2
docs/optuna
    run -m hydra/sweeper=optuna hydra.sweeper.n_trials=3 hydra.sweeper.n_jobs=1 hydra.sweeper.sampler.seed=1
        model=stub task.limit=4 generation=sampling
        'hydra.sweeper.params={generation.temperature: "interval(0.1, 1.5)", generation.top_p: "choice(0.8, 1.0)"}'
docs/convert an adapter
    runner-convert-lora embedded_pth peft_folder --base embedded
    runner-convert-lora peft_folder back.pth --base {model}
    run -m lora=peft lora.path=peft_folder lora.merge=true,false task.limit=6 workers=1
    run lora=pth lora.path=back.pth lora.rank=16 task.limit=6
docs/old tools: seeds and keys of a generation
    run -m seed=1,2,3 generation=agents generation.batch_size=4 generation.max_new_tokens=60 task.limit=6 workers=1
docs/old tools: debug
    run task=generate task.debug=true task.prompt="What is 2+2?" model=local model.name={model} model.device=cpu
gsm8k/quantization x adapter
    run -m quantization=none,int8,nf4,fp4,torchao_int8 lora=none,embedded,embedded_pth task.limit=6 workers=1
    run -m quantization=int8_dynamic lora=none,embedded,embedded_pth task.limit=6 workers=1
gsm8k/merged adapters
    run -m lora=embedded,embedded_pth lora.merge=true,false task.split=hard5 task.limit=6 workers=1
gsm8k/rope
    run -m rope=native,rope_2d,linear,dynamic,yarn,llama3 task.limit=6 generation.max_new_tokens=80 workers=1
gsm8k/rope_2d
    run -m rope=rope_2d rope.ratio=0,0.25,1 rope.stride=1,128 lora=none,embedded task.limit=4
        generation.max_new_tokens=60 workers=1
gsm8k/generation
    run -m generation=greedy,sampling,factual,creative,code,chat,translation,agents task.limit=6
        generation.max_new_tokens=60 workers=1
gsm8k/rows at once
    run -m generation=greedy,sampling generation.batch_size=1,3 model.dtype=float32 task.limit=8 workers=1
gsm8k/dtype x attention
    run -m model.dtype=float32,bfloat16,float16 model.attention=sdpa,eager task.limit=4 workers=1
gsm8k/prompts and shots
    run -m task.prompt=chat,text task.shots=0,2 task.instruction="Solve it.","Think." task.limit=6 workers=1
gsm8k/splits and extractors
    run -m task.split=train,valid,test,hard,hard5 task.extractor=strict,flexible task.limit=6 workers=1
gsm8k/own questions
    run task.data=questions.jsonl task.shots=1 task.shots_data=questions.jsonl print=json
    run task.data=. task.split=questions task.system="You are careful." generation.max_new_tokens=8
generate/chats, system, stop
    run task=generate task.prompts=chats.jsonl task.system="You are careful." 'task.stop=["####","bags"]'
generate/stdin, sampled
    run task=generate task.prompts=- generation=sampling seed=7 generation.max_new_tokens=40 task.show=1
generate/raw
    run task=generate task.prompts=prompts.txt task.format=raw generation.max_new_tokens=30 print=json
generate/branches from a file
    run task=generate rope=rope_2d task.prompts=branches.jsonl generation=sampling generation.max_new_tokens=20
stub/plan
    run -m model=stub task=gsm8k,sweep plan=true
stub/prompts
    run model=stub task=generate task.prompts=prompts.txt
stub/questions
    run -m model=stub task.split=test,hard5 seed=1,2 task.limit=5
    run model=stub task.limit=5 print=none
stub/sweep
    run model=stub task=sweep task.batch_sizes=[1,2] task.prompt_tokens=[8] task.new_tokens=2 task.repeats=1
split/strategies
    run -m model=local model.name={model} task=split task.num_parts=3 'task.output_dir=parts/${task.strategy}'
        task.strategy=balanced_bytes,balanced_params,equal_layers workers=1
    run model=local model.name={model} task=split task.output_dir=parts/ratios task.strategy=ratios
        task.ratios=[0.3,0.7]
    run model=local model.name={model} task=split task.output_dir=parts/ranges task.strategy=ranges
        task.ranges=[0-0,1-3] task.checksums=sha256
    run model=local model.name={model} task=split task.output_dir=parts/kinds task.strategy=by_type task.durable=true
    run -m task=verify task.parts=parts/ratios,parts/ranges,parts/kinds task.source={model} task.level=quick,full
    run -m task=merge task.parts=parts/kinds,parts/ranges 'task.output_dir=merged/${task.parts}'
parts/same as the whole model
    run task=split task.num_parts=3 task.output_dir=parts
    run task=generate model=parts model.name=parts task.prompts=prompts.txt generation=sampling
        generation.max_new_tokens=20 model.stages=2 model.micro_batch=1
    python -m torch.distributed.run --nproc-per-node 2 -m runner tracking=none task=generate model=parts
        model.name=parts task.prompts=prompts.txt generation.max_new_tokens=20 model.stages=2
errors/config
    run quantization=int9
    run task.limt=3
    run task.limit=many
    run task.limit=-3
    run model.dtype=fp8
    run model=auto
    run model=auto model.name=./nope
    run model=auto model.name=Qwen/Qwen2.5-0.5B-Instruct task.limit=2
    run task.split=tset
    run lora=peft lora.path=./nope
    run quantization=none,nf4
    run generation.temperature=-1
    run model.device_map=auto model.device=cpu
    run -cn nope
errors/tasks
    run task=generate
    run task=generate task.prompts=nothing.txt
    run task=generate task.prompt=hello task.branches=[a,b]
    run task=split task.num_parts=9
    run task=split task.num_parts=2 task.output_dir=parts task.inline_parameters=true
    run task=split task.strategy=ratios task.output_dir=parts
    run task=verify task.parts=nowhere
    run task=merge task.parts=. task.output_dir=merged
    run task=generate model=parts model.name=nowhere task.prompt=a
    run quantization=gguf
    run quantization=gptq model=local model.name={model}
    run task.data=prompts.txt
    run task.data=questions.jsonl task.shots=9
    run lora=pth lora.path=prompts.txt
    run -m quantization=none,int9
    run -m quantization=none,nf4 lora.merge=true lora=embedded workers=1 task.limit=2
    runner-compare
    runner-compare --baseline seed
    runner-sync
    runner-convert-lora embedded_pth
errors/a damaged part
    run task=split task.num_parts=2 task.output_dir=parts
    python -c "open('parts/part_0.safetensors', 'r+b').write(b'damage')"
    run task=verify task.parts=parts
    run task=merge task.parts=parts task.output_dir=merged
    run task=generate model=parts model.name=parts task.prompt="2+2?"
"""


APPLES = "Ann has 3 apples. Ann buys 4 more. Then Ann gives away 2 apples. How many apples does Ann have now?"
CARDS = (
    "Yusuf has 30 cards. Yusuf buys 4 more. Then Yusuf gives away half of the cards. Then Yusuf gives away 9 cards. "
    "Then Yusuf doubles the number of cards. Then Yusuf gets 19 more cards. How many cards does Yusuf have now?"
)
HOW = "Solve it step by step. End with '#### ' and the number."
TEXTS = {"$Q3": f"{APPLES} {HOW}", "$Q5": f"{CARDS} {HOW}"}
SUM = {"question": "Tom has 5 eggs. Tom buys 6 more. How many eggs does Tom have?", "answer": "5+6=11\n#### 11"}
STUDY = """
defaults: [config, _self_]
task: {limit: 4}
hydra:
  mode: MULTIRUN
  sweeper:
    params: {model: stub, task.split: "test,hard5"}
    zip: [{seed: "1,2", task.shots: "0,2"}]
    exclude: [{seed: 1, task.split: hard5}]
"""
INPUTS = {
    "prompts.txt": f"What is 2+2?\n{APPLES}\n{APPLES} {HOW}\nBen has 9 toys.\n",
    "chats.jsonl": "\n".join(
        json.dumps(line)
        for line in (
            {"prompt": f"{APPLES} {HOW}"},
            {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"{CARDS} {HOW}"}]},
        )
    ),
    "branches.jsonl": json.dumps({"prompt": APPLES, "branches": ["Ann has 3+4=", ""]}) + "\n" + '{"prompt": "2+2?"}\n',
    "questions.jsonl": (json.dumps(SUM) + "\n") * 3,
    "study.yaml": STUDY,
}


@dataclass(frozen=True)
class Side:
    """One of the two checkouts."""

    name: str  # before, after_: as long as the other, so that tables fold alike
    tree: Path
    python: Path
    own: bool  # whether it is the checkout's own Python, which finds the checkout by itself
    warm: Path | None = None  # where a process listens from which commands are forked

    def reworded(self) -> list[tuple[str, str]]:
        """Return the old words and the new ones, for the checkout that has the old ones."""
        return [pair for one in REWORDED for pair in one.words.items()] if self.name == "before" else []

    def in_its_words(self, command: str) -> str:
        """Return the command with the words of this checkout."""
        for one in RENAMED:
            if (self.tree / one.file).exists():
                command = command.replace(one.new, one.old)
        return command

    def program(self, word: str) -> list[str]:
        """Return the start of the checkout's command of this name, whether or not it is installed."""
        if word == "python":
            return [str(self.python)]
        scripts = tomllib.loads((self.tree / "pyproject.toml").read_text())["project"]["scripts"]
        module, _, name = scripts[word].partition(":")
        return [str(self.python), "-c", f"import sys; from {module} import {name}; sys.argv[0] = '{word}'; {name}()"]


@dataclass
class Outcome:
    """The result of a case."""

    case: str
    seconds: float
    found: list[tuple[str, str]]  # where the checkouts differ, and how
    exit_codes: list[int] = field(default_factory=list)  # of the first checkout's commands
    allowed: Counter[str] = field(default_factory=Counter)  # reason -> how many differences it covers


def parse(text: str) -> dict[str, list[str]]:
    """Read the list of cases."""
    cases: dict[str, list[str]] = {}
    for line in filter(str.strip, text.splitlines()):
        depth = len(line) - len(line.lstrip())
        if not depth:
            cases[line] = commands = []
        elif depth == 4:
            commands.append(line.strip())
        else:
            commands[-1] += f" {line.strip()}"
    return cases


def record(side: Side, commands: list[str], folder: Path, model: Path, limit_s: float) -> None:
    """Run the commands of a case in one checkout, and keep their output beside its folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, text in INPUTS.items():
        (folder / name).write_text(text)
    done = [execute(side, command, folder, model, limit_s) for command in commands]
    output = [[one.returncode, one.stdout, one.stderr] for one in done]
    folder.with_suffix(".json").write_text(json.dumps(output))


def results_of(side: Side, commands: list[str], folder: Path, model: Path, used: Counter[str]) -> dict[str, Any]:
    """Return the output and files of a case that has run in one checkout; used counts the reasons for new words."""
    exit_codes, outs, errs = zip(*json.loads(folder.with_suffix(".json").read_text()), strict=True)
    masks = Masks({"<here>": folder, "<tree>": side.tree, "<model>": model, "<python>": side.python}, side.reworded())
    if not any("sweeper=optuna" in command for command in commands):  # not every checkout prints its jobs
        masks.number([*outs, *errs])
    files_left = files(folder, masks)
    results: dict[str, Any] = {}
    for at, command in enumerate(commands):
        measures = bool(re.search("task=(sweep|memory)|inference_sweep|memory_quantization", command))
        results[f"command {at + 1}, `{command}`,"] = {
            "exit code": exit_codes[at],
            "stdout": printed(outs[at], masks, measures),
            "stderr": progress(errs[at], masks, measures),
        }
    for one in REWORDED:
        used[one.reason] += sum(masks.used[old] for old in one.words)
    return results | {"file": files_left}


def execute(side: Side, command: str, folder: Path, model: Path, limit_s: float) -> subprocess.CompletedProcess[str]:
    """Run one command until it ends or its time is up."""
    words = [TEXTS_IN.sub(lambda found: TEXTS[found[0]], word) for word in shlex.split(side.in_its_words(command))]
    words = [word.replace("{model}", str(model)).replace("{tree}", str(side.tree)) for word in words]
    variables = {}
    while re.match("[A-Z_]+=", words[0]):
        key, _, variables[key] = words.pop(0).partition("=")
    program, arguments = ("runner", [*words[1:], "tracking=none"]) if words[0] == "run" else (words[0], words[1:])
    variables |= {} if side.own else {"PYTHONPATH": str(side.tree)}
    whole, stdin = [*side.program(program), *arguments], INPUTS["prompts.txt"]
    environment = common_variables() | variables
    try:
        if side.warm:
            return warm_commands.run(side.warm, whole, data=stdin, timeout_s=limit_s, cwd=folder, env=environment)
        return subprocess.run(
            whole, cwd=folder, env=environment, input=stdin, capture_output=True, text=True, timeout=limit_s
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"not done after {limit_s:.0f} s")


def common_variables() -> dict[str, str]:
    """Return the variables of all commands."""
    kept = {key: value for key, value in os.environ.items() if key not in ("MLFLOW_TRACKING_URI", "COLUMNS")}
    return kept | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


@contextmanager
def warmed(sides: list[Side], scratch: Path) -> Iterator[list[Side]]:
    """Start a process in each checkout from which its commands are forked."""
    with ExitStack() as stack:
        ready = []
        for side in sides:
            socket = scratch / f"{side.name}.socket"
            socket.unlink(missing_ok=True)
            command = [str(side.python), warm_commands.__file__, str(side.tree), str(socket)]
            log = stack.enter_context((scratch / f"{side.name}.log").open("w"))
            process = subprocess.Popen(command, env=common_variables(), stdin=subprocess.PIPE, stderr=log)
            stack.enter_context(process)  # the end of its stdin ends it
            while not socket.exists():
                if process.poll() is not None:
                    raise SystemExit(f"{side.tree} starts no commands from a warm process: see {log.name}")
                time.sleep(0.1)
            ready.append(replace(side, warm=socket))
        yield ready


TRACE = "Traceback (most recent call last):"  # two crashes may be the same, and are no answers
TEXTS_IN = re.compile("|".join(map(re.escape, TEXTS)))


def compare(name: str, commands: list[str], sides: list[Side], scratch: Path, limit_s: float, ran: str) -> Outcome:
    """Run a case in the checkouts in which it has not run yet (ran: before, both, neither); compare what they say."""
    started, folder = time.perf_counter(), re.sub(r"\W+", "_", name)
    outcome = Outcome(name, 0.0, [])
    try:
        for side in sides:
            if ran not in (side.name, "both"):
                record(side, commands, scratch / side.name / folder, scratch / "model", limit_s)
        old, new = (
            results_of(side, commands, scratch / side.name / folder, scratch / "model", outcome.allowed)
            for side in sides
        )
        found = list(differences(old, new, ""))
        found += [(where, "a crash") for where, result in (old | new).items() if TRACE in result.get("stderr", ())]
        outcome.exit_codes = [result["exit code"] for result in old.values() if "exit code" in result]
    except Exception:  # noqa: BLE001  # one case that cannot be compared must not cost the others
        found = [("not compared", traceback.format_exc())]
    for where, how in found:
        if reason := reason_for(name, where, how):
            outcome.allowed[reason] += 1
        else:
            outcome.found.append((where, how))
    outcome.seconds = time.perf_counter() - started
    return outcome


def main() -> None:
    """Compare, print the table, and exit with 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, metavar="BEFORE", help="a checkout")
    parser.add_argument("after", type=Path, metavar="AFTER", help="another one")
    parser.add_argument("--python-before", type=Path, help="default: BEFORE/.venv/bin/python")
    parser.add_argument("--python-after", type=Path, help="default: AFTER/.venv/bin/python")
    parser.add_argument("--only", default="", metavar="PATTERN", help="cases whose name has this regular expression")
    parser.add_argument("--jobs", type=int, default=2, help="cases at once (default: 2)")
    parser.add_argument("--limit-s", type=float, default=600, help="a command may take so long (default: 600)")
    parser.add_argument("--scratch", type=Path, help="a folder to work in, which is kept")
    parser.add_argument(
        "--warm", action="store_true", help="fork commands from a process that has imported torch: sooner"
    )
    parser.add_argument(
        "--ran",
        choices=("neither", "before", "both"),
        default="neither",
        help="run only AFTER, or nothing: what ran before lies in --scratch",
    )
    options = parser.parse_args()
    if options.ran != "neither" and not options.scratch:
        parser.error(f"--ran {options.ran} compares what lies in the folder of --scratch")
    cases = {name: commands for name, commands in parse(CASES).items() if re.search(options.only, name)}
    if not cases:
        parser.error(f"no case is called like {options.only}")
    scratch = (options.scratch or Path(tempfile.mkdtemp(prefix="same_answers_"))).resolve()
    sides = [
        Side(name, tree.resolve(), (python or tree / ".venv/bin/python").absolute(), python is None)
        for name, tree, python in (
            ("before", options.before, options.python_before),
            ("after_", options.after, options.python_after),
        )
    ]
    shutil.copytree(next(sides[0].tree.glob("runner/**/embedded/model")), scratch / "model", dirs_exist_ok=True)
    started = time.perf_counter()
    with (
        warmed(sides, scratch) if options.warm else nullcontext(sides) as sides,
        ThreadPoolExecutor(options.jobs) as pool,
    ):
        running = [pool.submit(compare, *case, sides, scratch, options.limit_s, options.ran) for case in cases.items()]
        for at, one in enumerate(as_completed(running), 1):
            outcome = one.result()
            state = "{}: {}".format(*outcome.found[0]) if outcome.found else "equal"
            print(f"[{at}/{len(cases)}] {outcome.case}, {outcome.seconds:.0f} s: {state}", file=sys.stderr, flush=True)
    outcomes = [one.result() for one in running]
    show(outcomes, time.perf_counter() - started)
    (scratch / "differences.txt").unlink(missing_ok=True)
    if any(outcome.found for outcome in outcomes):
        every = [f"{one.case}: {where}: {how}\n" for one in outcomes for where, how in one.found]
        (scratch / "differences.txt").write_text("".join(every))
        print(f"\nall differences: {scratch / 'differences.txt'}; what these cases wrote lies beside it")
        sys.exit(1)
    if options.scratch is None:
        shutil.rmtree(scratch)


def show(outcomes: list[Outcome], seconds: float) -> None:
    """Print the table: a line per case, with its first difference if it has one."""
    width = max(len(outcome.case) for outcome in outcomes)
    print(f"{'case':{width}}  {'differences':>11}  {'allowed':>7}  {'seconds':>7}  exit codes")
    for outcome in outcomes:
        allowed, codes = sum(outcome.allowed.values()), " ".join(map(str, outcome.exit_codes))
        print(f"{outcome.case:{width}}  {len(outcome.found):>11}  {allowed:>7}  {outcome.seconds:>7.0f}  {codes}")
        for where, how in outcome.found[:1]:
            print(f"    {where}:\n        {how}")
    reasons = sum((outcome.allowed for outcome in outcomes), Counter[str]())
    for reason, count in reasons.most_common():
        print(f"allowed, {count} times: {reason}")
    different, commands = sum(bool(outcome.found) for outcome in outcomes), sum(len(one.exit_codes) for one in outcomes)
    equal = f"{len(outcomes)} cases, {commands} commands: {len(outcomes) - different} equal, {different} different"
    print(f"{equal}; {reasons.total()} allowed differences, for {len(reasons)} reasons; {seconds:.0f} s")


if __name__ == "__main__":
    main()
