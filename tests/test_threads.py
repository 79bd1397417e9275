"""Threads that are left to themselves, with every trio that helperd runs on."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import trio

from helperd import threads
from tests.patience import HANGS_S


async def test_the_caller_is_cancelled_and_the_thread_left_alone() -> None:
    go, began, ended = threading.Event(), threading.Event(), threading.Event()

    def work(word: str) -> None:
        assert word == "word"
        began.set()
        go.wait(HANGS_S)
        ended.set()

    limiter = trio.CapacityLimiter(1)
    with trio.fail_after(HANGS_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: threads.in_thread(work, "word", limiter=limiter))
            await trio.to_thread.run_sync(began.wait, HANGS_S)
            nursery.cancel_scope.cancel()
    assert not ended.is_set()
    go.set()
    assert ended.wait(HANGS_S)


async def test_what_the_work_returns_and_raises_comes_back() -> None:
    assert await threads.in_thread(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await threads.in_thread(divmod, 7, 0)


async def of_debian_12(sync_fn: Any, *args: Any, cancellable: bool = False, limiter: Any = None) -> None:
    """trio 0.22."""


async def of_debian_13(
    sync_fn: Any, *args: Any, thread_name: Any = None, abandon_on_cancel: bool = False, limiter: Any = None
) -> None:
    """trio 0.29."""


async def between(
    sync_fn: Any, *args: Any, cancellable: Any = None, abandon_on_cancel: Any = None, limiter: Any = None
) -> None:
    """trio 0.23 to 0.28: the old word warns, and a warning is an error here."""


@pytest.mark.parametrize(
    ("run_sync", "word"),
    [(of_debian_12, "cancellable"), (of_debian_13, "abandon_on_cancel"), (between, "abandon_on_cancel")],
)
def test_trios_own_word_is_found(run_sync: Any, word: str) -> None:
    assert threads.left_alone(run_sync) == {word: True}
