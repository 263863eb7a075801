"""Quantizes a .gguf file with llama-quantize, and computes importance matrices with llama-imatrix."""

from __future__ import annotations

import ctypes
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1  # of Linux's prctl
ALL_PIECES = re.compile(r"computing over (\d+) chunks")
PIECE = re.compile(r"\[(\d+)\][\d.]")  # how llama-imatrix counts them


def quantize_model(request: dict[str, Any], tools: Any) -> dict[str, Any]:
    """Quantize a .gguf file with llama-quantize, and write the result to another .gguf file."""
    words = ["--allow-requantize"] if request["file_type"] == "F16" else []
    if request["reads_texts"]:
        words += ["--imatrix", _compute_imatrix(request, tools)]
    for pattern, name in sorted(request["overrides"].items(), key=lambda pair: -len(pair[0])):
        words += ["--tensor-type", f"{_pattern_to_regex(pattern)}={name}"]
    tools.report_step(f"quantize by {request['recipe']}")
    places = [request["source"], request["output"], request["file_type"], str(request["threads"])]
    _run_program([request["programs"][0], *words, *places])
    return {}


def _compute_imatrix(request: dict[str, Any], tools: Any) -> str:
    """Run llama-imatrix and return the path of the importance matrix that it writes."""
    folder = Path(request["texts"]).parent
    texts, matrix = folder / "texts.txt", folder / "imatrix.gguf"
    texts.write_text("\n\n".join(tools.read_texts()), encoding="utf-8")
    size: int = request["sequence_tokens"]
    words = {
        "-m": request["source"],
        "-f": texts,
        "-o": matrix,
        "-c": size,
        "-b": size,
        "--chunks": request["sequences"],
        "-t": request["threads"],
        "-ngl": 0,
    }
    tools.report_step("importance matrix")

    def show_progress(output: str) -> None:
        if found := ALL_PIECES.search(output):
            tools.pieces = int(found[1])
            tools.tokens = tools.pieces * size
        if counted := PIECE.findall(output):
            tools.report_step("importance matrix", int(counted[-1]), tools.pieces)

    _run_program(
        [request["programs"][1], *(str(word) for pair in words.items() for word in pair)], show_progress
    )
    return str(matrix)


def _pattern_to_regex(pattern: str) -> str:
    """Return a regex that matches complete components of a dotted tensor name.

    Patterns are such as ffn_down or blk.0.
    """
    inner = pattern.replace(".", r"\.").replace("*", ".*").replace("?", ".")
    return rf"(^|\.){inner}(\.|$)"


def _run_program(command: list[str], on_output: Any = None) -> None:
    """Run a program with its output in the log. The program is killed when this process ends."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=_end_with_parent,
    )
    assert process.stdout is not None
    while data := process.stdout.read1(4096):  # type: ignore[attr-defined]  # a buffered reader
        said = data.decode(errors="replace")
        print(said, end="", file=sys.stderr, flush=True)
        if on_output is not None:
            on_output(said)
    if process.wait():
        sys.exit(f"Error: the program {Path(command[0]).name} failed with exit code {process.returncode}")


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
