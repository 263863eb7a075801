"""llama.cpp's own programs: llama-imatrix reads the texts, llama-quantize writes the file."""

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


def make(order: dict[str, Any], tools: Any) -> dict[str, Any]:
    """Quantize a .gguf file into another one."""
    words = ["--allow-requantize"] if order["file_type"] == "F16" else []
    if order["reads_texts"]:
        words += ["--imatrix", _importance(order, tools)]
    for pattern, name in sorted(order["overrides"].items(), key=lambda pair: -len(pair[0])):
        words += ["--tensor-type", f"{_expression(pattern)}={name}"]
    tools.step(f"quantize by {order['recipe']}")
    places = [order["source"], order["output"], order["file_type"], str(order["threads"])]
    _run([order["programs"][0], *words, *places])
    return {}


def _importance(order: dict[str, Any], tools: Any) -> str:
    """Let llama-imatrix write the importance matrix; return its file."""
    folder = Path(order["texts"]).parent
    texts, matrix = folder / "texts.txt", folder / "imatrix.gguf"
    texts.write_text("\n\n".join(tools.texts()), encoding="utf-8")
    size: int = order["sequence_tokens"]
    words = {
        "-m": order["source"],
        "-f": texts,
        "-o": matrix,
        "-c": size,
        "-b": size,
        "--chunks": order["sequences"],
        "-t": order["threads"],
        "-ngl": 0,
    }
    tools.step("importance matrix")

    def show(piece: str) -> None:
        if found := ALL_PIECES.search(piece):
            tools.pieces = int(found[1])
            tools.tokens = tools.pieces * size
        if counted := PIECE.findall(piece):
            tools.step("importance matrix", int(counted[-1]), tools.pieces)

    _run([order["programs"][1], *(str(word) for pair in words.items() for word in pair)], show)
    return str(matrix)


def _expression(pattern: str) -> str:
    """Return a regular expression for the end of a tensor's name or a part of it: ffn_down,
    blk.0."""
    inner = pattern.replace(".", r"\.").replace("*", ".*").replace("?", ".")
    return rf"(^|\.){inner}(\.|$)"


def _run(command: list[str], show: Any = None) -> None:
    """Run a program, which ends with this process; what it says goes to the log."""
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
        if show is not None:
            show(said)
    if process.wait():
        sys.exit(f"Error: {Path(command[0]).name} ended with exit code {process.returncode}")


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
