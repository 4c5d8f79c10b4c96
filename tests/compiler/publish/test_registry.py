"""The registry client against a server on this machine that misbehaves on purpose."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.errors import ArtifactError, RegistryError
from compiler.publish import registry
from compiler.publish.registry import Reference, Registry, sha256

DATA = b"the bytes of a blob"
DIGEST = sha256(DATA)


@dataclass
class Fake:
    """A server whose answers are functions of (method, path, headers), and what it was asked."""

    address: str = ""
    answer: Callable[[str, str, dict[str, str]], tuple[int, dict[str, str], bytes]] = (
        lambda method, path, headers: (404, {}, b"")
    )
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def client(self, text: str = "models/net:1") -> Registry:
        return Registry(Reference.parse(f"{self.address}/{text}"), insecure=True)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    for name in ("REGISTRY_USER", "REGISTRY_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fake() -> Iterator[Fake]:
    with serving() as made:
        yield made


class serving:  # noqa: N801 - a context manager
    """A fake registry for a while."""

    def __enter__(self) -> Fake:
        fake = Fake()

        class Handler(BaseHTTPRequestHandler):
            def _reply(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                self.rfile.read(length)
                fake.asked.append((self.command, self.path, self.headers.get("Authorization", "")))
                status, headers, body = fake.answer(
                    self.command, self.path, dict(self.headers.items())
                )
                self.send_response(status)
                if "Content-Length" not in headers:
                    headers = headers | {"Content-Length": str(len(body))}
                for key, value in headers.items():
                    self.send_header(key, value)
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # a client that has seen enough
                    if self.command != "HEAD":
                        self.wfile.write(body)

            do_GET = do_HEAD = do_POST = do_PUT = _reply  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        fake.address = f"127.0.0.1:{self.server.server_port}"
        return fake

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


REFERENCES = {
    "registry.example/net": ("registry.example", "net", "latest", ""),
    "registry.example/a/b-c/d__e:1.0-rc_1": ("registry.example", "a/b-c/d__e", "1.0-rc_1", ""),
    "127.0.0.1:5000/net:x": ("127.0.0.1:5000", "net", "x", ""),
    "localhost/net": ("localhost", "net", "latest", ""),
    "host:80/net": ("host:80", "net", "latest", ""),
    f"r.example/net@{DIGEST}": ("r.example", "net", "", DIGEST),
    f"r.example/net:1@{DIGEST}": ("r.example", "net", "1", DIGEST),
}


@pytest.mark.parametrize("text", sorted(REFERENCES))
def test_references(text: str) -> None:
    host, repository, tag, digest = REFERENCES[text]
    parsed = Reference.parse(text)
    assert parsed == Reference(host, repository, tag, digest)
    assert Reference.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "net",
        "net:1",
        "library/net",
        "r.example",
        "r.example/",
        "r.example/Net",
        "r.example/net:",
        "r.example/net:-1",
        "r.example/net:1 ",
        "r.example/net\n",
        "r.example/a//b",
        "r.example/../net",
        "r.example/net?a=b",
        "r.example/net@sha256:12",
        "user@r.example/net",
        "http://r.example/net",
    ],
)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(RegistryError, match="not a reference") as caught:
        Reference.parse(text)
    assert "REGISTRY/REPOSITORY:TAG" in caught.value.fix


@given(st.text(max_size=60))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        parsed = Reference.parse(text)
    except RegistryError:
        return
    assert Reference.parse(str(parsed)) == parsed


def test_a_blob_arrives(fake: Fake, tmp_path: Path) -> None:
    fake.answer = lambda *_: (200, {}, DATA)
    fake.client().fetch(DIGEST, len(DATA), tmp_path / "blob")
    assert (tmp_path / "blob").read_bytes() == DATA
    assert fake.asked == [("GET", f"/v2/models/net/blobs/{DIGEST}", "")]


WRONG = {
    "another blob": (DATA[:-1] + b"!", {}, "arrived as sha256"),
    "too short": (DATA[:5], {}, "arrived as sha256"),
    "ends early": (DATA[:5], {"Content-Length": str(len(DATA))}, "arrived as sha256"),
    "too long": (DATA + b"more", {}, "larger than the 19 bytes"),
    "endless": (bytes(1 << 22), {}, "larger than the 19 bytes"),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_wrong_blob_is_found(fake: Fake, tmp_path: Path, name: str) -> None:
    body, headers, words = WRONG[name]
    fake.answer = lambda *_: (200, headers, body)
    with pytest.raises(ArtifactError, match=words):
        fake.client().fetch(DIGEST, len(DATA), tmp_path / "blob")
    assert (tmp_path / "blob").stat().st_size <= len(DATA)


def test_a_manifest_is_the_one_of_the_digest(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.answer = lambda *_: (200, {}, DATA)
    assert fake.client().manifest() == DATA
    assert fake.client(f"models/net@{DIGEST}").manifest() == DATA
    assert fake.asked[-1][1].endswith(f"/manifests/{DIGEST}")
    with pytest.raises(ArtifactError, match="digest is"):
        fake.client(f"models/net@{sha256(b'')}").manifest()
    monkeypatch.setattr(registry, "MAX_MANIFEST_BYTES", 10)
    with pytest.raises(ArtifactError, match="larger than 10 bytes"):
        fake.client().manifest()


def test_an_upload_follows_the_location(fake: Fake) -> None:
    def answer(method: str, path: str, _: object) -> tuple[int, dict[str, str], bytes]:
        if method == "POST":
            return 202, {"Location": "/elsewhere/1?state=a%2Fb"}, b""
        return (404 if method == "HEAD" else 201), {}, b""

    fake.answer = answer
    assert fake.client().store(DATA)
    quoted = DIGEST.replace(":", "%3A")
    assert [a[:2] for a in fake.asked] == [
        ("HEAD", f"/v2/models/net/blobs/{DIGEST}"),
        ("POST", "/v2/models/net/blobs/uploads/"),
        ("PUT", f"/elsewhere/1?state=a%2Fb&digest={quoted}"),
    ]
    fake.answer = lambda *_: (200, {}, b"")
    assert not fake.client().store(DATA)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (404, b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "no such tag"}]}', "no such"),
        (404, b"<html>", "not there"),
        (500, b'{"errors": []}', "HTTP 500"),
        (429, b'{"errors": [{"code": "TOOMANYREQUESTS"}]}', "TOOMANYREQUESTS"),
        (403, b'{"errors": [null]}', "login"),
        (401, b"", "login"),
        (301, b"", "HTTP 301"),
    ],
)
def test_refusals_are_told(fake: Fake, status: int, body: bytes, words: str) -> None:
    fake.answer = lambda *_: (status, {}, body)
    with pytest.raises(RegistryError, match=words) as caught:
        fake.client().manifest()
    assert caught.value.fix
    assert caught.value.exit_code == 2


def test_an_unreachable_registry_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(RegistryError, match="cannot be reached"):
        Registry(Reference.parse(f"127.0.0.1:{port}/net"), insecure=True).manifest()


def test_a_registry_without_tls(fake: Fake) -> None:
    with pytest.raises(RegistryError, match="cannot be reached") as caught:
        Registry(fake.client().reference).manifest()
    assert "--insecure" in caught.value.fix


def basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def token_server(fake: Fake, realm: str) -> None:
    """Blobs need a token; the realm gives one for ann's password, or to anybody for reading."""

    def answer(_: str, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        given = headers.get("Authorization", "")
        if path.startswith("/token"):
            known = given == f"Basic {basic('ann', 'secret')}"
            return 200, {}, json.dumps({"token": "full" if known else "read"}).encode()
        if given in ("Bearer full", "Bearer read"):
            return 200, {}, DATA
        scope = 'service="reg",scope="repository:models/net:pull"'
        return 401, {"WWW-Authenticate": f'Bearer realm="{realm}",{scope}'}, b""

    fake.answer = answer


def test_a_token_for_anybody(fake: Fake) -> None:
    token_server(fake, f"http://{fake.address}/token")
    assert fake.client().manifest() == DATA
    assert [a[2] for a in fake.asked] == ["", "", "Bearer read"]
    assert fake.asked[1][1] == "/token?service=reg&scope=repository%3Amodels%2Fnet%3Apull"


def test_a_token_for_a_login(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_USER", "ann")
    monkeypatch.setenv("REGISTRY_PASSWORD", "secret")
    token_server(fake, f"http://{fake.address}/token")
    client = fake.client()
    assert client.manifest() == DATA
    assert client.manifest() == DATA  # with the same token
    secret = f"Basic {basic('ann', 'secret')}"
    assert [a[2] for a in fake.asked] == ["", secret, "Bearer full", "Bearer full"]


def test_a_wider_scope_is_asked_for(fake: Fake) -> None:
    """Looking for a blob gives a token that may read; the upload needs one that may write."""

    def answer(
        method: str, path: str, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        if path.startswith("/token"):
            return 200, {}, json.dumps({"token": path.partition("scope=")[2]}).encode()
        scope = "read" if method == "HEAD" else "write"
        if headers.get("Authorization") != f"Bearer {scope}":
            realm = f'Bearer realm="http://{fake.address}/token",scope="{scope}"'
            return 401, {"WWW-Authenticate": realm}, b""
        if method == "POST":
            return 202, {"Location": "/upload"}, b""
        return (404 if method == "HEAD" else 201), {}, b""

    fake.answer = answer
    assert fake.client().store(DATA)
    assert fake.asked[-1] == ("PUT", f"/upload?digest={DIGEST}".replace(":", "%3A"), "Bearer write")


def test_a_password_is_not_sent_in_the_clear_to_another_host(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_USER", "ann")
    monkeypatch.setenv("REGISTRY_PASSWORD", "secret")
    with serving() as other:
        token_server(other, "")
        token_server(fake, f"http://{other.address}/token")
        assert fake.client().manifest() == DATA
        assert [a[2] for a in other.asked] == [""]


def test_a_redirect_does_not_carry_the_token(fake: Fake, tmp_path: Path) -> None:
    with serving() as store:
        store.answer = lambda *_: (200, {}, DATA)

        def answer(_: str, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
            if path.startswith("/token"):
                return 200, {}, b'{"access_token": "t"}'
            if "Authorization" not in headers:
                realm = f'Bearer realm="http://{fake.address}/token"'
                return 401, {"WWW-Authenticate": realm}, b""
            return 307, {"Location": f"http://{store.address}/data"}, b""

        fake.answer = answer
        fake.client().fetch(DIGEST, len(DATA), tmp_path / "blob")
        assert store.asked == [("GET", "/data", "")]
        assert fake.asked[-1][2] == "Bearer t"


def test_dockers_config_is_read(fake: Fake, tmp_path: Path) -> None:
    secret = basic("ann", "secret")

    def answer(_: str, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        if headers.get("Authorization") == f"Basic {secret}":
            return 200, {}, DATA
        return 401, {"WWW-Authenticate": 'Basic realm="reg"'}, b""

    fake.answer = answer
    with pytest.raises(RegistryError, match="login") as caught:
        fake.client().manifest()
    assert "docker login" in caught.value.fix
    config = {"auths": {fake.address: {"auth": secret}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert fake.client().manifest() == DATA
    (tmp_path / "config.json").write_text("[]")
    assert registry.credentials(fake.address) == ""


@pytest.mark.parametrize("realm", ["file:///etc/passwd", "ftp://a/b", "", "relative"])
def test_a_realm_that_is_no_web_address(fake: Fake, realm: str) -> None:
    challenge = {"WWW-Authenticate": f'Bearer realm="{realm}"'}
    fake.answer = lambda *_: (401, challenge, b"")
    with pytest.raises(RegistryError, match=r"refers to|login"):
        fake.client().manifest()


@pytest.mark.parametrize("location", ["", "file:///etc/passwd", "http://[bad", "ftp://a/b"])
def test_an_upload_to_nowhere(fake: Fake, location: str) -> None:
    fake.answer = lambda method, *_: (
        (202, {"Location": location}, b"") if method == "POST" else (404, {}, b"")
    )
    with pytest.raises(RegistryError):
        fake.client().store(DATA)


def test_the_digest_is_sha256() -> None:
    assert sha256(DATA) == f"sha256:{hashlib.sha256(DATA).hexdigest()}"
