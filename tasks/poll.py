"""Ask Jenkins what is new and leave a wish for every product that should move on (acts).

One request covers every job and configuration, one the test gate; a build is only asked for its
artifacts when its number moved. A wish file is rewritten only when it changes, and whatever Jenkins
has forgotten leaves it as it is: nothing is ever unpublished here. All is asked first and written
last, so that ``look`` can ask alone.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from jenkins import api
from jenkins.client import Client
from jenkins.errors import JenkinsError
from tasks.errors import SettingsError
from tasks.image import Product
from tasks.layout import Layout
from tasks.plan import (
    Asked,
    Offer,
    Verdicts,
    Wish,
    choose,
    merge,
    moves,
    os_of,
    product_of,
    products_in,
    verdicts,
)
from tasks.settings import Jenkins
from tasks.state import Ledger, Offers, decisions, load, load_all, save
from tasks.threads import together
from tasks.words import counted


def poll(client: Client, settings: Jenkins, layout: Layout, job: str = "") -> str:
    """Look for moved builds, of all jobs or of one; returns a line that says what was found.

    When Jenkins cannot be asked, that is recorded for the last task to report, the wishes stay, and
    so work that is due anyway still gets done. Raises SettingsError for a job that is not polled.
    """
    found = _Poll(client, settings, layout)
    offers = found.look(job)
    for product in found.moved:
        save(layout.wish(product), found.wishes[product])
    save(layout.offers, offers)  # last: a build counts as asked for when all of its wishes are there
    return found.line()


def look(client: Client, settings: Jenkins, layout: Layout) -> tuple[Offers, dict[Product, Wish]]:
    """What a poll of everything would leave: the offers and every wish; asks, and writes nothing.

    When Jenkins cannot be asked, ``Offers.failed`` says so and the wishes are those of before.
    """
    found = _Poll(client, settings, layout)
    return found.look(""), found.wishes


class Pipeline(NamedTuple):
    """A job without configurations, with its good builds, newest first."""

    name: str
    os: str
    builds: tuple[api.Build, ...]


class _Poll:
    """One poll: what was offered, and what becomes of it; it reads the records and writes none."""

    def __init__(self, client: Client, settings: Jenkins, layout: Layout) -> None:
        self._client, self._settings, self._layout = client, settings, layout
        self._before = load(layout.offers, Offers) or Offers()
        self._word = decisions(layout)
        self.wishes = {wish.product: wish for wish in load_all(layout.state / "wishes", Wish)}
        self.moved: list[Product] = []
        self._failed = ""
        self._held: dict[str, str] = {}
        self._troubled: dict[str, str] = {}
        self._waiting: list[str] = []
        self._notes: list[str] = []
        self._opened: set[str] = set()  # folders too deep for the first answer
        self._products: set[Product] = set()
        self._pipelines: list[Pipeline] = []
        self._asked: dict[str, Asked] = {}
        self._fitting = False  # whether any job is an image job

    def look(self, job: str) -> Offers:
        """Ask and choose; what is to be remembered beyond the wishes. Raises SettingsError."""
        before, name = self._before, api.split_job(job)[0]
        try:
            self._run(name)
        except JenkinsError as error:
            self._failed = str(error)
            if not job:
                return msgspec.structs.replace(before, failed=self._failed)
            # Says nothing of the others; the next poll of this job, or of everything, forgets it.
            troubled = {**before.troubled, name: f"Jenkins: {error}"}
            return msgspec.structs.replace(before, troubled=troubled)
        return self._after(name) if job else self._offers()

    def _run(self, job: str) -> None:
        settings = self._settings
        older = settings.gate is not None or self._word.refuses_builds  # then the newest may not be it
        if job:
            self._refuse_foreign(job)
            tree = api.job_tree(older=older, unstable=settings.unstable)
            answer = self._client.json(api.job_path(job), tree)
            jobs: Iterable[tuple[str, api.Job]] = [(job, api.parse_job(answer))]
        else:
            jobs = self._jobs(api.jobs_tree(older=older, unstable=settings.unstable))
        gate = self._gate()
        offers, pipelines = self._sort(jobs)
        if not job and not self._fitting:
            patterns = ", ".join(self._settings.jobs)
            self._troubled["jenkins.jobs"] = f"no job here is called {patterns}; see jenkins.folder and .view"
        wanted = [(offer, build) for offer in offers if (build := self._choose(offer, gate))]
        for wish in together(lambda one: self._wish(*one), wanted, settings.downloads):
            if wish:
                self._keep(wish)
        found = together(lambda one: self._pipeline(one, gate), pipelines, settings.downloads)
        self._settle(wish for wishes in found for wish in wishes)

    def _offers(self) -> Offers:
        """What is to be remembered of a poll of everything."""
        return Offers(
            held=self._held,
            troubled=self._troubled,
            waiting=tuple(sorted(self._waiting)),
            notes=tuple(self._notes),
            asked=self._asked,
        )

    def _after(self, job: str) -> Offers:
        """What is to be remembered of a poll of one job: its products' part is new, the rest stays."""
        before = self._before
        mine = {product.name for product in self._products} | {job}
        return Offers(
            failed=before.failed,
            held={name: why for name, why in before.held.items() if name not in mine} | self._held,
            troubled={name: why for name, why in before.troubled.items() if name not in mine}
            | self._troubled,
            waiting=tuple(sorted({*before.waiting} - mine | {*self._waiting})),
            notes=before.notes,
            asked={**before.asked, **self._asked},
        )

    def line(self) -> str:
        """The poll in one line."""
        if self._failed:
            return f"Jenkins could not be asked: {self._failed}"
        parts = [counted(len(self._products), "product"), f"{len(self.moved)} with a new build"]
        parts += [
            f"{len(some)} {what}"
            for some, what in ((self._held, "held"), (self._waiting, "never built"))
            if some
        ]
        return ", ".join(parts)

    def _top(self) -> str:
        views = "/".join(f"view/{api.quoted(view)}" for view in self._settings.view.split("/") if view)
        return "/".join(part for part in (api.job_path(self._settings.folder), views) if part)

    def _jobs(self, tree: str) -> Iterator[tuple[str, api.Job]]:
        """Every job of the site, by its full name; one request, and one for each very deep folder."""
        jobs = api.parse_jobs(self._client.json(self._top(), tree))
        return self._named(jobs, self._settings.folder.strip("/"), tree)

    def _named(
        self, jobs: Iterable[tuple[str, api.Job]], folder: str, tree: str
    ) -> Iterator[tuple[str, api.Job]]:
        """Each job with its full name: from its URL, for a view may show jobs of other folders."""
        for path, job in jobs:
            names = api.job_name(job.url or "")
            name = "/".join(names) if names else f"{folder}/{path}".strip("/")
            yield name, job
            if job.jobs and name not in self._opened:
                self._opened.add(name)
                try:
                    deeper = api.parse_jobs(self._client.json(api.job_path(name), tree))
                except JenkinsError as error:
                    self._troubled[name] = f"cannot look into this folder: {error}"
                else:
                    yield from self._named(deeper, name, tree)

    def _refuse_foreign(self, name: str) -> None:
        folder = self._settings.folder.strip("/")
        plain = name.isprintable() and {"", ".", ".."}.isdisjoint(name.split("/"))
        inside = plain and (not folder or name.startswith(f"{folder}/"))
        if not inside or os_of(name, self._settings.jobs) is None:
            patterns = ", ".join(f"{folder}/{jobs}" if folder else jobs for jobs in self._settings.jobs)
            shown = name if name.isprintable() else ascii(name)
            raise SettingsError(
                [f"--job={shown}: this site publishes the jobs {patterns}; see jenkins.jobs, .folder"]
            )
        view = self._settings.view
        if view and all(name != found for found, _ in self._jobs(api.NAMES_TREE)):
            for folder, why in self._troubled.items():  # it may be in there
                raise JenkinsError(f"{folder}: {why}")
            raise SettingsError([f"--job={name}: the view {view!r} does not show it; see jenkins.view"])

    def _gate(self) -> Verdicts | None:
        gate = self._settings.gate
        if gate is None:
            return None
        return verdicts(api.parse_tests(self._client.json(api.job_path(gate.job), api.TESTS_TREE)), gate)

    def _sort(self, jobs: Iterable[tuple[str, api.Job]]) -> tuple[list[Offer], list[Pipeline]]:
        """Jobs as offers of products, and those whose products only their artifacts tell."""
        offers: list[Offer] = []
        unstable, gate = self._settings.unstable, self._settings.gate
        for name, job in jobs:
            os = os_of(name, self._settings.jobs)
            if os is None or job.jobs is not None or (gate and name == gate.job):
                continue
            self._fitting = True
            if not name.isprintable():
                self._notes.append(f"{name!r} cannot be part of a product's name; left out")
                continue
            if job.active_configurations is None:
                if self._settings.path:
                    self._pipelines.append(Pipeline(name, os, job.finished(unstable=unstable)))
                else:
                    self._notes.append(f"{name}: no matrix job; jenkins.path would say how its artifacts lie")
                continue
            for configuration in job.active_configurations:
                try:
                    product = product_of(os, configuration.name, self._settings.axes)
                except ValueError as error:
                    self._notes.append(f"{name}: {error}; left out")
                    continue
                builds = configuration.finished(unstable=unstable)
                offers.append(
                    Offer(product=product, job=name, configuration=configuration.name, builds=builds)
                )
        merged, contested = merge(offers)
        self._notes += contested
        return merged, self._pipelines

    def _choose(self, offer: Offer, gate: Verdicts | None) -> api.Build | None:
        self._products.add(offer.product)
        if self._word.ending(offer.product):
            return None
        wish = self.wishes.get(offer.product)
        if wish and self._is_lost(wish, offer):
            wish = None
        choice = choose(offer, wish, gate, self._word)
        if choice.held:
            self._held[offer.product.name] = choice.held
        elif not offer.builds and wish is None:
            self._waiting.append(offer.product.name)
        build = choice.build
        back = wish and build and wish.job == offer.job and build.number < wish.number
        if wish and build and back and build.timestamp > wish.timestamp:  # else the wished one was refused
            anew = f"{offer.job} was made anew, from #{wish.number} back to #{build.number}"
            self._notes.append(f"{offer.product.name}: {anew}")
        return build

    def _is_lost(self, wish: Wish, offer: Offer) -> bool:
        """Whether a wished build was deleted before it was published: then an older one has to do."""
        newest = offer.builds[0] if offer.builds else None
        here = (wish.job, wish.configuration) == (offer.job, offer.configuration)
        if not (newest and here and newest.number < wish.number and newest.timestamp <= wish.timestamp):
            return False
        ledger = load(self._layout.ledger(wish.product), Ledger)
        return not (ledger and ledger.of_build(wish))

    def _wish(self, offer: Offer, build: api.Build) -> Wish | None:
        """Ask for one build's artifacts; the wish for it, None when that cannot be had."""
        name = offer.product.name
        try:
            detail = self._detail(f"{api.run_path(f'{offer.job}/{offer.configuration}')}/{build.number}")
        except JenkinsError as error:
            self._troubled[name] = f"{offer.job}/{offer.configuration} #{build.number}: {error}"
            return None
        return _wished(offer, build, detail, _paths(detail))

    def _pipeline(self, pipeline: Pipeline, gate: Verdicts | None) -> list[Wish]:
        """A job without configurations: one build holds the images of several products.

        Not every build has every product, so what counts is the build that was last asked for.
        """
        job, os = pipeline.name, pipeline.os
        here = (job, "")
        self._products |= {
            one.product for one in self.wishes.values() if (one.job, one.configuration) == here
        }
        offer = Offer(product=_ANY, job=job, configuration="", builds=pipeline.builds)
        asked = self._before.asked.get(job)
        if asked:
            self._asked[job] = asked
        lost = asked is None or not self.wishes.keys() >= set(asked.products)  # then ask once more
        choice = choose(offer, None if lost else asked, gate, self._word)
        if choice.held:
            self._held[job] = choice.held
        if choice.build is None:
            return []
        try:
            detail = self._detail(f"{api.run_path(job)}/{choice.build.number}")
            found = products_in(os, self._settings.path, _paths(detail))
        except (JenkinsError, ValueError) as error:
            self._troubled[job] = f"{job} #{choice.build.number}: {error}"
            return []
        if not found:
            self._troubled[job] = f"{job} #{choice.build.number}: no artifact lies as jenkins.path says"
            return []
        self._asked[job] = Asked(
            job=job,
            number=choice.build.number,
            timestamp=choice.build.timestamp,
            products=tuple(sorted(found)),
        )
        return [
            _wished(msgspec.structs.replace(offer, product=product), choice.build, detail, paths)
            for product, paths in found.items()
        ]

    def _settle(self, wishes: Iterable[Wish]) -> None:
        """Keep the wishes of pipelines; of two for one product the newest build wins."""
        for wish in sorted(wishes, key=lambda one: (one.timestamp, one.job)):
            self._products.add(wish.product)
            before = self.wishes.get(wish.product)
            if before is None or moves(before, wish, wish):
                self._keep(wish)

    def _detail(self, path: str) -> api.BuildDetail:
        """A build that is over and has artifacts; raises JenkinsError."""
        detail = api.parse_build(self._client.json(path, api.BUILD_TREE))
        if detail.building:
            raise JenkinsError("is running again")
        if not detail.artifacts:
            raise JenkinsError("has no artifacts (any more)")
        return detail

    def _keep(self, wish: Wish) -> None:
        if self.wishes.get(wish.product) != wish:
            self.wishes[wish.product] = wish
            self.moved.append(wish.product)


_ANY = Product("any", "any", "any", "any")  # stands for the products of a job that only its artifacts tell


def _wished(offer: Offer, build: api.Build, detail: api.BuildDetail, paths: tuple[str, ...]) -> Wish:
    return Wish(
        product=offer.product,
        job=offer.job,
        configuration=offer.configuration,
        number=build.number,
        timestamp=build.timestamp,
        artifacts=paths,
        md5=_md5s(detail),
    )


def _md5s(detail: api.BuildDetail) -> tuple[str, ...]:
    """Jenkins' md5s, where they are as many as the artifacts: else some have none, and nobody knows which.

    Whether they are of artifacts at all shows when these are fetched.
    """
    records, artifacts = detail.fingerprint or (), detail.artifacts or ()
    return tuple(sorted({record.hash for record in records})) if len(records) >= len(artifacts) else ()


def _paths(detail: api.BuildDetail) -> tuple[str, ...]:
    return tuple(sorted(artifact.relative_path for artifact in detail.artifacts or ()))
