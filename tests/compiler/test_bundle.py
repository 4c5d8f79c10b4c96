"""What a bundle carries for others: golden vectors, provenance, a portable library."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import pytest

from compiler import bundle, host, pipeline, qdq, reference, vectors
from compiler.errors import BundleError, HostError, NotBitExactError

FEATURELESS = "processor\t: 0\nflags\t\t: fpu sse sse2\n"


@pytest.fixture
def folder(tiny_build: pipeline.Result) -> Path:
    assert tiny_build.bundle is not None
    return tiny_build.bundle


@pytest.fixture
def old_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This process believes that it runs on a processor with SSE2 only."""
    (tmp_path / "cpuinfo").write_text(FEATURELESS)
    monkeypatch.setattr(host, "_CPUINFO", tmp_path / "cpuinfo")


@pytest.mark.usefixtures("old_processor")
def test_an_old_processor_gets_the_portable_library(folder: Path) -> None:
    if not (folder / bundle.PORTABLE_LIBRARY).exists():
        pytest.skip("the best instruction set of this machine is the portable one")
    opened = bundle.load(folder)
    assert opened.engine.host.isa == "portable"
    assert opened.engine.main_library == folder / bundle.PORTABLE_LIBRARY
    assert vectors.check(folder / bundle.GOLDEN, opened.engine) > 0


@pytest.mark.usefixtures("old_processor")
def test_without_a_fitting_library_the_missing_feature_is_named() -> None:
    manifest = {"host": {"isa": "avx2", "threads": 1}, "files": {"mod.so": ""}}
    with pytest.raises(HostError, match="avx2 needs avx2, fma"):
        bundle._fitting(manifest)


def test_an_instruction_set_of_a_later_version_leaves_the_portable_library() -> None:
    files = {bundle.LIBRARY: "", bundle.PORTABLE_LIBRARY: ""}
    manifest = {"host": {"isa": "zen9", "threads": 2}, "files": files}
    assert bundle._fitting(manifest) == (bundle.PORTABLE_LIBRARY, host.Host("portable", 2))
    del files[bundle.PORTABLE_LIBRARY]
    with pytest.raises(HostError, match="unknown instruction set 'zen9'"):
        bundle._fitting(manifest)


def test_another_architecture_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(HostError, match="this processor is aarch64"):
        bundle.load(folder)


def test_the_native_library_is_preferred(folder: Path) -> None:
    engine = bundle.load(folder).engine
    assert engine.main_library == folder / bundle.LIBRARY
    if engine.portable:
        assert engine.portable.main_library == folder / bundle.PORTABLE_LIBRARY
        assert engine.portable.portable is None


# Of SSE3, SSSE3, SSE4.1 and SSE4.2, what a compiler would use on integers and floats like ours.
NEWER = {"pmulld", "pshufb", "palignr", "ptest", "packusdw", "pblendvb", "pblendw", "popcnt"} | {
    f"{stem}{end}"
    for stem, ends in {
        "pmin": ("sd", "ud", "sb", "uw"),
        "pmax": ("sd", "ud", "sb", "uw"),
        "pmov": ("sxbw", "zxbw", "sxwd", "zxwd", "sxbd", "zxbd"),
        "round": ("ps", "ss", "pd", "sd"),
        "hadd": ("ps", "pd"),
        "phadd": ("w", "d"),
        "pabs": ("b", "w", "d"),
    }.items()
    for end in ends
}


def test_the_portable_library_is_code_for_any_x86_64(folder: Path) -> None:
    library = folder / bundle.PORTABLE_LIBRARY
    if not library.exists() or shutil.which("objdump") is None:
        pytest.skip("no portable library beside the native one, or objdump is not installed")
    line = ["objdump", "-d", "--no-show-raw-insn", str(library)]
    text = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    used = {x.split("\t")[1].split()[0] for x in text.splitlines() if x.count("\t") == 1}
    assert "pmaddwd" in used  # SSE2: the kernels are there
    assert not {name for name in used if name.startswith("v")}
    assert not used & NEWER


def test_vectors_follow_the_formulas(folder: Path) -> None:
    golden = folder / "golden"
    x, q, y, frame = (
        np.load(golden / f"{name}.npy")
        for name in ("input", "quantized_input", "output", "output_uint8")
    )
    net = bundle.load(folder).engine.net
    scale = np.float32(net.tensors[net.ops[0].output].q.scale)
    np.testing.assert_array_equal(q, np.clip(np.rint(x[0] / scale), -128, 127))
    assert frame.shape == (1, *y.shape[1:], y.shape[0])
    # clamp(rne(255 y)) up to the rounding of float32(acc) * m255 against 255 * (float32(acc) * m)
    exact = np.clip(255 * y.astype(np.float64), 0, 255).transpose(1, 2, 0)
    assert np.abs(frame[0] - exact).max() < 0.5 + 1e-3


