"""The protocols before simplestreams: which files they are made of, what web servers need for them (pure).

Both are off unless ``[protocols]`` says otherwise. How each server does it is said in what it is given.
"""

from collections.abc import Mapping

from tasks.importurl import importurl
from tasks.rest import rest
from tasks.settings import Protocols

MAKERS = {"rest": rest, "import": importurl}  # directory -> what fills it
LONGEST, LONGEST_PATH = 250, 1000  # bytes; file systems end a name at 255, and a path at 4096


def wanted(protocols: Protocols) -> list[str]:
    """The directories of what is switched on."""
    return [name for name, on in (("rest", protocols.rest), ("import", protocols.header_import)) if on]


def made(
    products: Mapping[str, object], protocols: Protocols
) -> tuple[dict[str, dict[str, bytes]], list[str]]:
    """The files of each protocol, by directory and path, and the names of those that cannot be."""
    found = {name: make(products) if name in wanted(protocols) else {} for name, make in MAKERS.items()}
    left = sorted(f"{name}/{path}" for name, of in found.items() for path in of if not _fits(path))
    fit = {name: {path: data for path, data in of.items() if _fits(path)} for name, of in found.items()}
    return fit, left


def _fits(path: str) -> bool:
    """Whether it can be the name of a file, below its directory and not hidden: aliases may be anything."""
    return len(path) <= LONGEST_PATH and all(
        one and len(one) <= LONGEST and not one.startswith(".") for one in path.split("/")
    )


def nginx(protocols: Protocols) -> tuple[str, str]:
    """What nginx needs, outside of its server and inside, with the words that ``webserver`` fills in."""
    on = wanted(protocols)
    return "".join(_NGINX[name][0] for name in on), "".join(_NGINX[name][1] for name in on)


def apache(protocols: Protocols) -> str:
    """What Apache needs in its virtual host, with the words that ``apache`` fills in."""
    return "".join(_APACHE[name] for name in wanted(protocols))


