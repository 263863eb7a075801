"""Which .gguf file of a model is nearest to it, by runner and by llama.cpp? `python bench/gguf_files.py [--types …]`.

llama.cpp's own `llama-quantize` makes many files of the embedded model. runner scores the same texts with each
(`task=likelihood`, whole distributions against the unquantized file), and so does `llama-perplexity --kl-divergence`.
The token ids of both are compared first. The table has both divergences with their intervals; ranks are ranges, because
files whose intervals overlap are called equal. The last column has the logits of the same tokens by both programs:
llama.cpp multiplies rows that it has rounded to 8 bits, runner rows as they are.

The model's feed-forward layers are padded with zeros to multiples of 256, so that k-quants fit: no answer changes.
llama.cpp is built from llama-cpp-python's source below outputs/ at first use (20 minutes on 2 cores).
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
from engines import ROOT, greedy_engine, head_line, markdown
from gguf_of import CALLED, gguf_of
from heading import parse_arguments
from other_engines import llamacpp_programs, llamacpp_python
from quantization_table import with_interval

from runner.datasets.word_problems import Split, generate_problems
from runner_base import MIB, Dtype
from runner_engine.checkpoints.gguf_file import read_gguf_header
from runner_engine.embedded import MODEL_DIR
from runner_engine.quantization import CHOICES
from runner_engine.settings.model import LocalModelConfig
from tools.commands import printed

TYPES = (
    "Q2_K", "IQ3_S", "IQ3_M", "Q3_K_S", "Q3_K_M", "Q3_K_L", "IQ4_XS", "IQ4_NL", "Q4_0", "Q4_1",
    "Q4_K_S", "Q4_K_M", "Q5_0", "Q5_1", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0", "F16", "BF16",
)  # fmt: skip
CONTEXT = 256  # tokens of a text
CHATS_A_TEXT = 10  # that are made
TRIES = 3
NORMAL_95 = 1.96
LOGIT_TEXTS = 8  # texts whose logits are compared


@dataclass(frozen=True)
class Text:
    """Token ids of some chats; llama-perplexity scores what comes after the first half and one
    more."""

    ids: tuple[int, ...]
    prompt: str
    continuation: str


@dataclass(frozen=True)
class Divergence:
    """A mean divergence from the unquantized model, in nats a token, and its interval."""

    value: float
    low: float
    high: float

    @property
    def cell(self) -> str:
        """Its words in the table."""
        return with_interval(self.value, self.low, self.high, form=".2g")


def texts_of(tokenizer: Any, count: int, context: int = CONTEXT) -> list[Text]:
    """Put chats together that have exactly `context` tokens, and that are read alike from text and
    in two parts."""
    chats = [
        f"<|im_start|>user\n{one.question}<|im_end|>\n<|im_start|>assistant\n{one.answer}<|im_end|>\n"
        for one in generate_problems(Split.TEST, CHATS_A_TEXT * count)
    ]
    left: dict[int, list[str]] = defaultdict(list)  # by tokens
    for chat, ids in zip(chats, tokenizer(chats)["input_ids"], strict=True):
        left[len(ids)].append(chat)
    texts: list[Text] = []
    while len(texts) < count and (sizes := _sizes(left, context)):
        whole = "".join(left[size].pop() for size in sizes)
        ids, scored_from = tuple(tokenizer(whole)["input_ids"]), context // 2 + 1
        prompt, continuation = (tokenizer.decode(ids[:scored_from]), tokenizer.decode(ids[scored_from:]))
        parts = [*tokenizer(prompt)["input_ids"], *tokenizer(continuation)["input_ids"]]
        if len(ids) == context and prompt + continuation == whole and tuple(parts) == ids:
            texts.append(Text(ids, prompt, continuation))
    if len(texts) < count:
        raise SystemExit(f"--texts {count}: only {len(texts)} texts of {context} tokens can be put together")
    return texts


def _sizes(left: dict[int, list[str]], total: int) -> list[int]:
    """Return sizes of chats that are left, common ones first, which add up to a total; none if
    there are none."""
    common = sorted((size for size in left if left[size]), key=lambda size: -len(left[size]))
    for sizes in chain.from_iterable(product(common, repeat=count) for count in (2, 3)):
        last = total - sum(sizes)
        chosen = [*sizes, last]
        if left.get(last) and all(len(left[size]) >= chosen.count(size) for size in set(chosen)):
            return chosen
    return []


def base_tokens(file: Path) -> list[tuple[int, ...]]:
    """Return the token ids of each text from a file of llama-perplexity with the base model's
    probabilities."""
    data = file.read_bytes()
    magic, context, _, chunks = struct.unpack_from("<8s3i", data)
    if magic != b"_logits_":
        raise SystemExit(f"{file} is no file of llama-perplexity")
    ids = struct.unpack_from(f"<{context * chunks}i", data, 20)
    return [ids[at : at + context] for at in range(0, len(ids), context)]


def divergence_of(printed: str) -> Divergence:
    """Return the mean divergence that llama-perplexity prints, with the 95 % interval of its
    standard error."""
    found = re.search(r"Mean\s+KLD:\s+(-?[\d.]+) ±\s+([\d.]+)", printed)
    if found is None:
        raise SystemExit(f"llama-perplexity printed no mean divergence:\n{printed[-2000:]}")
    value, error = float(found[1]), float(found[2])
    return Divergence(value, value - NORMAL_95 * error, value + NORMAL_95 * error)


def rank_ranges(divergences: Sequence[Divergence]) -> list[tuple[int, int]]:
    """Return the least and the greatest rank of each: those whose intervals overlap may change
    places."""
    below = [sum(other.high < one.low for other in divergences) for one in divergences]
    above = [sum(other.low > one.high for other in divergences) for one in divergences]
    return [(1 + less, len(divergences) - more) for less, more in zip(below, above, strict=True)]


def contradictions(ours: Sequence[Divergence], theirs: Sequence[Divergence]) -> int:
    """Count the pairs that the intervals of both programs separate, in opposite orders."""

    def order(one: Divergence, other: Divergence) -> int:
        return (one.low > other.high) - (one.high < other.low)

    pairs = [(i, j) for i in range(len(ours)) for j in range(i)]
    return sum(order(ours[i], ours[j]) * order(theirs[i], theirs[j]) < 0 for i, j in pairs)


def run(program: Path, *arguments: object) -> str:
    """Run a program of llama.cpp and return all that it prints."""
    done = subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(
            f"{program.name} {' '.join(map(str, arguments))} failed:\n{(done.stdout + done.stderr)[-2000:]}"
        )
    return done.stdout + done.stderr


def make_files(programs: Path, folder: Path, types: Sequence[str]) -> tuple[Path, dict[str, Path]]:
    """Write the unquantized file and those that llama-quantize makes of it, unless they are
    there."""
    base = gguf_of(MODEL_DIR, "float32", folder, whole=256, has_tokenizer=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copyfile(MODEL_DIR / name, folder / name)
    files = {name: folder / f"{name}.gguf" for name in types}
    for name, file in files.items():
        if not file.is_file():
            partial = file.with_suffix(".partial")
            run(programs / "llama-quantize", base, partial, name)
            partial.rename(file)
    return base, files


def theirs(
    programs: Path, base: Path, files: dict[str, Path], texts: Sequence[Text], scratch: Path
) -> dict[str, Divergence]:
    """Return llama-perplexity's divergence of each file, with keys and values in float32."""
    of_base, written = scratch / "base.kld", scratch / "texts.txt"
    whole = "".join(text.prompt + text.continuation for text in texts)
    for token, called in CALLED.items():
        whole = whole.replace(token, called)
    written.write_text(whole + "\n")  # llama-perplexity leaves the last line break out
    program = programs / "llama-perplexity"
    how = [
        "-c",
        CONTEXT,
        "-b",
        CONTEXT,
        "-ctk",
        "f32",
        "-ctv",
        "f32",
        "-fa",
        "off",
        "--kl-divergence-base",
        of_base,
    ]
    run(program, "-m", base, "-f", written, *how)
    if base_tokens(of_base) != [text.ids for text in texts]:
        raise SystemExit("llama.cpp reads other token ids from the texts: nothing can be compared")
    found = {}
    for name, file in files.items():
        tries = (run(program, "-m", file, *how, "--kl-divergence") for _ in range(TRIES))
        # its last lines are lost at times
        printed = next((one for one in tries if "Mean    KLD" in one), "")
        found[name] = divergence_of(printed)
    return found


