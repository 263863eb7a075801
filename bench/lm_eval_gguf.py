"""How many of lm-eval's requests a second are answered from a .gguf file? `python bench/lm_eval_gguf.py`.

By runner in this process (`runner-lm-eval --model_args pretrained=FILE.gguf`), and by llama.cpp's server, from a wheel,
which lm-eval's `local-completions` asks. Log-likelihoods are of four endings of a context, as lm-eval's hellaswag makes
them of questions of HellaSwag's shape: sentences of the long texts that ship, and what follows. llama.cpp's server
returns no log-likelihoods of a prompt, so it only reads the same prompts: a limit of what it could reach. The sides
take turns, and no question comes twice, because both keep prompts. The default
file is that of `make real-model`.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from engines import ROOT, head_line, markdown
from heading import parse_arguments
from latest import Figure, add_option, save
from other_engines import api_python, xllamacpp_python

from runner_base import machine, processor
from tools.real_model import gguf_file

TEXTS = ROOT / "conf" / "dataset" / "texts.jsonl"
CHOICES = 4
SHORTEST = (80, 20)  # characters of a context and of an ending
KINDS = {"loglikelihood": "log-likelihoods", "generate_until": "answers"}
Ask = Callable[[str, list[list[Any]]], float]  # kind and requests → seconds


def questions() -> list[dict[str, Any]]:
    """Return questions in HellaSwag's shape: two sentences of a text, and the third beside three
    from elsewhere."""
    rows = [json.loads(line) for line in TEXTS.read_text(encoding="utf-8").splitlines()]
    found = []
    for text in (row["text"] for row in rows if row["category"] == "long"):
        for paragraph in text.split("\n\n"):
            parts = [f"{part.strip(' .')}." for part in paragraph.replace("\n", " ").split(". ")]
            found += [
                three for three in zip(parts, parts[1:], parts[2:], strict=False)
                if len(three[0] + three[1]) > SHORTEST[0] and len(three[2]) > SHORTEST[1]
            ]  # fmt: skip
    chance = random.Random(0)
    made = []
    for first, second, ending in found:
        endings = chance.sample([other for *_, other in found if other != ending], CHOICES - 1)
        endings.insert(gold := chance.randrange(CHOICES), ending)
        made.append(
            {"activity_label": "A story", "ctx_a": first, "ctx_b": second, "endings": endings, "label": gold}
        )
    return made


def likelihoods(some: list[dict[str, Any]]) -> list[list[Any]]:
    """Return the requests that lm-eval's hellaswag makes of questions."""
    import datasets
    from lm_eval.tasks.hellaswag.utils import process_docs

    datasets.disable_progress_bars()
    documents = process_docs(datasets.Dataset.from_list(some))
    return [[document["query"], f" {choice}"] for document in documents for choice in document["choices"]]


def answers(some: list[dict[str, Any]], new: int) -> list[list[Any]]:
    """Return requests for a text that goes on."""
    return [
        [f"{one['ctx_a']} {one['ctx_b']}", {"until": [], "do_sample": False, "max_gen_toks": new}]
        for one in some
    ]


def runner_side(file: Path, threads: int, has_byte_rows: bool) -> Ask:
    """Return how the model of runner-lm-eval is asked, in this process."""
    from lmeval_server_side import instances

    from runner.options.harness.model import EngineModel

    more = ",quantization.int8_activations=true" if has_byte_rows else ""
    model = EngineModel.create_from_arg_string(
        f"pretrained={file},threads={threads}{more}", {"device": "cpu"}
    )

    def ask(kind: str, requests: list[list[Any]]) -> float:
        ours = instances(kind, requests)
        began = time.perf_counter()
        getattr(model, kind)(ours, disable_tqdm=True)
        return time.perf_counter() - began

    return ask


