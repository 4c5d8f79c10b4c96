"""The bundle: the directory of one build that anyone can run, check and publish.

spec.yaml fp32.onnx qdq.onnx network.json calibration.json accuracy.json accuracy.csv golden/
mod.so mod.portable.so                 the library, and the same for any x86-64 processor
vendor.yaml vdsp_params.json           the same build for the vendor's compiler
provenance.json                        in-toto statement: what all this was made from
manifest.json manifest.sha256          deterministic: same inputs, same bytes
measured/                              what depends on the clock, with a manifest of its own
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx
import yaml

from compiler import host, provenance, qdq, store, vectors
from compiler.engine import Engine
from compiler.errors import BundleError, ModelError
from compiler.host import Host
from compiler.schema import Spec
from compiler.store import Store

FORMAT = 2
LIBRARY, PORTABLE_LIBRARY = "mod.so", "mod.portable.so"
MANIFEST, SEAL, MEASURED = "manifest.json", "manifest.sha256", "measured"
PROVENANCE, GOLDEN = "provenance.json", "golden"
_TOOLS = ("numpy", "onnx", "onnxruntime", "onnxsim", "apache-tvm", "opencv-python-headless")


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose digests were checked."""

    path: Path
    spec: Spec
    manifest: Mapping[str, Any]
    engine: Engine

    @property
    def name(self) -> str:
        """Name of the build."""
        return self.spec.name


def load(path: Path) -> Bundle:
    """Opens a bundle: checks its digests, and picks the library that this machine can run.

    Raises:
        BundleError: not a bundle, incomplete, or changed; names the file.
        HostError: none of its libraries runs here; names what the machine lacks.
    """
    manifest = check(path)
    try:
        build_spec = Spec.model_validate(yaml.safe_load((path / "spec.yaml").read_text("utf-8")))
        library, runs_as = _fitting(manifest)
        fp32, quantized = (onnx.load(path / name) for name in ("fp32.onnx", "qdq.onnx"))
        calibrated_on = frozenset(manifest["calibration"]["images"])
        net = qdq.read(quantized)
    except (ValueError, KeyError, TypeError, OSError, ModelError) as error:
        raise _not_a_bundle(path, f"it cannot be read: {error}") from error
    portable = path / PORTABLE_LIBRARY
    engine = Engine(
        spec=build_spec,
        fp32=fp32,
        net=net,
        host=runs_as,
        libraries=Store(path.resolve().parent / ".store"),
        calibrated_on=calibrated_on,
        main_library=path / library,
        portable_library=portable if portable.exists() else None,
    )
    return Bundle(path, build_spec, manifest, engine)


def _fitting(manifest: Mapping[str, Any]) -> tuple[str, Host]:
    """The library for this machine: the native one where its instruction set is here.

    Raises:
        HostError: neither fits; names the features that the native one needs.
    """
    isa, threads = manifest["host"]["isa"], manifest["host"]["threads"]
    runs = isa in host.FEATURES and host.supports(isa)  # an unknown one is a later version's
    if runs or PORTABLE_LIBRARY not in manifest["files"]:
        native = Host(isa, threads)
        host.require(isa)
        return LIBRARY, native
    host.require("portable")
    return PORTABLE_LIBRARY, Host("portable", threads)


def find(folder: Path) -> tuple[Path, ...]:
    """Every bundle directly under `folder`, by name."""
    if not folder.is_dir():
        return ()
    return tuple(sorted(p.parent for p in folder.glob(f"*/{MANIFEST}")))


def write(
    folder: Path,
    engine: Engine,
    *,
    texts: Mapping[str, str],
    origin: Mapping[str, Any],
) -> dict[str, Any]:
    """Fills `folder` (a temporary name, see `store.atomic`) with the deterministic files.

    Returns the manifest.

    Args:
        texts: file name to content: network.json, calibration.json, accuracy.json, accuracy.csv.
        origin: manifest entries `model` and `calibration`.
    """
    folder.mkdir()
    (folder / "spec.yaml").write_text(dump_spec(engine.spec), encoding="utf-8")
    for name, model in (("fp32.onnx", engine.fp32), ("qdq.onnx", qdq.write(engine.net))):
        (folder / name).write_bytes(model.SerializeToString(deterministic=True))
    for name, made in ((LIBRARY, engine), (PORTABLE_LIBRARY, engine.portable)):
        if made is not None:
            library = made.library_path(made.main_net, made.main_size)
            (folder / name).write_bytes(library.read_bytes())
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    vectors.write(folder / GOLDEN, engine)
    _write_provenance(folder, engine, origin)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "name": engine.spec.name,
        **origin,
        "host": {"isa": engine.host.isa, "threads": engine.host.threads},
        "tools": versions(),
        "provenance": PROVENANCE,
        "files": digests(folder),
    }
    text = store.json_text(manifest)
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    seal = hashlib.sha256(text.encode()).hexdigest()
    (folder / SEAL).write_text(f"{seal}  {MANIFEST}\n", encoding="utf-8")
    return manifest


