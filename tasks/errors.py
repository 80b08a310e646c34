"""What can go wrong, and whose fault it is.

PublishError            one sentence: what, where, what to do; exit 2 unless said otherwise
├── SettingsError       the configuration or the command line; exit 3
├── UpstreamError       Jenkins or the way to it; tried again by the next run; exit 1
├── ImageRejected       a build whose content is not publishable; not tried again; exit 1
├── ProgramFailed       a program ended badly, is missing (ProgramMissing), or hears nothing (ProgramStalled)
├── MadeWay             something long was ended, for another run waits; it goes on after that
├── SigningError        no signature, no publication
├── ProofError          a client could not read what would be exposed
└── TreeError           our own disk: full, read-only, or not as we left it
"""

from collections.abc import Sequence


class PublishError(Exception):
    """The root: its text is one sentence for the operator."""


class SettingsError(PublishError):
    """One line per fault in the configuration or on the command line."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(faults))


class UpstreamError(PublishError):
    """Jenkins did not answer, or not with what it should; nothing is concluded from that."""


class ImageRejected(PublishError):  # noqa: N818 - a verdict on a build, not an error of ours
    """A build that must not be published; the product stays at its last good image."""


class ProgramFailed(PublishError):  # noqa: N818 - reads as the sentence it makes
    """A program ended with another code than 0, was not found, or ran too long."""

    def __init__(self, argv: Sequence[str], code: int | str, stderr: str) -> None:
        self.argv, self.code, self.stderr = tuple(argv), code, stderr
        lines = [line.strip() for line in stderr.splitlines() if line.strip()]
        cause = next((n for n, line in enumerate(lines) if line.startswith("Error:")), 0)  # lxc greets before
        said = "; ".join(lines[cause : cause + 3])
        ended = f"{argv[0]} {'ended with ' if str(code).startswith('code') else ''}{code}"
        super().__init__(ended + (f": {said[:400]}" if said else ""))


class ProgramStalled(ProgramFailed):
    """A program heard nothing for too long."""


class ProgramMissing(ProgramFailed):
    """A program is not installed."""


class MadeWay(PublishError):  # noqa: N818 - nobody's fault
    """Another run waits, and what was ended for it can go on later."""


class SigningError(PublishError):
    """The key is missing, locked, expired, or the signer failed."""


class ProofError(PublishError):
    """The new indexes would mislead a client; what is exposed stays as it is."""


class TreeError(PublishError):
    """The site's tree is not as it should be, or cannot be written."""
