"""Snapshots as remotes of their own, below ``at/``, for web servers (pure: paths in, text out).

Whoever adds `https://HOST/at/20261120/` as a remote finds what was published that day, for as long as the
snapshot is kept. Mirrors have the newest alone.
"""


def nginx(root: str, *, lists: bool, upstreams: bool) -> str:
    """The location; ``root`` is quoted, and what is between @ is filled in with the rest."""
    text = _NGINX.replace("@ROOT@", root)
    text = text.replace("@LISTED@", _LISTED if lists else "")
    return text.replace("@ELSEWHERE@", _ELSEWHERE if upstreams else "") + (_THERE if upstreams else "")


def apache(root: str) -> str:
    """The same; ``root`` is quoted."""
    return _APACHE.replace("@ROOT@", root)


_NGINX = """\
    # Snapshots as remotes of their own, by date and by name (doit pin): https://@NAME@/at/20261120/
    location ^~ /at/ {
        root @ROOT@;
@ELSEWHERE@        location ~ /\\. {
            return 404;
        }
        location ~ ^/at/(?<imagepress_at>[^/]+)@STREAMS@/(?<imagepress_file>(?:images|index)\\.[a-z.]+)$ {
            gzip_static on;
            add_header Cache-Control $imagepress_cache_@MARK@;
@LISTED@        }
        location ~ \\.json$ {
            gzip_static on;
        }
        location ~ ^/at/[^/]+/(?:site-id|trace|meta/1\\.0/[^/]+|images/.+/SHA256SUMS)$ {
            default_type text/plain;
        }
    }

"""

_LISTED = """\
            add_header Vary User-Agent;
            set $imagepress_streams /at/$imagepress_at@STREAMS@;
            try_files $imagepress_streams$imagepress_list_@MARK@/$imagepress_file
                      $imagepress_streams/$imagepress_file =404;
"""

# A snapshot may be of a time when [[upstream]] said another mode.
_ELSEWHERE = """\
        location ~ ^/at/[^/]+/@TOP@/ {
            try_files $uri @imagepress_there;
        }
"""

_THERE = """\
    location @imagepress_there {
        if ($imagepress_upstream_@MARK@ = "") {
            return 404;
        }
        return 302 $imagepress_upstream_@MARK@;
    }

"""

_APACHE = """\
    # Snapshots as remotes of their own, by date and by name (doit pin): https://@NAME@/at/20261120/
    # Whoever asks gets images.json there, not a list of his own.
    Alias "/at/" @ROOT@
"""