def _write_provenance(folder: Path, engine: Engine, origin: Mapping[str, Any]) -> None:
    statement = provenance.statement(
        spec=engine.spec,
        host=engine.host,
        model=origin["model"],
        images=origin["calibration"]["images"],
        tools=versions(),
        files=digests(folder),
    )
    text = store.json_text(statement)
    (folder / PROVENANCE).write_text(text, encoding="utf-8")


def write_measured(folder: Path, files: Mapping[str, str]) -> None:
    """Fills `folder`/measured and seals it with a manifest of its own, which names the bundle's."""
    _write_measured(folder / MEASURED, folder / MANIFEST, files)


def _write_measured(measured: Path, sealed: Path, files: Mapping[str, str]) -> None:
    measured.mkdir()
    for name, text in files.items():
        (measured / name).write_text(text, encoding="utf-8")
    manifest = {
        "bundle": store.file_sha256(sealed),
        "machine": machine(),
        "files": digests(measured),
    }
    (measured / MANIFEST).write_text(store.json_text(manifest), encoding="utf-8")


def replace_measured(path: Path, changes: Mapping[str, str]) -> None:
    """Writes files of a finished bundle's measured/ anew; the others stay, and all are sealed.

    Args:
        changes: file name to text.
    Raises:
        StorageError: the folder cannot be written; it is as it was then.
    """
    old = path / MEASURED
    kept = {p.name: p.read_text("utf-8") for p in old.iterdir() if p.name != MANIFEST}
    with store.atomic(old) as temporary, store.storage(old):
        _write_measured(temporary, path / MANIFEST, {**kept, **changes})


def check(path: Path) -> dict[str, Any]:
    """The manifest, after every digest in it was compared.

    Raises:
        BundleError: names the first file that is missing, changed, or not in the manifest.
    """
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
        seal = (path / SEAL).read_text(encoding="utf-8").split()[0]
        manifest: dict[str, Any] = json.loads(text)
        files, written_as = dict(manifest["files"]), manifest["format"]
    except (OSError, ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise _not_a_bundle(path, f"{MANIFEST} is missing or damaged ({error})") from error
    if written_as != FORMAT:
        raise _not_a_bundle(path, f"its format is {written_as}, this version reads {FORMAT}")
    if hashlib.sha256(text.encode()).hexdigest() != seal:
        raise changed(path / MANIFEST)
    _compare(path, files, frozenset({MANIFEST, SEAL}))
    measured = path / MEASURED
    if measured.is_dir():
        try:
            recorded = json.loads((measured / MANIFEST).read_text(encoding="utf-8"))
            of_this_bundle = recorded["bundle"] == seal
            listed = dict(recorded["files"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise changed(measured / MANIFEST) from error
        if not of_this_bundle:
            raise changed(measured / MANIFEST)
        _compare(measured, listed, frozenset({MANIFEST}))
    return manifest


def _compare(folder: Path, recorded: Mapping[str, str], own: frozenset[str]) -> None:
    try:
        found = digests(folder)
    except OSError as error:
        raise _not_a_bundle(folder, f"a file cannot be read ({error})") from error
    for name in sorted(recorded.keys() | (found.keys() - own)):
        if recorded.get(name) != found.get(name):
            raise changed(folder / name)


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file under `folder` but `measured/`, by relative path, sorted."""
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if not p.is_dir())
    return {f.as_posix(): store.file_sha256(folder / f) for f in files if f.parts[0] != MEASURED}


def versions() -> dict[str, str]:
    """Versions of Python and of every tool whose output is in a bundle."""
    return {"python": platform.python_version()} | {t: metadata.version(t) for t in _TOOLS}


def machine() -> dict[str, Any]:
    """The machine, for figures that depend on it."""
    model = ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "")
    return {"processor": model, "cpus": os.cpu_count(), "system": platform.system()}


def dump_spec(value: Spec) -> str:
    """The spec with all defaults written out, as YAML that `spec.load` accepts."""
    return yaml.safe_dump(value.model_dump(mode="json"), sort_keys=False, width=100)


def _not_a_bundle(path: Path, why: str) -> BundleError:
    return BundleError(
        f"not a complete bundle: {why}", where=str(path), fix="build it with `make build CFG=...`"
    )


def changed(path: Path) -> BundleError:
    """The error for a file that is not what its bundle's manifest says."""
    return BundleError(
        "the file differs from the manifest of its bundle",
        where=str(path),
        fix="build the bundle again, or fetch it again",
    )
