"""OpenPGP signatures, made and checked: detached for files, clear-signed for streams (acts).

Two back ends behind one small protocol. sequoia signs in this process with a key file, thousands a
second; gpg asks the agent, so that a key may live on a smartcard. Without a good signature nothing
of what it would cover is exposed: every failure here is fatal.
"""

import re
import tempfile
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tasks import files
from tasks.errors import ProgramFailed, ProgramMissing, SettingsError, SigningError
from tasks.image import SUMS
from tasks.layout import KEY
from tasks.programs import run
from tasks.settings import Signing

if TYPE_CHECKING:
    from pysequoia import Cert, Sig, SignatureMode

IN_MEMORY = 1 << 20  # bytes up to which sequoia is handed the content instead of a file to stream
LINE = 19_993  # bytes of a line in a clear-signed text, as much as gpg 2.2 takes whole
TIMEOUT = 600.0  # seconds for one signature: a touch on a smartcard, a file of 10 GB


class Signer(Protocol):
    """What a back end can do; both raise SigningError."""

    def detached(self, path: Path) -> bytes:
        """An armoured detached signature of a file."""

    def clear(self, text: bytes) -> bytes:
        """A clear-signed copy of a text whose lines end without blanks."""


def signer(settings: Signing) -> Signer:
    """The back end that the settings ask for; raises SettingsError when its key cannot be used."""
    if settings.uses_gpg:
        return Gpg(settings.key, settings.passphrase())
    return Sequoia(Path(settings.key), settings.passphrase())


class Sequoia:
    """pysequoia with a key file; stripped primaries (``gpg --export-secret-subkeys``) work too."""

    def __init__(self, key: Path, passphrase: str) -> None:
        import pysequoia  # noqa: PLC0415 - a run with nothing new needs no signer

        self._ps = pysequoia
        try:
            self._signer = pysequoia.Tsk.from_file(str(key)).signer(passphrase or None)
        except Exception as error:  # pysequoia raises RuntimeError and others
            raise SettingsError([f"signing.key: {key} cannot sign: {_first(error)}"]) from error

    def detached(self, path: Path) -> bytes:
        """Streams a large file; memory does not depend on its size."""
        with files.disk("read"):
            data = path.read_bytes() if path.stat().st_size <= IN_MEMORY else None
        if data is not None:
            return self._sign(data, self._ps.SignatureMode.DETACHED, path.name)
        signature = path.with_name(f"{files.TEMPORARY}{path.name}.asc")
        try:
            self._ps.sign_file(self._signer, str(path), str(signature), mode=self._ps.SignatureMode.DETACHED)
            return signature.read_bytes()
        except Exception as error:
            raise SigningError(f"cannot sign {path.name}: {_first(error)}") from error
        finally:
            signature.unlink(missing_ok=True)

    def clear(self, text: bytes) -> bytes:
        """Cleartext signature framework, RFC 9580 section 7.

        sequoia puts a line feed of its own before the signature; gpg counts the text's last one. What
        gpg could not sign, it could not verify either.
        """
        if (longest := _longest(text)) > LINE:
            raise SigningError(f"cannot sign an index with a line of {longest} bytes; gpg takes {LINE}")
        return self._sign(text.removesuffix(b"\n"), self._ps.SignatureMode.CLEAR, "an index")

    def _sign(self, data: bytes, mode: "SignatureMode", what: str) -> bytes:
        try:
            return bytes(self._ps.sign(self._signer, data, mode=mode))
        except Exception as error:
            raise SigningError(f"cannot sign {what}: {_first(error)}") from error


