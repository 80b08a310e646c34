"""Signatures by both back ends, held against real gpg and sqv; and every way in which a key may fail."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from clients import ClientFailed, gpg_clearsigned, gpg_home, gpg_verify, sqv, sqv_clearsigned
from tools import need

from tasks.errors import PublishError, SettingsError, SigningError
from tasks.settings import Signing
from tasks.sign import (
    IN_MEMORY,
    Gpg,
    Sequoia,
    Signer,
    certificates,
    keyring,
    publish_signed,
    sign_directory,
    signer,
)

PASSPHRASE = "correct horse ñ"
TEXT = (
    b'{\n "a": 1\n}\n- a dash\n-----BEGIN PGP SIGNATURE-----\n--\nFrom here\n\n\n'
    + b"x" * 19_000
    + b"\n\xc3\xbc \xe2\x98\x83\n"
)


@dataclass(frozen=True)
class Ring:
    """A GnuPG home of a publisher, its keys as files, and a verifier that knows only the public part."""

    home: Path
    primary: str
    subkeys: tuple[str, ...]
    verifier: Path

    @property
    def public(self) -> Path:
        return self.home / "public.asc"

    @property
    def secret(self) -> Path:
        return self.home / "secret.asc"

    @property
    def stripped(self) -> Path:
        """One signing subkey alone: the primary stays in the safe."""
        return self.home / "stripped.asc"

    def forget(self) -> None:
        """Let the agent forget passphrases."""
        self.gpgconf("--reload", "gpg-agent")

    def gpgconf(self, *words: str) -> None:
        subprocess.run(["gpgconf", *words], env={**os.environ, "GNUPGHOME": str(self.home)}, check=True)


def make_ring(passphrase: str, *, faked: str = "", expire: str = "0") -> Ring:
    """Two signing subkeys below a primary that only certifies, as publishers are told to make them."""
    need("gpg", "sqv")
    home = Path(tempfile.mkdtemp(prefix="ring-"))  # short: an agent's socket has to fit in 108 bytes
    (home / "gpg-agent.conf").write_text("s2k-count 65536\n")

    def gpg(*words: str, text: str = "") -> str:
        argv = [
            "gpg",
            "--homedir",
            str(home),
            "--batch",
            "--no-tty",
            "--quiet",
            "--pinentry-mode",
            "loopback",
            "--passphrase",
            passphrase,
        ]
        argv += ["--faked-system-time", faked] if faked else []
        return subprocess.run([*argv, *words], input=text, capture_output=True, text=True, check=True).stdout

    sub = f"Subkey-Type: eddsa\nSubkey-Curve: ed25519\nSubkey-Usage: sign\n{'' if passphrase else '%no-protection'}\n"
    gpg(
        "--gen-key",
        text=f"Key-Type: eddsa\nKey-Curve: ed25519\nKey-Usage: cert\n{sub}Name-Real: Publisher\nExpire-Date: {expire}\n%commit\n",
    )
    primary = fingerprints(gpg("--list-keys", "--with-colons"))[0]
    gpg("--quick-add-key", primary, "ed25519", "sign", expire)
    subkeys = fingerprints(gpg("--list-keys", "--with-colons"))[1:]
    (home / "public.asc").write_text(gpg("--armor", "--export"))
    (home / "secret.asc").write_text(gpg("--armor", "--export-secret-keys", primary))
    (home / "stripped.asc").write_text(gpg("--armor", "--export-secret-subkeys", f"{subkeys[0]}!"))
    return Ring(home, primary, tuple(subkeys), gpg_home(home / "public.asc", home / "verifier"))


def fingerprints(listing: str) -> list[str]:
    return [line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:")]


def closed(ring: Ring) -> None:
    ring.gpgconf("--kill", "all")
    shutil.rmtree(ring.home, ignore_errors=True)  # the agent removes its sockets meanwhile


@pytest.fixture(scope="module")
def locked() -> Iterator[Ring]:
    """A key behind a passphrase."""
    made = make_ring(PASSPHRASE)
    yield made
    closed(made)


@pytest.fixture(scope="module")
def bare() -> Iterator[Ring]:
    """A key without one."""
    made = make_ring("")
    yield made
    closed(made)


@pytest.fixture(params=["sequoia", "stripped", "gpg"])
def signed(request, locked, monkeypatch) -> tuple[Signer, Ring]:
    """Each back end with a key that works."""
    monkeypatch.setenv("GNUPGHOME", str(locked.home))
    locked.forget()
    if request.param == "gpg":
        return Gpg(locked.primary, PASSPHRASE), locked
    return Sequoia(locked.stripped if request.param == "stripped" else locked.secret, PASSPHRASE), locked


class TestDetached:
    def test_gpg_and_sqv_accept_it(self, signed, tmp_path):
        by, ring = signed
        file, signature = tmp_path / "- file", tmp_path / "signature.asc"
        for data in (b"", b"\r\n \t\n", bytes(range(256)) * 99, bytes(IN_MEMORY + 1)):
            file.write_bytes(data)
            signature.write_bytes(by.detached(file))
            assert signature.read_bytes().startswith(b"-----BEGIN PGP SIGNATURE-----\n")
            gpg_verify(ring.verifier, signature, file)
            sqv(ring.public, signature, file)
            assert {path.name for path in tmp_path.iterdir()} == {"- file", "signature.asc"}

    def test_of_other_bytes_they_do_not(self, signed, tmp_path):
        by, ring = signed
        (tmp_path / "file").write_bytes(b"hello")
        (tmp_path / "signature").write_bytes(by.detached(tmp_path / "file"))
        (tmp_path / "file").write_bytes(b"hellO")
        with pytest.raises(ClientFailed):
            gpg_verify(ring.verifier, tmp_path / "signature", tmp_path / "file")
        with pytest.raises(ClientFailed):
            sqv(ring.public, tmp_path / "signature", tmp_path / "file")

    def test_a_file_that_is_not_there_is_one_sentence(self, signed, tmp_path):
        with pytest.raises(PublishError, match="nowhere") as caught:
            signed[0].detached(tmp_path / "nowhere")
        assert "\n" not in str(caught.value)


class TestClear:
    def test_gpg_and_sqv_accept_it_and_find_the_same_text(self, signed, tmp_path):
        by, ring = signed
        for text in (TEXT, b"\n", b"-\n", b"a\n\n\n"):
            (tmp_path / "file").write_bytes(by.clear(text))
            assert gpg_clearsigned(ring.verifier, tmp_path / "file") == text
            sqv_clearsigned(ring.public, tmp_path / "file", tmp_path)

    def test_of_another_text_they_do_not(self, signed, tmp_path):
        by, ring = signed
        (tmp_path / "file").write_bytes(by.clear(TEXT).replace(b'"a": 1', b'"a": 2'))
        with pytest.raises(ClientFailed):
            gpg_clearsigned(ring.verifier, tmp_path / "file")
        with pytest.raises(ClientFailed):
            sqv_clearsigned(ring.public, tmp_path / "file", tmp_path)

    @pytest.mark.parametrize("length", [19_993, 19_994, 30_000])
    def test_a_line_that_gpg_would_cut_is_refused_in_a_sentence(self, signed, tmp_path, length):
        by, ring = signed
        text = b"{\n" + b"x" * length + b"\n}\n"
        if length > 19_993:
            with pytest.raises(
                SigningError, match=rf"a line of {length} bytes; (gpg|it) takes 19993"
            ) as caught:
                by.clear(text)
            assert "\n" not in str(caught.value)
        else:
            (tmp_path / "file").write_bytes(by.clear(text))
            assert gpg_clearsigned(ring.verifier, tmp_path / "file") == text


class TestWhichKey:
    def issuer(self, ring: Ring, signature: bytes) -> str:
        """The subkey that made a signature."""
        argv = ["gpg", "--homedir", str(ring.home), "--batch", "--quiet", "--list-packets"]
        told = subprocess.run(argv, input=signature, capture_output=True, check=True).stdout.decode()
        return told.partition("issuer fpr v4 ")[2].partition(")")[0]

    @pytest.mark.parametrize("which", [0, 1])
    def test_an_exclamation_mark_picks_that_subkey(self, bare, monkeypatch, tmp_path, which):
        monkeypatch.setenv("GNUPGHOME", str(bare.home))
        (tmp_path / "file").write_bytes(b"hello")
        wanted = bare.subkeys[which]
        by = signer(Signing(key=f"0x{wanted}!"))
        assert isinstance(by, Gpg)
        assert self.issuer(bare, by.detached(tmp_path / "file")) == wanted
        assert (
            self.issuer(bare, by.clear(b"hello\n").partition(b"\n-----BEGIN")[2].join([b"-----BEGIN", b""]))
            == wanted
        )

    def test_a_stripped_file_signs_with_the_subkey_it_has(self, locked, tmp_path):
        (tmp_path / "file").write_bytes(b"hello")
        by = Sequoia(locked.stripped, PASSPHRASE)
        assert self.issuer(locked, by.detached(tmp_path / "file")) == locked.subkeys[0]

    @pytest.mark.parametrize("form", ["{}", "0x{}", "{}!"])
    @pytest.mark.parametrize("length", [16, 40])
    def test_what_looks_like_a_fingerprint_is_for_gpg(self, form, length):
        assert Signing(key=form.format("AB12" * (length // 4))).uses_gpg

    def test_anything_else_is_a_file_for_sequoia(self, key):
        assert isinstance(signer(Signing(key=str(key.secret))), Sequoia)
        assert isinstance(signer(Signing(key=str(key.secret), backend="sequoia")), Sequoia)

    def test_the_back_end_can_be_named(self):
        assert Signing(key="ABCDEF0123456789", backend="gpg").uses_gpg
        with pytest.raises(SettingsError, match=r"signing\.key: ABCDEF0123456789 cannot sign: "):
            signer(Signing(key="ABCDEF0123456789", backend="sequoia"))


class TestPassphrase:
    @pytest.mark.parametrize("backend", ["sequoia", "gpg"])
    def test_from_a_file_and_from_the_environment_which_wins(self, locked, monkeypatch, tmp_path, backend):
        monkeypatch.setenv("GNUPGHOME", str(locked.home))
        monkeypatch.delenv("PUBLISH_SIGNING_PASSPHRASE", raising=False)
        locked.forget()
        key = locked.primary if backend == "gpg" else str(locked.secret)
        (tmp_path / "right").write_text(f"{PASSPHRASE}\n")
        (tmp_path / "wrong").write_text("wrong\n")
        (tmp_path / "file").write_bytes(b"hello")
        (tmp_path / "signature").write_bytes(
            signer(Signing(key=key, passphrase_file=tmp_path / "right")).detached(tmp_path / "file")
        )
        gpg_verify(locked.verifier, tmp_path / "signature", tmp_path / "file")
        locked.forget()
        monkeypatch.setenv("PUBLISH_SIGNING_PASSPHRASE", PASSPHRASE)
        assert signer(Signing(key=key, passphrase_file=tmp_path / "wrong")).detached(tmp_path / "file")

    def test_a_file_that_is_not_there(self, locked, monkeypatch, tmp_path):
        monkeypatch.delenv("PUBLISH_SIGNING_PASSPHRASE", raising=False)
        with pytest.raises(
            SettingsError, match=r"signing\.passphrase_file: .*none cannot be read: No such file"
        ):
            signer(Signing(key=str(locked.secret), passphrase_file=tmp_path / "none"))

    @pytest.mark.parametrize(
        ("passphrase", "words"),
        [
            ("s3cr3t", "wrong passphrase?"),
            ("", "it has a passphrase: signing.passphrase_file or PUBLISH_SIGNING_PASSPHRASE"),
            (PASSPHRASE + " ", "wrong passphrase?"),
        ],
    )
    @pytest.mark.parametrize("stripped", [False, True])
    def test_sequoia_says_so_when_it_is_opened(self, locked, passphrase, words, stripped):
        with pytest.raises(
            SettingsError, match=rf"asc cannot sign: .*{words}$".replace("?", r"\?")
        ) as caught:
            Sequoia(locked.stripped if stripped else locked.secret, passphrase)
        assert not passphrase or passphrase not in str(caught.value)

    def test_whatever_a_wrong_passphrase_makes_of_the_key(self, locked):
        """What it decrypts to is random, and so is what sequoia says of that."""
        for number in range(300):
            with pytest.raises(SettingsError, match=r"asc cannot sign: .*wrong passphrase\?$"):
                Sequoia(locked.secret, f"s3cr3t {number}")

    def test_a_passphrase_for_a_key_without_one(self, bare, monkeypatch, tmp_path):
        (tmp_path / "file").write_bytes(b"hello")
        with pytest.raises(SettingsError, match="asc cannot sign: ") as caught:
            Sequoia(bare.secret, "needless")
        assert "it has a passphrase" not in str(caught.value)
        monkeypatch.setenv("GNUPGHOME", str(bare.home))
        assert Gpg(bare.primary, "needless").detached(tmp_path / "file")

    @pytest.mark.parametrize(("passphrase", "words"), [("wrong", "Bad passphrase"), ("", "failed: ")])
    def test_gpg_says_so_when_it_signs_and_does_not_wait_for_a_person(
        self, locked, monkeypatch, tmp_path, passphrase, words
    ):
        monkeypatch.setenv("GNUPGHOME", str(locked.home))
        monkeypatch.delenv("GPG_TTY", raising=False)
        monkeypatch.delenv("DISPLAY", raising=False)
        locked.forget()
        (tmp_path / "file").write_bytes(b"hello")
        for sign in (lambda by: by.detached(tmp_path / "file"), lambda by: by.clear(b"hello\n")):
            with pytest.raises(
                SigningError, match=f"with key {locked.primary}: gpg ended with code 2: .*{words}"
            ):
                sign(Gpg(locked.primary, passphrase))


class TestNoKey:
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"junk",
            b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nAAAA\n-----END PGP PRIVATE KEY BLOCK-----\n",
            bytes(1000),
        ],
        ids=len,
    )
    def test_a_file_that_is_no_key(self, tmp_path, content):
        (tmp_path / "key").write_bytes(content)
        with pytest.raises(SettingsError, match="key cannot sign: .") as caught:
            Sequoia(tmp_path / "key", "")
        assert "\n" not in str(caught.value)

    def test_no_file_or_a_directory(self, tmp_path):
        for path in (tmp_path / "none", tmp_path):
            with pytest.raises(SettingsError, match=f"signing.key: {path} cannot sign: .") as caught:
                Sequoia(path, "")
            assert "\n" not in str(caught.value)

    def test_the_public_half(self, key):
        with pytest.raises(SettingsError, match="pub.asc cannot sign: "):
            Sequoia(key.public, "")

    @pytest.mark.parametrize("mark", ["", "!"])
    def test_a_fingerprint_that_gpg_does_not_know(self, bare, monkeypatch, mark):
        monkeypatch.setenv("GNUPGHOME", str(bare.home))
        key = "A" * 40 + mark
        with pytest.raises(
            SettingsError, match=rf"signing\.key: gpg has no secret key {key}: .*No secret key"
        ):
            Gpg(key, "")

    def test_a_key_of_which_gpg_has_the_public_half_only(self, bare, monkeypatch):
        monkeypatch.setenv("GNUPGHOME", str(bare.verifier))
        with pytest.raises(SettingsError, match=r"signing\.key: gpg has no secret key "):
            Gpg(bare.primary, "")

    def test_gpg_is_not_installed(self, monkeypatch, tmp_path):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(PublishError, match="gpg is not installed on this machine"):
            Gpg("A" * 40, "")

    def test_an_expired_key_signs_nothing(self, monkeypatch, tmp_path):
        ring = make_ring("", faked="20200101T000000!", expire="2020-02-01")
        try:
            (tmp_path / "file").write_bytes(b"hello")
            with pytest.raises(PublishError):
                Sequoia(ring.secret, "").detached(tmp_path / "file")
            monkeypatch.setenv("GNUPGHOME", str(ring.home))
            with pytest.raises(SigningError, match="gpg ended with code 2"):
                Gpg(ring.primary, "").detached(tmp_path / "file")
        finally:
            closed(ring)


class TestTrees:
    def test_every_file_of_a_directory_is_signed_and_the_sums_last(self, bare, tmp_path):
        for name in ("a", "SHA256SUMS", "z.yaml"):
            (tmp_path / name).write_bytes(name.encode())
        (tmp_path / "a.asc").write_bytes(b"of an earlier attempt")
        order = []

        class Watched(Sequoia):
            def detached(self, path):
                order.append(path.name)
                return super().detached(path)

        sign_directory(tmp_path, Watched(bare.secret, ""))
        assert order == ["a", "z.yaml", "SHA256SUMS"]
        assert {path.name for path in tmp_path.iterdir()} == {
            "a",
            "a.asc",
            "SHA256SUMS",
            "SHA256SUMS.asc",
            "z.yaml",
            "z.yaml.asc",
        }
        for name in ("a", "SHA256SUMS", "z.yaml"):
            gpg_verify(bare.verifier, tmp_path / f"{name}.asc", tmp_path / name)
            assert (tmp_path / f"{name}.asc").stat().st_mode & 0o777 == 0o644

    def test_a_text_is_signed_once_and_again_when_it_changes_or_its_signature_is_gone(self, bare, tmp_path):
        by, text, signature = Sequoia(bare.secret, ""), tmp_path / "index", tmp_path / "index.asc"

        def seen():
            return [
                (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) for path in (text, signature)
            ]

        assert publish_signed(text, b"one\n", by, ".asc")
        before = seen()
        assert not publish_signed(text, b"one\n", by, ".asc")
        assert seen() == before
        assert publish_signed(text, b"two\n", by, ".asc")
        assert text.read_bytes() == b"two\n"
        gpg_verify(bare.verifier, signature, text)
        signature.unlink()
        assert publish_signed(text, b"two\n", by, ".asc")
        gpg_verify(bare.verifier, signature, text)

    def test_where_signing_fails_no_old_signature_stays_beside_a_new_text(
        self, bare, locked, tmp_path, monkeypatch
    ):
        monkeypatch.setenv("GNUPGHOME", str(locked.home))
        locked.forget()
        text, signature = tmp_path / "index", tmp_path / "index.asc"
        publish_signed(text, b"one\n", Sequoia(bare.secret, ""), ".asc")
        with pytest.raises(SigningError):
            publish_signed(text, b"two\n", Gpg(locked.primary, "wrong"), ".asc")
        assert not signature.exists()
        assert publish_signed(text, b"two\n", Sequoia(bare.secret, ""), ".asc")
        gpg_verify(bare.verifier, signature, text)


class TestKeyring:
    """The public keys that lie beside the images."""

    @pytest.fixture(params=["secret", "stripped", "gpg", "subkey"])
    def signing(self, request, locked, monkeypatch) -> Signing:
        """The key of each back end; no passphrase is at hand, and none is needed."""
        monkeypatch.setenv("GNUPGHOME", str(locked.home))
        keys = {"gpg": locked.primary, "subkey": f"{locked.subkeys[1]}!"}
        return Signing(key=keys.get(request.param) or str(getattr(locked, request.param)))

    def test_it_verifies_and_holds_no_secret(self, signed, tmp_path):
        by, ring = signed
        key = ring.primary if isinstance(by, Gpg) else str(ring.stripped)
        (tmp_path / "file").write_bytes(b"text")
        (tmp_path / "file.asc").write_bytes(by.detached(tmp_path / "file"))
        (tmp_path / "ring").write_bytes(
            keyring(Signing(key=key), keyring(Signing(key=str(ring.secret)), b""))
        )
        gpg_verify(gpg_home(tmp_path / "ring", tmp_path), tmp_path / "file.asc", tmp_path / "file")
        sqv(tmp_path / "ring", tmp_path / "file.asc", tmp_path / "file")
        argv = ["gpg", "--list-packets", tmp_path / "ring"]
        packets = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        assert ":public key packet:" in packets
        assert ":secret" not in packets

    def test_the_same_keys_are_the_same_bytes(self, signing):
        ring = keyring(signing, b"")
        assert keyring(signing, ring) == ring
        assert keyring(signing, b"damaged") == ring

    def test_a_key_comes_before_those_that_were_there(self, signing, bare):
        before = keyring(Signing(key=str(bare.secret)), b"")
        both = keyring(signing, before)
        assert [one.fingerprint for one in certificates(both, "ring")] == [
            *(one.fingerprint for one in certificates(keyring(signing, b""), "ring")),
            bare.primary.lower(),
        ]
        assert keyring(signing, both) == both

    def test_a_key_keeps_what_it_had_and_gets_what_is_new(self, locked):
        part, whole = Signing(key=str(locked.stripped)), Signing(key=str(locked.secret))
        assert keyring(part, b"") != keyring(whole, b"")
        assert keyring(whole, keyring(part, b"")) == keyring(whole, b"")
        assert keyring(part, keyring(whole, b"")) == keyring(whole, b"")

    def test_a_key_that_is_not_there_is_told(self, tmp_path):
        with pytest.raises(SettingsError, match="cannot read"):
            keyring(Signing(key=str(tmp_path / "none")), b"")
