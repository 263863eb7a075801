"""Values that a user may be handed in an adapter, a draft, a calibration file or a key: one message
in seconds, or a job that ends well."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import corpus
import pytest
from arena import GSM8K, Arena
from stored import rows

from runner_engine.embedded import MODEL_DIR

pytestmark = [pytest.mark.slow, pytest.mark.smoke(4)]

LONGEST_CPU_S = 60  # of a command: on a busy machine it takes as many, and more time
LONGEST_S = 600  # for what waits and does not compute
BACKTRACKS = r"(\w+\w*)+\.(\w+\w*)+\.(\w+\w*)+!"  # takes years on a module's name
ADAPTER = MODEL_DIR.parent / "lora_team"
PEFT = ("model=embedded", "lora=peft", "lora.path=./adapter")
DRAFT = ("model=embedded", "generation.speculate={kind: draft, model: ./draft}")


class TookTooLong(Exception):
    """A command took longer than LONGEST_CPU_S or LONGEST_S."""


@pytest.fixture(autouse=True)
def limited_time() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TookTooLong

    timers = {
        signal.ITIMER_PROF: (signal.SIGPROF, LONGEST_CPU_S),
        signal.ITIMER_REAL: (signal.SIGALRM, LONGEST_S),
    }
    before = {number: signal.signal(number, stop) for number, _ in timers.values()}
    for timer, (_, seconds) in timers.items():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


ADAPTER_SETTINGS: dict[str, dict[str, Any]] = {
    "rank 10^9": {"r": 10**9},
    "rank 10^30": {"r": 10**30},
    "rank 0": {"r": 0},
    "rank -1": {"r": -1},
    "rank is text": {"r": "many"},
    "rank is a fraction": {"r": 1.5},
    "alpha is huge": {"lora_alpha": 10**400},
    "alpha is text": {"lora_alpha": "x"},
    "alpha is a list": {"lora_alpha": [1]},
    "backtracking modules": {"target_modules": BACKTRACKS},
    "backtracking excluded modules": {"target_modules": ["q_proj"], "exclude_modules": BACKTRACKS},
    "backtracking ranks": {"target_modules": ["q_proj"], "rank_pattern": {BACKTRACKS: 2}},
    "backtracking alphas": {"target_modules": ["q_proj"], "alpha_pattern": {BACKTRACKS: 2}},
    "no regular expression": {"target_modules": "(("},
    "modules are numbers": {"target_modules": [1, None, {}]},
    "a million modules": {"target_modules": [f"m{number}" for number in range(10**6)]},
    "a rank of 10^9 by pattern": {"target_modules": ["q_proj"], "rank_pattern": {"q_proj": 10**9}},
    "ranks are text": {"target_modules": ["q_proj"], "rank_pattern": {"q_proj": "x"}},
    "modules saved whole": {"target_modules": ["q_proj"], "modules_to_save": ["."]},
    "parameters": {"target_parameters": [BACKTRACKS]},
    "layers 10^12": {"target_modules": ["q_proj"], "layers_to_transform": [10**12]},
    "layers by pattern": {
        "target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": [BACKTRACKS],
    },
    "tokens that are not there": {"trainable_token_indices": [10**12]},
    "another base": {"base_model_name_or_path": "../../etc/passwd", "revision": "$(touch x)"},
    "a class of its own": {"auto_mapping": {"base_model_class": "os", "parent_library": "os"}},
    "a runtime": {"runtime_config": {"ephemeral_gpu_offload": "x"}, "loftq_config": {"a": 1}},
    "initialised from files": {"init_lora_weights": "pissa_niter_1000000000"},
    "initialised by eva": {"init_lora_weights": "eva", "eva_config": {"rho": 10**9}},
    "deep": {"nested": {}},
}  # fmt: skip


@corpus.many(ADAPTER_SETTINGS)
def test_settings_of_an_adapter(arena: Arena, case: str) -> None:
    """The weights fit the model, so that only the settings can be what is wrong."""
    adapter = shutil.copytree(ADAPTER, arena.folder / "adapter")
    own = json.loads((adapter / "adapter_config.json").read_text()) | ADAPTER_SETTINGS[case]
    (adapter / "adapter_config.json").write_text(json.dumps(own))
    arena.give(*PEFT, *GSM8K, fails=None)


@corpus.many(corpus.SAFETENSORS)
def test_headers_of_an_adapter(arena: Arena, case: str) -> None:
    adapter = corpus.put_adapter(arena.folder)
    (adapter / "adapter_model.safetensors").write_bytes(corpus.SAFETENSORS[case])
    arena.give(*PEFT, *GSM8K)


@corpus.many(corpus.PICKLES)
def test_pickled_weights_of_an_adapter(arena: Arena, case: str) -> None:
    adapter = corpus.put_adapter(arena.folder)
    (adapter / "adapter_model.safetensors").unlink()
    corpus.PICKLES[case](adapter / "adapter_model.bin", arena.mark)
    arena.give(*PEFT, *GSM8K)


@pytest.mark.parametrize(
    "settings",
    [
        {"vocab_size": 10**12},
        {"vocab_size": 2},
        {"num_hidden_layers": 10**9},
        {"hidden_size": 10**12},
        {"model_type": "unheard_of"},
        {"max_position_embeddings": 1},
        {"eos_token_id": 10**12},
        {"num_key_value_heads": 0},
    ],
    ids=repr,
)
def test_settings_of_a_draft(arena: Arena, settings: dict[str, Any]) -> None:
    draft = arena.folder / "draft"
    shutil.copytree(MODEL_DIR, draft)
    own = json.loads((draft / "config.json").read_text()) | settings
    (draft / "config.json").write_text(json.dumps(own))
    arena.give(*DRAFT, *GSM8K, fails=None)


@corpus.many({**corpus.JSONS, "nothing": b""})
def test_files_of_a_draft(arena: Arena, case: str) -> None:
    draft = arena.folder / "draft"
    shutil.copytree(MODEL_DIR, draft)
    (draft / "config.json").write_bytes({**corpus.JSONS, "nothing": b""}[case])
    arena.give(*DRAFT, *GSM8K)


@pytest.mark.parametrize(
    "speculate",
    [
        "{kind: draft, layers: 1000000000000}",
        "{kind: draft, layers: -1}",
        "{kind: draft, tokens: 1000000000000}",
        "{kind: draft, model: ../..}",
        "{kind: draft, model: /dev/zero}",
        "{kind: draft, model: ./draft, quantization: ../nf4}",
        "{kind: [draft]}",
        "{kind: ngram, tokens: -5}",
        "[[[[]]]]",
    ],
)
def test_keys_of_a_draft(arena: Arena, speculate: str) -> None:
    arena.give("model=embedded", f"generation.speculate={speculate}", *GSM8K)


@pytest.mark.parametrize(
    "kv_cache",
    [
        "{keys: int8, values: int99}",
        "{keys: [int8], values: int8}",
        "{first_tokens: 1000000000000000000000}",
        "{keys: int8, layers: {-1000: int8}}",
        "{keys: int8, layers: {1000000000000: int8}}",
        "{keys: int8, layers: {a: int8}}",
        "{keys: int8, rotate: perhaps}",
        "../int8",
        "{layers: {0: {keys: {keys: int8}}}}",
        "[int8]",
    ],
)
def test_keys_of_the_cache(arena: Arena, kv_cache: str) -> None:
    arena.give("model=embedded", f"generation.kv_cache={kv_cache}", *GSM8K)


@pytest.mark.parametrize("kv_cache", ["{keys: int8, layers: {-1: int8}}", "{}"])
def test_odd_keys_of_the_cache_that_are_valid(arena: Arena, kv_cache: str) -> None:
    arena.give("model=embedded", f"generation.kv_cache={kv_cache}", *GSM8K, fails=False)


CALIBRATIONS: dict[str, bytes] = {
    **corpus.LINES,
    "one text of 30 MB": b'{"text": "' + b"a " * 15_000_000 + b'"}\n',
    "a million empty texts": b'{"text": ""}\n' * 1_000_000,
    "no field": b'{"other": 1}\n',
}


@corpus.many(CALIBRATIONS)
def test_texts_of_a_calibration(arena: Arena, case: str) -> None:
    (arena.folder / "texts.jsonl").write_bytes(CALIBRATIONS[case])
    arena.give(
        "task=quantize", "model=embedded", "task.recipe=gptq", "task.calibration=texts.jsonl",
        "plan=quick",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("key", "is_recorded"),
    [
        (f"+notes.a={'x' * 200_000}", True),
        ("+notes.a='\x1b[2J <script>alert(1)</script>'", True),
        ("+notes={" + ",".join(f"k{number}:1" for number in range(3000)) + "}", True),
        ("+notes.a='" + "$(touch x)" + "'", True),
        ("tracking.experiment='a\tb'", True),
        (f"tracking.experiment={'x' * 5000}", False),
        ("tracking.experiment='../../x'", None),
    ],
    ids=["long", "markup", "many", "shell", "tab", "long experiment", "path"],
)
def test_params_of_mlflow(
    runner: Callable[..., Any],
    tmp_path: Path,
    new_database: Callable[[Path], None],
    key: str,
    is_recorded: bool | None,
) -> None:
    """A job is recorded whole in MLflow, or refused before it begins."""
    database = tmp_path / "outputs" / "mlflow.db"
    new_database(database)
    done = runner("model=stub", *GSM8K, key, "print=none", cwd=tmp_path)
    assert "Traceback" not in done.err
    assert done.code == 0 if is_recorded else done.code in (0, 2), done.err
    statuses = [row.status for row in rows(database) if "job_id" in row.tags]
    assert statuses == (["FINISHED"] if done.code == 0 else [])
    assert {path.name for path in tmp_path.iterdir()} <= {"outputs"}
