"""While collection is paused nothing is collected, and afterwards new objects count as old."""

from __future__ import annotations

import gc
import weakref

from runner_base.garbage_collection import pause_garbage_collection


class Node:
    """Refers to itself, so that only a collection frees it."""

    def __init__(self) -> None:
        self.itself = self


def test_objects_of_the_block_count_as_old_and_garbage_among_them_is_collected_later() -> None:
    frozen, was_enabled = (
        gc.get_freeze_count(),
        gc.isenabled(),
    )  # other tests in this process may have changed both
    gc.unfreeze()
    gc.enable()
    try:
        with pause_garbage_collection():
            assert not gc.isenabled()
            kept, garbage = [Node()], weakref.ref(Node())
        assert gc.isenabled()
        assert not gc.get_freeze_count()
        assert any(one is kept for one in gc.get_objects(generation=2))
        gc.collect(1)
        assert garbage() is not None
        gc.collect()
        assert garbage() is None
    finally:
        if frozen:
            gc.freeze()
        if not was_enabled:
            gc.disable()


def test_who_has_switched_collection_off_or_frozen_objects_keeps_it_so() -> None:
    had_frozen = gc.get_freeze_count()
    gc.freeze()
    gc.disable()
    try:
        with pause_garbage_collection():
            pass
        assert not gc.isenabled()
        gc.enable()
        with pause_garbage_collection():
            pass
        assert gc.isenabled()
        assert gc.get_freeze_count()
    finally:
        gc.enable()
        if not had_frozen:
            gc.unfreeze()
