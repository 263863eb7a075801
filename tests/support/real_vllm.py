"""The real vLLM, after `make vllm`, and its parser for commands."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VLLM = ROOT / ".vllm" / "bin" / "python"
PAGE = ROOT / "docs" / "remote.md"
PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = make_arg_parser(FlexibleArgumentParser(exit_on_error=False))
for words in json.load(sys.stdin):
    options, unknown = parser.parse_known_args(words)
    assert not unknown, unknown
    validate_parsed_serve_args(options)
    print(options.tensor_parallel_size, options.pipeline_parallel_size, options.node_rank, options.headless)
"""
needs_vllm = pytest.mark.skipif(not VLLM.exists(), reason="vLLM is not installed here: make vllm")


def commands(text: str, program: str) -> list[list[str]]:
    """Return the words behind a program's name in each line of a page that runs it."""
    lines = re.findall(rf"^(?:[A-Z_]+=\S+ )*{program} (.*)$", text, re.MULTILINE)
    return [line.split() for line in lines]


def parsed_by_vllm(of: list[list[str]]) -> subprocess.CompletedProcess[str]:
    """Let vLLM parse commands; its exit code is not 0 if it does not know one of the words."""
    return subprocess.run(
        [str(VLLM), "-c", PARSE],
        input=json.dumps(of),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
