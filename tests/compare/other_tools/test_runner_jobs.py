"""`--results` reads jobs of the runner: folders, packed samples and archives of folders."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runner_base import Answer, FinishReason, Record, Result, Sample, Status, Verdict, gzip_files

N, CORRECT = 60, {"none": 50, "nf4": 30}


def write_job(folder: Path, quantization: str, status: Status = Status.FINISHED) -> Path:
    """Write a job's folder as the runner does."""
    folder.mkdir(parents=True)
    correct = CORRECT[quantization]
    samples = [
        Sample(
            answer=Answer(
                f"#### {at}",
                [at],
                FinishReason.stop,
                verdict=Verdict.correct if at < correct else Verdict.wrong,
                extracted={"strict": str(at)},
            ),
            prompt_sha256=f"{at:064x}",
            prompt_tokens=10,
            seconds=0.1,
            index=at,
            question=f"What is {at}?",
            gold=str(at),
        )
        for at in range(N)
    ]
    lines = "".join(f"{sample.to_json()}\n" for sample in samples)
    (folder / "samples.jsonl").write_text(lines, encoding="utf-8")
    record = Record(
        f"gsm8k-{quantization}",
        status,
        str(folder),
        Result({"correct": correct, "n": N, "decode_tok_per_s": 100.0}),
        task="gsm8k",
        task_version=3,
        params={"model.name": "m", "quantization.name": quantization, "task.name": "gsm8k"},
        started_at="2026-11-29T10:00:00+00:00",
    )
    (folder / "result.json").write_text(record.to_json(), encoding="utf-8")
    return folder


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    for quantization in CORRECT:
        write_job(tmp_path / "jobs" / f"gsm8k-{quantization}", quantization)
    return tmp_path / "jobs"


def pack_samples(folder: Path) -> Path:
    path = folder / "samples.jsonl"
    with gzip.open(f"{path}.gz", "wb") as file:
        file.write(path.read_bytes())
    path.unlink()
    return Path(f"{path}.gz")


def pack(folder: Path, suffix: str) -> Path:
    formats = {".tar.gz": "gztar", ".tgz": "gztar", ".tar": "tar", ".zip": "zip"}
    made = Path(shutil.make_archive(str(folder), formats[suffix], folder.parent, folder.name))
    return made.rename(f"{folder}{suffix}")


WAYS: dict[str, Callable[[Path], Path]] = {
    "folder": lambda folder: folder,
    "result": lambda folder: folder / "result.json",
    "samples": lambda folder: folder / "samples.jsonl",
    "samples.gz": pack_samples,
    "folder with samples.gz": lambda folder: pack_samples(folder).parent,
    **{suffix: partial(pack, suffix=suffix) for suffix in (".tar.gz", ".tgz", ".tar", ".zip")},
    "archive with samples.gz": lambda folder: pack(pack_samples(folder).parent, ".zip"),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_all_forms_of_a_job_give_the_same_comparison(tables: Any, jobs: Path, way: str) -> None:
    places = [WAYS[way](jobs / f"gsm8k-{quantization}") for quantization in CORRECT]
    (table,) = tables(*places)
    base, row = table["rows"]
    assert (base["metrics"]["correct"], row["metrics"]["correct"]) == (50, 30)
    assert row["metrics"]["decode_tok_per_s"] == 100.0
    found = row["comparison"]
    assert (found["wins"], found["losses"], found["finding"]) == (0, 20, "worse")


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_an_archive_may_hold_several_jobs(tables: Any, jobs: Path, suffix: str) -> None:
    (table,) = tables(pack(jobs, suffix), "--baseline", "quantization.name=none")
    assert [row["metrics"]["correct"] for row in table["rows"]] == [50, 30]


def test_unfinished_and_replaced_jobs_are_left_out(run: Any, jobs: Path) -> None:
    write_job(jobs / "gsm8k-none.old-1", "none")
    shutil.rmtree(jobs / "gsm8k-nf4")
    write_job(jobs / "gsm8k-nf4", "nf4", Status.KILLED)
    code, out, err = run(jobs, "--format", "json")
    assert code == 0
    assert "gsm8k-nf4" in err
    assert len(json.loads(out)["tables"][0]["rows"]) == 1


def test_packed_samples_are_cut_off(rejected: Any, jobs: Path) -> None:
    path = pack_samples(jobs / "gsm8k-none")
    path.write_bytes(path.read_bytes()[:-20])
    assert str(path) in rejected(path)
    path.write_bytes(b"no gzip file")
    assert str(path) in rejected(path)


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar", ".zip"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_an_archive_is_cut_off(rejected: Any, jobs: Path, suffix: str, share: float) -> None:
    path = pack(jobs / "gsm8k-none", suffix)
    # a tar archive ends in blocks of zeros, which nobody needs
    content = path.read_bytes().rstrip(b"\0") if suffix == ".tar" else path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert path.name in rejected(path)


def test_the_checksum_of_a_packed_archive_counts(rejected: Any, jobs: Path) -> None:
    path = pack(jobs / "gsm8k-none", ".tar.gz")
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # the first byte of the CRC
    path.write_bytes(bytes(content))
    assert path.name in rejected(path)


@pytest.mark.parametrize("name", ["../result.json", "/tmp/result.json", "a/../../samples.jsonl"])
@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_a_name_leads_out_of_the_archive(rejected: Any, tmp_path: Path, suffix: str, name: str) -> None:
    path = tmp_path / f"evil{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as zipped:
            zipped.writestr(name, "{}")
    else:
        with tarfile.open(path, "w:gz") as tar:
            member = tarfile.TarInfo(name)
            member.size = 2
            tar.addfile(member, io.BytesIO(b"{}"))
    assert repr(name) in rejected(path)
    assert [*tmp_path.iterdir()] == [path]


def test_a_link_in_an_archive_is_not_followed(rejected: Any, tmp_path: Path) -> None:
    path = tmp_path / "link.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        member = tarfile.TarInfo("job/result.json")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    assert "job/result.json" in rejected(path)


@pytest.mark.thorough
@pytest.mark.parametrize("form", ["samples", "archive", "unwanted"])
def test_a_bomb_is_not_unpacked(rejected: Any, jobs: Path, form: str) -> None:
    size = gzip_files.MIN_LIMIT_BYTES + 2**20
    folder = jobs / "gsm8k-none"
    if form == "samples":
        path = pack_samples(folder)
        path.write_bytes(gzip.compress(bytes(size)))
    else:
        name = "samples.jsonl" if form == "archive" else "other.bin"
        (folder / name).write_bytes(bytes(size))
        path = pack(folder, ".tar.gz")
    assert path.stat().st_size < size / 500
    assert path.name in rejected(path)


def test_the_score_has_to_be_that_of_the_samples(rejected: Any, jobs: Path) -> None:
    path = jobs / "gsm8k-none" / "samples.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    err = rejected(path.parent)
    assert f"{path}: the samples have 49 correct answers of 59, " in err
    assert "records 50 of 60" in err


@pytest.mark.parametrize("missing", ["result.json", "samples.jsonl"])
def test_half_of_a_job(rejected: Any, jobs: Path, missing: str) -> None:
    folder = jobs / "gsm8k-none"
    (folder / missing).unlink()
    given = folder / ("samples.jsonl" if missing == "result.json" else "result.json")
    assert missing in rejected(given)
    assert missing.partition(".")[0] in rejected(pack(folder, ".zip"))