def test_the_main_vector_is_the_golden_models_answer(folder: Path) -> None:
    recorded = json.loads((folder / "golden" / "main.json").read_text())
    x = np.load(folder / "golden" / "input.npy")[:, :, :32, :48]
    net = qdq.read(onnx.load(folder / "qdq.onnx"))
    y = reference.run(net, x)
    assert recorded["input_shape"] == [1, 3, 32, 48]
    assert recorded["output_shape"] == list(y.shape)
    assert recorded["output_sha256"] == hashlib.sha256(y.astype("<f4").tobytes()).hexdigest()


def test_the_input_is_repeated_to_a_larger_size(folder: Path) -> None:
    net = bundle.load(folder).engine.net
    small = np.arange(48 * 64 * 3, dtype=np.float32).reshape(1, 3, 48, 64)
    large = vectors.main_input(small, net, (100, 130))
    rows, cols = np.indices((100, 130))
    np.testing.assert_array_equal(large[0], small[0][:, rows % 48, cols % 64])


@pytest.mark.parametrize("name", ["output.npy", "main.json"])
def test_another_answer_is_no_match(folder: Path, tmp_path: Path, name: str) -> None:
    golden = tmp_path / "golden"
    shutil.copytree(folder / "golden", golden)
    if name == "main.json":
        recorded = json.loads((golden / name).read_text())
        recorded["output_sha256"] = "0" * 64
        (golden / name).write_text(json.dumps(recorded))
    else:
        y = np.load(golden / name)
        y[0, 5, 7] = np.nextafter(y[0, 5, 7], np.float32(9))
        np.save(golden / name, y)
    with pytest.raises(NotBitExactError) as caught:
        vectors.check(golden, bundle.load(folder).engine)
    assert name in caught.value.where


@pytest.mark.parametrize("content", [None, b"", b"no array", "wrong shape"])
def test_damaged_vectors_are_told(folder: Path, tmp_path: Path, content: object) -> None:
    golden = tmp_path / "golden"
    shutil.copytree(folder / "golden", golden)
    target = golden / "input.npy"
    if content is None:
        target.unlink()
    elif isinstance(content, bytes):
        target.write_bytes(content)
    else:
        np.save(target, np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(BundleError, match="golden vectors cannot be read"):
        vectors.check(golden, bundle.load(folder).engine)


def test_provenance_names_every_input_and_no_time(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    statement = json.loads((folder / manifest["provenance"]).read_text())
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    subjects = {s["name"]: s["digest"]["sha256"] for s in statement["subject"]}
    assert subjects == {k: v for k, v in manifest["files"].items() if k != "provenance.json"}
    build = statement["predicate"]["buildDefinition"]
    assert build["externalParameters"]["spec"]["name"] == "tiny"
    materials = build["resolvedDependencies"]
    digests = [next(iter(m["digest"].values())) for m in materials if "digest" in m]
    assert digests == [manifest["model"]["sha256"], *manifest["calibration"]["images"]]
    assert f"pkg:pypi/numpy@{metadata.version('numpy')}" in [m.get("uri") for m in materials]
    # https://in-toto.io: a resource descriptor has at least one of uri, digest, content
    assert all({"uri", "digest", "content"} & m.keys() for m in materials)
    assert "metadata" not in statement["predicate"]["runDetails"]


def test_the_in_toto_package_accepts_the_statement(folder: Path) -> None:
    """Its protobuf messages refuse unknown and misspelt fields of statement and predicate."""
    pytest.importorskip("in_toto_attestation", reason="the extra publish is not installed")
    from google.protobuf import json_format
    from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
    from in_toto_attestation.v1 import resource_descriptor, statement, statement_pb2

    text = (folder / "provenance.json").read_text()
    parsed = json_format.Parse(text, statement_pb2.Statement())
    statement.Statement.copy_from_pb(parsed).validate()
    predicate = json_format.ParseDict(json.loads(text)["predicate"], Provenance())
    assert predicate.build_definition.build_type.startswith("urn:vacc-workbench:")
    for material in predicate.build_definition.resolved_dependencies:
        resource_descriptor.ResourceDescriptor.copy_from_pb(material).validate()


def test_measurements_of_another_build_are_found(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    path = copy / "measured" / "manifest.json"
    recorded = json.loads(path.read_text())
    recorded["bundle"] = "0" * 64
    path.write_text(json.dumps(recorded))
    with pytest.raises(BundleError) as caught:
        bundle.check(copy)
    assert "measured/manifest.json" in caught.value.where
