"""Wait for the build that called (acts: asks Jenkins until it is over)."""

import time
from collections.abc import Callable

from jenkins import api
from jenkins.client import Client
from jenkins.errors import JenkinsError
from tasks.errors import UpstreamError

PAUSE = 2.0  # seconds between two looks at a build that still runs


def await_build(
    client: Client, job: str, build: int, wait: float, sleep: Callable[[float], None] = time.sleep
) -> str:
    """Wait until a build is really over; returns its result, "" when it still runs after ``wait`` s.

    Inside its own last step a build is not yet what Jenkins calls successful (hudson.model.Run: the
    permalinks move in onCompleted), so a hook must wait for the end. Raises UpstreamError.
    """
    path = f"{api.run_path(job)}/{build}"
    until = time.monotonic() + wait
    while True:
        try:
            detail = api.parse_build(client.json(path, api.STATE_TREE))
        except JenkinsError as error:
            raise UpstreamError(f"cannot look at {job} #{build}: {error}") from error
        if not (detail.building or detail.in_progress) and detail.result:
            return detail.result
        if time.monotonic() >= until:
            return ""
        sleep(min(PAUSE, max(0.0, until - time.monotonic())))
