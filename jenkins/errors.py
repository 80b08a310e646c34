"""What Jenkins, or the way to it, can do to us.

JenkinsError     no usable answer; says which URL and why
├── NotFound     404: gone, renamed, or not allowed to be seen (Jenkins does not tell which)
└── Malformed    an answer that is not what Jenkins says
"""


class JenkinsError(Exception):
    """No usable answer."""


class NotFound(JenkinsError):  # noqa: N818 - the name of the status
    """404, which for Jenkins may also mean «not allowed»."""


class Malformed(JenkinsError):  # noqa: N818 - reads as what it is
    """Not JSON, or not of the shape that Jenkins exports."""
