"""What CONTRIBUTING.md promises: a quantization, a task and an engine are each added in three files.

Each addition is a diff against this tree. It is applied to a copy, and what it adds is used from the command line.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]

QUANTIZATION = '''
--- /dev/null
+++ b/runner/quantization/groups.py
@@ -0,0 +1,28 @@
+"""torchao, with a scale for each group of 32 numbers instead of one for each row."""
+
+from __future__ import annotations
+
+from dataclasses import dataclass
+from typing import Any
+
+from runner.quantization.torchao import TorchaoInt8Config
+
+GROUP = 32
+
+
+@dataclass
+class GroupsConfig(TorchaoInt8Config):
+    """Weight-only int8 in groups."""
+
+    name: str = "int8_groups"
+
+    def price(self, rows: int, numbers: int, dtype_bytes: int) -> tuple[int, int]:
+        """One byte for each number; a float32 scale and an int8 zero point for each group."""
+        return numbers, 5 * numbers // GROUP
+
+    def load_arguments(self) -> dict[str, Any]:
+        """Return transformers' config around torchao's own."""
+        from torchao.quantization import Int8WeightOnlyConfig, PerGroup
+        from transformers import TorchAoConfig
+
+        return {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig(granularity=PerGroup(GROUP)))}
--- a/runner/quantization/__init__.py
+++ b/runner/quantization/__init__.py
@@ -1,1 +1,2 @@
 from runner.quantization.gptqmodel import AwqConfig, GptqConfig
+from runner.quantization.groups import GroupsConfig
@@ -1,2 +1,3 @@
     "torchao_int8": TorchaoInt8Config,
+    "int8_groups": GroupsConfig,
     "gguf": GgufConfig,
--- /dev/null
+++ b/conf/quantization/int8_groups.yaml
@@ -0,0 +1,1 @@
+defaults: [/hydra/schema/quantization/int8_groups@_here_, _self_]
'''

TASK = '''
--- a/runner/config/tasks.py
+++ b/runner/config/tasks.py
@@ -1,1 +1,5 @@
+from dataclasses import dataclass
+from typing import ClassVar
+
 from runner.config.agents import AgentsConfig
+from runner.core.fields import MISSING
@@ -1,2 +1,12 @@
+@dataclass
+class WordsConfig(TaskConfig):
+    """How many words an answer has."""
+
+    module: ClassVar[str] = "runner.tasks.words"
+    name: str = "words"
+    prompt: str = MISSING
+
+
 TASKS: dict[str, type[TaskConfig]] = {
+    "words": WordsConfig,
     "gsm8k": Gsm8kConfig,
--- /dev/null
+++ b/runner/tasks/words.py
@@ -0,0 +1,28 @@
+"""task=words: count the words of an answer."""
+
+from __future__ import annotations
+
+from runner.config.root import RunnerConfig
+from runner.config.tasks import WordsConfig
+from runner.core.result import Result
+from runner.engines.base import Request
+from runner.tasks.base import Context, Inputs, Uses
+from runner.tasks.completing import complete_missing, sample_of
+
+VERSION = 1
+USES = frozenset({Uses.weights, Uses.engine})
+FROM_LEDGER = True
+
+
+def prepare(config: RunnerConfig) -> Inputs:  # noqa: ARG001
+    """Read nothing: the prompt is a key."""
+    return Inputs({})
+
+
+def run(inputs: Inputs, context: Context) -> Result:  # noqa: ARG001
+    """Ask once, and count."""
+    task = context.config.task
+    assert isinstance(task, WordsConfig)
+    done = complete_missing("words", [Request(0, task.prompt)], context, sample_of)
+    words = len(done.samples[0].text.split())
+    return Result(metrics={"words": words, **done.metrics}, facts=done.facts, notes=done.notes)
--- /dev/null
+++ b/conf/task/words.yaml
@@ -0,0 +1,2 @@
+defaults: [/hydra/schema/task/words@_here_, _self_]
+prompt: ???          # what to ask
'''

ENGINE = '''
--- a/runner/config/model.py
+++ b/runner/config/model.py
@@ -1,3 +1,13 @@
+@dataclass
+class BackwardsConfig(ModelConfig):
+    """No weights: says the prompt backwards."""
+
+    name: str = inert("backwards", HASHED)
+    shout: bool = False
+
+    module: ClassVar[str] = "runner.engines.kinds.backwards"
+
+
 MODELS: dict[str, type[ModelConfig]] = {
+    "backwards": BackwardsConfig,
     "model": LocalModelConfig,
--- /dev/null
+++ b/runner/engines/kinds/backwards.py
@@ -0,0 +1,59 @@
+"""model=backwards: says the prompt backwards."""
+
+from __future__ import annotations
+
+from collections.abc import Sequence
+from pathlib import Path
+
+from runner.checkpoints.resolve import Resolved
+from runner.config.model import BackwardsConfig
+from runner.config.root import RunnerConfig
+from runner.core.result import FinishReason
+from runner.engines.base import Capability, Completion, Engine, EngineReport, Event, Request, RequestId, prompt_sha256
+from runner.engines.kinds import BaseCache, ModelKind
+from runner.engines.session import Session
+from runner.engines.stats import EngineStats
+
+
+class BackwardsEngine:
+    capabilities: frozenset[Capability] = frozenset()
+
+    def __init__(self, shout: bool) -> None:
+        self.shout, self.stats = shout, EngineStats()
+
+    def load(self) -> EngineReport:
+        return EngineReport(facts={"architecture": "backwards"})
+
+    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
+        return str(request.prompt), []
+
+    def open(self, batch_size: int | None = None) -> Session:
+        return BackwardsSession(self)
+
+    def close(self) -> None: ...
+
+
+class BackwardsSession(Session):
+    def __init__(self, engine: BackwardsEngine) -> None:
+        super().__init__(engine.capabilities)
+        self.engine = engine
+
+    def _admit(self, request: Request) -> Request:
+        return request
+
+    def _advance(self, arrived: list[Request], cancelled: set[RequestId]) -> list[Event]:
+        return [self._answer(request) for request in arrived]
+
+    def _drop(self) -> None: ...
+
+    def _answer(self, request: Request) -> Event:
+        prompt = str(request.prompt)
+        text = prompt[::-1].upper() if self.engine.shout else prompt[::-1]
+        return Completion(request.id, text, [], FinishReason.stop, prompt_sha256(prompt), 0, 0.0, 0.0)
+
+
+class Backwards(ModelKind):
+    def evidence(self, config: RunnerConfig, resolved: Resolved, cache: Path) -> dict[str, str]:
+        return {"model": "backwards"}
+
+    def capabilities(self, config: RunnerConfig) -> frozenset[Capability]:
+        return BackwardsEngine.capabilities
+
+    def open_engine(self, config: RunnerConfig, resolved: Resolved, bases: BaseCache | None) -> Engine:
+        assert isinstance(config.model, BackwardsConfig)
+        return BackwardsEngine(config.model.shout)
+
+
+KIND = Backwards()
--- /dev/null
+++ b/conf/model/backwards.yaml
@@ -0,0 +1,2 @@
+defaults: [/hydra/schema/model/backwards@_here_, _self_]
+shout: false         # in capital letters
'''


def apply(diff: str, tree: Path) -> list[str]:
    """Apply a diff by its text alone (line numbers are not looked at); return the files that it touches."""
    touched: list[str] = []
    for part in diff.split("\n--- ")[1:]:
        head, *hunks = part.split("\n@@ ")
        path = tree / head.split("+++ b/")[1].strip()
        touched.append(str(path.relative_to(tree)))
        text = path.read_text() if path.exists() else ""
        for hunk in hunks:
            lines = [line for line in hunk.split("\n")[1:] if line]
            before = "".join(line[1:] + "\n" for line in lines if line[0] == " ")
            after = "".join(line[1:] + "\n" for line in lines)
            assert text.count(before) == 1 or not text, f"{path.name} has changed: {before!r}"
            text = text.replace(before, after) if text else after
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return touched


@pytest.fixture
def add(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that applies a diff to a copy of this tree and runs a job there."""

    def run(diff: str, *arguments: str) -> dict[str, Any]:
        tree = tmp_path / "tree"
        for name in ("runner", "conf", "hydra_plugins"):
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        touched = apply(diff, tree)
        assert len(touched) <= 3, touched
        done = subprocess.run(
            [sys.executable, "-P", "-m", "runner", *arguments, "tracking=none"],
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tree)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (record,) = (tmp_path / "outputs" / "jobs").glob("*/result.json")
        values: dict[str, Any] = json.loads(record.read_text())
        return values

    return run


def test_a_quantization(add: Callable[..., dict[str, Any]]) -> None:
    if find_spec("torchao") is None:
        pytest.skip("pip install 'runner[torchao]'")
    memory = ("task=memory", "task.repeats=1", "task.batch_size=1", "task.prompt_tokens=8", "task.new_tokens=4")
    record = add(QUANTIZATION, "quantization=int8_groups", *memory)
    metrics = record["result"]["metrics"]
    assert metrics["quantized_modules"] == 28
    assert metrics["predicted_weight_mib"] == pytest.approx(metrics["weight_mib"], rel=0.01)


def test_a_task(add: Callable[..., dict[str, Any]]) -> None:
    record = add(TASK, "task=words", "task.prompt=one two three", "model=stub")
    assert record["result"]["metrics"]["words"] == 4  # [STUB_GENERATION] and three
    assert record["task"] == "words"


def test_an_engine(add: Callable[..., dict[str, Any]]) -> None:
    asked = ("task=generate", "task.prompt=edoc", "task.format=raw", "model.shout=true")
    record = add(ENGINE, "model=backwards", *asked)
    assert record["result"]["text"] == "CODE"
    assert record["result"]["facts"]["architecture"] == "backwards"
