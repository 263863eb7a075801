"""The steps of gpu_all.py: what is right on the device. gpu_speed.py has those that measure time or memory."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import gpu_speed
import pytest
import torch
from engines import ROOT
from gpu_engines import (
    DEVICE,
    ON_GPU,
    ROWS,
    SHAPE,
    STEP,
    NotRunError,
    count_equal,
    count_same_start,
    flash_attention_lacks,
    generate,
    load_engine,
    make_requests,
    model_config,
    note,
    note_figure,
    read_tokens,
    require,
    steps_on_device,
    write_missing,
    write_place,
)
from kv_cache import score, worked_answers
from stored_of import checkpoint_of

from runner.render.engine_notes import format_memory_limited_batch_note
from runner_base import Dtype, machine
from runner_base.child_process import request_kill_when_parent_dies
from runner_engine.embedded import MODEL_DIR
from runner_engine.local.engine import LocalEngine
from runner_engine.sessions.base import Request
from runner_engine.sessions.contract import complete_requests
from runner_engine.settings.kv_cache import KvCache
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.sampling import Sampling

TESTS = ROOT / "tests" / "engine"
CPU_TESTS = [  # of the code for GPUs, by tensors without numbers and stubs of graphs
    *(TESTS / "decode" / f"test_{name}.py" for name in ("device_step", "pages", "ahead", "step_graphs", "gpu_layers")),
    TESTS / "kv_cache" / "test_paged_slots.py",
    TESTS / "devices" / "test_gpu.py",
]  # fmt: skip
FAMILIES = ("qwen3_moe", "gpt_oss", "deepseek_v3", "qwen3_5", "qwen3_next", "lfm2", "falcon_h1")
KV_FORMATS = ("int8", "k8v4", "int4")
# Upper limits in nats a token, embedded model, worked answers: about five times the values of 40 texts on a CPU, which
# are 0.0010, 0.000015 and 0.00020.
KL_LIMITS = {"nf4": 0.005, "int8": 0.0001, "fp8": 0.001}


def versions() -> None:
    """What is here, what finds the GPUs, and which features this torch has."""
    try:
        command = ["nvidia-smi", "-L"]
        listed = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        listed = type(error).__name__
    found = ", ".join(machine.visible_gpu_models()) or "none"
    count = torch.cuda.device_count()
    is_same = bool(count) == bool(machine.visible_gpu_models()) if ON_GPU else None
    note(
        "runner finds the GPUs that torch finds",
        f"runner: {found}; torch: {count}; nvidia-smi: {listed}",
        is_same,
    )
    libraries = ", ".join(f"{name} {version}" for name, version in machine.library_versions().items())
    note("libraries", libraries)
    lacks = flash_attention_lacks()
    said = f"this torch lacks {' and '.join(lacks)}: not run" if lacks else "this torch has them"
    note("pages of the KV cache and attention without splits need torch 2.13", said)
    started = time.perf_counter()
    load_engine(model_config())
    note(f"{SHAPE if ON_GPU else 'the embedded model'} loads", f"{time.perf_counter() - started:.1f} s", True)


class OutcomeCounter:
    """A plug-in of pytest that counts outcomes."""

    def __init__(self) -> None:
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
        if report.failed:
            self.failed.append(report.nodeid)


def _run_tests(marked: str, word: str) -> None:
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # another package's plug-in may fail here
    options = ["-q", "--maxfail=20", "-W", "ignore", "-p", "no:cacheprovider", "-m", marked]
    if ON_GPU and (os.cpu_count() or 1) >= 8 and importlib.util.find_spec("xdist"):
        options += ["-p", "xdist.plugin", "-n", "6"]
    options += [str(TESTS), "-k", "cuda or GPU"] if ON_GPU else list(map(str, CPU_TESTS))
    os.chdir(ROOT)
    counter = OutcomeCounter()
    code = pytest.main(options, plugins=[counter])
    counts = ", ".join(f"{count} {outcome}" for outcome, count in counter.counts.items())
    failed = "".join(f"; {name}" for name in counter.failed[:5])
    note(
        f"the engine's {word} pass on the device",
        f"{counts}{failed}",
        code == 0 and counter.counts["passed"] > 0,
    )


def tests() -> None:
    """The engine's tests that are marked for a GPU; on a CPU those of the same code by stubs."""
    _run_tests("not thorough", "tests")


