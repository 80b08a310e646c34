"""The configuration of a web server for a site (pure: what is served, and for whom, in; text out).

What clients ask for and how is in lxc/incus:client/simplestreams_images.go and
lxc/incus:shared/simplestreams, what LXC's template asks for in lxc/lxc:templates/lxc-download.in.
"""

import re
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import msgspec

from tasks import dated, protocols
from tasks.layout import PROTOCOLS, STREAMS
from tasks.overlay import TOP
from tasks.rest import BOUNDARY, FIRST
from tasks.settings import List, Protocols, Upstream

_NAME = re.compile(r"[A-Za-z0-9_*][A-Za-z0-9._*-]*")
_LISTEN = re.compile(r"(([A-Za-z0-9.*_-]+|\[[0-9A-Fa-f:.]+\]):)?([0-9]{1,5})")
HTTPS, HTTP = ("443", "[::]:443"), ("80", "[::]:80")
NONE = Protocols()
# A part of a path that leads out of where it is, as it may be written in a request: an upstream's address may
# be a directory of a server that has others.
UPWARDS = r"(?:/|\x5c|%2f|%5c)(?:\.|%2e)(?:\.|%2e)(?:/|\x5c|%2f|%5c|[? ]|$)"
PLAIN = "must be an absolute path in one line, without '$', which nginx takes for a variable"


class Web(msgspec.Struct, frozen=True, kw_only=True):
    """What a web server is told beside the tree; paths are absolute."""

    names: tuple[str, ...]
    tree: str = ""  # on a mirror; "" is the site's own
    certificate: str = ""  # "" is where certbot puts it
    key: str = ""
    https: tuple[str, ...] = HTTPS
    http: tuple[str, ...] = HTTP  # empty for no plain HTTP
    passwords: str = ""  # a file of users with passwords, who alone may read

    def faults(self) -> list[str]:
        """What cannot be written into a configuration, by its option, a line each."""
        found = [f"--server-name={one}: is no host name" for one in self.names if not _NAME.fullmatch(one)]
        if self.names[0].startswith("*") or self.names[0] == "_":
            found.append(
                f"--server-name={self.names[0]}: the first is where plain HTTP is sent: a host's own name"
            )
        for option, places in (("listen", self.https), ("listen-http", self.http)):
            found += [
                f"--{option}={one}: write it like 443, 192.0.2.1:443 or [::]:443"
                for one in places
                if not _LISTEN.fullmatch(one)
            ]
        for option, path in self.paths.items():
            if path and not _is_plain(path):
                found.append(f"--{option}={path}: {PLAIN}")
        if self.passwords and self.http:
            found.append(
                "--basic-auth: over plain HTTP, which clients try first, they send the password in clear:"
                " it goes with --listen-http=none alone"
            )
        if self.passwords and any(one.rpartition(":")[2] != "443" for one in self.https):
            found.append(
                "--basic-auth: where a URL has another port than 443, clients first ask it without TLS, with"
                " the password in clear: leave --listen at 443"
            )
        return found

    @property
    def paths(self) -> dict[str, str]:
        """Those that were given, by their options."""
        files = {"certificate": self.certificate, "certificate-key": self.key, "basic-auth": self.passwords}
        return {"tree": self.tree, **files}


