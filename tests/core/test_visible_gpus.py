"""Which GPUs a process may use: NVML, nvidia-smi, a child that asks torch; CUDA_VISIBLE_DEVICES as
CUDA reads it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.estimates.fit import get_free_mib_by_device
from runner_base import machine, visible_gpus

LISTED = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa-0)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-abbb-1)
GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-cccc-2)
  MIG 3g.20gb     Device  0: (UUID: MIG-dddd-3)
  MIG 1g.5gb      Device  1: (UUID: MIG-eeee-4)
"""
WHOLE = LISTED[: LISTED.index("GPU 2")]
FREE = "GPU-aaaa-0, 70000\nGPU-abbb-1, 500\nGPU-cccc-2, 30000\n"
SMI = f"""#!{sys.executable}
import sys
print({{}}["-L" in sys.argv[1:]], end="")
"""


@pytest.fixture(autouse=True)
def anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No GPU, no library and no answer that was kept; torch is one for CUDA."""
    answers = (
        visible_gpus._find_physical_gpus,
        visible_gpus._load_cached_torch_gpus,
        visible_gpus._read_free_mib,
    )
    for cached in answers:
        cached.cache_clear()
    for name in visible_gpus.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(visible_gpus, "_torch_version", lambda: "2.13.0")
    monkeypatch.setattr(machine, "library_versions", lambda: {"torch": "2.13.0"})
    monkeypatch.setattr(visible_gpus, "DEVICE_FILES", (str(tmp_path / "device"),))
    yield
    for cached in answers:  # the tests that follow are told of no such GPU
        cached.cache_clear()


@pytest.fixture
def smi(tmp_path: Path) -> Callable[[str], None]:
    """Put an nvidia-smi on the path that lists these GPUs."""

    def put(listed: str = LISTED) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(SMI.format((FREE, listed)))
        program.chmod(0o755)

    return put


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Install NVML for two whole GPUs and one in two parts."""

    class NotFoundError(Exception):
        """NVML's one kind of error."""

    cards = {line.split("UUID: ")[1][:-1]: line for line in LISTED.splitlines() if line.startswith("GPU")}
    parts = {"MIG-dddd-3": 20_000, "MIG-eeee-4": 5_000}
    memory = {"GPU-aaaa-0": 70_000, "GPU-abbb-1": 500, "GPU-cccc-2": 30_000, **parts}

    def part(_card: str, number: int) -> str:
        if number >= len(parts):
            raise NotFoundError
        return list(parts)[number]

    library = SimpleNamespace(
        NVMLError=NotFoundError,
        opened=0,
        nvmlDeviceGetCount=lambda: len(cards),
        nvmlDeviceGetHandleByIndex=lambda number: list(cards)[number],
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetName=lambda uuid: (
            b"NVIDIA H100 80GB HBM3" if uuid in ("GPU-aaaa-0", "GPU-abbb-1") else "A100"
        ),
        nvmlDeviceGetUUID=lambda uuid: uuid,
        nvmlDeviceGetMigMode=lambda uuid: (int(uuid == "GPU-cccc-2"), 0),
        nvmlDeviceGetMaxMigDeviceCount=lambda _: 7,
        nvmlDeviceGetMigDeviceHandleByIndex=part,
        nvmlDeviceGetMemoryInfo=lambda uuid: SimpleNamespace(free=memory[uuid] * machine.MIB),
    )

    def count(step: int) -> None:
        library.opened += step

    library.nvmlInit, library.nvmlShutdown = lambda: count(1), lambda: count(-1)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    return library


WANTED = [
    (None, ["MIG-dddd-3", "MIG-eeee-4"]),  # CUDA shows no whole GPU beside a part
    ("", []),
    ("-1", []),
    ("0,-1,1", ["0"]),
    ("1", ["1"]),
    (" 1 , 0", ["1", "0"]),
    ("1gpu,0", ["1", "0"]),
    ("0,7,1", ["0"]),
    ("0,0", []),
    ("0,none,1", ["0"]),
    ("GPU-abbb-1", ["GPU-abbb-1"]),
    ("GPU-ab,GPU-aa", ["GPU-ab", "GPU-aa"]),
    ("GPU-a", []),  # it might be either
    ("MIG-dddd-3,MIG-eeee-4", ["MIG-dddd-3", "MIG-eeee-4"]),
    ("MIG-e", ["MIG-eeee-4"]),
    ("2", ["MIG-dddd-3", "MIG-eeee-4"]),
]