class Gpg:
    """The gpg program and its agent; ``key`` ends in ``!`` to pick that very subkey."""

    def __init__(self, key: str, passphrase: str) -> None:
        self._key, self._passphrase = key, passphrase
        try:
            run(
                ["gpg", "--batch", "--no-tty", "--list-secret-keys", "--", key.removesuffix("!")],
                timeout=TIMEOUT,
            )
        except ProgramFailed as error:
            raise SettingsError([f"signing.key: gpg has no secret key {key}: {error}"]) from error

    def detached(self, path: Path) -> bytes:
        """``gpg --armor --detach-sign``."""
        return self._run(path.name, ["--armor", "--detach-sign", "--output", "-", "--", path], b"")

    def clear(self, text: bytes) -> bytes:
        """``gpg --clearsign``, which cuts a long line short (g10/textfilter.c), warns, and ends with 0."""
        signed = self._run("an index", ["--clearsign"], text)
        if _signed_text(signed) != text.removesuffix(b"\n"):
            raise SigningError(
                f"cannot sign an index with key {self._key}: gpg left some of it out,"
                f" of a line of {_longest(text)} bytes; it takes {LINE}"
            )
        return signed

    def _run(self, what: str, arguments: list[str | Path], text: bytes) -> bytes:
        argv: list[str | Path] = [
            "gpg",
            "--batch",
            "--no-tty",
            "--quiet",
            "--local-user",
            self._key,
        ]
        if self._passphrase:
            # On standard input, before the text: never in an argument list.
            argv += ["--pinentry-mode", "loopback", "--passphrase-fd", "0"]
            text = self._passphrase.encode() + b"\n" + text
        try:
            return run([*argv, *arguments], stdin=text, timeout=TIMEOUT)
        except ProgramFailed as error:
            asks = "ioctl" in error.stderr or "pinentry" in error.stderr.lower()
            hint = (
                "; it asks for a passphrase: signing.passphrase_file, or an agent that knows it"
                if asks
                else ""
            )
            raise SigningError(f"cannot sign {what} with key {self._key}: {error}{hint}") from error


# What gpg accepts around a clear-signed text, RFC 9580 section 7; sequoia overlooks what surrounds it. A line
# of the text that begins with a hyphen has a blank behind it: there is one text, and one signature block.
_CLEAR = re.compile(
    rb"-----BEGIN PGP SIGNED MESSAGE-----\n(Hash: SHA(224|256|384|512)(, ?SHA(224|256|384|512))*\n)*\n"
    rb"(?:(?!-(?! ))[^\n]*\n)*+"
    rb"-----BEGIN PGP SIGNATURE-----\n([A-Za-z]+:[^\n]*\n)*\n[A-Za-z0-9+/=\n]*-----END PGP SIGNATURE-----\n*"
)
# What gpgv may say, and still end with 2, of signatures that are all good but for those of unknown keys.
_OF_MANY = set(
    b"PLAINTEXT PLAINTEXT_LENGTH NEWSIG KEY_CONSIDERED SIG_ID GOODSIG VALIDSIG ERRSIG NO_PUBKEY"
    b" REVKEYSIG KEYREVOKED EXPKEYSIG KEYEXPIRED FAILURE".split()
)


class Verifier:
    """Signatures held against certificates, in this process, whatever back end made them."""

    def __init__(self, certificates: "Sequence[Cert]") -> None:
        import pysequoia  # noqa: PLC0415 - as above

        self._ps, self._certificates = pysequoia, certificates

    def detached(self, signed: bytes | Path, signature: bytes) -> str:
        """Why a detached signature is none of this content, "" when it is good.

        A path is mapped into memory by sequoia, which costs none; a disk that then fails kills the process.
        """
        try:
            given = self._ps.Sig.from_bytes(signature)
        except Exception as error:  # noqa: BLE001 - pysequoia raises RuntimeError and others
            return f"is no signature: {_first(error)}"
        return self._why_not(signed, given)[0]

    def clear(self, signed: bytes) -> tuple[str, bytes]:
        """Why a clear-signed text is not good, "" when it is, and the text without its last line feed."""
        if not _CLEAR.fullmatch(signed):
            return "is no clear-signed text, or has something around it", b""
        return self._why_not(signed, None)

    def _why_not(self, signed: bytes | Path, signature: "Sig | None") -> tuple[str, bytes]:
        named: list[str] = []

        def store(ids: list[str]) -> "Sequence[Cert]":
            named.extend(ids)
            return self._certificates

        data, file = (None, str(signed)) if isinstance(signed, Path) else (signed, None)
        try:
            done = self._ps.verify(bytes=data, file=file, store=store, signature=signature)
        except Exception as error:  # noqa: BLE001 - as above
            if "no valid signatures" not in str(error):
                return f"cannot be checked: {_first(error)}", b""
            by = f" by {', '.join(named)}" if named else ""
            return f"is no good signature{by}: a key that was not given, or other bytes", b""
        return "", done.bytes or b""


