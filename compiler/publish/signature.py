"""Detached signatures of folders, by the OpenSSF `model-signing` package with elliptic-curve keys.

A signature is a Sigstore bundle: a DSSE envelope with the sha256 of every file. Works offline.
https://github.com/ossf/model-signing-spec
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compiler.errors import HostError, SignatureError
from compiler.store import atomic, storage

PUBLIC_SUFFIX = ".pub"


def sign(folder: Path, key: Path, to: Path) -> None:
    """Writes the signature of every file in `folder` to the file `to`.

    Args:
        key: private key, PEM, on the curve P-256, P-384 or P-521.
    Raises:
        SignatureError: the key cannot be used.
        HostError: `model-signing` is not installed.
    """
    with _installed():
        from model_signing import signing
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=_existing(key))
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise SignatureError(
            f"no private key that can be used: {error}",
            where=str(key),
            fix="make one with python -m compiler.publish --make-key FILE",
        ) from error
    with atomic(to) as temporary:
        config.sign(folder, temporary)


def verify(folder: Path, signature: Path, key: Path) -> None:
    """Does nothing where `signature` was made with `key`'s private half, of `folder` as it is.

    Args:
        key: public key, PEM.
    Raises:
        SignatureError: another key, a changed file, or no signature at all.
        HostError: `model-signing` is not installed.
    """
    with _installed():
        from model_signing import verifying
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=_existing(key))
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise SignatureError(
            f"no public key that can be used: {error}",
            where=str(key),
            fix=f"name the publisher's public key (KEY{PUBLIC_SUFFIX})",
        ) from error
    try:
        config.verify(folder, signature)
    except Exception as error:  # the package raises ValueError, KeyError, and those of its own
        raise SignatureError(
            f"the signature does not hold: {str(error) or 'it was made with another key'}",
            where=signature.name,
            fix="check that --key is the publisher's; if it is, do not use this bundle",
        ) from error


def make_key(path: Path) -> Path:
    """Writes a new P-256 private key (PEM, mode 0600) and its public half, whose path it returns.

    Raises:
        SignatureError: one of the files exists.
        HostError: `model-signing` is not installed.
    """
    with _installed():
        from cryptography.hazmat.primitives import serialization as form
        from cryptography.hazmat.primitives.asymmetric import ec
    public = path.with_name(path.name + PUBLIC_SUFFIX)
    for each in (path, public):
        if each.exists():
            raise SignatureError("the file exists", where=str(each), fix="name another file")
    key = ec.generate_private_key(ec.SECP256R1())
    secret = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    shown = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600, exist_ok=False)  # never readable by others, not even for a moment
        path.write_bytes(secret)
        public.write_bytes(shown)
    return public


def _existing(key: Path) -> Path:
    if not key.is_file():
        raise FileNotFoundError("there is no such file")
    return key


@contextmanager
def _installed() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise HostError(
            f"signatures need the package model-signing ({error})",
            fix="pip install model-signing pyopenssl (make publish does it)",
        ) from error
