"""From a bundle to a registry and back, against a real registry; and everything that must fail."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib.errors import WorkbenchError
from compiler import bundle, pipeline, pull
from compiler.errors import (
    ArtifactError,
    BundleError,
    GateError,
    NotBitExactError,
    RegistryError,
    SignatureError,
)
from compiler.progress import silent
from compiler.publish import archive, artifact, command, signature
from compiler.publish.artifact import ARCHIVE_TYPE, ARTIFACT_TYPE, Layer
from compiler.publish.registry import Reference, Registry, sha256
from compiler.store import file_sha256
from tests import oci
from tests.compiler.test_commands import command as run_command
from tests.oci import LocalRegistry

SIGNING = importlib.util.find_spec("model_signing") is not None
needs_signing = pytest.mark.skipif(not SIGNING, reason="the extra publish is not installed")


@pytest.fixture
def folder(tiny_build: pipeline.Result) -> Path:
    assert tiny_build.bundle is not None
    return tiny_build.bundle


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    with oci.registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    made = tmp_path_factory.mktemp("keys") / "vacc.key"
    if SIGNING:
        signature.make_key(made)
    return made if SIGNING else None


def public(key: Path) -> Path:
    return key.with_name(f"{key.name}.pub")


def publish(*args: object) -> int:
    return command.run(command.parser().parse_args([*map(str, args), "--quiet"]), silent())


def fetch(*args: object) -> int:
    return pull.run(pull.parser().parse_args([*map(str, args), "--quiet"]), silent())


def files(folder: Path) -> dict[str, bytes]:
    found = [p for p in folder.rglob("*") if p.is_file()]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


def pushed(folder: Path, local: LocalRegistry, tag: str, *more: object) -> str:
    """Publishes; returns the reference."""
    reference = f"{local.address}/models/tiny:{tag}"
    assert publish(folder, "--ref", reference, "--insecure", *more) == 0
    return reference


def manifest_of(reference: str) -> bytes:
    return Registry(Reference.parse(reference), insecure=True).manifest()


def refused(kind: type[WorkbenchError], words: str, out: Path, *args: object) -> None:
    """A pull that fails as it should, and leaves nothing."""
    with pytest.raises(kind, match=words) as caught:
        fetch(*args, "--out", out, "--insecure")
    assert caught.value.fix
    assert list(out.iterdir()) == []


@needs_signing
def test_there_and_back(folder: Path, local: LocalRegistry, key: Path, tmp_path: Path) -> None:
    reference = pushed(folder, local, "signed", "--key", key, "--json", tmp_path / "p.json")
    told = json.loads((tmp_path / "p.json").read_text())
    assert told["digest"] == sha256(manifest_of(reference))
    out = tmp_path / "out"
    line = ["--key", public(key), "--out", out, "--insecure"]
    assert fetch(reference, *line, "--json", tmp_path / "g.json") == 0
    assert files(out / "tiny") == files(folder)
    assert [p.name for p in out.iterdir()] == ["tiny"]
    seen = json.loads((tmp_path / "g.json").read_text())
    assert seen["signature"] == "verified"
    assert seen["golden"]["values"] == (96 * 128 + 64 * 96) * 3
    assert bundle.load(out / "tiny").name == "tiny"
    by_digest = f"{local.address}/models/tiny@{told['digest']}"
    assert fetch(by_digest, *line) == 0  # the same build is there already: nothing is lost


def test_the_manifest_is_an_artifact_of_its_own_type(folder: Path, local: LocalRegistry) -> None:
    value = json.loads(manifest_of(pushed(folder, local, "kind")))
    assert value["artifactType"] == ARTIFACT_TYPE
    assert value["schemaVersion"] == 2
    notes = value["annotations"]
    assert notes["vacc.bundle.name"] == "tiny"
    assert notes["vacc.bundle.target"] == "vacc"
    drop = json.loads((folder / "accuracy.json").read_text())["drop"]["psnr_db"]["rgb"]
    assert float(notes["vacc.bundle.psnr_drop_db"]) == pytest.approx(drop, abs=5e-4)
    packed, *measured = value["layers"]
    assert packed["mediaType"] == ARCHIVE_TYPE
    assert packed["digest"] == f"sha256:{notes['vacc.bundle.sha256']}"
    titles = {layer["annotations"]["org.opencontainers.image.title"] for layer in measured}
    assert "measured/report.html" in titles


def test_the_same_bundle_has_the_same_digest(folder: Path, local: LocalRegistry) -> None:
    first = manifest_of(pushed(folder, local, "one"))
    assert manifest_of(pushed(folder, local, "two")) == first


def test_another_client_can_fetch_it(folder: Path, local: LocalRegistry, tmp_path: Path) -> None:
    provider = pytest.importorskip("oras.provider", reason="the Python package oras is missing")
    reference = pushed(folder, local, "oras")
    client = provider.Registry(hostname=local.address, insecure=True)
    client.pull(target=reference, outdir=str(tmp_path / "oras"))
    archive.pack(folder, tmp_path / "tiny.tar")
    assert (tmp_path / "oras" / "tiny.tar").read_bytes() == (tmp_path / "tiny.tar").read_bytes()
    report = tmp_path / "oras" / "measured" / "report.html"
    assert report.read_bytes() == (folder / "measured" / "report.html").read_bytes()


@pytest.mark.parametrize("change", ["same size", "shorter", "longer"])
def test_a_tampered_blob(folder: Path, local: LocalRegistry, tmp_path: Path, change: str) -> None:
    reference = pushed(folder, local, "tampered")
    layer = json.loads(manifest_of(reference))["layers"][0]
    blob = local.blob(layer["digest"])
    genuine = blob.read_bytes()
    wrong = bytearray(genuine)
    wrong[4000] ^= 1
    blob.write_bytes({"same size": wrong, "shorter": wrong[:-512], "longer": wrong + b"x"}[change])
    try:
        refused(ArtifactError, "arrived as|larger than", tmp_path / "out", reference)
    finally:
        blob.write_bytes(genuine)


@needs_signing
def test_a_bundle_without_a_signature(
    folder: Path, local: LocalRegistry, key: Path, tmp_path: Path
) -> None:
    reference = pushed(folder, local, "unsigned")
    refused(SignatureError, "not signed", tmp_path / "out", reference, "--key", public(key))
    assert fetch(reference, "--out", tmp_path / "out", "--insecure") == 0


@needs_signing
def test_another_key(folder: Path, local: LocalRegistry, key: Path, tmp_path: Path) -> None:
    reference = pushed(folder, local, "key", "--key", key)
    other = signature.make_key(tmp_path / "other.key")
    refused(SignatureError, "does not hold", tmp_path / "out", reference, "--key", other)


@needs_signing
@pytest.mark.parametrize("part", ["archive", "measured"])
def test_a_part_exchanged_under_a_genuine_signature(
    folder: Path, local: LocalRegistry, key: Path, tmp_path: Path, part: str
) -> None:
    """Digests and manifests agree, as whoever owns the registry can make them; the key is safe."""
    published = json.loads(manifest_of(pushed(folder, local, "genuine", "--key", key)))
    other = resealed(folder, tmp_path / "tiny", lambda copy: (copy / "accuracy.csv").write_text(""))
    signed = json.loads(manifest_of(pushed(other, local, "exchanged")))
    if part == "measured":
        signed["layers"][0] = published["layers"][0]
    signed["layers"] += [x for x in published["layers"] if "sigstore" in x["mediaType"]]
    reference = f"{local.address}/models/tiny:exchanged"
    client = Registry(Reference.parse(reference), insecure=True)
    client.put_manifest(json.dumps(signed).encode())
    refused(SignatureError, "does not hold", tmp_path / "out", reference, "--key", public(key))


def resealed(folder: Path, copy: Path, change: Callable[[Path], Any]) -> Path:
    """A changed copy of a bundle whose manifests agree with it."""
    shutil.copytree(folder, copy)
    change(copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"] = {
        name: file_sha256(copy / name) for name in manifest["files"] if (copy / name).exists()
    }
    (copy / "manifest.json").write_text(json.dumps(manifest))
    seal = file_sha256(copy / "manifest.json")
    (copy / "manifest.sha256").write_text(f"{seal}  manifest.json\n")
    if (copy / "measured").exists():
        measured = json.loads((copy / "measured" / "manifest.json").read_text())
        (copy / "measured" / "manifest.json").write_text(json.dumps(measured | {"bundle": seal}))
    return copy


def test_a_library_that_answers_something_else(
    folder: Path, local: LocalRegistry, tmp_path: Path
) -> None:
    def change(copy: Path) -> None:
        y = np.load(copy / "golden" / "output.npy")
        y[0, 0, 0] += np.float32(1)
        np.save(copy / "golden" / "output.npy", y)

    reference = pushed(resealed(folder, tmp_path / "tiny", change), local, "inexact")
    refused(NotBitExactError, "golden vector", tmp_path / "out", reference)


def repacked(folder: Path, to: Path) -> Path:
    """An archive of whatever the folder holds."""
    names = [f"{folder.name}/{name}" for name in files(folder)]
    line = ["tar", "-cf", str(to), "--format=ustar", "--no-recursion", "-C", str(folder.parent)]
    subprocess.run([*line, *names], check=True)
    return to


def unpacked(folder: Path, into: Path) -> Path:
    archive.pack(folder, into.with_suffix(".tar"))
    return archive.unpack(into.with_suffix(".tar"), into)


def test_a_file_that_is_not_in_the_manifest(folder: Path, tmp_path: Path) -> None:
    inside = unpacked(folder, tmp_path / "x")
    (inside / "extra").write_text("")
    made = repacked(inside, tmp_path / "b.tar")
    refused(BundleError, "differs from the manifest", tmp_path / "out", made)


def test_a_bundle_under_another_name(folder: Path, tmp_path: Path) -> None:
    inside = unpacked(folder, tmp_path / "x")
    made = repacked(inside.rename(inside.with_name("other")), tmp_path / "b.tar")
    refused(BundleError, "the archive is of 'other'", tmp_path / "out", made)


def test_what_is_not_there(local: LocalRegistry, tmp_path: Path) -> None:
    for text in ("models/tiny:absent", "models/nothing:1", f"models/tiny@{sha256(b'')}"):
        reference = f"{local.address}/{text}"
        refused(RegistryError, "it is not there", tmp_path / "out", reference)


def test_another_build_of_the_name_is_kept(
    folder: Path, local: LocalRegistry, tmp_path: Path
) -> None:
    reference = pushed(folder, local, "kept")
    out = tmp_path / "out"
    mine = out / "tiny" / "precious.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(BundleError, match="something else of this name"):
        fetch(reference, "--out", out, "--insecure")
    assert mine.read_text() == "mine"
    assert fetch(reference, "--out", out, "--insecure", "--force") == 0
    assert files(out / "tiny") == files(folder)
    assert [p.name for p in out.iterdir()] == ["tiny"]


def other_manifest(**changes: Any) -> bytes:
    layer = Layer(ARCHIVE_TYPE, "tiny.tar", sha256(b""), 0)
    return json.dumps(json.loads(artifact.manifest([layer], {})) | changes).encode()


def layers(**changes: Any) -> list[dict[str, Any]]:
    good = Layer(ARCHIVE_TYPE, "tiny.tar", sha256(b""), 0).to_json()
    return [good, good | changes]


TITLE = "org.opencontainers.image.title"
FOREIGN: dict[str, tuple[bytes, str]] = {
    "no json": (b"<html>", "cannot be read"),
    "a list": (b"[]", "cannot be read"),
    "deep": (b"[" * 100_000, "cannot be read"),
    "an image": (other_manifest(artifactType=None), "its type is"),
    "another artifact": (other_manifest(artifactType="application/x"), "its type is"),
    "no layers": (other_manifest(layers=[]), "0 archives"),
    "two archives": (other_manifest(layers=layers(annotations={TITLE: "b.tar"})), "2 archives"),
    "no title": (other_manifest(layers=layers(annotations={})), "cannot be read"),
    "traversal": (other_manifest(layers=layers(annotations={TITLE: "../a"})), "a file '../a'"),
    "measured traversal": (
        other_manifest(
            layers=layers(mediaType=artifact.MEASURED_TYPE, annotations={TITLE: "measured/../../a"})
        ),
        "a file 'measured",
    ),
    "absolute": (other_manifest(layers=layers(annotations={TITLE: "/etc/a"})), "a file '/etc"),
    "huge": (other_manifest(layers=layers(mediaType="x", size=1 << 40)), "2 layers|larger"),
    "negative": (other_manifest(layers=layers(size=-1)), "descriptor"),
    "no number": (other_manifest(layers=layers(size="1")), "descriptor"),
    "true": (other_manifest(layers=layers(size=True)), "descriptor"),
    "no digest": (other_manifest(layers=layers(digest="sha256:../../x")), "descriptor"),
}


@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_manifests_that_are_no_bundle(name: str) -> None:
    data, words = FOREIGN[name]
    with pytest.raises(ArtifactError, match=words) as caught:
        artifact.read(data, "r.example/net:1")
    assert caught.value.where == "r.example/net:1"


def test_a_bundle_that_is_too_large() -> None:
    large = [Layer(ARCHIVE_TYPE, "tiny.tar", sha256(b""), archive.MAX_BYTES + 1)]
    with pytest.raises(ArtifactError, match="larger than"):
        artifact.read(artifact.manifest(large, {}), "r.example/net:1")


def test_a_missed_gate_is_not_published(folder: Path, tmp_path: Path) -> None:
    def miss(copy: Path) -> None:
        accuracy = json.loads((copy / "accuracy.json").read_text())
        accuracy["gate"] = {"passed": False, "reasons": ["the drop is 3 dB"]}
        (copy / "accuracy.json").write_text(json.dumps(accuracy))

    missed = resealed(folder, tmp_path / "missed", miss)
    with pytest.raises(GateError, match="the drop is 3 dB") as caught:
        publish(missed, "--out", tmp_path / "a.tar")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "a.tar").exists()


def test_a_changed_bundle_is_not_published(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "mod.so").write_bytes(b"")
    with pytest.raises(BundleError, match="differs from the manifest"):
        publish(copy, "--out", tmp_path / "a.tar")
    assert not (tmp_path / "a.tar").exists()


def test_a_bundle_of_an_older_format_is_told(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "old"
    shutil.copytree(folder, copy)
    manifest = json.loads((copy / "manifest.json").read_text()) | {"format": 1}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="format is 1"):
        publish(copy)


@needs_signing
def test_through_a_file(folder: Path, key: Path, tmp_path: Path) -> None:
    archived = tmp_path / "tiny.tar"
    assert publish(folder, "--key", key, "--out", archived) == 0
    assert fetch(archived, "--key", public(key), "--out", tmp_path / "out") == 0
    expected = {k: v for k, v in files(folder).items() if not k.startswith("measured")}
    assert files(tmp_path / "out" / "tiny") == expected
    archived.with_name("tiny.tar.sig").unlink()
    line = [archived, "--key", public(key), "--out", tmp_path / "again"]
    with pytest.raises(SignatureError, match="not signed"):
        fetch(*line)


def test_a_spec_stands_for_its_bundle(folder: Path, tmp_path: Path) -> None:
    assert publish(folder / "spec.yaml", "--out", tmp_path / "a.tar") == 0
    archive.pack(folder, tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


@pytest.mark.parametrize(
    ("args", "kind"),
    [
        ([], BundleError),
        (["absent"], BundleError),
        (["BUNDLE", "--ref", "nothing"], RegistryError),
        (["BUNDLE", "--ref", f"127.0.0.1:1/net@{sha256(b'')}"], RegistryError),
        (["BUNDLE", "--ref", "127.0.0.1:1/net:1", "--insecure"], RegistryError),
    ],
)
def test_bad_arguments(folder: Path, args: list[str], kind: type[WorkbenchError]) -> None:
    before = files(folder.parent)
    with pytest.raises(kind) as caught:
        publish(*(folder if arg == "BUNDLE" else arg for arg in args))
    assert caught.value.fix
    assert caught.value.exit_code == 2
    assert files(folder.parent) == before


@needs_signing
def test_the_commands(folder: Path, local: LocalRegistry, key: Path, tmp_path: Path) -> None:
    reference = f"{local.address}/models/tiny:commands"
    done = run_command("publish", folder, "--ref", reference, "--key", key, "--insecure")
    assert done.returncode == 0, done.stderr
    assert f"pushed     {reference}, sha256:" in done.stdout
    line = ["pull", reference, "--out", tmp_path / "out", "--insecure", "--key"]
    done = run_command(*line, public(key))
    assert done.returncode == 0, done.stderr
    assert "digests    and signature hold" in done.stdout
    other = signature.make_key(tmp_path / "other.key")
    done = run_command(*line, other)
    assert done.returncode == 2
    assert "error [signature]" in done.stderr
