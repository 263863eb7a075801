"""A real model in numbers, and rates of a machine by a clock of the test's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from opening import make_spec, open_engine

from runner_base.dtypes import Dtype
from runner_base.machine import MIB
from runner_engine.checkpoints.mixture import format_parameter_count
from runner_engine.local import machine_rates
from runner_engine.local.machine_rates import measure_matmul_gflop_per_s, measure_memory_read_gb_per_s
from runner_engine.models.load_summary import summarize_load
from runner_engine.quantization.bitsandbytes import Nf4Config
from runner_engine.sessions.arithmetic import BatchShape
from runner_engine.settings.model import LocalModelConfig
from tools import families


def test_the_embedded_model_in_numbers() -> None:
    engine = open_engine(
        make_spec(model=LocalModelConfig(name="embedded", device="cpu", dtype=Dtype.float32))
    )
    engine.load()
    found = engine.arithmetic()
    assert found is not None
    # 4 layers: q, o [256, 256], k, v [128, 256], three of [704, 256]; norms are counted, too, and
    # weigh nothing
    layers = 4 * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 704 * 256)
    assert found.layer_parameters == pytest.approx(layers, rel=0.001)
    assert found.head_parameters == 896 * 256
    assert found.attention_flop == 4 * 4 * 4 * 64
    assert found.kv_bytes == 2 * 4 * 2 * 64 * 4
    assert found.weight_bytes == pytest.approx(4 * (layers + 896 * 256), rel=0.01), (
        "the head is the embedding"
    )
    assert found.dtype == "float32"


@pytest.mark.thorough
def test_quantized_weights_are_read_as_they_are_stored_and_computed_as_they_are_many() -> None:
    model = LocalModelConfig(name="embedded", device="cpu")
    engines = [
        open_engine(make_spec(model=model, **groups)) for groups in ({}, {"quantization": Nf4Config()})
    ]
    for engine in engines:
        engine.load()
    plain, quantized = (engine.arithmetic() for engine in engines)
    assert plain is not None
    assert quantized is not None
    assert quantized.layer_parameters == plain.layer_parameters
    assert quantized.weight_bytes < plain.weight_bytes / 2


def test_a_mixture_reads_the_experts_that_its_rows_use(tmp_path: Path) -> None:
    """The parameters of experts that a token does not use take no time; with more rows more of them
    are read."""
    families.build("qwen3_moe", tmp_path)  # 2 of 4 experts, all weights in float32
    engine = open_engine(
        make_spec(model=LocalModelConfig(name=str(tmp_path), device="cpu", dtype=Dtype.float32))
    )
    report = engine.load()
    experts = 2 * 4 * 3 * 64 * 32  # two layers, four experts, three matrices
    total = int(report.metrics["parameters"])
    assert report.metrics["active_parameters"] == total - experts // 2
    assert (
        report.facts["experts"]
        == f"2 of 4 · {format_parameter_count(total - experts / 2)} of {format_parameter_count(total)} active"
    )
    assert f"experts {report.facts['experts']}" in summarize_load(report.metrics, report.facts)["loaded"]
    found = engine.arithmetic()
    assert found is not None
    vocabulary = 2 * 259 * 64  # embedding and head
    assert found.layer_parameters == total - vocabulary - experts // 2
    assert found.expert_bytes == pytest.approx(4 * experts, rel=0.01)
    read = {rows: found.compute_gb_read_while_decoding(BatchShape(rows, 0, 2)) * 1e9 for rows in (1, 2, 64)}
    of_kv = {rows: rows * found.kv_bytes for rows in read}
    assert read[1] - of_kv[1] == pytest.approx(found.weight_bytes - found.expert_bytes / 2, rel=1e-3)
    assert read[2] - of_kv[2] == pytest.approx(found.weight_bytes - found.expert_bytes / 4, rel=1e-3)
    assert read[64] - of_kv[64] == pytest.approx(found.weight_bytes, rel=1e-3)


def test_a_mixture_whose_use_is_unknown_is_not_put_in_numbers(saved_family: Callable[..., Path]) -> None:
    folder = saved_family("llama", num_local_experts=4)
    engine = open_engine(make_spec(model=LocalModelConfig(name=str(folder), device="cpu")))
    engine.load()
    assert engine.arithmetic() is None


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list of the seconds that the next calls take, by the clock of the rates; the last
    one repeats."""
    took, times = [0.5], [0.0]
    is_start = True

    def perf_counter() -> float:
        nonlocal is_start
        if not is_start:
            times.append(times[-1] + (took.pop(0) if len(took) > 1 else took[0]))
        is_start = not is_start
        return times[-1]

    monkeypatch.setattr(machine_rates, "time", SimpleNamespace(perf_counter=perf_counter))
    return took


@pytest.mark.usefixtures("seconds")
def test_rates_are_the_work_of_a_product_and_of_a_read_by_their_time() -> None:
    found = measure_matmul_gflop_per_s(Counter([(256, 512), (256, 512), (512, 96)]), torch.float32, 64, 2)
    assert set(found) >= {"plain"}
    gflop = 2 * 64 * (2 * 256 * 512 + 512 * 96) / 1e9
    assert list(found.values()) == [pytest.approx(gflop / 1.5)] * len(found), (
        "three products of half a second"
    )
    assert measure_memory_read_gb_per_s(torch.device("cpu")) == pytest.approx(
        machine_rates.choose_cpu_bandwidth_test_mib() * MIB / 0.5 / 1e9
    )


@pytest.mark.parametrize(
    ("caches", "mib"),
    [
        ({}, 256),
        ({"0-1": "32768K"}, 128),  # the cores share a cache
        ({"0": "32768K", "1": "32768K"}, 256),
        ({"0": "4096K"}, 64),
        ({"0": "393216K"}, 256),
        ({"0": "unknown"}, 256),
    ],
)
def test_a_bandwidth_reads_four_times_the_last_caches(
    tmp_path: Path, caches: dict[str, str], mib: int
) -> None:
    for cores, size in caches.items():
        for core in cores.split("-"):
            place = tmp_path / f"cpu{core}/cache/index3"
            place.mkdir(parents=True)
            (place / "size").write_text(f"{size}\n")
            (place / "shared_cpu_list").write_text(f"{cores}\n")
    assert machine_rates.choose_cpu_bandwidth_test_mib(tmp_path) == mib


def test_the_fastest_try_counts_but_not_the_first(seconds: list[float]) -> None:
    calls: list[int] = []
    seconds[:] = [0.1, 3.0, 2.0, 9.0]
    assert machine_rates._measure_fastest_run_s(
        lambda: calls.append(1), 3, torch.device("cpu")
    ) == pytest.approx(2.0)
    assert len(calls) == 4
