"""The door to concurrency: work done ahead on a few threads, or in processes, that end with ours.

A signal must not wait for a network: the threads are daemons, and the main thread waits in a way
that a signal's exception ends. (concurrent.futures joins its threads when the interpreter exits.)
"""

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import TypeVar

CORES = min(8, len(os.sched_getaffinity(0)))  # more readers only make disks seek

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


def apart(
    make: Callable[[Given], Made], items: Iterable[Given], processes: int
) -> Iterator[tuple[Given, Made | None]]:
    """Make every item in so many processes, in no order; None for one whose process died over it.

    For work that keeps the interpreter to itself (OpenPGP), or that the kernel may kill (a page of a
    mapped file that the disk cannot give). The processes are forks, so ``make`` and what it holds need
    not be pickled; only items and results are. They end with the iterator.
    """
    fork, waiting = get_context("fork"), iter(items)
    children, busy = [], dict[Connection, Given]()

    def start(item: Given) -> None:
        here, there = fork.Pipe()
        children.append(fork.Process(target=_serve, args=(make, here, there), daemon=True))
        children[-1].start()
        there.close()
        here.send(item)
        busy[here] = item

    try:
        for item in islice(waiting, processes):
            start(item)
        while busy:
            for here in wait(list(busy)):
                assert isinstance(here, Connection)  # noqa: S101 - nothing else was waited for
                item, more = busy.pop(here), list(islice(waiting, 1))
                try:
                    made = here.recv()
                except (EOFError, ConnectionResetError):
                    made = None
                    for one in more:
                        start(one)
                else:
                    for one in more:
                        here.send(one)
                        busy[here] = one
                yield item, made
    finally:
        for child in children:
            child.kill()
            child.join()


def _serve(make: Callable[[Given], Made], parent: Connection, pipe: Connection) -> None:
    """Make what comes, until nobody asks any more."""
    parent.close()  # else our own copy would keep us waiting for a parent that has died
    with suppress(EOFError, ConnectionResetError, BrokenPipeError):
        while True:
            pipe.send(make(pipe.recv()))
