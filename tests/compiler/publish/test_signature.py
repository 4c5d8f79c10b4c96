"""Signatures: what holds, what does not, and OpenSSL as an independent judge."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from compiler.errors import HostError, SignatureError
from compiler.publish import signature

pytest.importorskip("model_signing.signing", reason="the extra publish is not installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "bundle"
    (made / "golden").mkdir(parents=True)
    (made / "mod.so").write_bytes(bytes(range(256)))
    (made / "golden" / "output.npy").write_bytes(b"output")
    return made


@pytest.fixture
def key(tmp_path: Path) -> Path:
    made = tmp_path / "keys" / "vacc.key"
    assert signature.make_key(made) == public(made)
    return made


@pytest.fixture
def signed(folder: Path, key: Path, tmp_path: Path) -> Path:
    to = tmp_path / "bundle.sig"
    signature.sign(folder, key, to)
    return to


def public(key: Path) -> Path:
    return key.with_name(f"{key.name}.pub")


def test_a_signature_holds_wherever_the_folder_is(
    folder: Path, key: Path, signed: Path, tmp_path: Path
) -> None:
    signature.verify(folder, signed, public(key))
    shutil.copytree(folder, tmp_path / "elsewhere" / "renamed")
    signature.verify(tmp_path / "elsewhere" / "renamed", signed, public(key))


@pytest.mark.parametrize("change", ["changed", "missing", "extra", "renamed", "link"])
def test_another_content_is_found(folder: Path, key: Path, signed: Path, change: str) -> None:
    library = folder / "mod.so"
    if change == "changed":
        library.write_bytes(bytes(256))
    elif change == "missing":
        library.unlink()
    elif change == "extra":
        (folder / "golden" / "more").write_text("")
    elif change == "renamed":
        library.rename(folder / "other.so")
    else:
        library.rename(folder.parent / "outside.so")
        library.symlink_to(folder.parent / "outside.so")
    with pytest.raises(SignatureError, match="does not hold"):
        signature.verify(folder, signed, public(key))


def test_another_key_is_found(folder: Path, signed: Path, tmp_path: Path) -> None:
    other = signature.make_key(tmp_path / "other.key")
    with pytest.raises(SignatureError, match="does not hold") as caught:
        signature.verify(folder, signed, other)
    assert caught.value.fix


def test_a_forged_hint_does_not_help(folder: Path, key: Path, signed: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.key"
    signature.make_key(other)
    signature.sign(folder, other, tmp_path / "other.sig")
    forged = json.loads((tmp_path / "other.sig").read_text())
    genuine = json.loads(signed.read_text())
    forged["verificationMaterial"] = genuine["verificationMaterial"]
    signed.write_text(json.dumps(forged))
    with pytest.raises(SignatureError, match="made with another key"):
        signature.verify(folder, signed, public(key))


@pytest.mark.parametrize("content", [b"", b"text", b"{}", b"[]", b"\xff\xfe", b'{"a":' * 9])
def test_what_is_no_signature(folder: Path, key: Path, signed: Path, content: bytes) -> None:
    signed.write_bytes(content)
    with pytest.raises(SignatureError):
        signature.verify(folder, signed, public(key))


@pytest.mark.parametrize("kind", ["absent", "folder", "text", "rsa", "the other half"])
def test_unusable_keys_are_told(
    folder: Path, key: Path, signed: Path, tmp_path: Path, kind: str
) -> None:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import rsa

    bad = tmp_path / "bad.key"
    if kind == "folder":
        bad.mkdir()
    elif kind == "text":
        bad.write_text("no key")
    elif kind == "rsa":
        made = rsa.generate_private_key(65537, 2048)
        style = form.PrivateFormat.PKCS8, form.NoEncryption()
        bad.write_bytes(made.private_bytes(form.Encoding.PEM, *style))
    with pytest.raises(SignatureError, match="no private key") as caught:
        signature.sign(folder, public(key) if kind == "the other half" else bad, signed)
    assert caught.value.fix
    with pytest.raises(SignatureError, match="no public key"):
        signature.verify(folder, signed, key if kind == "the other half" else bad)


def test_keys_are_private_and_never_overwritten(key: Path) -> None:
    assert key.stat().st_mode & 0o777 == 0o600
    before = key.read_bytes()
    with pytest.raises(SignatureError, match="exists"):
        signature.make_key(key)
    key.unlink()
    with pytest.raises(SignatureError, match="exists"):
        signature.make_key(key)
    assert not key.exists()
    assert b"PRIVATE KEY" in before


def test_without_the_package_the_fix_is_named(
    folder: Path, key: Path, signed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(HostError) as caught:
        signature.verify(folder, signed, public(key))
    assert "pip install model-signing" in caught.value.fix


def openssl(*args: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    return subprocess.run(["openssl", *map(str, args)], input=stdin, capture_output=True)


def test_openssl_agrees(key: Path, signed: Path, tmp_path: Path) -> None:
    envelope = json.loads(signed.read_text())["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"]
    # DSSE's pre-authentication encoding, https://github.com/secure-systems-lab/dsse
    message = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    (tmp_path / "raw").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    line = ["dgst", "-sha256", "-verify", public(key), "-signature", tmp_path / "raw"]
    assert openssl(*line, stdin=message).returncode == 0
    assert openssl(*line, stdin=message + b" ").returncode != 0
    files = {r["name"] for r in json.loads(payload)["predicate"]["resources"]}
    assert files == {"mod.so", "golden/output.npy"}


def test_a_key_of_openssl_works(folder: Path, tmp_path: Path) -> None:
    key, shown = tmp_path / "ssl.key", tmp_path / "ssl.pub"
    made = openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
    assert made.returncode == 0
    assert openssl("ec", "-in", key, "-pubout", "-out", shown).returncode == 0
    signature.sign(folder, key, tmp_path / "a.sig")
    signature.verify(folder, tmp_path / "a.sig", shown)
