"""Is the table of divergences llama.cpp's own? `python bench/llama_table.py --file FILE.gguf [--types …] [--texts 60]`.

llama.cpp's `llama-quantize` makes files of other types of a real model's file (`make real-model`), and an unquantized
one as the reference. `llama-perplexity --kl-divergence` and `task=likelihood` score the same tokens with each file: the
second halves of texts of 256 tokens, prose and code of this project. The token ids of both are compared first.
Both blocks are printed for each type, and a table has what they say: llama.cpp stores the reference's logarithms in 16
bits and rounds what it multiplies to 8 bits, and runner does neither.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines import ROOT, head_line, markdown
from gguf_files import CONTEXT, TRIES, base_tokens, run
from heading import parse_arguments
from other_engines import llamacpp_programs

from tools.commands import printed

TYPES = ("Q8_0", "Q5_K_M", "Q4_0", "Q2_K")
REFERENCE = "F32"
SOURCES = {"prose": "docs/*.md", "code": "runner/[a-d]*/*.py"}
HOW = ["-c", CONTEXT, "-b", CONTEXT, "-ctk", "f32", "-ctv", "f32", "-fa", "off"]
BEGIN = "====== Perplexity statistics ======"
NUMBER = r"(-?[\d.]+|-?nan|-?inf)"
SHOWN = {  # of a block: what is compared, by the beginning of its line
    "mean KL": "Mean    KLD:", "median": "Median  KLD:", "90 %": "90.0%   KLD:", "99 %": "99.0%   KLD:",
    "99.9 %": "99.9%   KLD:", "largest": "Maximum KLD:", "RMS Δp, %": "RMS Δp    :", "same first, %": "Same top p:",
    "ln(PPL ratio)": "Mean ln(PPL(Q)/PPL(base))     :",
}  # fmt: skip


@dataclass(frozen=True)
class Text:
    """A text of exactly so many tokens, whose parts are read as the same tokens as the whole."""

    ids: tuple[int, ...]
    prompt: str
    continuation: str
    category: str


def texts_of(tokenizer: Any, count: int) -> list[Text]:
    """Put words together to texts whose prompts and continuations have exactly so many tokens."""
    texts: list[Text] = []
    for category, pattern in SOURCES.items():
        source = "\n".join(path.read_text() for path in sorted(ROOT.glob(pattern)))
        pieces = [source[begin:end] for _, (begin, end) in
                  tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(source)]  # fmt: skip
        pieces = [piece for piece in pieces if piece.isascii() and not set(piece) & set("<|")]
        sizes = dict(
            zip(set(pieces), map(len, tokenizer(list(dict.fromkeys(set(pieces))))["input_ids"]), strict=True)
        )
        words, wanted = iter(pieces), len(texts) + count // len(SOURCES)
        while len(texts) < wanted:
            parts = [_filled(words, sizes, size) for size in (CONTEXT // 2 + 1, CONTEXT // 2 - 1)]
            before = texts[-1].continuation if texts else ""  # llama.cpp reads all texts as one
            ids = [tokenizer(part)["input_ids"] for part in (*parts, before, "".join((before, *parts)))]
            if ids[2] + ids[0] + ids[1] == ids[3] and len(ids[0] + ids[1]) == CONTEXT:
                texts.append(Text(tuple(ids[0] + ids[1]), parts[0], parts[1], category))
    return texts


def _filled(words: Any, sizes: dict[str, int], size: int) -> str:
    """Return the next words that have so many tokens together; one that does not fit is left
    out."""
    chosen: list[str] = []
    while size:
        word = next(words)
        if sizes[word] <= size:
            chosen.append(word)
            size -= sizes[word]
    return "".join(chosen)


def make_files(programs: Path, source: Path, folder: Path, types: Sequence[str]) -> dict[str, Path]:
    """Write the files that llama-quantize makes of a file, unless they are there."""
    files = {name: folder / f"{name}.gguf" for name in (REFERENCE, *types)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in files.items():
        if not file.is_file():
            run(programs / "llama-quantize", "--allow-requantize", source, file.with_suffix(".partial"), name)
            file.with_suffix(".partial").rename(file)
    return files


def block_in(printed_text: str) -> str:
    """Return llama.cpp's block of statistics from what a program has printed."""
    lines = printed_text[printed_text.index(BEGIN) :].splitlines()
    last = next(number for number, line in enumerate(lines) if line.startswith("Same top p"))
    return "\n".join(lines[: last + 1])


def theirs(programs: Path, files: dict[str, Path], texts: Sequence[Text], scratch: Path) -> dict[str, str]:
    """Return llama-perplexity's block for each file."""
    of_base, written, program = (scratch / "base.kld", scratch / "texts.txt", programs / "llama-perplexity")
    written.write_text("".join(text.prompt + text.continuation for text in texts) + "\n")
    how = [*HOW, "--kl-divergence-base", of_base]
    say_command(
        "llama-perplexity",
        "-m",
        files[REFERENCE],
        "-f",
        "texts.txt",
        *HOW,
        "--kl-divergence-base",
        "base.kld",
    )
    run(program, "-m", files[REFERENCE], "-f", written, *how)
    if base_tokens(of_base) != [text.ids for text in texts]:
        raise SystemExit("llama.cpp reads other token ids from the texts: nothing can be compared")
    blocks = {}
    say_command(
        "llama-perplexity", "-m", "TYPE.gguf", *HOW, "--kl-divergence-base", "base.kld", "--kl-divergence"
    )
    for name, file in files.items():
        for _ in range(TRIES):  # its last lines are lost at times
            out = run(program, "-m", file, *how, "--kl-divergence")
            if "Same top p:" in out:
                blocks[name] = block_in(out)
                break
    return blocks


