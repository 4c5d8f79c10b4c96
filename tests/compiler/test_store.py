from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from compiler import store
from compiler.errors import StorageError
from compiler.store import Store


def test_a_result_is_made_once(tmp_path: Path) -> None:
    kept, calls = Store(tmp_path), []

    def produce(path: Path) -> None:
        calls.append(path)
        path.write_text("result")

    key = store.key("stage", {"a": 1}, b"bytes")
    assert kept.get(key, ".txt", produce).read_text() == "result"
    assert kept.get(key, ".txt", produce).read_text() == "result"
    assert len(calls) == 1
    Store(tmp_path, fresh=True).get(key, ".txt", produce)
    assert len(calls) == 2


def test_keys_tell_parts_apart() -> None:
    parts = [
        ("s", b"ab", b"c"),
        ("s", b"a", b"bc"),
        ("t", b"ab", b"c"),
        ("s", {"a": 1}),
        ("s", {"a": 2}),
    ]
    assert len({store.key(*p) for p in parts}) == len(parts)
    assert store.key("s", {"a": 1, "b": 2}) == store.key("s", {"b": 2, "a": 1})


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def produce(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        Store(tmp_path).get("ab" * 32, ".txt", produce)
    assert [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"] == []


def test_a_directory_replaces_the_old_one_whole(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    for content in ("old", "new"):
        with store.atomic(target) as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert [p.name for p in target.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("where", ["file/below", "file"])
def test_a_file_in_the_way_is_a_storage_error(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as caught:
        store.require_writable(tmp_path / where)
    assert str(tmp_path / where) in caught.value.where


def test_write_json_is_deterministic(tmp_path: Path) -> None:
    for name in "ab":
        store.write_json(tmp_path / name, {"x": [1, 2.5, None]})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def _produce_slowly(root: Path, log: Path) -> None:
    def produce(path: Path) -> None:
        with log.open("a") as file:
            file.write("made\n")
        path.write_text("result")

    Store(root).get("cd" * 32, ".txt", produce)


def test_two_processes_make_a_result_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    log = tmp_path / "log"
    workers = [
        context.Process(target=_produce_slowly, args=(tmp_path / "store", log)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert log.read_text() == "made\n"