@contextmanager
def server_side(
    file: Path, threads: int, slots: int, tokenizer: Path
) -> Iterator[tuple[Ask, Callable[[Any], Any]]]:
    """Start llama.cpp's server, and lm-eval as its client; yield how both are asked, and what
    lm-eval's models say."""
    pipes: dict[str, Any] = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
        "text": True,
    }
    python, ours = (
        xllamacpp_python(ROOT / "outputs" / ".xllamacpp"),
        api_python(ROOT / "outputs" / ".lmeval-api"),
    )
    here = Path(__file__).parent
    with ExitStack() as open_processes:

        def started(command: list[str]) -> Any:
            process: Any = subprocess.Popen(command, **pipes)
            open_processes.callback(process.wait)
            open_processes.callback(process.stdin.close)  # first: both end with their stdin
            return process

        server = started(
            [python, str(here / "xllamacpp_server_side.py"), str(file), str(threads), str(slots)]
        )
        address = server.stdout.readline().strip()
        client = started([ours, str(here / "lmeval_server_side.py"), address, str(tokenizer), str(slots)])

        def said(job: dict[str, Any]) -> Any:
            print(json.dumps(job), file=client.stdin, flush=True)
            return json.loads(client.stdout.readline())

        client.stdout.readline()
        yield (
            lambda kind, requests: float(said({"kind": kind, "requests": requests})),
            lambda one: said({"tries": one}),
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--file", type=Path, help="default: that of make real-model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--questions", type=int, default=20, help="of a round, with four log-likelihoods each"
    )
    parser.add_argument("--answers", type=int, default=16, help="of a round")
    parser.add_argument("--new", type=int, default=48, help="tokens of an answer")
    parser.add_argument(
        "--slots", default="4,16", help="requests that llama.cpp's server works on at once; each is a side"
    )
    parser.add_argument("--threads", type=int, default=machine.count_available_cpu_cores())
    add_option(parser)
    options = parse_arguments(parser)
    file, made = options.file or gguf_file(), questions()
    each = max(options.questions, options.answers)
    if len(made) < (needed := 1 + (1 + options.rounds) * each):
        raise SystemExit(
            f"{needed} questions are needed, and the texts give {len(made)}: fewer rounds or questions"
        )
    seconds: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as servers:
        from runner_engine.models import gguf_tokenizer

        gguf_tokenizer.build_tokenizer(file, "left").save_pretrained(folder)
        sides = {"runner": runner_side(file, options.threads, has_byte_rows=False)}
        sides["runner, int8 activations"] = runner_side(file, options.threads, has_byte_rows=True)
        for slots in map(int, options.slots.split(",")):
            ask, tries = servers.enter_context(server_side(file, options.threads, slots, Path(folder)))
            sides[f"llama.cpp's server, {slots} slots"] = ask
        found = tries(likelihoods(made[:1])[0])
        for number in range(1 + options.rounds):
            some = made[1 + number * each :]
            wanted = {
                "loglikelihood": likelihoods(some[: options.questions]),
                "generate_until": answers(some[: options.answers], options.new),
            }
            for kind, requests in wanted.items():
                for side, ask in sides.items():
                    taken = ask(kind, requests)
                    if number:  # the first round warms up
                        seconds.setdefault((kind, side), []).append(taken)
    counts = {"loglikelihood": options.questions * CHOICES, "generate_until": options.answers}
    rates = {(kind, side): [counts[kind] / one for one in some] for (kind, side), some in seconds.items()}
    print("### lm-eval's requests a second, from a .gguf file\n")
    print(head_line(["bench/lm_eval_gguf.py", *map(shlex.quote, sys.argv[1:])], options.threads))
    if left_out := processor.parse_disabled_cpu_features():
        print(f"without {', '.join(left_out)} (by {processor.LEFT_OUT})")
    print(
        f"\n{file.name}, {options.rounds} rounds by turns: median (least..most); answers of {options.new} tokens\n"
    )
    lines = [
        [
            KINDS[kind],
            side,
            f"{statistics.median(some):.2f} ({min(some):.2f}..{max(some):.2f})",
            scored(kind, side),
        ]
        for (kind, side), some in rates.items()
    ]
    print(markdown(["requests", "side", "a second", ""], lines))
    print("\nA log-likelihood by llama.cpp's server, asked by lm-eval's own models:\n")
    print(markdown(["--model", "what comes"], [[name, words] for name, words in found.items()]))
    if options.save:
        save([Figure.of(KINDS[kind], "requests/s", some, side) for (kind, side), some in rates.items()])


def scored(kind: str, side: str) -> str:
    """Say where prompts were read and no scores came."""
    return "reads the prompts, no scores" if kind == "loglikelihood" and "server" in side else ""


if __name__ == "__main__":
    main()