def thorough_tests() -> None:
    """The remaining tests that are marked for a GPU."""
    if not ON_GPU:
        raise NotRunError("The thorough tests run on a GPU alone.")
    _run_tests("thorough", "thorough tests")


def _compare_with_generate(name: str, engine: LocalEngine, rows: int, new: int) -> None:
    requests = make_requests(engine, rows, new)
    theirs = generate(engine, requests)
    for records in (True, False) if ON_GPU else (True,):
        with steps_on_device(records):
            ours = read_tokens(complete_requests(engine, requests))
        equals = count_equal(ours, theirs)
        start = min(count_same_start(ours[one], theirs[one]) for one in theirs)
        steps = engine.stats.decoding_graphs or "no recorded steps"
        said = f"{equals} of {len(theirs)}; first difference after {start} of {new} tokens; {steps}"
        note(f"{name}: float32 answers are those of generate", said, equals >= 0.98 * len(theirs))


def equal() -> None:
    for is_large in (False, True) if ON_GPU else (False,):
        engine = load_engine(model_config(Dtype.float32, is_large))
        name = SHAPE if is_large else "embedded"
        _compare_with_generate(name, engine, (16 if is_large else 64) if ON_GPU else 4, 64 if ON_GPU else 16)
        engine.close()


def families() -> None:
    """Tiny mixtures and hybrids."""
    sys.path.append(str(ROOT / "tests" / "support"))
    from hybrids import save_hybrid
    from mixtures import MIXTURES, mixture
    from transformers import AutoTokenizer

    for family in FAMILIES if ON_GPU else ("qwen3_moe", "qwen3_5", "lfm2"):
        with tempfile.TemporaryDirectory() as folder:
            if family in MIXTURES:
                mixture(family, vocab_size=512).save_pretrained(folder)
                AutoTokenizer.from_pretrained(MODEL_DIR).save_pretrained(folder)
            else:
                save_hybrid(Path(folder), family, MODEL_DIR)
            try:
                engine = load_engine(LocalModelConfig(name=folder, device=DEVICE, dtype=Dtype.float32))
                _compare_with_generate(family, engine, 8 if ON_GPU else 3, 32 if ON_GPU else 8)
                engine.close()
            except Exception as error:  # noqa: BLE001  # the other families go on
                note(family, f"{type(error).__name__}: {error}"[:400], False)


def kv_formats() -> None:
    """Memory of each format of the KV cache, and how many answers it leaves as they are."""
    requests: list[Request] = []
    plain, plain_bytes = {}, 0
    for name in ("as_model", *KV_FORMATS):
        engine = load_engine(model_config(is_large=False), kv_cache=KvCache.parse(name))
        requests = requests or make_requests(engine, 64 if ON_GPU else 3, 64 if ON_GPU else 12)
        ours = read_tokens(complete_requests(engine, requests, len(requests)))
        kv_bytes = engine.stats.peak_kv_bytes
        if name == "as_model":
            plain, plain_bytes = ours, kv_bytes
        said = f"{kv_bytes / plain_bytes:.2f} of the memory; {count_equal(ours, plain)} of {len(ours)} answers equal"
        steps = engine.stats.decoding_graphs or "no recorded steps"
        note(f"generation.kv_cache={name} decodes", f"{said}; {steps}", kv_bytes <= plain_bytes)
        engine.close()


def graphs() -> None:
    """Answers with recorded steps are those without."""
    for dtype in (Dtype.float32, Dtype.bfloat16):
        engine = load_engine(model_config(dtype))
        requests = make_requests(engine, ROWS[-2] if ON_GPU else 4, 64 if ON_GPU else 12)
        answers, summary = [], ""
        for records in (True, False):
            with steps_on_device(records):
                answers.append(read_tokens(complete_requests(engine, requests)))
            summary = summary or engine.stats.decoding_graphs
        equals = count_equal(answers[0], answers[1])
        said = f"{equals} of {len(requests)} answers; {summary or 'this device records none'}"
        is_right = equals == len(requests) and (" % of steps" in summary or not ON_GPU)
        note(f"{dtype.value}: recorded steps give the same tokens", said, is_right)
        engine.close()


