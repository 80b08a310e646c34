"""The configuration of Apache for a site (pure: what is served, and for whom, in; text out).

It serves what ``webserver.nginx`` makes nginx serve, and why is said there. How a string in it is read
is in ap_getword_conf() of httpd's server/util.c, but for what mod_rewrite reads.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from tasks import dated, protocols
from tasks.layout import PROTOCOLS, STREAMS
from tasks.overlay import TOP
from tasks.rest import BOUNDARY, FIRST
from tasks.settings import List, Protocols, Upstream
from tasks.webserver import CLEAR, NONE, UPWARDS, Web

PLAIN = "must be an absolute path in one line, without any of $*?[], which are special to Apache"
_EVERYWHERE = ("", "*", "0.0.0.0", "[::]")  # noqa: S104 - names for all addresses, which it writes as *


def faults(web: Web) -> list[str]:
    """What nginx would take and Apache cannot, by its option, a line each."""
    return [f"--{name}={path}: {PLAIN}" for name, path in web.paths.items() if path and not _is_plain(path)]


def apache(
    tree: Path,
    lists: Iterable[List],
    web: Web,
    upstreams: Iterable[Upstream] = (),
    older: Protocols = NONE,
) -> str:
    """What Apache 2.4 needs to serve a tree; raises ValueError for one it cannot name."""
    tree = Path(web.tree or tree)
    if not _is_plain(str(tree)):
        raise ValueError(f"{tree}: {PLAIN}")
    first, *others = web.names
    port = web.https[0].rpartition(":")[2]
    agents = [(one.name, one.agent.pattern) for one in lists if one.agent is not None]
    upstreams = list(upstreams)
    names = "|".join(one.name for one in upstreams if one.is_mirrored)
    here = f"(?:{names})" if names else ""
    words = {
        "TREE": _quoted(str(tree)),
        "TREES": _quoted(f"^(?:{re.escape(str(tree))}|{re.escape(str(tree.parent))}/at)(?:/|$)"),
        "NAME": first,
        "ALIASES": f"\n    ServerAlias {' '.join(others)}" if others else "",
        "CERTIFICATE": _quoted(web.certificate or f"/etc/letsencrypt/live/{first}/fullchain.pem"),
        "KEY": _quoted(web.key or f"/etc/letsencrypt/live/{first}/privkey.pem"),
        "HTTPS": _places(web.https),
        "HTTP": _places(web.http),
        "PORT": "" if port == "443" else f":{port}",
        "STREAMS": f"/{STREAMS}",
        "FILES": _FILES,
        "JSON": _JSON,
        "AGENTS": _agents(agents),
        "TOP": TOP,
        "PASSWORDS": _quoted(web.passwords),
        "PROTOCOLS": PROTOCOLS,
        "EXPORT": _quoted(str(tree / PROTOCOLS / "rest/export")),
        "IMPORT": _quoted(str(tree / PROTOCOLS / "import")),
        "IMAGES": _quoted(str(tree / "images")),
        "BOUNDARY": BOUNDARY,
        "FIRST": FIRST,
        "OTHERS": (redirects := _others(upstreams, "" if web.tree else f"{tree.parent}/at")),
        "NONE": f"^/{TOP}/" + (f"(?!{here}/)" if here else ""),
        "SERVED": f"^/(?:images|{TOP}/{here})/" if here else "^/images/",
    }
    at = "" if web.tree else dated.apache(_quoted(f"{tree.parent}/at/"))
    text = (
        _HEAD
        + _HTTPS.replace("@OLDER@", protocols.apache(older)).replace("@DATED@", at)
        + (_HTTP if web.http else "")
    )
    text = text.replace("@LISTS@", _LISTS if agents else "").replace("@SITE@", _SITE)
    text = text.replace("@REDIRECT@", _REDIRECT if redirects else "")
    text = text.replace("@AUTH@", CLEAR + _AUTH if web.passwords else _OPEN)
    return re.sub(r"@([A-Z_]+)@", lambda found: words[found[1]], text)  # once: what it puts in may look so


def _is_plain(path: str) -> bool:
    return path.startswith("/") and path.isprintable() and not set(path) & set("$*?[]")


def _places(places: Iterable[str]) -> str:
    """Addresses for a VirtualHost, of places as nginx writes them."""
    parts = (place.rpartition(":") for place in places)
    return " ".join(dict.fromkeys(f"{'*' if at in _EVERYWHERE else at}:{port}" for at, _, port in parts))


def _agents(agents: list[tuple[str, str]]) -> str:
    """The rules that choose a list: the first that fits skips those after it."""
    rules = []
    for after, (name, pattern) in enumerate(reversed(agents)):
        skip = f",S={after}" if after else ""
        rules.append(
            f'    RewriteCond %{{HTTP_USER_AGENT}} "(?:{_inert(pattern)})"\n'
            f'    RewriteRule "^/{STREAMS}/{_FILES}" - [E=imagepress_list:{name}{skip}]\n'
        )
    return "".join(reversed(rules))


def _others(upstreams: Iterable[Upstream], at: str) -> str:
    """The rules that send on what lies elsewhere; in an address ``%1`` would be what was found.

    ``at`` is where snapshots are, "" for nowhere: one may be of a time when [[upstream]] said another mode.
    """
    rules, lost = [], _quoted(at.replace("%", "\\%") + "/$1")
    for one in upstreams:
        url = one.url.rstrip("/").replace("%", "\\%")
        asked = f'    RewriteCond %{{THE_REQUEST}} "^[A-Z]+ /+@{TOP}/+{one.name}/([^? ]+)"\n'
        sent = f'"{url}/%1" [R=302,NE,QSD,L]\n'
        if not one.is_mirrored:
            rules.append(asked.replace("@", "") + f'    RewriteRule "^/{TOP}/" {sent}')
        if at:
            rules.append(f"    RewriteCond {lost} !-f\n" + asked.replace("@", "at/+[^/? ]+/+"))
            rules.append(f'    RewriteRule "^/at/([^/]+/{TOP}/.*)" {sent}')
    if rules:
        outside = f'    RewriteCond %{{THE_REQUEST}} "^[A-Z]+ [^? ]*{UPWARDS}" [NC]\n'
        rules.insert(0, outside + f'    RewriteRule "^/(?:at/[^/]+/)?{TOP}/" - [R=404,L]\n')
    return "".join(rules)


def _inert(pattern: str) -> str:
    """The same regular expression without quotes and ``${``.

    A quote ends it, whatever stands before (parseargline() in mod_rewrite.c); ``${`` begins a variable
    (ap_resolve_env() in server/core.c).
    """
    hidden = {r"\$": r"\x24", '"': r"\x22", r"\"": r"\x22"}
    tokens = [hidden.get(one, one) for one in re.findall(r"\\.|.", pattern)]
    pairs = zip(["", *tokens], tokens, strict=False)
    return "".join(r"\x7b" if pair == ("$", "{") else pair[1] for pair in pairs)


def _quoted(text: str) -> str:
    """A string for Apache; all but quote and backslash stay as they are."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


_JSON = r"^(/(?:streams|meta/simplestreams)/v1/(?:[^/]+/)?[^/]+\.json)$"
_FILES = r"((?:images|index)\.(?:json|json\.gpg|json\.gz|sjson))$"

_HEAD = """\
# What Apache, from 2.4.39 on, needs to serve this site, made by `doit serverconfig apache`. On Debian, put it
# at /etc/apache2/sites-available/images.conf and, the first time,
#     a2enmod ssl rewrite headers && a2ensite images && apachectl configtest && systemctl restart apache2
# Ports other than 80 and 443 need a `Listen` of their own (ports.conf). Make it again when [[list]],
# [[upstream]] or [protocols] changes: publications need neither that nor a reload.
#
# Apache has to pass through the directories above the tree; it needs nothing else of the site.
"""

_SITE = """\
    # `latest` is a symbolic link that every publication points to a new snapshot, and is followed again for
    # each request. Nothing in the tree configures Apache.
    DocumentRoot @TREE@
    <Directory "/">
        Options FollowSymLinks
        AllowOverride None
    </Directory>
    <DirectoryMatch @TREES@>
@AUTH@
        # Instead of all that Apache knows: images are bytes, and what is packed is not to be unpacked.
        RemoveEncoding .gz .xz
        ForceType application/octet-stream
        <FilesMatch "\\.json$">
            ForceType application/json
        </FilesMatch>
        <FilesMatch "\\.gz$">
            ForceType application/gzip
        </FilesMatch>
        <FilesMatch "\\.html$">
            ForceType text/html
        </FilesMatch>
        <FilesMatch "\\.(?:sjson|gpg|asc|yaml|log)$|^(?:site-id|trace|SHA256SUMS|index-[a-z]+[.0-9]*)$">
            ForceType text/plain
        </FilesMatch>
        AddDefaultCharset utf-8
    </DirectoryMatch>
    DirectoryIndex index.html
    # LXC asks for //meta/1.0/index-system and //images/...//rootfs.tar.xz
    MergeSlashes On

    # Everything below images/ stays as it is for as long as it is there, but for signatures, should they be
    # made again. The indexes change with every publication: whoever keeps them longer than site.grace asks
    # for images that are gone.
    Header set Cache-Control "public, max-age=300"
    <LocationMatch "^(?:/at/[^/]+)?/images/.*[^/]$">
        Header set Cache-Control "public, max-age=31536000, immutable"
    </LocationMatch>
    <LocationMatch "^(?:/at/[^/]+)?/images/.*\\.asc$">
        Header set Cache-Control "public, max-age=300"
    </LocationMatch>

    # Images are packed, and the indexes have their .gz beside them: only the page is packed on the way.
    RewriteEngine on
    RewriteRule "!^/(?:index\\.html)?$" - [E=no-gzip:1]
    RewriteRule "^" - [E=no-brotli:1]
    <IfModule mod_deflate.c>
        <Location "/index.html">
            SetOutputFilter DEFLATE
        </Location>
    </IfModule>

@REDIRECT@    # What rsync or a publication has not finished on a mirror, and what else hides; but certbot's.
    RewriteRule "/\\.(?!well-known/)" - [R=404]
"""

_HTTPS = """
<VirtualHost @HTTPS@>
    ServerName @NAME@@ALIASES@

    # Incus and LXD want TLS 1.3, and wget, for LXC, may want 1.2. Of several hosts at one address Apache may
    # take this from the first.
    SSLEngine on
    SSLProtocol -all +TLSv1.2 +TLSv1.3
    SSLCertificateFile @CERTIFICATE@
    SSLCertificateKeyFile @KEY@

@SITE@
@OLDER@@DATED@@LISTS@    # Who takes gzip gets the packed file.
    RewriteRule "@JSON@" - [E=imagepress_packed:1]
    RewriteCond %{HTTP:Accept-Encoding} "\\bgzip\\b"
    RewriteCond %{HTTP:Accept-Encoding} "!\\bgzip *; *q=0(?:\\.0*)? *(?:,|$)"
    RewriteCond "%{DOCUMENT_ROOT}$1.gz" -f
    RewriteRule "@JSON@" "$1.gz" [E=imagepress_gzip:1]
    # Below DocumentRoot, also on a machine that has a directory /streams.
    RewriteRule "^/(?:streams|meta)/" - [PT]
    Header merge Vary Accept-Encoding env=imagepress_packed
    Header set Content-Encoding gzip env=imagepress_gzip
    Header set Content-Type application/json env=imagepress_gzip
</VirtualHost>
"""

_LISTS = """\
    # Who gets which list, by its User-Agent; the first that fits counts, all others get images.json.
    # Incus and LXD, programs and daemons alike, call themselves `Incus 6.0.4 (...)` and `LXD 5.0.2 (...)`.
    # The lists lie beside, and mirrors fetch them there. A snapshot that was rolled back to may lack a list.
    RewriteRule "^@STREAMS@/@FILES@" - [E=imagepress_choice:1]
@AGENTS@    RewriteCond %{ENV:imagepress_list} .
    RewriteCond "%{DOCUMENT_ROOT}@STREAMS@/%{ENV:imagepress_list}/$1" -f
    RewriteRule "^@STREAMS@/@FILES@" "@STREAMS@/%{ENV:imagepress_list}/$1"
    Header merge Vary User-Agent env=imagepress_choice

"""

_OPEN = """\
        Require all granted
"""

_AUTH = """\
        AuthType Basic
        AuthName "images"
        AuthUserFile @PASSWORDS@
        Require valid-user
"""

_REDIRECT = """\
    # What lies at an upstream ([[upstream]]) is fetched there: the rest of the request as it came, for in its
    # path all escapes are undone, and one that has an escaped slash would not be looked at.
    AllowEncodedSlashes NoDecode
@OTHERS@    RewriteRule "@NONE@" - [R=404]

"""

_HTTP = """
# Incus and LXD ask for every image over plain HTTP first, on the port of the remote's URL or else on 80, and
# over HTTPS when that fails. They hold it against the hash that came with the index over HTTPS, so images may
# go unencrypted, which costs less and lets caches help; whoever must not see what is fetched would not use
# it: put "^" in place of "!@SERVED@" below and they are sent to HTTPS, which they follow. All that is
# trusted without a hash, the indexes and all that LXC fetches, goes over HTTPS alone. Behind a proxy that
# speaks TLS and asks here without, the last rule would send it round in a circle: let it ask the host above.
<VirtualHost @HTTP@>
    ServerName @NAME@@ALIASES@

@SITE@
    RewriteRule "!@SERVED@" "https://@NAME@@PORT@%{REQUEST_URI}" [R=301,L]
</VirtualHost>
"""