def nginx(
    tree: Path,
    lists: Iterable[List],
    web: Web,
    upstreams: Iterable[Upstream] = (),
    older: Protocols = NONE,
) -> str:
    """What nginx needs inside ``http {}`` to serve a tree; raises ValueError for one it cannot name."""
    tree = Path(web.tree or tree)
    if not _is_plain(str(tree)):
        raise ValueError(f"{tree}: {PLAIN}")
    first = web.names[0]
    mark = sha256(first.encode()).hexdigest()[:8]  # of this site, should nginx serve two; names are limited
    port = web.https[0].rpartition(":")[2]
    agents = [
        f'    {_quoted(f"~{one.agent.pattern}")} "/{one.name}";' for one in lists if one.agent is not None
    ]
    others, here = [], ""
    for one in upstreams:
        if one.is_mirrored:
            here += f"    location /{TOP}/{one.name}/ {{\n    }}\n"
        asked = _quoted(f"~^/+(?:at/[^/]+/+)?{TOP}/+{one.name}/(?<imagepress_path>[^?]+)")
        others.append(f'    {asked} "{one.url.rstrip("/")}/$imagepress_path";')
    words = {
        "TREE": _quoted(str(tree)),
        "NAMES": " ".join(web.names),
        "NAME": first,
        "CERTIFICATE": _quoted(web.certificate or f"/etc/letsencrypt/live/{first}/fullchain.pem"),
        "KEY": _quoted(web.key or f"/etc/letsencrypt/live/{first}/privkey.pem"),
        "LISTEN": "\n".join(f"    listen {one} ssl;" for one in web.https),
        "LISTEN_HTTP": "\n".join(f"    listen {one};" for one in web.http),
        "PORT": "" if port == "443" else f":{port}",
        "STREAMS": f"/{STREAMS}",
        "MARK": mark,
        "AGENTS": "\n".join(agents),
        "OTHERS": "\n".join([f'    {_quoted(f"~*^[^?]*{UPWARDS}")} "";', *others]),
        "TOP": TOP,
        "PASSWORDS": _quoted(web.passwords),
        "PROTOCOLS": PROTOCOLS,
        "BOUNDARY": BOUNDARY,
        "FIRST": FIRST,
        "HERE": here,
    }
    maps, places = protocols.nginx(older)
    root = _quoted(str(tree.parent))
    at = "" if web.tree else dated.nginx(root, lists=bool(agents), upstreams=bool(others))
    text = (
        _HEAD
        + (_LISTS if agents else "")
        + (_OTHERS if others else "")
        + maps
        + _HTTPS.replace("@OLDER@", places).replace("@DATED@", at)
        + (_HTTP if web.http else "")
    )
    text = text.replace("@CHOICE@", _CHOICE if agents else "").replace("@TYPES@", _TYPES)
    text = text.replace("@REDIRECT@", "@HERE@" + (_REDIRECT if others else ""))
    text = text.replace("@AUTH@", CLEAR + _AUTH if web.passwords else "")
    return re.sub(r"@([A-Z_]+)@", lambda found: words[found[1]], text)  # once: what it puts in may look so


def _is_plain(path: str) -> bool:
    return path.startswith("/") and path.isprintable() and "$" not in path


def _quoted(text: str) -> str:
    """A string for nginx, whatever it holds (ngx_conf_read_token in nginx:src/core/ngx_conf_file.c)."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


_TYPES = """\
    types {  # instead of all that nginx knows: images are bytes
        application/json  json;
        application/gzip  gz;
        text/html         html;
        text/plain        sjson gpg asc yaml log;
    }
    default_type application/octet-stream;
    charset utf-8;"""

_HEAD = """\
# What nginx needs to serve this site, made by `doit serverconfig nginx`. Put it where nginx.conf includes it
# within http {}, as /etc/nginx/conf.d/images.conf, ask `nginx -t`, and reload nginx. Make it again when
# [[list]], [[upstream]] or [protocols] changes: publications need neither that nor a reload.
#
# nginx has to pass through the directories above the tree; it needs nothing else of the site.

# Everything below images/ stays as it is for as long as it is there, but for signatures, should they be made
# again. The indexes change with every publication: whoever keeps them longer than site.grace asks for images
# that are gone.
map $uri $imagepress_cache_@MARK@ {
    "~^(?:/at/[^/]+)?/images/.*\\.asc$"  "public, max-age=300";
    "~^(?:/at/[^/]+)?/images/.*/[^/]+$" "public, max-age=31536000, immutable";
    default "public, max-age=300";
}
"""

_LISTS = """
# Who gets which list, by its User-Agent; the first that fits counts, all others get images.json.
# Incus and LXD, the programs and their daemons, call themselves `Incus 6.0.4 (...)` and `LXD 5.0.2 (...)`.
map $http_user_agent $imagepress_list_@MARK@ {
    default "";
@AGENTS@
}
"""

_OTHERS = """
# What lies at an upstream ([[upstream]]) is fetched there: the rest of the request as it came, for in $uri
# its escapes are undone.
map $request_uri $imagepress_upstream_@MARK@ {
    default "";
@OTHERS@
}
"""

_REDIRECT = """\
    location ^~ /@TOP@/ {
        if ($imagepress_upstream_@MARK@ = "") {
            return 404;
        }
        return 302 $imagepress_upstream_@MARK@;
    }

