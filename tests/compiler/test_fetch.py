"""compiler.fetch against a server on this machine that misbehaves on purpose."""

import hashlib
import re
import socket
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from compiler.errors import FetchError, StorageError
from compiler.fetch import download

CONTENT = np.random.default_rng(0).bytes(1_000_003)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
RESET = socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
"""Makes `close` drop the connection with a TCP reset."""


class Server(ThreadingHTTPServer):
    """Serves `content`; `faults` holds, per request, what goes wrong (then all goes well)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.ranges = True
        self.faults: list[str | int] = []
        self.requests: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/weights.bin"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        content, asked = self.server.content, self.headers.get("Range")
        self.server.requests.append(asked)
        fault = self.server.faults.pop(0) if self.server.faults else None
        if isinstance(fault, int):
            self.send_error(fault)
            return
        start = 0
        if asked is not None and self.server.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(206)
            first = start + 1 if fault == "wrong range" else start
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        body = content[start:]
        if fault != "no length":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault == "truncated":
            body = body[: len(body) // 2]
        if fault == "dropped":
            self.wfile.write(body[:1000])
            self.connection.setsockopt(*RESET)
            self.connection.close()
            return
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_whole_file(server: Server, tmp_path: Path) -> None:
    to = tmp_path / "new" / "weights.bin"
    assert download(server.url, to, sha256=SHA256) == to
    assert to.read_bytes() == CONTENT
    assert names(tmp_path) == ["new", "weights.bin"]
    download(server.url, to, sha256=SHA256)
    assert server.requests == [None]


def test_without_length_or_digest(server: Server, tmp_path: Path) -> None:
    server.faults = ["no length"]
    assert download(server.url, tmp_path / "w", sha256=None).read_bytes() == CONTENT


def test_it_resumes_where_the_part_ends(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.part").write_bytes(CONTENT[:700_000])
    assert download(server.url, tmp_path / "w", sha256=SHA256).read_bytes() == CONTENT
    assert server.requests == ["bytes=700000-"]
    assert names(tmp_path) == ["w"]


def test_a_server_without_ranges_sends_everything_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "w.part").write_bytes(CONTENT[:700_000])
    assert download(server.url, tmp_path / "w", sha256=SHA256).read_bytes() == CONTENT
    assert server.requests == ["bytes=700000-"]


def test_a_complete_part_is_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.part").write_bytes(CONTENT)
    assert download(server.url, tmp_path / "w", sha256=SHA256).read_bytes() == CONTENT
    assert server.requests == [f"bytes={len(CONTENT)}-"]


@pytest.mark.parametrize("stale", [CONTENT + b"more", bytes(1000)], ids=["longer", "other"])
def test_a_part_of_another_file_is_thrown_away(
    server: Server, tmp_path: Path, stale: bytes
) -> None:
    (tmp_path / "w.part").write_bytes(stale)
    assert download(server.url, tmp_path / "w", sha256=SHA256).read_bytes() == CONTENT
    assert server.requests == [f"bytes={len(stale)}-", None]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("truncated", [1.0, 1.0]),  # each try brings new bytes, so the back-off starts again
        ("wrong range", [1.0]),  # then it starts from nothing, without a range
        (503, [1.0, 2.0]),
        (429, [1.0, 2.0]),
    ],
)
def test_what_may_pass_is_tried_again(
    server: Server, tmp_path: Path, fault: str | int, expected: list[float]
) -> None:
    waits: list[float] = []
    (tmp_path / "w.part").write_bytes(CONTENT[:100])
    server.faults = [fault, fault]
    to = download(server.url, tmp_path / "w", sha256=SHA256, sleep=waits.append)
    assert to.read_bytes() == CONTENT
    assert waits == expected


def test_a_dropped_connection(server: Server, tmp_path: Path) -> None:
    """A reset may discard what was sent just before it, so the number of new bytes is open."""
    waits: list[float] = []
    server.faults = ["dropped", "dropped"]
    to = download(server.url, tmp_path / "w", sha256=SHA256, sleep=waits.append)
    assert to.read_bytes() == CONTENT
    assert len(waits) == 2
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("fault", "what"), [("truncated", r"\d+ of 1000003 bytes came"), (500, "HTTP 500")]
)
def test_it_gives_up_in_the_end(
    server: Server, tmp_path: Path, fault: str | int, what: str
) -> None:
    waits: list[float] = []
    server.ranges = False
    server.faults = [fault] * 9
    with pytest.raises(FetchError, match=f"failed 4 times: {what}") as caught:
        download(server.url, tmp_path / "w", sha256=SHA256, sleep=waits.append)
    assert waits == [1.0, 2.0, 4.0]
    assert caught.value.where == server.url
    assert "by hand" in caught.value.fix
    assert caught.value.exit_code == 2
    assert not (tmp_path / "w").exists()
    server.faults = []
    assert download(server.url, tmp_path / "w", sha256=SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [404, 403])
def test_what_will_not_pass_is_not_tried_again(server: Server, tmp_path: Path, status: int) -> None:
    server.faults = [status]
    with pytest.raises(FetchError, match=f"HTTP {status}"):
        download(server.url, tmp_path / "w", sha256=SHA256)
    assert len(server.requests) == 1
    assert names(tmp_path) == []


def test_a_wrong_digest_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(FetchError, match=f"sha256 is [0-9a-f]{{64}}, expected {SHA256}"):
        download(server.url, tmp_path / "w", sha256=SHA256)
    assert names(tmp_path) == []


def test_a_file_that_is_there_is_checked_and_kept(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"mine")
    with pytest.raises(FetchError) as caught:
        download(server.url, tmp_path / "w", sha256=SHA256)
    assert "delete the file" in caught.value.fix
    assert (tmp_path / "w").read_bytes() == b"mine"
    assert server.requests == []


def test_no_server_and_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with Server() as closed:
        url = closed.url
    waits: list[float] = []
    with pytest.raises(FetchError, match="refused"):
        download(url, tmp_path / "w", sha256=None, sleep=waits.append)
    assert len(waits) == 3
    with pytest.raises(FetchError, match="not an http or https address"):
        download("file:///etc/passwd", tmp_path / "w", sha256=None)


def test_the_folder_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"Not a directory|File exists"):
        download(server.url, tmp_path / "file" / "w", sha256=None)


def test_two_at_once(server: Server, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / "w.part").open("a+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(FetchError, match="another process"):
            download(server.url, tmp_path / "w", sha256=None)
