"""Pages of files are released, and nothing is lost that was written into them."""

import mmap
import sys
from pathlib import Path

import pytest

from runner_engine.devices import mapped_files
from runner_engine.devices.mapped_files import MappedFiles

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
SIZE = 64 * mmap.PAGESIZE


@pytest.fixture
def mapped(tmp_path: Path) -> tuple[Path, mmap.mmap, int]:
    """A file of ones, mapped as torch maps a checkpoint, with all its pages read, and its
    address."""
    import ctypes

    file = tmp_path / "weights.bin"
    file.write_bytes(b"\1" * SIZE)
    with file.open("rb") as opened:
        pages = mmap.mmap(
            opened.fileno(), SIZE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE
        )
    assert sum(pages[:: mmap.PAGESIZE]) == 64
    return file, pages, ctypes.addressof(ctypes.c_char.from_buffer(pages))


def resident_kib(address: int) -> int:
    """Return what the kernel reports about the mapping that begins there."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    at = next(at for at, line in enumerate(lines) if line.startswith(f"{address:x}-"))
    return next(int(line.split()[1]) for line in lines[at:] if line.startswith("Rss:"))


@pytest.mark.thorough
def test_a_file_is_given_back_and_comes_back(mapped: tuple[Path, mmap.mmap, int]) -> None:
    file, pages, address = mapped
    assert resident_kib(address) == SIZE // 1024
    MappedFiles().release_files([file.with_name("another.bin")])
    assert resident_kib(address) == SIZE // 1024
    MappedFiles().release_files([file])
    assert resident_kib(address) == 0
    assert sum(pages[:: mmap.PAGESIZE]) == 64


def test_a_piece_of_a_file_is_given_back(mapped: tuple[Path, mmap.mmap, int]) -> None:
    """Only whole pages: the page that begins before the piece may contain another weight."""
    _, _, address = mapped
    MappedFiles().release_pages(address + 1, SIZE // 2)
    assert resident_kib(address) == (SIZE - SIZE // 2) // 1024 + mmap.PAGESIZE // 1024


def test_what_was_written_stays(mapped: tuple[Path, mmap.mmap, int]) -> None:
    file, pages, _ = mapped
    pages[5 * mmap.PAGESIZE] = 7
    MappedFiles().release_files([file])
    assert pages[5 * mmap.PAGESIZE] == 7


def test_memory_that_is_no_file_stays() -> None:
    pages = mmap.mmap(-1, SIZE)
    pages[0] = 7
    import ctypes

    MappedFiles().release_pages(ctypes.addressof(ctypes.c_char.from_buffer(pages)), SIZE)
    assert pages[0] == 7


def test_where_pages_cannot_be_seen_they_are_written_out(
    mapped: tuple[Path, mmap.mmap, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the kernel decides, and nothing is lost."""
    file, pages, _ = mapped
    monkeypatch.setattr(mapped_files, "_has_modified_pages", lambda *_: None)
    pages[0] = 7
    MappedFiles().release_files([file])
    assert (pages[0], pages[mmap.PAGESIZE]) == (7, 1)


def test_pages_of_libraries_are_given_back_and_the_libraries_still_work() -> None:
    import ctypes

    import torch

    library = Path(torch.__file__).parent / "lib/libtorch_cpu.so"
    first, last = max(
        ((first, last) for first, last, path in MappedFiles().ranges if path == str(library.resolve())),
        key=lambda one: one[1] - one[0],
    )
    for address in range(first, min(last, first + (32 << 20)), mmap.PAGESIZE):  # read, as the loader does
        ctypes.string_at(address, 1)
    before = mapped_files.measure_resident_file_mib([library])
    assert before > 30
    mapped_files.release_library_pages()
    assert mapped_files.measure_resident_file_mib([library]) < before - 25
    assert torch.equal(torch.ones(40, 40) @ torch.ones(40, 40), torch.full((40, 40), 40.0))


def test_pages_of_libraries_stay_where_nobody_knows_whether_they_were_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    advised: list[int] = []
    monkeypatch.setattr(mapped_files, "_has_modified_pages", lambda *_: None)
    monkeypatch.setattr(mapped_files, "_advise", lambda *arguments: advised.append(arguments[2]))
    mapped_files.release_library_pages()
    assert not advised
