"""Shared fixtures: a job's config, a tiny model with random weights, the runner as a command."""

from __future__ import annotations

import gc
import importlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import processors
import pytest
import warm_process
from drawn_tests import mark_thorough
from hypothesis import HealthCheck, settings

from runner_base import processor, signals
from runner_base.files import lock_file
from runner_base.signals import ENDING

if TYPE_CHECKING:
    from in_process import Finished

    from runner.config.root import RunnerConfig
    from runner_engine.settings.model import LocalModelConfig

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches for the real hub
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# else a busy machine would add lines to what is compared
os.environ.setdefault("RUNNER_PROGRESS", "off")
# On a processor without AVX-512 bitsandbytes does not ask torch for products of bytes. Where only
# RUNNER_WITHOUT and ONEDNN_MAX_CPU_ISA leave it out, it would ask, and torch would ask oneDNN,
# whose sums then saturate.
if "avx512" in processor.parse_disabled_cpu_features():
    os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")

# A database waits for the disk at every commit, longer than most tests compute: test folders lie in
# memory where there is room. PYTEST_DEBUG_TEMPROOT, a variable of pytest's, puts them elsewhere.
MEMORY, NEEDED_BYTES = Path("/dev/shm"), 4 * 2**30
if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= NEEDED_BYTES:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

# Nothing depends on the speed of a machine. With CI=true hypothesis has such settings of its own.
if "CI" not in os.environ:
    settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("busy machine")

# A shell starts what it runs in the background with SIGINT ignored, and processes inherit that:
# tests send signals.
for ending in ENDING:
    if signal.getsignal(ending) is signal.SIG_IGN:
        signal.signal(ending, signal.default_int_handler if ending == signal.SIGINT else signal.SIG_DFL)

EXCLUDED = {"modules": 0}  # how many modules were imported at the last time
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Let no garbage be looked for meanwhile: among the objects of thousands of tests there is
    none."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """Mark tests before some are deselected, and order those that are left."""
    mark_thorough(items)
    yield
    share_among_workers(config, items)


def share_among_workers(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each worker its share of the fast tests, followed by its share of the slow ones.

    `--dist worksteal` gives each worker a part of this list, and a worker that has finished takes
    tests from the end of another worker's part: if all slow tests were at the end of the list, one
    worker would get them all.
    """
    workers = int(getattr(config, "workerinput", {}).get("workercount", 1))
    if workers == 1:
        return
    slow, quick = (
        [item for item in items if bool(item.get_closest_marker("slow")) == is_slow]
        for is_slow in (True, False)
    )
    files = [[*tests] for _, tests in itertools.groupby(slow, key=lambda item: item.path)]
    ordered: list[pytest.Item] = []
    for number in range(workers):
        share = [item for file in files[number::workers] for item in file]
        size = (len(items) - len(ordered)) // (workers - number)
        taken = max(0, size - len(share))
        ordered += [*quick[:taken], *share]
        quick = quick[taken:]
    items[:] = ordered + quick


def pytest_collection_finish() -> None:
    """Start the nursery of warm processes, whenever it starts, with the variables from before all
    tests.

    Libraries that test files import have set theirs, and so has the runner, which needs none to be
    imported.
    """
    importlib.import_module("runner")
    warm_process.WarmPopen.known = dict(os.environ)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """Report a variable that a test or a library leaves behind: all processes of later tests would
    start cold."""
    yield
    signals.discard_waiting_signal()  # an interrupt that a test has caught is not for the next one
    assert not (left := warm_process.WarmPopen.early(os.environ)), f"warm_process.LATE lacks {left}"


