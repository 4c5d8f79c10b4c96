"""`python -m compiler.publish BUNDLE`: packs, signs and pushes a bundle whose gate was passed."""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler import bundle, cli, spec, store
from compiler.errors import BundleError, GateError, RegistryError
from compiler.progress import Reporter
from compiler.publish import archive, artifact, signature
from compiler.publish.registry import Reference, Registry
from compiler.store import atomic, storage


@dataclass(frozen=True)
class Package:
    """What is published, as files in one folder.

    Attributes:
        archive: NAME.tar, deterministic.
        measured: the files of measured/.
        signatures: NAME.tar.sig and measured.sig, empty without a key.
        annotations: of the OCI manifest.
    """

    archive: Path
    measured: tuple[Path, ...]
    signatures: tuple[Path, ...]
    annotations: dict[str, str]


def package(folder: Path, key: Path | None, into: Path) -> Package:
    """Packs a bundle, and signs what was packed, into the empty folder `into`.

    Raises:
        GateError: the bundle missed its gate.
        BundleError: not a bundle, or changed after it was built.
        SignatureError, HostError: see `signature.sign`.
    """
    manifest = bundle.check(folder)
    accuracy = json.loads((folder / "accuracy.json").read_text(encoding="utf-8"))
    if not accuracy["gate"]["passed"]:
        raise GateError(
            f"the bundle missed its gate: {'; '.join(accuracy['gate']['reasons'])}",
            where=str(folder),
            fix="mend the spec or the network and build it again; what misses is not published",
        )
    packed = into / f"{manifest['name']}.tar"
    archive.pack(folder, packed)
    measured = tuple(sorted((folder / bundle.MEASURED).glob("*")))
    signatures = []
    if key is not None:
        signatures.append(into / f"{packed.name}.sig")
        signature.sign(archive.unpack(packed, into / "signed"), key, signatures[0])
        if measured:
            signatures.append(into / artifact.MEASURED_SIGNATURE)
            signature.sign(folder / bundle.MEASURED, key, signatures[1])
    annotations = _annotations(folder, manifest, accuracy, packed)
    return Package(packed, measured, tuple(signatures), annotations)


def _annotations(
    folder: Path, manifest: dict[str, Any], accuracy: dict[str, Any], packed: Path
) -> dict[str, str]:
    built = spec.load(folder / "spec.yaml").spec
    return {
        "org.opencontainers.image.title": manifest["name"],
        "vacc.bundle.name": manifest["name"],
        "vacc.bundle.target": built.backend.target,
        "vacc.bundle.isa": manifest["host"]["isa"],
        "vacc.bundle.protocol": accuracy["protocol"],
        "vacc.bundle.psnr_drop_db": f"{accuracy['drop']['psnr_db']['rgb']:.3f}",
        "vacc.bundle.sha256": store.file_sha256(packed),
    }


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    result = cli.command(
        "publish",
        "Pack a bundle into a deterministic archive, sign it, push it to an OCI registry.",
        examples=[
            "artifacts/bpp3x_int8",
            "--make-key vacc.key",
            "configs/bpp3x_int8.yaml --key vacc.key --out bpp3x.tar",
            "artifacts/bpp3x_int8 --key vacc.key --ref registry.example/models/bpp3x:1.0",
        ],
        status="0 ok, 2 the gate was missed, the bundle was changed, or bad input",
    )
    result.add_argument(
        "bundle", nargs="?", type=Path, metavar="SPEC_OR_BUNDLE", help="a bundle, or its spec"
    )
    result.add_argument("--key", type=Path, metavar="FILE", help="private key (PEM) to sign with")
    result.add_argument(
        "--ref",
        metavar="REGISTRY/REPOSITORY:TAG",
        help="push there, as REGISTRY_USER with REGISTRY_PASSWORD or as docker is logged in",
    )
    result.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="write the archive, and its signature FILE.sig; default without --ref: BUNDLE.tar",
    )
    result.add_argument("--insecure", action="store_true", help="plain HTTP, for a local registry")
    result.add_argument(
        "--make-key", type=Path, metavar="FILE", help="write a new key pair, FILE and FILE.pub"
    )
    return cli.with_output(result, "digests")


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    """Publishes one bundle."""
    if args.make_key:
        public = signature.make_key(args.make_key)
        reporter.stage(f"keep {args.make_key} secret; give away {public}")
    if args.bundle is None:
        if args.make_key:
            return 0
        raise BundleError("no bundle is named", fix="python -m compiler.publish artifacts/NAME")
    folder = _folder(args.bundle)
    reference = Reference.parse(args.ref) if args.ref else None
    with tempfile.TemporaryDirectory(prefix="vacc-publish-") as scratch:
        made = package(folder, args.key, Path(scratch))
        result = _describe(made)
        reporter.stage(f"packed     {result['bytes']} bytes, sha256:{result['sha256']}")
        out = args.out or (None if reference else folder.with_name(f"{folder.name}.tar"))
        if out is not None:
            _write(made, out)
            reporter.stage(f"written    {out}{f' and {out}.sig' if made.signatures else ''}")
        if reference:
            result |= {"digest": _push(made, reference, args.insecure)}
            reporter.stage(f"pushed     {reference}, {result['digest']}")
        if not made.signatures:
            reporter.warn("not signed: nobody can tell whose it is; name a key with --key")
    cli.write_result(args.json, result)
    return 0


def _folder(path: Path) -> Path:
    """The bundle itself, or that of a spec."""
    if not path.is_file():
        return path
    built = spec.load(path).spec
    return Path(built.workspace.path) / built.name


def _describe(made: Package) -> dict[str, Any]:
    return {
        "name": made.annotations["vacc.bundle.name"],
        "sha256": made.annotations["vacc.bundle.sha256"],
        "bytes": made.archive.stat().st_size,
        "signed": bool(made.signatures),
    }


def _write(made: Package, out: Path) -> None:
    files = [(made.archive, out)]
    files += [(s, out.with_name(f"{out.name}.sig")) for s in made.signatures[:1]]
    for source, target in files:
        with atomic(target) as temporary, storage(target):
            temporary.write_bytes(source.read_bytes())


def _push(made: Package, reference: Reference, insecure: bool) -> str:
    if reference.digest:
        raise RegistryError(
            "a push goes to a tag, not to a digest", where=str(reference), fix="leave @sha256: out"
        )
    registry = Registry(reference, insecure=insecure)
    return artifact.push(registry, made.archive, made.measured, made.signatures, made.annotations)
