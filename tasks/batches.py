"""Make images in the order in which they arrive, and show what is ready while others still download (glue).

doit runs the image tasks one by one in an order of its own. One download that stalls must hold up
nobody: while a task waits for its files, whatever else has arrived is made, and after ``site.batch``
new images or ``site.batch_time`` it is exposed and mirrored. doit's own steps finish the rest.
"""

import time
from typing import TYPE_CHECKING

from doit.exceptions import TaskFailed

from tasks.errors import PublishError
from tasks.exposure import Exposure
from tasks.make import Made, make
from tasks.plan import Wish

if TYPE_CHECKING:
    from tasks.fetch import Fetcher
    from tasks.runtime import Run

SHARE = 10  # an exposure that takes a second is followed by none for ten: most of the time goes into images


class Batches:
    """The images of one run."""

    def __init__(self, run: "Run", fetcher: "Fetcher") -> None:
        self._run, self._fetcher = run, fetcher
        self._site = run.settings.site
        self._told: set[Wish] = set()  # made already, and said so
        self._fresh = 0  # images that are placed and not exposed
        self._since = time.monotonic()  # of the last exposure's end, or the beginning
        self._pause = 0.0  # seconds to leave between exposures
        self._showing = "publish" in run.selected

    def make(self, wish: Wish) -> str:
        """Bring one product to its wished build; returns its line, "" when that was said before."""
        while wish not in self._told and not self._fetcher.has(wish):
            for other in self._fetcher.arrived(self._left()):
                self._told.add(other)
                self._run.say(f"image:{other.product.name}", self._one(other).line)
                self._show()
            self._show()
        if wish in self._told:
            return ""
        line = self._one(wish).line
        self._show()
        return line

    def _one(self, wish: Wish) -> Made:
        run = self._run
        made = make(wish, run.layout, self._fetcher.take, run.signer, run.now)
        if made.image:
            run.published.append(made.image)
            self._fresh += 1
        return made

    def _left(self) -> float | None:
        """Seconds until what is placed has to be shown, None for no limit."""
        if not (self._fresh and self._showing):
            return None
        wait = 0 if self._fresh >= self._site.batch else self._site.batch_time.seconds
        return max(0.0, self._since + max(wait, self._pause) - time.monotonic())

    def _show(self) -> None:
        """Expose what is placed, if it is time and others are still awaited."""
        if self._left() != 0 or not self._fetcher.awaited():
            return
        begun, count, self._fresh = time.monotonic(), self._fresh, 0
        try:
            for name, said in Exposure(self._run).all():
                if isinstance(said, TaskFailed) or said.startswith("failed:"):
                    self._run.say(name, str(said))
        except PublishError as error:  # the last steps will meet it again, and end with it
            self._run.say("batch", f"not exposed: {error}")
            self._showing = False
            return
        self._since = time.monotonic()
        self._pause = SHARE * (self._since - begun)
        left = self._fetcher.awaited()
        self._run.say("batch", f"{count} new images are exposed, {left} still awaited")