def verifier(settings: Signing, keys: Sequence[Path]) -> Verifier:
    """What checks signatures: with these public keys, else with that of ``signing.key``.

    Raises SettingsError when a key cannot be read: not everybody who may verify may read the secret one.
    """
    if keys:
        return Verifier([one for key in keys for one in certificates(_key(key, "--key"), f"--key={key}")])
    return Verifier(_own(settings))


def signed_by(signed: bytes, signature: bytes, keyring: Path) -> tuple[bytes, str]:
    """What a key has signed, and which key: a clear-signed text, or a file with its detached signature.

    By gpgv, for whom the ring is the operator's word: the keys of Ubuntu's images are of 2009 and 2012, and
    sequoia does not take how they bind their names. One good signature is enough, for a text may be signed by
    an owner's old key and his new one; expired and revoked keys make none, as apt has it. Raises ValueError
    for a signature that is none, ProgramMissing without gpgv, SettingsError for a ring that cannot be read.
    """
    if not signature and not _CLEAR.fullmatch(signed.replace(b"\r\n", b"\n")):
        raise ValueError("is no clear-signed text, or has something around it")
    ring = _ring(keyring)
    with files.disk("write"), tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        for name, data in {"ring": ring, "signed": signed, "signature": signature}.items():
            (work / name).write_bytes(data)
        text = work / "text"
        those = [work / "signature", work / "signed"] if signature else ["--output", text, work / "signed"]
        with (work / "status").open("w+b") as told:
            why = ""
            argv = ["gpgv", "--status-fd", str(told.fileno()), "--keyring", work / "ring", *those]
            try:
                run(argv, timeout=TIMEOUT, keep=[told.fileno()])
            except ProgramMissing:
                raise
            except ProgramFailed as error:
                why = f": {error}"
            told.seek(0)
            key = _good_key(told.read(), is_whole=not why)
        if not key:
            raise ValueError(f"has no good signature of a key in upstream.keyring, {keyring}{why}")
        return signed if signature else text.read_bytes(), key


def _good_key(status: bytes, *, is_whole: bool) -> str:
    """The fingerprint of a key whose signature gpgv found good, "" when any other is worse than unknown.

    Raises ValueError where only a key that must not be used any more has signed. What its words mean is in
    gnupg:doc/DETAILS.
    """
    words = {line.split()[1] for line in status.splitlines() if line.startswith(b"[GNUPG:] ")}
    if not is_whole and not words <= _OF_MANY:
        return ""
    found: dict[bytes, str] = {}  # what it says of a signature -> the key
    for one in status.split(b"[GNUPG:] NEWSIG")[1:]:
        valid = re.search(rb"(?m)^\[GNUPG:\] VALIDSIG ([0-9A-F]+) ", one)
        said = re.search(rb"(?m)^\[GNUPG:\] (GOOD|REVKEY|EXPKEY)SIG ", one)
        if valid and said:
            found.setdefault(said[1], valid[1].decode())
    for word, why in {b"REVKEY": "its owner has revoked", b"EXPKEY": "has expired"}.items():
        if word in found and b"GOOD" not in found:
            raise ValueError(
                f"is signed by the key {found[word]}, which {why}: upstream.keyring wants one that is good"
            )
    return found.get(b"GOOD", "")


def _ring(keyring: Path) -> bytes:
    """The keys of an upstream as gpgv takes them, armoured or not; raises SettingsError."""
    try:
        return b"".join(bytes(one) for one in certificates(keyring.read_bytes(), ""))
    except OSError as error:
        raise SettingsError([f"upstream.keyring: cannot read {keyring}: {error.strerror}"]) from error
    except SettingsError:
        raise SettingsError(
            [f"upstream.keyring: {keyring} holds no OpenPGP keys: it has to be what gpg --export makes"]
        ) from None


