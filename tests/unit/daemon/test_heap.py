"""Freed memory can be given back to the kernel."""

import ctypes
import resource
from pathlib import Path
from typing import Any

import pytest

from taskqd.daemon import heap

BLOCK_BYTES = 64 * 1024
"""Of less than glibc's M_MMAP_THRESHOLD, so that they are in the heap."""
BLOCKS = 512
KEPT_EVERY = 64
"""Blocks that are kept here and there, so that the heap does not shrink by itself."""


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc")
def test_trimmed_heap_takes_less_memory() -> None:
    blocks = [b"x" * BLOCK_BYTES for _ in range(BLOCKS)]
    kept = blocks[::KEPT_EVERY]
    blocks.clear()
    before = resident_bytes()
    heap.trim_heap()
    assert before - resident_bytes() > BLOCK_BYTES * BLOCKS // 2
    assert len(kept) == BLOCKS // KEPT_EVERY


def test_heap_is_left_alone_without_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: Any) -> object:
        return object()

    monkeypatch.setattr(ctypes, "CDLL", load)
    heap.trim_heap()
