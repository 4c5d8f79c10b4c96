"""The bundle: the directory of one build that anyone can run, check and publish.

spec.yaml fp32.onnx qdq.onnx mod.so network.json calibration.json accuracy.json accuracy.csv golden/
vendor.yaml vdsp_params.json           the same build for the vendor's compiler
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

import numpy as np
import onnx
import yaml
from numpy.typing import NDArray

from compiler import host, network, qdq, reference, store
from compiler.engine import Engine
from compiler.errors import BundleError, ModelError
from compiler.spec import Spec
from compiler.store import Store

FORMAT = 1
LIBRARY = "mod.so"
MANIFEST, SEAL, MEASURED = "manifest.json", "manifest.sha256", "measured"
GOLDEN_SIZE = (48, 64)
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
    """Opens a bundle: checks its digests and the instruction set of its library.

    Raises:
        BundleError: not a bundle, incomplete, or changed; names the file.
        HostError: its library needs features that this machine lacks.
    """
    manifest = check(path)
    try:
        build_spec = Spec.model_validate(yaml.safe_load((path / "spec.yaml").read_text("utf-8")))
        built_for = host.Host(**manifest["host"])
        fp32, quantized = (onnx.load(path / name) for name in ("fp32.onnx", "qdq.onnx"))
        calibrated_on = frozenset(manifest["calibration"]["images"])
        net = qdq.read(quantized)
    except (ValueError, KeyError, TypeError, OSError, ModelError) as error:
        raise _not_a_bundle(path, f"it cannot be read: {error}") from error
    host.require(built_for.isa)
    engine = Engine(
        spec=build_spec,
        fp32=fp32,
        net=net,
        host=built_for,
        libraries=Store(path.resolve().parent / ".store"),
        calibrated_on=calibrated_on,
        main_library=path / LIBRARY,
    )
    return Bundle(path, build_spec, manifest, engine)


def find(folder: Path) -> tuple[Path, ...]:
    """Every bundle directly under `folder`, by name."""
    if not folder.is_dir():
        return ()
    return tuple(sorted(p.parent for p in folder.glob(f"*/{MANIFEST}")))


def write(
    folder: Path,
    engine: Engine,
    *,
    library: Path,
    texts: Mapping[str, str],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Fills `folder` (a temporary name, see `store.atomic`) with the deterministic files.

    Returns the manifest.

    Args:
        library: the compiled library of the spec's shape.
        texts: file name to content: network.json, calibration.json, accuracy.json, accuracy.csv.
        provenance: manifest entries `spec_sha256`, `model` and `calibration`.
    """
    folder.mkdir()
    (folder / "spec.yaml").write_text(dump_spec(engine.spec), encoding="utf-8")
    for name, model in (("fp32.onnx", engine.fp32), ("qdq.onnx", qdq.write(engine.net))):
        (folder / name).write_bytes(model.SerializeToString(deterministic=True))
    (folder / LIBRARY).write_bytes(library.read_bytes())
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    _write_golden(folder / "golden", engine.net)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "name": engine.spec.name,
        **provenance,
        "host": {"isa": engine.host.isa, "threads": engine.host.threads},
        "tools": versions(),
        "files": digests(folder),
    }
    text = json.dumps(manifest, indent=2) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    seal = hashlib.sha256(text.encode()).hexdigest()
    (folder / SEAL).write_text(f"{seal}  {MANIFEST}\n", encoding="utf-8")
    return manifest


def write_measured(folder: Path, files: Mapping[str, str]) -> None:
    """Fills `folder`/measured and seals it with a manifest of its own."""
    measured = folder / MEASURED
    measured.mkdir()
    for name, text in files.items():
        (measured / name).write_text(text, encoding="utf-8")
    manifest = {"machine": machine(), "files": digests(measured)}
    (measured / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def check(path: Path) -> dict[str, Any]:
    """The manifest, after every digest in it was compared.

    Raises:
        BundleError: names the first file that is missing, changed, or not in the manifest.
    """
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
        seal = (path / SEAL).read_text(encoding="utf-8").split()[0]
        manifest: dict[str, Any] = json.loads(text)
        files: dict[str, str] = manifest["files"]
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise _not_a_bundle(path, f"{MANIFEST} is missing or damaged ({error})") from error
    if hashlib.sha256(text.encode()).hexdigest() != seal:
        raise _changed(path / MANIFEST)
    _compare(path, files, frozenset({MANIFEST, SEAL}))
    measured = path / MEASURED
    if measured.is_dir():
        try:
            recorded = json.loads((measured / MANIFEST).read_text(encoding="utf-8"))["files"]
        except (OSError, ValueError, KeyError) as error:
            raise _changed(measured / MANIFEST) from error
        _compare(measured, recorded, frozenset({MANIFEST}))
    return manifest


def _compare(folder: Path, recorded: Mapping[str, str], own: frozenset[str]) -> None:
    try:
        found = digests(folder)
    except OSError as error:
        raise _not_a_bundle(folder, f"a file cannot be read ({error})") from error
    for name in sorted(recorded.keys() | (found.keys() - own)):
        if recorded.get(name) != found.get(name):
            raise _changed(folder / name)


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


def golden_input(channels: int) -> NDArray[np.float32]:
    """The input of golden/: seeded noise over a ramp, float32 [1, C, 48, 64] in [0, 1]."""
    height, width = GOLDEN_SIZE
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, width, dtype=np.float32)
    noise = rng.random((1, channels, height, width), dtype=np.float32)
    mixed: NDArray[np.float32] = (ramp + noise) / np.float32(2)
    return mixed


def _write_golden(folder: Path, net: network.Network) -> None:
    """A small input and the golden model's answer: any other implementation can check itself."""
    folder.mkdir()
    x = golden_input(net.input_tensor.channels)
    np.save(folder / "input.npy", x)
    for name, value in reference.trace(net, x):
        if name in (net.ops[0].output, net.output):
            label = "output" if name == net.output else "quantized_input"
            np.save(folder / f"{label}.npy", value)


def _not_a_bundle(path: Path, why: str) -> BundleError:
    return BundleError(
        f"not a complete bundle: {why}", where=str(path), fix="build it with `make build CFG=...`"
    )


def _changed(path: Path) -> BundleError:
    return BundleError(
        "the file differs from the manifest of its bundle",
        where=str(path),
        fix="build the bundle again, or fetch it again",
    )