"""

_HTTPS = """
server {
@LISTEN@
    server_name @NAMES@;

    # Incus and LXD want TLS 1.3, which nginx before 1.23.4 leaves out, and wget, for LXC, may want 1.2.
    # Of several servers at one address nginx takes these two lines from the first, or the default_server.
    ssl_protocols TLSv1.2 TLSv1.3;
    merge_slashes on;  # LXC asks for //meta/1.0/index-system and //images/...//rootfs.tar.xz
    ssl_certificate     @CERTIFICATE@;
    ssl_certificate_key @KEY@;
    ssl_session_cache   shared:imagepress:10m;  # Incus and LXD open a connection for each file

    # `latest` is a symbolic link that every publication points to a new snapshot: it has to be followed
    # again for each request, so no open_file_cache, and no disable_symlinks.
    root @TREE@;
    open_file_cache  off;
    disable_symlinks off;
    index index.html;
    sendfile on;
    gzip off;           # images are packed, and the indexes have their .gz beside them (gzip_static)
    gzip_vary on;
    gzip_proxied any;   # also to a proxy in between

@TYPES@
    add_header Cache-Control $imagepress_cache_@MARK@;

@AUTH@    # What rsync or a publication has not finished on a mirror, and whatever else hides.
    location ~ /\\. {
        return 404;
    }

@OLDER@@REDIRECT@@DATED@    # The streams, in all their forms; lists lie beside, and mirrors fetch them there.
    location ~ ^@STREAMS@/(?<imagepress_file>(?:images|index)\\.(?:json|json\\.gpg|json\\.gz|sjson))$ {
        gzip_static on;
        add_header Cache-Control $imagepress_cache_@MARK@;  # add_header forgets those outside
@CHOICE@    }
    location ~ ^/(?:streams|meta/simplestreams)/v1/(?:[^/]+/)?[^/]+\\.json$ {
        gzip_static on;
    }

    # The page for people, which has no .gz beside it; `index` leads here too.
    location = /index.html {
        gzip on;
    }

    # Texts without a suffix of their own.
    location ~ ^/(?:site-id|trace|meta/1\\.0/[^/]+|images/.+/SHA256SUMS)$ {
        default_type text/plain;
    }
}
"""

_CHOICE = """\
        add_header Vary User-Agent;
        # Not $1 here: to evaluate a map forgets it. A snapshot that was rolled back to may lack a list.
        try_files @STREAMS@$imagepress_list_@MARK@/$imagepress_file @STREAMS@/$imagepress_file =404;
"""

# What they ask for without TLS is in lxc/incus:client/simplestreams_images.go; Go adds the user of the URL.
CLEAR = """\
    # Who is in this file may read (htpasswd makes it): incus remote add ours https://USER:PASSWORD@@NAME@/
    # Incus and LXD ask for images over plain HTTP first, and send the password along, in clear: nothing of
    # this host may answer on port 80, for other sites neither; and the URL has no port, or they ask there.
"""

_AUTH = """\
    auth_basic "images";
    auth_basic_user_file @PASSWORDS@;

"""

_HTTP = """
# Incus and LXD ask for every image over plain HTTP first, on the port of the remote's URL or else on 80, and
# over HTTPS when that fails. They hold it against the hash that came with the index over HTTPS, so images may
# go unencrypted, which costs less and lets caches help; whoever must not see what is fetched would not use
# it: remove `location /images/` and they are sent to HTTPS, which they follow. All that is trusted without
# a hash, the indexes and all that LXC fetches, goes over HTTPS alone. Behind a proxy that speaks TLS and asks
# here without, the last location would send it round in a circle: let it ask the server above.
server {
@LISTEN_HTTP@
    server_name @NAMES@;
    merge_slashes on;
    root @TREE@;
    open_file_cache  off;
    disable_symlinks off;
    sendfile on;
    gzip off;

@TYPES@
    add_header Cache-Control $imagepress_cache_@MARK@;

    location ~ /\\. {
        return 404;
    }
    # For certbot --webroot: location ^~ /.well-known/acme-challenge/ { root /var/www/html; }
    location ~ ^/images/.+/SHA256SUMS$ {
        default_type text/plain;
    }
    location /images/ {
    }
@REDIRECT@    location / {
        return 301 https://$server_name@PORT@$request_uri;
    }
}
"""
