"""`python -m compiler.pull REF`: fetches a published bundle, and trusts it only after every check.

Size, digest, signature, manifest and golden vectors are checked in a hidden folder; only then does
the bundle get its name. Code of the bundle runs last, when all else holds.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from compiler import bundle, cli, store, vectors
from compiler.errors import ArtifactError, BundleError, SignatureError
from compiler.progress import Reporter
from compiler.publish import archive, artifact, signature
from compiler.publish.artifact import Layer
from compiler.publish.registry import Reference, Registry, sha256
from compiler.store import atomic, storage


@dataclass(frozen=True)
class Fetched:
    """What came, as files: nothing of it is trusted yet.

    Attributes:
        source: where it is from, for messages.
        archive: the archive.
        signature: its signature, if it has one.
        measured: folder with the files of measured/, if there are any.
        measured_signature: the signature of that folder, if it has one.
    """

    source: str
    archive: Path
    signature: Path | None = None
    measured: Path | None = None
    measured_signature: Path | None = None


def from_registry(reference: Reference, into: Path, *, insecure: bool = False) -> Fetched:
    """Fetches all layers into the folder `into`; each has the digest that the manifest states.

    Raises:
        RegistryError: the registry cannot be reached, or has no such artifact.
        ArtifactError: not a published bundle, a wrong digest, or too large.
    """
    registry = Registry(reference, insecure=insecure)
    data = registry.manifest()
    published = artifact.read(data, str(reference))

    def fetch(layer: Layer | None, to: Path) -> Path | None:
        if layer is None:
            return None
        with storage(to):
            to.parent.mkdir(parents=True, exist_ok=True)
        registry.fetch(layer.digest, layer.size, to)
        return to

    packed = into / "bundle.tar"
    fetch(published.archive, packed)
    for layer in published.measured:
        fetch(layer, into / layer.title)
    measured = into / bundle.MEASURED
    return Fetched(
        f"{reference} ({sha256(data)})",
        packed,
        fetch(published.signature(published.archive.title), into / "bundle.tar.sig"),
        measured if published.measured else None,
        fetch(published.signature(bundle.MEASURED), into / artifact.MEASURED_SIGNATURE),
    )


def from_file(path: Path) -> Fetched:
    """An archive that `publish --out` wrote, and its signature beside it.

    Raises:
        ArtifactError: it is too large.
    """
    if path.stat().st_size > archive.MAX_BYTES:
        raise ArtifactError(
            f"larger than {archive.MAX_BYTES} bytes", where=str(path), fix="name a bundle"
        )
    beside = path.with_name(f"{path.name}.sig")
    return Fetched(str(path), path, beside if beside.exists() else None)


def unpack(fetched: Fetched, into: Path, key: Path | None) -> Path:
    """The bundle as a folder in `into`, after its signature and every digest in it held.

    Nothing of it has run.

    Args:
        key: the publisher's public key; without it no signature is looked at.
    Raises:
        ArtifactError: the archive is refused.
        SignatureError: no signature, or one that does not hold.
        BundleError: a file differs from the manifest.
    """
    folder = archive.unpack(fetched.archive, into)
    if key is not None:
        signature.verify(folder, _required(fetched.signature, fetched.source), key)
    if fetched.measured is not None:
        if key is not None:
            signed = _required(fetched.measured_signature, fetched.source)
            signature.verify(fetched.measured, signed, key)
        with storage(folder):
            fetched.measured.rename(folder / bundle.MEASURED)
    name = bundle.check(folder).get("name")
    if name != folder.name:
        raise BundleError(
            f"the archive is of {folder.name!r}, its manifest of {name!r}",
            where=fetched.source,
            fix="do not use it; ask its publisher",
        )
    return folder


def _required(path: Path | None, source: str) -> Path:
    if path is None:
        raise SignatureError(
            "it is not signed, and --key asks for a signature",
            where=source,
            fix="ask its publisher to sign it; without --key it is taken from anybody",
        )
    return path


def prove(folder: Path) -> tuple[str, int]:
    """Runs the library on the golden input; returns its instruction set and the values compared.

    Raises:
        HostError: none of its libraries runs here.
        NotBitExactError: it answers something else than the golden model.
    """
    engine = bundle.load(folder).engine
    return engine.host.isa, vectors.check(folder / bundle.GOLDEN, engine)


@contextlib.contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A hidden folder in `out` that vanishes."""
    with storage(out):
        out.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".pull.", dir=out))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _require_free(final: Path, folder: Path, force: bool) -> None:
    """Raises BundleError where another build of that name would be lost."""
    if force or not final.exists():
        return
    seal = final / bundle.SEAL
    if not seal.is_file() or seal.read_bytes() != (folder / bundle.SEAL).read_bytes():
        raise BundleError(
            "there is something else of this name",
            where=str(final),
            fix="move it away, choose another --out, or replace it with --force",
        )


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    result = cli.command(
        "pull",
        "Fetch a published bundle. It gets its name only after digests, signature and golden "
        "vectors were checked.",
        examples=[
            "registry.example/models/bpp3x:1.0 --key vacc.key.pub",
            "registry.example/models/bpp3x@sha256:DIGEST --out bundles",
            "bpp3x.tar --key vacc.key.pub",
        ],
        status="0 ok, 2 not there, or a check failed, 3 the library differs from the golden model",
    )
    result.add_argument(
        "ref", metavar="REF", help="REGISTRY/REPOSITORY:TAG, or the archive of publish --out"
    )
    result.add_argument(
        "--out",
        type=Path,
        default=Path("artifacts"),
        metavar="DIR",
        help="parent of the bundle's directory (default: artifacts)",
    )
    result.add_argument("--key", type=Path, metavar="FILE", help="the publisher's public key")
    result.add_argument("--insecure", action="store_true", help="plain HTTP, for a local registry")
    result.add_argument("--force", action="store_true", help="replace another build of that name")
    return cli.with_output(result, "what was checked")


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    """Fetches one bundle."""
    with _scratch(args.out) as scratch:
        local = Path(args.ref)
        with reporter.busy(f"fetching {args.ref}"):
            fetched = (
                from_file(local)
                if local.is_file()
                else from_registry(Reference.parse(args.ref), scratch, insecure=args.insecure)
            )
        reporter.stage(f"fetched    {fetched.source}")
        folder = unpack(fetched, scratch / "unpacked", args.key)
        final = args.out / folder.name
        _require_free(final, folder, args.force)
        reporter.stage(f"digests    {'and signature ' if args.key else ''}hold")
        if not args.key:
            reporter.warn("no --key: the bundle is whole, but nobody knows whose it is")
        isa, values = prove(folder)
        reporter.stage(f"golden     {values} values equal, {isa} library")
        with atomic(final) as temporary, storage(final):
            folder.rename(temporary)
    reporter.stage(f"bundle     {final}")
    seal = store.file_sha256(final / bundle.MANIFEST)
    cli.write_result(
        args.json,
        {
            "bundle": str(final),
            "source": fetched.source,
            "manifest_sha256": seal,
            "signature": "verified" if args.key else "not checked",
            "golden": {"isa": isa, "values": values},
        },
    )
    return 0


if __name__ == "__main__":
    cli.main(parser(), run)
