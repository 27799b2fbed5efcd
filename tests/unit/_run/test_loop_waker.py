"""Waking a loop from other threads."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from amlsched._run.loop import Waker


def _in_a_thread(function: object) -> None:
    thread = threading.Thread(target=function)  # type: ignore[arg-type]
    thread.start()
    thread.join()


@pytest.fixture(params=["eventfd", "no eventfd"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "no eventfd":
        monkeypatch.delattr(os, "eventfd")


@pytest.mark.usefixtures("system")
def test_the_function_is_called_in_the_thread_of_the_loop() -> None:
    async def main() -> int:
        called: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        with Waker(called.get_loop(), lambda: called.set_result(threading.get_ident())) as waker:
            _in_a_thread(waker.wake)
            return await called

    assert asyncio.run(main()) == threading.get_ident()


@pytest.mark.usefixtures("system")
def test_a_late_wake_does_no_harm_and_is_told_of_a_closed_loop() -> None:
    async def main() -> Waker:
        with Waker(asyncio.get_running_loop(), lambda: None) as waker:
            pass
        return waker

    waker = asyncio.run(main())
    with pytest.raises(RuntimeError, match="closed"):
        waker.wake()


def test_no_descriptor_is_left_open() -> None:
    async def main() -> None:
        with Waker(asyncio.get_running_loop(), lambda: None):
            pass

    asyncio.run(main())
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        asyncio.run(main())
    assert len(os.listdir("/proc/self/fd")) == before


def test_wakes_before_the_loop_gets_to_it_are_one_call() -> None:
    async def main() -> int:
        calls = 0

        def called() -> None:
            nonlocal calls
            calls += 1

        with Waker(asyncio.get_running_loop(), called) as waker:
            _in_a_thread(lambda: [waker.wake() for _ in range(5)])
            while not calls:
                await asyncio.sleep(0)
            await asyncio.sleep(0)
        return calls

    assert asyncio.run(main()) == 1