def kl() -> None:
    """KL divergence of quantized weights from bfloat16, of the embedded model on its own answers."""
    engine = load_engine(model_config(is_large=False))
    asked = worked_answers(engine, 40 if ON_GPU else 3, 0)
    plain = score(engine, asked)
    for name in ("none", *KL_LIMITS):
        folder = tempfile.TemporaryDirectory()
        try:
            if name in ("nf4", "int8"):
                require("bitsandbytes")
            model, choice = model_config(is_large=False), name
            if name == "fp8":
                stored = checkpoint_of(MODEL_DIR, name, Path(folder.name))
                model, choice = (
                    LocalModelConfig(name=str(stored), device=DEVICE, dtype=Dtype.bfloat16),
                    "none",
                )
            other = score(load_engine(model, choice), asked)
            sums = [float((plain[one].exp() * (plain[one] - other[one])).sum()) for one in plain]
            nats = sum(sums) / sum(map(len, plain.values()))
        except NotRunError as missing:
            note(f"KL of {name}", str(missing))
        except Exception as error:  # noqa: BLE001  # the other formats go on
            note(f"KL of {name}", f"{type(error).__name__}: {error}"[:400], False)
        else:
            limit, is_control = KL_LIMITS.get(name, 0.0), name == "none"
            what = "bfloat16 again" if is_control else name
            expected = "is 0" if is_control else f"is above 0 and at most {limit:g}"
            note(
                f"KL of {what} {expected}",
                f"{nats:.2g} nats a token",
                (nats > 0) != is_control and nats <= limit,
            )
            note_figure("KL from bfloat16", "nats a token", [nats], what, 7)
        folder.cleanup()


def shortage() -> None:
    """With little memory, fewer sequences run at once and all answers come."""
    engine = load_engine(model_config())
    rows = 256 if ON_GPU else 4
    requests = make_requests(engine, rows, 512 if ON_GPU else 12)
    if ON_GPU:
        total = torch.cuda.get_device_properties(DEVICE).total_memory
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 1.2 * 2**30) / total)
    done = read_tokens(complete_requests(engine, requests, rows))
    whole = sum(len(tokens) == requests[0].max_new_tokens for tokens in done.values())
    notes = "; ".join(map(format_memory_limited_batch_note, engine.stats.row_shortages)) or "no shortage"
    is_right = whole == rows and ("memory" in notes or not ON_GPU)
    note("a shortage of memory loses no answer", f"{whole} of {rows} answers are whole; {notes}", is_right)


def sampled() -> None:
    engine = load_engine(model_config())
    sampling = Sampling(temperature=0.8, top_p=0.9, top_k=50, seed=5)
    requests = make_requests(engine, ROWS[1], 64 if ON_GPU else 12, sampling=sampling)
    first, second = (read_tokens(complete_requests(engine, requests)) for _ in range(2))
    equals = count_equal(first, second)
    note("sampled answers are the same twice", f"{equals} of {len(first)}", equals == len(first))


def job() -> None:
    """A whole job by its command, on the embedded model."""
    require("hydra", "omegaconf", "antlr4")
    questions = 200 if ON_GPU else 8
    words = f"-m runner task=gsm8k model=embedded model.device={DEVICE} task.limit={questions} tracking=none"
    command = [sys.executable, *words.split()]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*command, f"output_dir={folder}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=request_kill_when_parent_dies,
        )
    print(done.stdout, done.stderr)
    found = re.search(r"accuracy[ │|]*([\d.]+)", done.stdout + done.stderr)
    said = f"exit code {done.returncode}, accuracy {found[1] if found else 'not found'}"
    is_right = done.returncode == 0 and found is not None and float(found[1]) > (85 if ON_GPU else 50)
    note("a job of the embedded model: about 93 %", said, is_right)


STEPS: dict[str, Callable[[], None]] = {
    each.__name__: each
    for each in (
        versions, tests, thorough_tests, equal, families, kv_formats, graphs, kl, shortage, sampled, job,
        gpu_speed.speed, gpu_speed.vllm, gpu_speed.memory, gpu_speed.quantized, gpu_speed.profile,
        gpu_speed.prefixes, gpu_speed.attention, gpu_speed.pages,
    )
}  # fmt: skip


def main() -> None:
    """Run the step that the process was started for."""
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    if not ON_GPU:
        if STEP != "tests":  # they choose for themselves
            os.environ["RUNNER_ATTENTION"] = "sdpa"  # the path of a GPU
        torch.set_num_threads(1)
    write_place()
    try:
        STEPS[STEP]()
    except NotRunError as missing:
        write_missing(str(missing))
