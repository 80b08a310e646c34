"""The site's lock: taken in turn, asked after by many threads, given to whoever waits."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sites import CHECKOUT, wait_for

from tasks.layout import Layout
from tasks.turns import Turns

WAITER = """
import sys
from pathlib import Path
from tasks.layout import Layout
from tasks.turns import Turns
Turns(Layout(Path(sys.argv[1])), lambda *_: print("waits", flush=True)).take()
Path(sys.argv[1], "mine").touch()
sys.stdin.read()
"""


def test_nobody_waits_however_many_threads_ask(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.state.mkdir()
    turns = Turns(layout, lambda *_: None)
    turns.take()
    with ThreadPoolExecutor(8) as pool:
        assert not any(pool.map(lambda _: turns.is_over(0), range(4000)))


def test_whoever_waits_has_the_lock_before_it_is_taken_again(tmp_path: Path) -> None:
    layout, said = Layout(tmp_path), list[str]()
    layout.state.mkdir()
    turns = Turns(layout, lambda _, line: said.append(line))
    turns.take()
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    waiters = [
        subprocess.Popen(
            [sys.executable, "-c", WAITER, tmp_path], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in "ab"
    ]
    try:
        for waiter in waiters:
            assert waiter.stdout
            assert waiter.stdout.readline() == b"waits\n"
        wait_for(lambda: turns.is_over(0))
        time.sleep(0.5)  # what they say, they are about to do
        assert not turns.is_over(60), "it has had no minute yet"
        assert not (tmp_path / "mine").exists()
        with ThreadPoolExecutor(1) as pool:
            giving = pool.submit(turns.give)
            wait_for((tmp_path / "mine").exists)
            assert not giving.done()
            for waiter in waiters:  # whichever of them has it
                assert waiter.stdin
                waiter.stdin.close()
            for waiter in waiters:
                assert waiter.wait(60) == 0
            giving.result(60)
    finally:
        for waiter in waiters:
            waiter.kill()
            with waiter:  # closes its pipes, and waits
                pass
    assert said == ["makes way for another run, and goes on after it"]
    assert not turns.is_over(0)
