"""Packed weights share regions in large pages, and a region ends with the last of them."""

from __future__ import annotations

import mmap

import pytest
import torch
from raising import raises

from runner_base.errors import JobFailed, memory_errors_as_job_failed
from runner_engine.matmul import huge_pages

on_linux = pytest.mark.skipif(huge_pages.ADVICE is None, reason="the system has no advice about large pages")


@on_linux
def test_small_weights_share_a_region_that_begins_with_a_large_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "_last", None)
    first = huge_pages.allocate_weight_tensor(3, 5, dtype=torch.float32).fill_(1)
    second = huge_pages.allocate_weight_tensor(100, dtype=torch.uint8).fill_(2)
    assert first.data_ptr() % huge_pages.LARGE_PAGE == 0
    assert second.data_ptr() == first.data_ptr() + huge_pages.ALIGNMENT
    assert first.sum() == 15
    assert second.sum() == 200


@on_linux
def test_what_fits_no_more_gets_a_region_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "_last", None)
    kept = huge_pages.allocate_weight_tensor(huge_pages.REGION - 64, dtype=torch.uint8)
    large = huge_pages.allocate_weight_tensor(2 * huge_pages.REGION, dtype=torch.uint8)
    large[-1] = 7
    assert large.data_ptr() % huge_pages.LARGE_PAGE == 0
    assert not kept.data_ptr() <= large.data_ptr() < kept.data_ptr() + len(kept)


@on_linux
def test_a_region_is_given_back_with_its_last_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "_last", None)
    first, second = (huge_pages.allocate_weight_tensor(1000, dtype=torch.uint8) for _ in range(2))
    assert huge_pages._last is not None
    rows = first[10:20]
    del first, second
    assert huge_pages._last() is not None  # a part of the first is still in use
    del rows
    assert huge_pages._last() is None


def test_moved_numbers_are_the_same_for_who_holds_the_tensor() -> None:
    weight = torch.arange(12, dtype=torch.int8).view(3, 4)
    held, before = [weight], weight.data_ptr()
    huge_pages.move_to_huge_pages(weight)
    assert weight.data_ptr() != before
    assert held[0].equal(torch.arange(12, dtype=torch.int8).view(3, 4))


def test_without_such_pages_memory_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "ADVICE", None)
    assert huge_pages.allocate_weight_tensor(2, 3, dtype=torch.bfloat16).shape == (2, 3)
    assert huge_pages.allocate_weight_tensor(0, 3, dtype=torch.bfloat16).shape == (0, 3)


@on_linux
def test_a_system_that_refuses_the_advice_gives_small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a kernel that was built without large pages does."""
    monkeypatch.setattr(huge_pages, "_last", None)
    monkeypatch.setattr(huge_pages, "ADVICE", 12345)
    with mmap.mmap(-1, mmap.PAGESIZE) as pages, pytest.raises(OSError, match="Invalid argument"):
        pages.madvise(12345)
    assert huge_pages.allocate_weight_tensor(10, dtype=torch.float32).fill_(1).sum() == 10


def test_memory_that_cannot_be_had_is_named_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "_last", None)
    with raises(JobFailed, "too_large"), memory_errors_as_job_failed():
        huge_pages.allocate_weight_tensor(1 << 60, dtype=torch.uint8)