def ours(
    base: Path, files: dict[str, Path], texts: Sequence[Text], scratch: Path
) -> dict[str, dict[str, Any]]:
    """Return the rows of runner-compare for each file, in float32."""
    data, output = scratch / "texts.jsonl", scratch / "runs"
    rows = ({"prompt": text.prompt, "continuation": text.continuation} for text in texts)
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = ",".join(map(str, (base, *files.values())))
    task = ["task=likelihood", f"task.data={data}", "task.exact=true", f"task.reference='model.name={base}'"]
    which = [
        "model=local",
        f"model.name={names}",
        "model.device=cpu",
        "model.dtype=float32",
        "quantization=gguf",
    ]
    printed("runner", "-m", *which, *task, f"output_dir={output}", "workers=1")
    scored = [list(text.ids[CONTEXT // 2 + 1 :]) for text in texts]
    for samples in output.glob("jobs/*/samples.jsonl"):
        read = [json.loads(line)["token_ids"] for line in samples.read_text().splitlines()]
        if read != scored:
            raise SystemExit("runner scores other token ids: nothing can be compared")
    compared = printed(
        "runner_compare", "--output-dir", str(output), "--baseline", f"model.name={base}", "--format", "json"
    )
    by_file = {Path(row["config"]["model.name"]): row for row in json.loads(compared)["tables"][0]["rows"]}
    return {name: by_file[file] for name, file in files.items()}


def logits_beside(
    python: str, files: dict[str, Path], texts: Sequence[Text], scratch: Path
) -> dict[str, np.ndarray]:
    """Return, for each file, the differences of the logits by runner and by llama.cpp, [tokens,
    vocabulary]."""
    import torch

    ids = [list(text.ids) for text in texts]
    found: dict[str, np.ndarray] = {}
    for name, file in files.items():
        job = {"gguf": str(file), "ids": ids, "answer": str(scratch / "logits.npy")}
        asked = scratch / "logits.json"
        asked.write_text(json.dumps(job))
        side = Path(__file__).with_name("llamacpp_logits_side.py")
        done = subprocess.run([python, str(side), str(asked)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{side.name} failed:\n{done.stderr[-2000:]}")
        expected = np.load(scratch / "logits.npy")
        model = LocalModelConfig(name=str(file), device="cpu", dtype=Dtype.float32)
        engine = greedy_engine(model, CHOICES["gguf"]())
        engine.load()
        with torch.inference_mode():
            own = engine.loaded.model(torch.tensor(ids)).logits.flatten(0, 1).float().numpy()
        engine.close()
        found[name] = own - expected
    return found


def main() -> None:
    """Make the files, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--types", default=",".join(TYPES), help="of llama-quantize")
    parser.add_argument("--texts", type=int, default=100, help=f"of {CONTEXT} tokens each, at least 50")
    options = parse_arguments(parser)
    types = options.types.split(",")
    import torch
    from transformers import AutoTokenizer

    texts = texts_of(AutoTokenizer.from_pretrained(MODEL_DIR), options.texts)
    build = ROOT / "outputs" / ".llamacpp"
    python = llamacpp_python(build)
    programs = llamacpp_programs(build.with_name(f"{build.name}-build"))
    base, files = make_files(programs, ROOT / "outputs" / ".gguf-files", types)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        expected = theirs(programs, base, files, texts, scratch)
        rows = ours(base, files, texts, scratch)
        beside = logits_beside(python, files, texts[:LOGIT_TEXTS], scratch)
    print(f"### {len(files)} files of the embedded model, by runner and by llama.cpp\n")
    print(head_line(["bench/gguf_files.py", *sys.argv[1:]], torch.get_num_threads()))
    print(
        f"\n{options.texts} texts of {CONTEXT} tokens, the second half scored; nats a token, 95 % intervals\n"
    )
    print(table(files, rows, expected, beside))


def table(
    files: dict[str, Path],
    rows: dict[str, dict[str, Any]],
    expected: dict[str, Divergence],
    beside: dict[str, Any],
) -> str:
    """Return the table, the best file first, and what it says."""
    from scipy.stats import spearmanr

    names = sorted(files, key=lambda name: rows[name]["metrics"]["kl_nats_per_token"])
    found = {
        name: Divergence(
            *(rows[name]["metrics"][f"kl_nats_per_token{end}"] or 0.0 for end in ("", "_low", "_high"))
        )
        for name in names
    }
    mine, other = [found[name] for name in names], [expected[name] for name in names]
    lines = []
    for name, my_rank, its_rank in zip(names, rank_ranges(mine), rank_ranges(other), strict=True):
        shift, metrics = rows[name]["shift"], rows[name]["metrics"]
        delta = with_interval(
            shift["difference"], shift["difference_low"], shift["difference_high"], form="+.5f"
        )
        stored, held = files[name].stat().st_size / MIB, metrics["weight_mib"]
        off = abs(beside[name])
        lines.append([
            name, f"{stored:.2f}", f"{held:.2f}", delta, found[name].cell, words_of(my_rank), expected[name].cell,
            words_of(its_rank), f"{off.mean():.2g} ({off.max():.2g})",
        ])  # fmt: skip
    head = [
        "file", "MiB", "weights, MiB", "Δ log-likelihood", "KL", "rank", "KL by llama.cpp", "its rank",
        "logits differ by: mean (most)",
    ]  # fmt: skip
    correlation = spearmanr([one.value for one in mine], [one.value for one in other]).statistic
    unpacked = [name for name in names if not _is_kept(files[name])]
    return "\n".join(
        [
            markdown(head, lines),
            "",
            f"Spearman's correlation of both divergences: {correlation:.3f}. "
            f"Pairs that both separate, in opposite orders: {contradictions(mine, other)}. "
            f"Unpacked while loading: {', '.join(unpacked) or 'no file'}.",
        ]
    )


def words_of(ranks: tuple[int, int]) -> str:
    """Return a range of ranks in words."""
    return str(ranks[0]) if ranks[0] == ranks[1] else f"{ranks[0]}–{ranks[1]}"


def _is_kept(file: Path) -> bool:
    """Whether all matrices of a file stay in blocks."""
    from runner_engine.checkpoints.gguf_file import KEPT_TYPES

    return all(
        tensor.dtype in KEPT_TYPES for tensor in read_gguf_header(file).tensors if len(tensor.shape) > 1
    )


if __name__ == "__main__":
    main()
