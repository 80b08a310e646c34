"""What strangers sign, held against a ring of theirs: every byte that is used is covered by a good signature."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tools import need

from tasks.errors import SettingsError
from tasks.sign import signed_by

TEXT, OTHER = b'{"a": 1}\n- b\n\n', b'{"evil": 2}\n'
PAST = "--faked-system-time=20200601T000000!"


@dataclass
class Owner:
    """Somebody with several keys: good, unknown (in no ring), revoked, and old, which has expired."""

    home: Path

    def gpg(self, *words: str, text: bytes = b"") -> bytes:
        argv = ["gpg", f"--homedir={self.home}", "--batch", "--quiet", "--no-tty", "--pinentry-mode=loopback"]
        argv += ["--passphrase=", *words]
        return subprocess.run(argv, input=text, check=True, capture_output=True).stdout

    def by(self, *keys: str) -> list[str]:
        return [word for key in keys for word in ("--local-user", key)]

    def clear(self, *keys: str, text: bytes = TEXT, more: tuple[str, ...] = ()) -> bytes:
        return self.gpg(*more, *self.by(*keys), "--clearsign", text=text)

    def detached(self, *keys: str, text: bytes = TEXT) -> bytes:
        return self.gpg(*self.by(*keys), "--detach-sign", text=text)

    def inline(self, *keys: str, text: bytes = TEXT) -> bytes:
        return self.gpg(*self.by(*keys), "--compress-algo=none", "--sign", text=text)

    def fingerprint(self, key: str) -> str:
        listing = self.gpg("--with-colons", "--list-keys", key).decode()
        return next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:"))


@pytest.fixture(scope="module")
def owner() -> Iterator[Owner]:
    need("gpg", "gpgv")
    with tempfile.TemporaryDirectory(prefix="o-", ignore_cleanup_errors=True) as directory:
        made = Owner(Path(directory))
        for key in ("good", "unknown", "revoked"):
            made.gpg("--quick-generate-key", key, "ed25519", "sign", "never")
        made.gpg(PAST, "--quick-generate-key", "old", "ed25519", "sign", "1y")
        yield made
        home = {**os.environ, "GNUPGHOME": directory}
        subprocess.run(["gpgconf", "--kill", "all"], env=home, check=True)


@pytest.fixture
def ring(owner: Owner, tmp_path: Path) -> Path:
    """All but the unknown one, none of them revoked yet."""
    path = tmp_path / "ring.gpg"
    path.write_bytes(owner.gpg("--export", "good", "revoked", "old"))
    return path


def revoked(owner: Owner, ring: Path) -> None:
    """Make it one in which a key is revoked, by the certificate that gpg has ready."""
    made = owner.home / f"openpgp-revocs.d/{owner.fingerprint('revoked')}.rev"
    with tempfile.TemporaryDirectory(prefix="r-", ignore_cleanup_errors=True) as directory:
        reader = Owner(Path(directory))
        reader.gpg("--import", text=ring.read_bytes())
        reader.gpg("--import", text=made.read_text().replace(":-----", "-----").encode())
        ring.write_bytes(reader.gpg("--export"))


def why_not(signed: bytes, signature: bytes, ring: Path) -> str:
    with pytest.raises(ValueError, match=".") as caught:
        signed_by(signed, signature, ring)
    return str(caught.value)


@pytest.mark.parametrize("keys", [("good",), ("good", "unknown"), ("unknown", "good")])
def test_one_good_signature_is_enough(owner: Owner, ring: Path, keys: tuple[str, ...]) -> None:
    """Between an old key and a new one an owner signs with both, and a ring may have either."""
    good = owner.fingerprint("good")
    assert signed_by(owner.clear(*keys), b"", ring) == (TEXT, good)
    assert signed_by(TEXT, owner.detached(*keys), ring) == (TEXT, good)


def test_what_a_signature_is_called_by_is_nobodys_business(owner: Owner, ring: Path) -> None:
    signed = owner.clear("good", more=("--comment=GnuPG - https://x.example", "--emit-version"))
    assert b"Comment: GnuPG - " in signed
    assert signed_by(signed, b"", ring)[0] == TEXT


def test_several_digests_may_be_named(owner: Owner, ring: Path) -> None:
    signed = owner.clear("good", more=("--digest-algo=SHA256",))
    assert signed_by(signed.replace(b"Hash: SHA256\n", b"Hash: SHA256, SHA512\n"), b"", ring)[0] == TEXT


def test_no_byte_that_is_not_covered(owner: Owner, ring: Path) -> None:
    good, evil = owner.clear("good"), owner.clear("unknown", text=OTHER)
    both = owner.clear("good", "unknown")
    around = [
        good + evil,
        evil + good,
        good + good,
        OTHER + good,
        good + OTHER,
        good.replace(b"- - b", b"-b"),
    ]
    around.append(good + OTHER + good[good.index(b"-----BEGIN PGP SIGNATURE") :])
    for one in around:
        assert "around it" in why_not(one, b"", ring)
    for one in (both.replace(b'"a"', b'"b"'), good.replace(b'"a"', b'"b"'), evil):
        assert "has no good signature" in why_not(one, b"", ring)
    unknown = owner.detached("unknown", text=OTHER)
    for signature in (
        unknown,
        good,
        owner.detached("good"),
        owner.detached("good") + unknown,
        unknown + owner.detached("good"),
        owner.inline("good"),
        owner.inline("good") + unknown,
        unknown + owner.inline("good"),
        b"\n",
    ):
        assert "has no good signature" in why_not(OTHER, signature, ring)


def test_a_bad_signature_beside_a_good_one_is_no_accident(owner: Owner, ring: Path) -> None:
    good, bad = owner.detached("good"), owner.detached("revoked", text=OTHER)
    assert signed_by(TEXT, good, ring)
    for signature in (good + bad, bad + good):
        assert "has no good signature" in why_not(TEXT, signature, ring)


def test_a_revoked_key_signs_nothing(owner: Owner, ring: Path) -> None:
    alone, both = owner.clear("revoked"), owner.clear("revoked", "good")
    assert signed_by(alone, b"", ring)[1] == owner.fingerprint("revoked")
    revoked(owner, ring)
    said = why_not(alone, b"", ring)
    assert f"key {owner.fingerprint('revoked')}, which its owner has revoked: upstream.keyring" in said
    assert signed_by(both, b"", ring)[1] == owner.fingerprint("good")


def test_nor_does_an_expired_one_and_signatures_expire_too(owner: Owner, ring: Path) -> None:
    assert "which has expired" in why_not(owner.clear("old", more=(PAST,)), b"", ring)
    short = owner.clear("good", more=("--default-sig-expire=seconds=1",))
    assert signed_by(short, b"", ring)
    time.sleep(2)
    assert "has no good signature" in why_not(short, b"", ring)


@pytest.mark.parametrize("content", [b"", b"\n", b"no key", b"<html>\n", None])
def test_a_ring_that_is_none_is_told_by_its_setting(
    owner: Owner, tmp_path: Path, content: bytes | None
) -> None:
    ring = tmp_path / "ring.gpg"
    if content is not None:
        ring.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        signed_by(owner.clear("good"), b"", ring)
    (fault,) = caught.value.faults
    assert fault.startswith("upstream.keyring: ")
    assert str(ring) in fault
    assert "passphrase" not in fault
    assert "verify" not in fault