@pytest.mark.parametrize("source", ["nvml", "smi"])
@pytest.mark.parametrize(("wanted", "names"), WANTED)
def test_visible_devices_are_read_as_cuda_reads_them(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    wanted: str | None,
    names: list[str],
) -> None:
    found = request.getfixturevalue(source)
    if source == "smi":
        found()
    if wanted is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", wanted)
    assert [gpu.name for gpu in visible_gpus.find_visible_gpus()] == names
    assert len(machine.visible_gpu_models()) == len(names)
    assert machine.resolve_device_class("auto") == ("cuda" if names else "cpu")
    if source == "nvml":
        assert found.opened == 0


def test_free_memory_is_that_of_the_visible_gpus(
    monkeypatch: pytest.MonkeyPatch, smi: Callable[[str], None], request: pytest.FixtureRequest
) -> None:
    smi(WHOLE)
    assert get_free_mib_by_device("cuda") == {"GPU 0": 70_000}
    assert get_free_mib_by_device("cuda:1") == {"GPU 1": 500}
    assert get_free_mib_by_device("cuda:7") == {}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert get_free_mib_by_device("cuda") == {"GPU 0": 500}, "the first of those that this process sees"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert get_free_mib_by_device("auto").keys() == {"main memory"}
    request.getfixturevalue("nvml")
    visible_gpus._find_physical_gpus.cache_clear()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert visible_gpus.measure_free_gpu_memory_mib() == [500, 70_000]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-eeee-4")
    assert visible_gpus.measure_free_gpu_memory_mib() == [5_000]


TORCH = """
import os, time
version = "2.13.0"
open(os.environ["ASKED"], "a").write("x")
class cuda:
    def device_count():
        return len(os.environ.get("HIP_VISIBLE_DEVICES", "0,1").split(","))
    class get_device_properties:
        def __init__(self, number):
            self.name, self.total_memory = f"AMD Instinct {number}", 2**30
"""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give child processes a torch that finds GPUs, and return the file in which it notes each
    import."""
    (tmp_path / "torch.py").write_text(TORCH)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    return tmp_path / "asked"


def test_torch_is_asked_once_where_a_driver_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: Path
) -> None:
    assert visible_gpus.find_visible_gpus() == [], "without a file of a driver"
    assert not asked.exists()
    (tmp_path / "device").touch()
    monkeypatch.setattr(visible_gpus, "_torch_version", lambda: "2.13.0+rocm7.0")
    for _ in range(2):
        assert [gpu.model for gpu in visible_gpus.find_visible_gpus()] == ["AMD Instinct 0", "AMD Instinct 1"]
        visible_gpus._load_cached_torch_gpus.cache_clear()  # as in the next process
    assert asked.read_text() == "x"
    assert visible_gpus.measure_free_gpu_memory_mib() == [1024, 1024]
    assert get_free_mib_by_device("auto") == {"GPU 0": 1024}
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "3")
    assert [
        (gpu.name, visible_gpus.visible_devices_variable()) for gpu in visible_gpus.find_visible_gpus()
    ] == [("3", "HIP_VISIBLE_DEVICES")]
    assert asked.read_text() == "xx"
    monkeypatch.setattr(visible_gpus, "_torch_version", lambda: "2.13.0+cpu")
    assert visible_gpus.find_visible_gpus() == []


@pytest.mark.parametrize(
    "fault", ["raise SystemExit(3)", "import no_such_module", "print('words')", "time.sleep(60)"]
)
def test_a_torch_that_does_not_answer_is_no_gpu_and_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: Path, fault: str
) -> None:
    (tmp_path / "device").touch()
    (tmp_path / "torch.py").write_text(TORCH + fault)
    monkeypatch.setattr(visible_gpus, "TORCH_S", 0.5 if "sleep" in fault else 60)
    started = time.monotonic()
    assert visible_gpus.find_visible_gpus() == []
    assert time.monotonic() - started < 30
    (tmp_path / "torch.py").write_text(TORCH)
    visible_gpus._load_cached_torch_gpus.cache_clear()
    assert len(visible_gpus.find_visible_gpus()) == 2


def test_nvml_that_fails_leaves_it_to_nvidia_smi(nvml: SimpleNamespace, smi: Callable[[str], None]) -> None:
    def fail(*_: Any) -> Any:
        raise nvml.NVMLError("Driver/library version mismatch")

    smi(WHOLE)
    nvml.nvmlInit = fail
    assert [gpu.model for gpu in visible_gpus.find_visible_gpus()] == ["NVIDIA H100 80GB HBM3"] * 2
    assert visible_gpus.measure_free_gpu_memory_mib() == [70_000, 500]
