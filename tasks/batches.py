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
from tasks.plan import Wish
from tasks.runtime import Run
from tasks.words import counted

if TYPE_CHECKING:
    from tasks.fetch import Fetcher
    from tasks.hashed import Staged
    from tasks.make import Made

SHARE = 10  # an exposure that takes a second is followed by none for ten: most of the time goes into images


class Batches:
    """The images of one run; nothing is imported and no thread started before the first is made."""

    def __init__(self, run: Run, show: Exposure) -> None:
        self._run, self._expose = run, show
        self._site = run.settings.site
        self._downloads: Fetcher | None = None
        self._told: set[Wish] = set()  # made out of turn, and said so
        self._fresh = 0  # images that are placed and not exposed
        self._since = 0.0  # of the last exposure's end, or the beginning
        self._pause = 0.0  # seconds to leave between exposures
        self._showing = True

    def make(self, wish: Wish) -> str | TaskFailed:
        """Bring one product to its wished build; returns its line, "" when that was said before."""
        from tasks.ledgers import adopt  # noqa: PLC0415 - not needed when nothing is new

        run = self._run
        if why := run.stopped(wish):
            adopt(wish.product, run.layout)  # the state may be lost, and what is there still counts
            return f"held: {why}"
        if (why := run.rejection(wish)) and not run.asked(wish):
            return f"rejected before: {why}"
        self._await(wish)
        line = "" if wish in self._told else self._one(wish).line
        self._show()
        return run.alone(line)

    def _fetcher(self) -> "Fetcher":
        """The threads that download ahead; they start with the first call."""
        from tasks.fetch import Fetcher  # noqa: PLC0415 - not needed when nothing is new

        if self._downloads is None:
            run = self._run
            jenkins, client = run.settings.jenkins, run.client()
            assert jenkins is not None  # noqa: S101 - client() has refused that
            self._downloads = Fetcher(
                client,
                run.layout.staging,
                self._finish,
                jenkins,
            )
            self._downloads.start(one for one in run.pending if self._is_coming(one))
            self._since = time.monotonic()
        return self._downloads

    def _finish(self, wish: Wish, staged: "Staged") -> "Staged":
        from tasks.make import finish  # noqa: PLC0415 - as above

        run = self._run
        return finish(wish.product, staged, run.layout, run.settings, run.now)

    def _is_coming(self, wish: Wish) -> bool:
        """Whether this run will come to a wish, and finds neither its image nor its rejection."""
        from tasks.ledgers import adopt  # noqa: PLC0415 - as above

        run = self._run
        if run.settled(wish, None) or run.stopped(wish):
            return False
        if all(name.startswith("image:") for name in run.selected) and not run.asked(wish):
            return False
        return adopt(wish.product, run.layout).of_build(wish) is None

    def _await(self, wish: Wish) -> None:
        """Make and show what else arrives until this one is there."""
        if wish not in self._run.pending:
            return  # nothing is downloaded for it
        while wish not in self._told and not self._fetcher().has(wish):
            for other in self._fetcher().arrived(self._left()):
                if other != wish:
                    self._told.add(other)
                    self._run.say(f"image:{other.product.name}", self._one(other).line)
                    self._show()
            self._show()

    def _one(self, wish: Wish) -> "Made":
        from tasks.make import make  # noqa: PLC0415 - as above

        run = self._run
        made = make(wish, run.layout, self._take, run.signer, run.rules_of(wish))
        if made.image:
            run.published.append(made.image)
            self._fresh += 1
        return made

    def _take(self, wish: Wish) -> "Staged":
        return self._fetcher().take(wish)

    def _left(self) -> float | None:
        """Seconds until what is placed has to be shown, None for no limit."""
        if not (self._fresh and self._showing and "publish" in self._run.selected):
            return None
        wait = 0 if self._fresh >= self._site.batch else self._site.batch_time.seconds
        return max(0.0, self._since + max(wait, self._pause) - time.monotonic())

    def _show(self) -> None:
        """Expose what is placed, if it is time and others are still awaited."""
        if self._left() != 0 or not self._fetcher().awaited():
            return
        begun, count, self._fresh = time.monotonic(), self._fresh, 0
        try:
            for name, said in self._expose.all():
                if isinstance(said, str) and said.startswith("failed:"):
                    self._run.say(name, said)
        except PublishError as error:  # the last steps will meet it again, and end with it
            self._run.say("batch", f"not exposed: {error}")
            self._showing = False
            return
        self._since = time.monotonic()
        self._pause = SHARE * (self._since - begun)
        left = self._fetcher().awaited()
        self._run.say("batch", f"{counted(count, 'new image')} exposed, {left} still awaited")
