"""The archive: the same bytes everywhere, and nothing dangerous comes out of a foreign one."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler import pipeline
from compiler.errors import ArtifactError, BundleError
from compiler.publish import archive


@pytest.fixture
def bundle(tiny_build: pipeline.Result) -> Path:
    assert tiny_build.bundle is not None
    return tiny_build.bundle


def files(folder: Path) -> dict[str, bytes]:
    found = [p for p in folder.rglob("*") if p.is_file()]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


def packed(folder: Path, to: Path) -> bytes:
    archive.pack(folder, to)
    return to.read_bytes()


def test_the_same_bytes_from_anywhere(bundle: Path, tmp_path: Path) -> None:
    first = packed(bundle, tmp_path / "1.tar")
    assert packed(bundle, tmp_path / "2.tar") == first
    other = tmp_path / "another name"
    other.mkdir()
    for name in sorted(files(bundle), reverse=True):  # created in another order
        (other / name).parent.mkdir(exist_ok=True)
        shutil.copy(bundle / name, other / name)
        os.utime(other / name, (1, 2))
        (other / name).chmod(0o755)
        if os.getuid() == 0:
            os.chown(other / name, 1234, 4321)
    before = os.umask(0o077)
    try:
        assert packed(other, tmp_path / "3.tar") == first
    finally:
        os.umask(before)


def ustar(name: str, data: bytes) -> bytes:
    """One entry, field by field as POSIX.1-1988 has it; device numbers are left empty."""
    fields = [
        name.encode().ljust(100, b"\0"),
        b"0000644\0" + b"0000000\0" * 2,  # mode, owner, group
        f"{len(data):011o}\0".encode() + b"00000000000\0",  # size, time
        b" " * 8,  # the checksum, as it counts itself
        b"0" + bytes(100) + b"ustar\00000" + bytes(32 + 32 + 8 + 8 + 155 + 12),
    ]
    fields[3] = f"{sum(b''.join(fields)):06o}\0 ".encode()
    return b"".join(fields) + data + bytes(-len(data) % 512)


def test_every_byte_is_as_the_format_says(bundle: Path, tmp_path: Path) -> None:
    inside = {k: v for k, v in files(bundle).items() if not k.startswith("measured")}
    entries = b"".join(ustar(f"tiny/{name}", inside[name]) for name in sorted(inside))
    whole = entries + bytes(1024)
    assert packed(bundle, tmp_path / "a.tar") == whole + bytes(-len(whole) % 10240)


def test_tar_reads_it(bundle: Path, tmp_path: Path) -> None:
    archive.pack(bundle, tmp_path / "a.tar")
    subprocess.run(["tar", "-xf", str(tmp_path / "a.tar")], check=True, cwd=tmp_path)
    assert (tmp_path / "tiny" / "mod.so").read_bytes() == (bundle / "mod.so").read_bytes()


def test_what_was_packed_comes_out(bundle: Path, tmp_path: Path) -> None:
    archive.pack(bundle, tmp_path / "a.tar")
    out = archive.unpack(tmp_path / "a.tar", tmp_path / "out")
    assert out == tmp_path / "out" / "tiny"
    expected = {k: v for k, v in files(bundle).items() if not k.startswith("measured")}
    assert files(out) == expected


def test_a_changed_bundle_is_not_packed(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    (copy / "qdq.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match="differs from the manifest"):
        archive.pack(copy, tmp_path / "a.tar")
    assert not (tmp_path / "a.tar").exists()


def test_a_name_too_long_for_the_format(tmp_path: Path) -> None:
    with (
        tarfile.open(tmp_path / "a.tar", "w", format=tarfile.USTAR_FORMAT) as tar,
        pytest.raises(BundleError, match="too long"),
    ):
        archive._add(tar, f"{'n' * 300}/spec.yaml", b"")


Entry = Callable[[tarfile.TarFile], None]


def entry(name: str, data: bytes = b"x", **fields: object) -> Entry:
    def add(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        for key, value in fields.items():
            setattr(info, key, value)
        tar.addfile(info, io.BytesIO(data))

    return add


GOOD = entry("tiny/spec.yaml")
UNSAFE: dict[str, list[Entry]] = {
    "parent": [entry("../spec.yaml")],
    "parent inside": [entry("tiny/../../spec.yaml")],
    "parent by a long path": [entry("tiny/" + "a/../" * 40 + "../../spec.yaml")],
    "absolute": [entry("/tmp/vacc-absolute/spec.yaml")],
    "no folder": [entry("spec.yaml")],
    "current folder": [entry("tiny/./spec.yaml")],
    "hidden folder": [entry(".store/spec.yaml")],
    "empty part": [entry("tiny//spec.yaml")],
    "backslash": [entry("tiny\\..\\spec.yaml")],
    "control character": [entry("tiny/a\nb")],
    "too deep": [entry("tiny/a/b/c/d")],
    "path in a pax header": [entry("tiny/a", pax_headers={"path": "../spec.yaml"})],
    "symbolic link": [entry("tiny/a", b"", type=tarfile.SYMTYPE, linkname="/etc")],
    "through a link": [
        entry("tiny/golden", b"", type=tarfile.SYMTYPE, linkname="/tmp"),
        entry("tiny/golden/a"),
    ],
    "hard link": [entry("tiny/a", b"", type=tarfile.LNKTYPE, linkname="tiny/../../a")],
    "folder": [entry("tiny/golden", b"", type=tarfile.DIRTYPE)],
    "pipe": [entry("tiny/a", b"", type=tarfile.FIFOTYPE)],
    "device": [entry("tiny/a", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "unknown type": [entry("tiny/a", b"", type=b"Z")],
    "twice": [GOOD, GOOD],
    "file as folder": [entry("tiny/a"), entry("tiny/a/b")],
    "second folder": [GOOD, entry("other/spec.yaml")],
}


def written(path: Path, entries: list[Entry]) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for add in entries:
            add(tar)
    return path


@pytest.mark.parametrize("name", sorted(UNSAFE))
def test_unsafe_entries_are_refused(tmp_path: Path, name: str) -> None:
    made = written(tmp_path / "a.tar", UNSAFE[name])
    inside = tmp_path / "deep" / "inside"
    with pytest.raises(ArtifactError) as caught:
        archive.unpack(made, inside)
    assert caught.value.exit_code == 2
    assert caught.value.fix
    found = [p for p in tmp_path.rglob("*") if p.is_file() or p.is_symlink()]
    assert {p for p in found if inside not in p.parents} == {made}
    assert not Path("/tmp/vacc-absolute").exists()
    assert not [p for p in found if p.is_symlink()]


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = written(tmp_path / "a.tar", [entry(f"tiny/{i}", bytes(100)) for i in range(5)])
    monkeypatch.setattr(archive, "MAX_BYTES", 450)
    with pytest.raises(ArtifactError, match="450 bytes"):
        archive.unpack(made, tmp_path / "large")
    monkeypatch.setattr(archive, "MAX_BYTES", 500)
    assert len(files(archive.unpack(written(made, [entry("t/a.b")]), tmp_path / "right"))) == 1
    monkeypatch.setattr(archive, "MAX_FILES", 4)
    made = written(tmp_path / "b.tar", [entry(f"tiny/{i}") for i in range(5)])
    with pytest.raises(ArtifactError, match="4 files"):
        archive.unpack(made, tmp_path / "many")


@pytest.mark.parametrize("kind", ["empty", "text", "gzip", "truncated", "no entries", "absent"])
def test_what_is_no_archive(tmp_path: Path, kind: str) -> None:
    made = written(tmp_path / "a.tar", [entry("tiny/a", bytes(5000))])
    data = made.read_bytes()
    if kind == "gzip":
        with tarfile.open(made, "w:gz") as tar:
            GOOD(tar)
    elif kind == "no entries":
        written(made, [])
    elif kind == "absent":
        made.unlink()
    else:
        made.write_bytes({"empty": b"", "text": b"no tar", "truncated": data[:3000]}[kind])
    with pytest.raises(ArtifactError) as caught:
        archive.unpack(made, tmp_path / "out")
    assert caught.value.fix


@settings(max_examples=150)
@given(st.data())
def test_a_damaged_archive_never_leaves_its_folder(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    entries = [entry("tiny/a.x", b"A" * 600), entry("tiny/golden/b.x", pax_headers={"c": "d"})]
    made = written(folder / "a.tar", entries)
    content = bytearray(made.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, 4095))] = data.draw(st.integers(0, 255))
    made.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    with contextlib.suppress(ArtifactError):
        out = archive.unpack(made, folder / "out")
        assert out.parent == folder / "out"
    assert {p.name for p in folder.iterdir()} <= {"a.tar", "out"}
