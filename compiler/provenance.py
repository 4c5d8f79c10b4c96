"""Where a bundle comes from: an in-toto Statement v1 with an SLSA Provenance v1 predicate.

https://in-toto.io/Statement/v1 and https://slsa.dev/spec/v1.0/provenance. It holds no times, so the
same inputs give the same statement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from compiler import store
from compiler.host import Host
from compiler.schema import Spec

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:vacc-workbench:build:v1"
BUILDER = "urn:vacc-workbench:compiler.build"
_PACKAGE = "vacc-workbench"


def statement(
    *,
    spec: Spec,
    host: Host,
    model: Mapping[str, str],
    images: Sequence[str],
    tools: Mapping[str, str],
    files: Mapping[str, str],
) -> dict[str, Any]:
    """The statement about the files of a bundle.

    Args:
        model: `path` as the spec names it, and `sha256`.
        images: content digests of the calibration images (`calib.images.digest`: sha256 of type,
            shape and pixels, not of a file).
        tools: versions by package name (`bundle.versions`).
        files: sha256 by relative path: the subjects.
    """
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": d}} for name, d in files.items()],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"spec": spec.model_dump(mode="json")},
                "internalParameters": {"isa": host.isa, "threads": host.threads},
                "resolvedDependencies": [
                    {"name": f"model {model['path']}", "digest": {"sha256": model["sha256"]}},
                    *({"name": "calibration image", "digest": {"pixelSha256": d}} for d in images),
                    *({"uri": _purl(name, version)} for name, version in tools.items()),
                ],
            },
            "runDetails": {
                "builder": {
                    "id": BUILDER,
                    "version": {_PACKAGE: metadata.version(_PACKAGE)},
                    "builderDependencies": [
                        {"name": "source", "digest": {"sha256": store.source_digest()}}
                    ],
                }
            },
        },
    }


def _purl(name: str, version: str) -> str:
    """A package URL, https://github.com/package-url/purl-spec."""
    return f"pkg:{'generic' if name == 'python' else 'pypi'}/{name}@{version}"