def ours(files: dict[str, Path], texts: Sequence[Text], scratch: Path) -> dict[str, str]:
    """Return runner's block for each file, in float32."""
    data, output = scratch / "texts.jsonl", scratch / "runs"
    rows = ({"prompt": it.prompt, "continuation": it.continuation, "category": it.category} for it in texts)
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = ",".join(str(file) for name, file in files.items() if name != REFERENCE)
    which = [
        "model=local",
        f"model.name={names}",
        "model.device=cpu",
        "model.dtype=float32",
        "quantization=gguf",
    ]
    task = ["task=likelihood", f"task.data={data}", "task.exact=true"]
    task += [f"task.reference='model.name={files[REFERENCE]}'"]
    say_command("runner", "-m", "model=local model.name=TYPE.gguf quantization=gguf model.dtype=float32",
                "task=likelihood task.data=texts.jsonl task.exact=true",
                "task.reference='model.name=F32.gguf'")  # fmt: skip
    printed("runner", "-m", *which, *task, f"output_dir={output}", "workers=1", "tracking=none")
    for samples in output.glob("jobs/*/samples.jsonl"):
        read = [json.loads(line)["token_ids"] for line in samples.read_text().splitlines()]
        if read != [list(text.ids[CONTEXT // 2 + 1 :]) for text in texts]:
            raise SystemExit("runner scores other token ids: nothing can be compared")
    say_command("runner-compare", "--format", "llama")
    printed_text = printed("runner_compare", "--output-dir", str(output), "--format", "llama")
    blocks = re.split(r"^(?:model\.name=)?(\S+\.gguf)$", printed_text, flags=re.MULTILINE)[1:]
    by_file = {
        Path(file).name: block_in(block) for file, block in zip(blocks[::2], blocks[1::2], strict=True)
    }
    return {name: by_file[file.name] for name, file in files.items() if name != REFERENCE}


def say_command(*words: object) -> None:
    """Print a command without the folders of its files."""
    print(
        "$", " ".join(Path(word).name if isinstance(word, Path) else str(word) for word in words), flush=True
    )


def value_in(block: str, line: str) -> float:
    """Return the number behind the beginning of a block's line."""
    found = re.search(re.escape(line) + r"\s*" + NUMBER, block)
    if found is None:
        raise SystemExit(f"no line {line!r} in:\n{block}")
    return float(found[1])


def main() -> None:
    """Make the files, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--file", type=Path, help="of a real model (default: that of make real-model)")
    parser.add_argument(
        "--tokenizer", type=Path, help="the model's folder (default: that of make real-model)"
    )
    parser.add_argument("--types", default=",".join(TYPES), help="of llama-quantize")
    parser.add_argument("--texts", type=int, default=60, help=f"of {CONTEXT} tokens each")
    options = parse_arguments(parser)
    import torch
    from transformers import AutoTokenizer

    from tools.real_model import gguf_file, plain_folder

    print(head_line(["bench/llama_table.py", *map(shlex.quote, sys.argv[1:])], torch.get_num_threads()))
    texts = texts_of(AutoTokenizer.from_pretrained(options.tokenizer or plain_folder()), options.texts)
    programs = llamacpp_programs(ROOT / "outputs" / ".llamacpp-build")
    types = options.types.split(",")
    files = make_files(programs, options.file or gguf_file(), ROOT / "outputs" / ".llama-table", types)
    with tempfile.TemporaryDirectory() as folder:
        of_llama = theirs(programs, files, texts, Path(folder))
        of_runner = ours(files, texts, Path(folder))
    for name in types:
        print(f"\n{name}, llama.cpp\n{of_llama[name]}\n\n{name}, runner\n{of_runner[name]}")
    print(f"\nthe reference beside itself, by llama.cpp\n{of_llama[REFERENCE]}")
    print(f"\n{table(types, of_llama, of_runner)}")


def table(types: Sequence[str], of_llama: dict[str, str], of_runner: dict[str, str]) -> str:
    """Return what both say of each type side by side, and how their orders agree."""
    from scipy.stats import spearmanr

    lines, ranks = [], []
    for what, line in SHOWN.items():
        pairs = [(value_in(of_llama[name], line), value_in(of_runner[name], line)) for name in types]
        lines.append([what, *(f"{one:.4f} · {other:.4f}" for one, other in pairs)])
        if len(types) > 2 and "KL" in line:
            ranks.append(f"{what} {spearmanr(*zip(*pairs, strict=True)).statistic:.2f}")
    beside = f"Spearman's correlation over types: {', '.join(ranks)}." if ranks else ""
    return "\n".join([markdown(["llama.cpp · runner", *types], lines), "", beside])


if __name__ == "__main__":
    main()
