"""A published bundle as an OCI artifact: an image manifest with an artifact type of its own.

Layers: the archive, the files of measured/ (so that a report can be looked at by itself), and a
signature of each of the two. Nothing in the manifest depends on the clock. `oras pull` fetches it
too. https://github.com/opencontainers/image-spec/blob/v1.1.0/manifest.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compiler.bundle import MEASURED
from compiler.errors import ArtifactError
from compiler.publish.archive import MAX_BYTES, MAX_FILES
from compiler.publish.registry import MANIFEST_TYPE, Registry, sha256

ARTIFACT_TYPE: Final = "application/vnd.vacc.bundle.v1"
ARCHIVE_TYPE: Final = "application/vnd.vacc.bundle.v1.tar"
MEASURED_TYPE: Final = "application/vnd.vacc.bundle.measured.v1"
SIGNATURE_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
MEASURED_SIGNATURE: Final = f"{MEASURED}.sig"
_EMPTY_TYPE, _EMPTY = "application/vnd.oci.empty.v1+json", b"{}"
_TITLE = "org.opencontainers.image.title"
_FILE = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Layer:
    """One blob of a published bundle.

    Attributes:
        title: file name; `measured/NAME` for a file of measured/.
    """

    media_type: str
    title: str
    digest: str
    size: int

    def to_json(self) -> dict[str, Any]:
        """The OCI descriptor."""
        return {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size,
            "annotations": {_TITLE: self.title},
        }


@dataclass(frozen=True)
class Published:
    """The layers of a published bundle, by what they are; signatures only where it is signed."""

    archive: Layer
    measured: tuple[Layer, ...]
    signatures: Mapping[str, Layer]

    def signature(self, of: str) -> Layer | None:
        """The signature of the archive or of measured/."""
        return self.signatures.get(f"{of}.sig")


def push(
    registry: Registry,
    archive: Path,
    measured: Sequence[Path],
    signatures: Sequence[Path],
    annotations: Mapping[str, str],
) -> str:
    """Stores blobs, then the manifest that makes them a bundle; returns the manifest's digest.

    Args:
        archive: NAME.tar.
        measured: the files of measured/.
        signatures: NAME.tar.sig and measured.sig, or none.
    Raises:
        RegistryError: the registry cannot be reached or refuses.
    """
    parts = [(ARCHIVE_TYPE, archive.name, archive)]
    parts += [(MEASURED_TYPE, f"{MEASURED}/{path.name}", path) for path in measured]
    parts += [(SIGNATURE_TYPE, path.name, path) for path in signatures]
    layers = []
    for media_type, title, path in parts:
        data = path.read_bytes()
        registry.store(data)
        layers.append(Layer(media_type, title, sha256(data), len(data)))
    registry.store(_EMPTY)
    return registry.put_manifest(manifest(layers, annotations))


def manifest(layers: Sequence[Layer], annotations: Mapping[str, str]) -> bytes:
    """The OCI image manifest; the same arguments give the same bytes."""
    value = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": {"mediaType": _EMPTY_TYPE, "digest": sha256(_EMPTY), "size": len(_EMPTY)},
        "layers": [layer.to_json() for layer in layers],
        "annotations": dict(sorted(annotations.items())),
    }
    return json.dumps(value, indent=2).encode()


def read(data: bytes, where: str) -> Published:
    """The layers of a manifest that nobody trusts yet.

    Raises:
        ArtifactError: not a published bundle, an unsafe file name, or too large.
    """
    try:
        value = json.loads(data)
        kind = value.get("artifactType") or value.get("mediaType")
        if kind != ARTIFACT_TYPE:
            raise _no_bundle(where, f"its type is {str(kind)[:100]}")
        layers = [
            Layer(item["mediaType"], item["annotations"][_TITLE], item["digest"], item["size"])
            for item in value["layers"]
        ]
        for layer in layers:
            _require_sane(layer, where)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _no_bundle(where, f"its manifest cannot be read ({error!r})") from error
    archives = [layer for layer in layers if layer.media_type == ARCHIVE_TYPE]
    titles = [layer.title for layer in layers]
    if len(archives) != 1 or len(titles) > MAX_FILES or len(set(titles)) != len(titles):
        raise _no_bundle(where, f"it has {len(archives)} archives in {len(titles)} layers")
    if sum(layer.size for layer in layers) > MAX_BYTES:
        raise _no_bundle(where, f"it is larger than {MAX_BYTES} bytes")
    return Published(
        archives[0],
        tuple(layer for layer in layers if layer.media_type == MEASURED_TYPE),
        {layer.title: layer for layer in layers if layer.media_type == SIGNATURE_TYPE},
    )


def _require_sane(layer: Layer, where: str) -> None:
    folder = f"{MEASURED}/" if layer.media_type == MEASURED_TYPE else ""
    if not re.fullmatch(f"{folder}{_FILE}", layer.title):
        raise _no_bundle(where, f"it has a file {layer.title[:100]!r}")
    if not _DIGEST.fullmatch(layer.digest) or type(layer.size) is not int or layer.size < 0:
        raise _no_bundle(where, f"the descriptor of {layer.title} is wrong")


def _no_bundle(where: str, why: str) -> ArtifactError:
    return ArtifactError(
        f"not a published bundle: {why}",
        where=where,
        fix="name what python -m compiler.publish --ref has pushed",
    )
