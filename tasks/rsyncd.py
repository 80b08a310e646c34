"""The configuration of an rsync daemon that mirrors pull from (pure: what is served in, text out).

The rules of the file are in rsync's params.c and rsyncd.conf(5); what becomes of a module's path at the
start of a connection is in rsync_module() of its clientserver.c.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
NAME, COMMENT = "images", "images for Incus, LXD and LXC"
PLAIN = "must be an absolute path in one line, without '%', which rsyncd takes for a variable"


class Module(msgspec.Struct, frozen=True, kw_only=True):
    """What rsyncd is told beside the tree."""

    name: str = NAME
    comment: str = COMMENT
    tree: str = ""  # on a mirror, an absolute path; "" is the site's own

    def faults(self) -> list[str]:
        """What cannot be written into a configuration, by its option, a line each."""
        found = []
        if not _NAME.fullmatch(self.name) or self.name.lower() == "global":
            found.append(f"--module={self.name}: write it like images, of letters, digits, '.', '_' and '-'")
        if not _is_plain(self.comment):
            found.append(f"--comment={self.comment}: one line without '%', and without '\\' at its end")
        if self.tree and not _is_path(self.tree):
            found.append(f"--tree={self.tree}: {PLAIN}")
        return found


def rsyncd(tree: Path, module: Module, dated: Iterable[Path] = ()) -> str:
    """A module for rsyncd.conf, and one for each of the snapshots, named as they are.

    Raises ValueError for a tree that it cannot name.
    """
    path = module.tree or str(tree)
    words = {"NAME": module.name, "COMMENT": module.comment, "TREE": path}
    text = _filled(_MODULE + _DATED if (snapshots := sorted(dated)) else _MODULE, words)
    for of in snapshots:
        name, comment = f"{module.name}-{of.name}", f"{module.comment}, {of.name}"
        text += f"\n{_filled(_BARE, {'NAME': name, 'COMMENT': comment, 'TREE': str(of)})}"
    return text


def _filled(text: str, words: Mapping[str, str]) -> str:
    if not _is_path(words["TREE"]):
        raise ValueError(f"{words['TREE']}: {PLAIN}")
    return re.sub(r"@([A-Z]+)@", lambda found: words[found[1]], text)  # once: a path may look so


def _is_plain(text: str) -> bool:
    return text.isprintable() and text == text.strip() and "%" not in text and not text.endswith("\\")


def _is_path(path: str) -> bool:
    return path.startswith("/") and _is_plain(path)


_MODULE = """\
# What mirrors pull this site from, made by `doit serverconfig rsyncd`. Append it to /etc/rsyncd.conf, or put
# it into a directory of which that file says `&include /etc/rsyncd.d`, as /etc/rsyncd.d/@NAME@.conf. rsyncd
# reads it again with every connection: neither this nor a publication needs a restart.
#
# A mirror then says, and gets one whole tree of real directories, each index with the images that it names:
#     cd /srv/mirror && next=$(readlink now | tr ab ba) &&
#     rsync -a --delete --link-dest=../now/ rsync://HOST/@NAME@/ "${next:=a}/" &&
#     ln -sfn "$next" .now && mv -T .now now
# and serves /srv/mirror/now, which changes by one rename. imagepress' README has the same for one directory.

[@NAME@]
    comment = @COMMENT@

    # `latest` is a symbolic link that every publication points to a new snapshot. rsyncd follows it once, at
    # the start of a connection, and stays there: who takes hours gets the tree of when he came, for as long
    # as that snapshot is kept (snapshot.keep and snapshot.keep_for; whichever is longer).
    path = @TREE@

    # Holds a connection in that one tree, and needs nothing of the directories above. It takes an rsyncd that
    # root started, as packages do; to read, it becomes nobody, and all in the tree is readable by everyone.
    # Of an rsyncd that is not root's: `use chroot = no`, and let it pass through the directories above.
    use chroot = yes
    read only = yes
    list = yes

    # What rsync or a publication has not finished, on a mirror that is pulled from; nothing published hides.
    exclude = .*

    # Past this many, others are told to come later; they are counted in `lock file`. A mirror that does not
    # answer for ten minutes gives its place away.
    max connections = 50
    timeout = 600

    # Of who pushes, were it ever writable; who pulls may use --delete.
    refuse options = delete

    # Images are packed already.
    dont compress = *

    # A line for each file, to syslog or to `log file`, with the address: no connection waits for DNS.
    transfer logging = yes
    reverse lookup = no
"""

_DATED = """
# The snapshots that are there now, by name, by day, and by what `doit pin` called them. They come and go with
# publications: print this again after each, or who asks for one that went is told `chroot failed`.
"""

# The same without a word.
_BARE = "".join(
    f"{line}\n" for line in _MODULE.splitlines() if line.strip() and not line.strip().startswith("#")
)