_NGINX = {
    "rest": (
        """
# What was spoken before simplestreams ([protocols]). `remote add --public`: nothing but files again.
map $arg_recursion $imagepress_recursion_@MARK@ {
    "~^[12]$" ".recursion";
    default   "";
}
# Clients and daemons call themselves `Incus 6.0.4 (Linux; x86_64; ...)`: a name without an architecture means
# theirs, where there is such an image.
map $http_user_agent $imagepress_machine_@MARK@ {
    "~^[^(]*\\([^;]*; (?<imagepress_machine>[a-z0-9_]+)[;)]" $imagepress_machine;
    default "";
}
""",
        """\
    location ^~ /1.0 {
        error_page 404 /@PROTOCOLS@/rest/404.json;
        default_type application/json;
        location ~ ^/1\\.0/?$ {
            try_files /@PROTOCOLS@/rest/1.0.json =404;
        }
        location ~ ^/1\\.0/(?<imagepress_file>images|images/aliases)/?$ {
            try_files /@PROTOCOLS@/rest/$imagepress_file$imagepress_recursion_@MARK@.json =404;
        }
        location ~ ^/1\\.0/images/(?<imagepress_file>[0-9a-f]+)$ {
            try_files /@PROTOCOLS@/rest/images/$imagepress_file.json =404;
        }
        location ~ ^/1\\.0/images/aliases/(?<imagepress_file>[^@]+)$ {
            add_header Cache-Control $imagepress_cache_@MARK@;
            add_header Vary User-Agent;
            set $imagepress_alias /@PROTOCOLS@/rest/images/aliases/$imagepress_file;
            try_files $imagepress_alias@$imagepress_machine_@MARK@.json $imagepress_alias@.json =404;
        }
        # An image that is two files goes out as one: in place of their names the files are put in, as they
        # are. Nothing else is looked into, and least of all images.
        location ~ ^/1\\.0/images/(?<imagepress_file>[0-9a-f]+)/export$ {
            ssi on;
            ssi_types *;
            ssi_value_length 1024;
            types {
                "multipart/form-data; boundary=@BOUNDARY@" multipart;
                application/octet-stream whole;
            }
            add_header Cache-Control $imagepress_cache_@MARK@;
            add_header Content-Disposition "inline;filename=image.tar.gz";
            try_files /@PROTOCOLS@/rest/export/$imagepress_file.multipart
                      /@PROTOCOLS@/rest/export/$imagepress_file.whole =404;
        }
        location /1.0 {
            return 404;
        }
    }

""",
    ),
    "import": (
        """
# `image import https://@NAME@/import/<alias>`: a daemon tells its architectures, `x86_64, i686`.
map "$http_incus_server_architectures$http_lxd_server_architectures" $imagepress_arch_@MARK@ {
    "~^ *(?<imagepress_one>[a-z0-9_]+)" $imagepress_one;
    default @FIRST@;
}
map "$http_incus_server_architectures$http_lxd_server_architectures" $imagepress_arch2_@MARK@ {
    "~^[^,]*, *(?<imagepress_two>[a-z0-9_]+)" $imagepress_two;
    default -;
}
map $http_lxd_server_architectures $imagepress_client_@MARK@ {
    ""      incus;
    default lxd;
}
""",
        """\
    # The name of the one file in the directory of an alias says which image it is. While rsync brings the
    # next one there may be two, both of them good. (random_index is in Debian's and nginx.org's packages.)
    location ~ ^/import/(?<imagepress_file>[^@]+)$ {
        set $imagepress_alias /@PROTOCOLS@/import/$imagepress_client_@MARK@/$imagepress_file;
        set $imagepress_directory $imagepress_alias@$imagepress_arch_@MARK@;
        if (!-d $document_root$imagepress_directory) {
            set $imagepress_directory $imagepress_alias@$imagepress_arch2_@MARK@;
        }
        rewrite ^ $imagepress_directory/ last;
    }
    location ~ ^/@PROTOCOLS@/import/.+/$ {
        internal;
        random_index on;
    }
    location ~ "(?x) ^/@PROTOCOLS@/import/.+/ (?<imagepress_os>[^,]+),(?<imagepress_release>[^,]+),
                (?<imagepress_of>[^,]+),(?<imagepress_variant>[^,]+),(?<imagepress_serial>[^,]+),
                (?<imagepress_file>[^,]+),(?<imagepress_hash>[0-9a-f]+)$" {
        set $imagepress_url "$imagepress_variant/$imagepress_serial/$imagepress_file";
        set $imagepress_url "$imagepress_os/$imagepress_release/$imagepress_of/$imagepress_url";
        set $imagepress_url "https://$http_host/images/$imagepress_url";
        add_header Cache-Control $imagepress_cache_@MARK@;
        add_header Vary "Incus-Server-Architectures, LXD-Server-Architectures";
        add_header Incus-Image-Hash $imagepress_hash;
        add_header Incus-Image-URL  $imagepress_url;
        add_header LXD-Image-Hash   $imagepress_hash;
        add_header LXD-Image-URL    $imagepress_url;
    }

""",
    ),
}
_APACHE = {
    "rest": """\
    # What was spoken before simplestreams ([protocols]). `remote add --public`: nothing but files again. A
    # name without an architecture means that of who asks (`Incus 6.0.4 (Linux; x86_64; ...)`), if any.
    <IfModule !include_module>
        Error "a2enmod include: images that are two files go out as one by it"
    </IfModule>
    AllowEncodedSlashes On
    RewriteRule "^/1\\.0/?$" "/@PROTOCOLS@/rest/1.0.json" [PT,L]
    RewriteCond %{QUERY_STRING} "(?:^|&)recursion=[12](?:&|$)"
    RewriteRule "^/1\\.0/(images|images/aliases)/?$" "/@PROTOCOLS@/rest/$1.recursion.json" [PT,L]
    RewriteRule "^/1\\.0/(images|images/aliases)/?$" "/@PROTOCOLS@/rest/$1.json" [PT,L]
    RewriteRule "^/1\\.0/images/([0-9a-f]+)$" "/@PROTOCOLS@/rest/images/$1.json" [PT,L]
    RewriteCond %{HTTP_USER_AGENT} "^[^(]*\\([^;]*; ([a-z0-9_]+)[;)]"
    RewriteRule "^/1\\.0/images/aliases/" - [E=imagepress_machine:%1]
    RewriteRule "^/1\\.0/images/aliases/([^@]+)$" - [E=imagepress_alias:/@PROTOCOLS@/rest/images/aliases/$1]
    RewriteCond "%{DOCUMENT_ROOT}%{ENV:imagepress_alias}@%{ENV:imagepress_machine}.json" -f
    RewriteRule "^/1\\.0/images/aliases/" "%{ENV:imagepress_alias}@%{ENV:imagepress_machine}.json" [PT,L]
    RewriteRule "^/1\\.0/images/aliases/" "%{ENV:imagepress_alias}@.json" [PT,L]
    RewriteCond "%{DOCUMENT_ROOT}/@PROTOCOLS@/rest/export/$1.multipart" -f
    RewriteRule "^/1\\.0/images/([0-9a-f]+)/export$" "/@PROTOCOLS@/rest/export/$1.multipart" [PT,L]
    RewriteRule "^/1\\.0/images/([0-9a-f]+)/export$" "/@PROTOCOLS@/rest/export/$1.whole" [PT,L]
    RewriteRule "^/1\\.0(?:/|$)" "/@PROTOCOLS@/rest/none" [PT,L]
    <LocationMatch "^/@PROTOCOLS@/rest/">
        ErrorDocument 404 /@PROTOCOLS@/rest/404.json
    </LocationMatch>
    <Location "/@PROTOCOLS@/rest/404.json">
        Header unset Cache-Control
    </Location>
    <LocationMatch "^/@PROTOCOLS@/rest/images/aliases/">
        Header merge Vary User-Agent
    </LocationMatch>
    # An image that is two files goes out as one: in place of their names the files are put in, as they are.
    # Nothing else is looked into, and least of all images; and nothing is ever run.
    <Directory @EXPORT@>
        Options +IncludesNOEXEC
        SetOutputFilter INCLUDES
        Header set Content-Disposition "inline;filename=image.tar.gz"
        <FilesMatch "\\.multipart$">
            ForceType "multipart/form-data; boundary=@BOUNDARY@"
        </FilesMatch>
    </Directory>
    <Directory @IMAGES@>
        <If "%{IS_SUBREQ} == 'true'">
            ForceType text/plain
        </If>
    </Directory>

""",
    "import": """\
    # `image import https://@NAME@/import/<alias>`: a daemon tells its architectures, `x86_64, i686`, and gets
    # headers from a file, with the address that it asked for.
    <IfModule !asis_module>
        Error "a2enmod asis: what the headers say lies in files"
    </IfModule>
    RewriteRule "^/import/" - [E=imagepress_client:incus,E=imagepress_arch:@FIRST@]
    RewriteRule "^/import/" - [E=imagepress_host:%{HTTP_HOST}]
    RewriteCond "%{HTTP:LXD-Server-Architectures}" .
    RewriteRule "^/import/" - [E=imagepress_client:lxd]
    RewriteCond "%{HTTP:Incus-Server-Architectures}%{HTTP:LXD-Server-Architectures}" "^ *([a-z0-9_]+)"
    RewriteRule "^/import/" - [E=imagepress_arch:%1]
    RewriteCond "%{HTTP:Incus-Server-Architectures}%{HTTP:LXD-Server-Architectures}" "^[^,]*, *([a-z0-9_]+)"
    RewriteRule "^/import/" - [E=imagepress_arch2:%1]
    RewriteRule "^/import/([^@]+)$" - [E=imagepress_alias:/@PROTOCOLS@/import/%{ENV:imagepress_client}/$1]
    RewriteCond "%{DOCUMENT_ROOT}%{ENV:imagepress_alias}@%{ENV:imagepress_arch}.asis" -f
    RewriteRule "^/import/" "%{ENV:imagepress_alias}@%{ENV:imagepress_arch}.asis" [PT,L]
    RewriteCond "%{DOCUMENT_ROOT}%{ENV:imagepress_alias}@%{ENV:imagepress_arch2}.asis" -f
    RewriteRule "^/import/" "%{ENV:imagepress_alias}@%{ENV:imagepress_arch2}.asis" [PT,L]
    RewriteRule "^/import/" - [R=404]
    <Directory @IMPORT@>
        <FilesMatch "\\.asis$">
            SetHandler send-as-is
        </FilesMatch>
        Header always edit Incus-Image-URL "^" "https://%{imagepress_host}e"
        Header always edit LXD-Image-URL "^" "https://%{imagepress_host}e"
        Header merge Vary "Incus-Server-Architectures, LXD-Server-Architectures"
    </Directory>

""",
}
