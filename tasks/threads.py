"""The door to concurrency: work done ahead on a few threads that end with the process.

A signal must not wait for a network: the threads are daemons, and the main thread waits in a way
that a signal's exception ends. (concurrent.futures joins its threads when the interpreter exits.)
"""

import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def ahead(make: Callable[[Given], Made], items: Iterable[Given], threads: int) -> list[Future[Made]]:
    """Start to make every item, in order, on so many threads; a future for each."""
    waiting: queue.SimpleQueue[tuple[Given, Future[Made]]] = queue.SimpleQueue()
    futures: list[Future[Made]] = []
    for item in items:
        futures.append(Future())
        waiting.put((item, futures[-1]))

    def work() -> None:
        while True:
            try:
                item, future = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                future.set_result(make(item))
            except BaseException as error:  # noqa: BLE001 - whoever waits for it raises it
                future.set_exception(error)

    for _ in range(min(threads, len(futures))):
        threading.Thread(target=work, daemon=True).start()
    return futures


def together(make: Callable[[Given], Made], items: Iterable[Given], threads: int) -> list[Made]:
    """Make every item on so many threads and wait for all; raises what the first of them raised."""
    return [future.result() for future in ahead(make, items, threads)]