def keyring(settings: Signing, before: bytes) -> bytes:
    """The public part of ``signing.key``, armoured, and the other keys of the ring that was there before.

    They made the signatures of older images, which stay. Raises SettingsError when a key cannot be read.
    """
    ring = {one.fingerprint: one for one in _own(settings)}
    with suppress(SettingsError):  # a damaged ring is made anew
        for one in certificates(before, KEY):  # the same key may have had other subkeys
            ring[one.fingerprint] = ring[one.fingerprint].merge(one) if one.fingerprint in ring else one
    return _armored(ring.values())


def is_whole(ring: bytes) -> bool:
    """Whether a ring is to the byte what ``keyring`` makes of its keys.

    sequoia overlooks damage that gpg refuses, like a wrong checksum of the armour.
    """
    try:
        return _armored(certificates(ring, KEY)) == ring
    except SettingsError:
        return False


def _armored(ring: "Iterable[Cert]") -> bytes:
    import pysequoia  # noqa: PLC0415 - as above

    data = b"".join(bytes(one) for one in ring)  # bytes(Cert) never has the secret part
    return pysequoia.armor(data, pysequoia.ArmorKind.PublicKey).encode()


def _own(settings: Signing) -> "list[Cert]":
    if not settings.uses_gpg:
        return certificates(_key(Path(settings.key), "signing.key"), "signing.key")
    argv = ["gpg", "--batch", "--no-tty", "--export", "--", settings.key.removesuffix("!")]
    try:
        data = run(argv, timeout=TIMEOUT)
    except ProgramFailed as error:
        raise SettingsError([f"signing.key: gpg cannot export {settings.key}: {error}"]) from error
    return certificates(data, f"signing.key: gpg's keyring of this user has {settings.key}")


def _key(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        wanted = "; to verify with the public key alone: doit verify --key=FILE"
        said = f"{option}: cannot read {path}: {error.strerror}"
        raise SettingsError([said + wanted * (option != "--key")]) from error


def certificates(data: bytes, what: str) -> "list[Cert]":
    """The public part of every key in a file, armoured or not; the secret ones are never unlocked."""
    import pysequoia  # noqa: PLC0415 - as above

    try:
        found = pysequoia.Cert.split_bytes(data)
    except Exception as error:
        raise SettingsError([f"{what} holds no key: {_first(error)}"]) from error
    if not found:
        raise SettingsError([f"{what} holds no key; to verify with a public key: doit verify --key=FILE"])
    return found


def sign_directory(directory: Path, by: Signer, spared: Collection[str] = ()) -> None:
    """Put ``.asc`` beside every file of a staged image; SHA256SUMS, the mark of completeness, last.

    What is ``spared`` has a good one already.
    """
    names = {path.name for path in directory.iterdir() if path.suffix != ".asc"} - {*spared}
    for name in sorted(names, key=lambda one: (one == SUMS, one)):
        files.place(directory / f"{name}.asc", by.detached(directory / name))


def publish_signed(path: Path, data: bytes, by: Signer, suffix: str) -> bool:
    """Write a text with its detached signature, if it changed or was not signed; says whether it was.

    The signature carries the hash of nothing else, so equal bytes need no new one: a publication
    that changes nothing leaves every byte alone.
    """
    signature = path.with_name(path.name + suffix)
    if files.read(path) == data and signature.exists():
        return False
    files.unlink(signature)
    files.write(path, data)
    files.write(signature, by.detached(path))
    return True


def _longest(text: bytes) -> int:
    return max(map(len, text.split(b"\n")))


def _signed_text(signed: bytes) -> bytes:
    """What a clear-signed message says, as its readers will have it (RFC 9580, section 7)."""
    text = signed.partition(b"\n\n")[2].rpartition(b"\n-----BEGIN PGP SIGNATURE-----\n")[0]
    return re.sub(rb"(?m)^- ", b"", text)


def _first(error: Exception) -> str:
    """Pysequoia's message without the Rust backtrace; a wrong passphrase reads «unexpected EOF»."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    if "not encrypted" in line:
        return "it has no passphrase; remove signing.passphrase_file and PUBLISH_SIGNING_PASSPHRASE"
    if "unexpected EOF" in line or "Malformed MPI" in line:  # what a wrong key decrypts to is random
        return "wrong passphrase?"
    if "material is encrypted" in line:
        return "it has a passphrase: signing.passphrase_file or PUBLISH_SIGNING_PASSPHRASE"
    return line[:200]
