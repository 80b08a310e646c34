"""Push to all mirrors at once, and to those of a group in step (glue).

Mirrors behind one host name are one server to clients: an index from one, the next file from another. So
images go to all of them, then the indexes, then what is gone goes. One that cannot take the images holds its
group back, for site.grace at most: until then its clients find all that any index of the group names.
"""

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from tasks.errors import MadeWay, PublishError, TreeError
from tasks.layout import Layout
from tasks.mirror import Push, Source, whole
from tasks.mirrored import Terms, clear, fail, is_away, is_current, record
from tasks.settings import Mirror, Settings
from tasks.state import latest_name
from tasks.threads import together

if TYPE_CHECKING:
    from tasks.sign import Signer

AT_ONCE = 8  # pushes, or groups: more would only share one line
Said = dict[str, str | PublishError | OSError]


Part = Callable[[Source, Mirror], Source]


def part_of(
    layout: Layout,
    settings: Settings,
    signer: "Callable[[], Signer] | None",
    every: Source,
    one: Mirror,
) -> Source:
    """What of a snapshot a mirror is to get; without a signer, by the indexes that it got last.

    Raises ProofError when that would be nothing, or no client could read it.
    """
    if not one.is_partial:
        return every
    from tasks import partial as part  # noqa: PLC0415 - few have such a mirror

    home = layout.view(one.name)
    seen = part.view(every.images, one, home, settings, signer) if signer else part.kept(home)
    if seen is None:
        raise TreeError(f"mirror {one.name} has nothing yet, as far as is known here")
    filters = part.filters(seen, every.images)
    return Source(every.snapshot, every.images, seen.indexes, seen.paths, filters, seen.notes)


class Fleet:
    """The mirrors of one run."""

    def __init__(self, mirrors: Sequence[Mirror], part: Part = lambda every, _: every) -> None:
        self._mirrors, self._part = mirrors, part
        self._said: Said = {}  # what became of a push that nobody asked for yet

    def others(self, one: Mirror) -> list[Mirror]:
        """Those behind the same name."""
        return [other for other in self._mirrors if other.group == one.group != "" and other.name != one.name]

    def is_current(self, one: Mirror, terms: Terms) -> bool:
        """Whether there is nothing to do for a mirror, nor to say of it."""
        return one.name not in self._said and is_current(one, terms, self.others(one))

    def push(self, one: Mirror, terms: Terms, wanted: Collection[str], adopted: str) -> str:
        """What became of the push to a mirror; all those ``wanted`` are pushed to with the first.

        Raises TreeError where the destination is not ours, and MadeWay when another run is to go first.
        """
        if one.name not in self._said:
            due = [
                other
                for other in self._mirrors
                if other.name in {*wanted, one.name} or one in self.others(other)
                if other.name in (one.name, adopted) or not is_current(other, terms, self.others(other))
            ]
            self._push(due, terms, adopted)
        said = self._said.pop(one.name)
        if isinstance(said, TreeError | MadeWay):
            raise said
        return said if isinstance(said, str) else f"failed: {said}"

    def compare(self, one: Mirror, terms: Terms) -> list[str]:
        """What is not as it should be on a mirror, a line each; changes nothing."""
        known, newest = record(terms.layout, one), latest_name(terms.layout)
        if not known.snapshot:
            raise TreeError(f"mirror {one.name} has nothing yet, as far as is known here")
        late = [f"{known.snapshot} is there, {newest} is the newest"] if known.snapshot != newest else []
        return late + Push(one, self._part(whole(terms.layout), one), terms).compare(self.others(one))

    def _push(self, due: Sequence[Mirror], terms: Terms, adopted: str) -> None:
        pushes, every = list[Push](), None
        for one in due:
            try:
                every = every or whole(terms.layout)  # which reads all of its indexes
                pushes.append(Push(one, self._part(every, one), terms, adopt=one.name == adopted))
            except PublishError as error:
                fail(one, terms, str(error))
                self._said[one.name] = error
        groups: dict[str, list[Push]] = {}
        for push in pushes:
            groups.setdefault(push.mirror.group or f" {push.mirror.name}", []).append(push)
        for said in together(partial(self._group, terms), groups.values(), AT_ONCE):
            self._said |= said

    def _group(self, terms: Terms, pushes: Sequence[Push]) -> Said:
        """Push to mirrors behind one name, each step to all of them before the next."""
        said: Said = {}

        def each(step: Callable[[Push], None], some: Sequence[Push]) -> list[Push]:
            went = together(partial(_try, step, terms, said), some, AT_ONCE)
            return [push for push, well in zip(some, went, strict=True) if well]

        ready = each(Push.carry, pushes)
        missing = [push.mirror.name for push in pushes if push not in ready]
        if held_up := next((one for one in said.values() if isinstance(one, MadeWay)), None):
            return said | {push.mirror.name: held_up for push in ready}
        holding = [name for name in missing if not is_away(record(terms.layout, self._named(name)), terms)]
        if ready and holding:
            urgent = [push for push in ready if terms.gone - {*record(terms.layout, push.mirror).gone}]
            for push in ready:
                if push not in urgent:
                    clear(push.mirror, terms)
                    said[push.mirror.name] = self._waits(holding, terms)
            ready = urgent  # what is withdrawn at once waits for nobody
        for push in each(Push.ask, each(self._sweep, each(Push.switch, ready))):
            without = "".join(f"; goes on without {name}, of its group" for name in missing)
            said[push.mirror.name] = push.done() + without
        return said

    def _waits(self, holding: Sequence[str], terms: Terms) -> str:
        """Which of its group a mirror waits for, and until when at most."""
        since = max(record(terms.layout, self._named(name)).since for name in holding)
        until = datetime.fromtimestamp(since + terms.grace.seconds, UTC)
        group = f"waits for {', '.join(holding)}, of its group, until {until:%Y-%m-%d %H:%M} UTC at most"
        return f"{group}; the images are there"

    def _sweep(self, push: Push) -> None:
        push.sweep(self.others(push.mirror))

    def _named(self, name: str) -> Mirror:
        return next(one for one in self._mirrors if one.name == name)


def _try(step: Callable[[Push], None], terms: Terms, said: Said, push: Push) -> bool:
    """Whether a step went well; if not, why is kept, and others go on."""
    try:
        step(push)
    except MadeWay as error:
        said[push.mirror.name] = error
        return False
    except (PublishError, OSError) as error:
        fail(push.mirror, terms, str(error), whole=step is Push.ask)
        said[push.mirror.name] = error
        return False
    return True