def pytest_runtest_logstart() -> None:
    """Exclude the objects of imported libraries from garbage collection, which each job in this
    process runs once.

    They are so many that a collection would take a third of a second.
    """
    if len(sys.modules) > EXCLUDED["modules"] + 100:
        EXCLUDED["modules"] = len(sys.modules)
        gc.collect()
        gc.freeze()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many tests this processor could not run, and which one they need."""
    skipped = [report.longrepr for report in terminalreporter.stats.get("skipped", ())]
    reasons = [str(one[2]) if isinstance(one, tuple | list) else str(one) for one in skipped]
    for line in processors.summary_lines(reasons):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session", autouse=True)
def conf_is_parsed_once() -> Iterator[None]:
    """Parse each file of conf/ once; tests of the comparison run without what parses them, too."""
    try:
        from omegaconf import OmegaConf
    except ImportError:
        yield
        return
    from parsed_conf import loading_once

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(OmegaConf, "load", staticmethod(loading_once()))
        yield


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., RunnerConfig]:
    """Return a function that makes a job's config; groups that are not given are the plainest
    ones."""
    from runner.config.model import StubConfig
    from runner.config.root import NoTrackingConfig, RunnerConfig
    from runner.tasks.gsm8k.keys import Gsm8kConfig
    from runner_engine.quantization.base import QuantizationConfig
    from runner_engine.settings.generation import GenerationConfig
    from runner_engine.settings.lora import LoraConfig
    from runner_engine.settings.rope import RopeConfig

    def make(**groups: Any) -> RunnerConfig:
        plain: dict[str, Any] = {
            "model": StubConfig(),
            "quantization": QuantizationConfig(),
            "lora": LoraConfig(),
            "rope": RopeConfig(),
            "generation": GenerationConfig(max_new_tokens=24),
            "task": Gsm8kConfig(limit=4),
            "tracking": NoTrackingConfig(),
            "output_dir": str(tmp_path / "outputs"),
        }
        return RunnerConfig(**(plain | groups))

    return make


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a random two-layer Llama with a byte-level tokenizer and a chat template; return its
    folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny_llama")
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(special + alphabet)}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        extra_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=True,
        initializer_range=0.3,  # wide, so that the most probable token is clearly ahead
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def saved_family(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that saves a tiny model of a family with the byte-level tokenizer.

    It takes what `families.save` takes after the folder; the same arguments give the same folder,
    so no test may change its files.
    """
    from families import save
    from transformers import AutoTokenizer

    folders: dict[str, Path] = {}

    def folder(family: str = "llama", head_dim: int = 64, tied: bool = False, **keys: Any) -> Path:
        key = repr((family, head_dim, tied, sorted(keys.items())))
        if key not in folders:
            saved = save(tmp_path_factory.mktemp(family), family, head_dim, tied, **keys)
            AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(saved)
            folders[key] = saved
        return folders[key]

    return folder


@pytest.fixture
def tiny_model(tiny_llama: Path) -> LocalModelConfig:
    """Point the model group at the tiny Llama, in float32 on the CPU."""
    from runner_base.dtypes import Dtype
    from runner_engine.settings.model import LocalModelConfig

    return LocalModelConfig(name=str(tiny_llama), device="cpu", dtype=Dtype.float32)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Return a function that makes a folder under a name, once for all workers of a session; no
    test may change it."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def folder_of(name: str, make: Callable[[Path], None]) -> Path:
        folder, mark = shared / name, shared / f"{name}.made"
        with lock_file(shared / f"{name}.lock"):  # a second worker waits here
            if not mark.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                mark.touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def new_database(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Callable[[Path], None]:
    """Return a function that copies an empty MLflow database to a path; only the first one is
    created, in seconds."""

    def make(folder: Path) -> None:
        program = (
            "import sys; from mlflow import MlflowClient; MlflowClient(sys.argv[1]).search_experiments()"
        )
        command = [sys.executable, "-c", program, f"sqlite:///{folder}/mlflow.db"]
        done = warm_process.complete(command, cwd=folder)
        assert done.returncode == 0, done.stderr

    def put(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made_once("database", make) / "mlflow.db", path)

    return put


@pytest.fixture
def warm_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all Python processes that this one starts start warm, also those that the product
    starts."""
    monkeypatch.setattr(subprocess, "Popen", warm_process.warm())


@pytest.fixture
def runner(tmp_path: Path, new_database: Callable[[Path], None]) -> Callable[..., Finished]:
    """Return a function that runs `python -m runner ARGUMENTS` in an empty folder.

    An empty database is put there first, unless the runner is to create it (database=False). The
    command runs in this process; it gets its own with process=True, and if a variable is given that
    libraries may have read already.
    """

    import in_process

    def call(
        *arguments: str,
        cwd: Path = tmp_path,
        module: str = "runner",
        database: bool = True,
        process: bool = False,
        **environment: str,
    ) -> Finished:
        tracks = module == "runner" and not any(
            word.startswith(("tracking", "output_dir")) for word in arguments
        )
        if database and tracks and cwd.is_dir() and not (cwd / "outputs").exists():
            new_database(cwd / "outputs" / "mlflow.db")
        if process or not all(name.startswith(in_process.LATE) for name in environment):
            variables = os.environ | environment
            return in_process.Finished(
                *warm_process.run(module, arguments, timeout_s=300, cwd=cwd, env=variables)
            )
        return in_process.Finished(*in_process.run(module, arguments, cwd, environment))

    return call
