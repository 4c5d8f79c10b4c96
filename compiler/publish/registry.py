"""A client of the OCI distribution API: blobs and manifests of one repository.

https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md, and the token flow of
https://distribution.github.io/distribution/spec/auth/token/.

The Python package `oras` is not used: it compares no digest of what it fetches, limits no size, has
no time limit, and waits two minutes before it says that a registry cannot be reached. The tests use
it as an independent client.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Any, Final

from compiler.errors import ArtifactError, RegistryError
from compiler.store import storage

MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
MAX_MANIFEST_BYTES: Final = 4 << 20
_TIMEOUT_S: Final = 30.0
_HOST = r"(?P<host>localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9.-]+(?=:))(?P<port>:\d+)?"
_PATH = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"{_HOST}/(?P<repository>{_PATH}(?:/{_PATH})*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)


@dataclass(frozen=True)
class Reference:
    """REGISTRY/REPOSITORY:TAG or REGISTRY/REPOSITORY@sha256:DIGEST; a digest outranks a tag."""

    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Reads a reference; the tag is `latest` where neither tag nor digest is written.

        Raises:
            RegistryError: it is none.
        """
        found = _REFERENCE.fullmatch(text)
        if found is None:
            raise RegistryError(
                f"{text!r} is not a reference to an artifact",
                fix="write REGISTRY/REPOSITORY:TAG, such as registry.example:5000/models/bpp3x:1",
            )
        host, port, repository, tag, digest = found.group(
            "host", "port", "repository", "tag", "digest"
        )
        default = "" if digest else "latest"
        return cls(host + (port or ""), repository, tag or default, digest or "")

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.host}/{self.repository}{tag}{'@' if self.digest else ''}{self.digest}"


class Registry:
    """One repository of a registry.

    Signs in where it is asked to, as REGISTRY_USER with REGISTRY_PASSWORD, or with what
    `docker login` wrote to config.json. Every method raises RegistryError where the registry cannot
    be reached or refuses.
    """

    def __init__(self, reference: Reference, *, insecure: bool = False) -> None:
        """Sends nothing yet.

        Args:
            insecure: plain HTTP instead of HTTPS.
        """
        self.reference = reference
        self._origin = f"{'http' if insecure else 'https'}://{reference.host}"
        self._base = f"{self._origin}/v2/{reference.repository}"
        self._authorization = ""

    def manifest(self) -> bytes:
        """The manifest that the reference names.

        Raises:
            ArtifactError: it is too large, or not the one of the reference's digest.
        """
        name = self.reference.digest or self.reference.tag
        with self._send("GET", f"{self._base}/manifests/{name}", {"Accept": MANIFEST_TYPE}) as body:
            data = self._read(body, MAX_MANIFEST_BYTES + 1)
        if len(data) > MAX_MANIFEST_BYTES:
            raise self._wrong(f"the manifest is larger than {MAX_MANIFEST_BYTES} bytes")
        if self.reference.digest not in ("", sha256(data)):
            raise self._wrong(f"the registry sent a manifest whose digest is {sha256(data)}")
        return data

    def put_manifest(self, data: bytes) -> str:
        """Stores a manifest under the reference's tag; returns its digest."""
        url = f"{self._base}/manifests/{self.reference.tag or sha256(data)}"
        self._send("PUT", url, {"Content-Type": MANIFEST_TYPE}, data).close()
        return sha256(data)

    def fetch(self, digest: str, size: int, to: Path) -> None:
        """Writes a blob to the file `to`, never more than `size` bytes.

        Raises:
            ArtifactError: length or digest of what came is another.
        """
        found, received = hashlib.sha256(), 0
        with (
            self._send("GET", f"{self._base}/blobs/{digest}") as body,
            storage(to),
            to.open("xb") as file,
        ):
            while block := self._read(body, min(1 << 20, size - received + 1)):
                received += len(block)
                if received > size:
                    raise self._wrong(f"blob {digest} is larger than the {size} bytes announced")
                found.update(block)
                file.write(block)
        if f"sha256:{found.hexdigest()}" != digest:
            raise self._wrong(f"blob {digest} arrived as sha256:{found.hexdigest()}")

    def store(self, data: bytes) -> bool:
        """Uploads a blob; False where the registry has it already."""
        digest = sha256(data)
        if self._has(digest):
            return False
        with self._send("POST", f"{self._base}/blobs/uploads/", {}, b"") as answer:
            location = answer.headers.get("Location", "")
        target = self._upload_url(location, digest)
        self._send("PUT", target, {"Content-Type": "application/octet-stream"}, data).close()
        return True

    def _upload_url(self, location: str, digest: str) -> str:
        """Where a blob goes: the answer to an upload's start, which may be relative to us."""
        try:
            url = urllib.parse.urlsplit(urllib.parse.urljoin(self._origin, location))
        except ValueError as error:
            raise self._unreachable(f"it refers to {location[:200]!r}") from error
        query = f"{url.query}&" if url.query else ""
        return url._replace(query=f"{query}digest={urllib.parse.quote(digest)}").geturl()

    def _has(self, digest: str) -> bool:
        try:
            self._send("HEAD", f"{self._base}/blobs/{digest}").close()
        except RegistryError as error:
            if isinstance(error.__cause__, urllib.error.HTTPError) and error.__cause__.code == 404:
                return False
            raise
        return True

    def _send(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, data: Any = None
    ) -> HTTPResponse:
        """One request; signs in and asks once more where the registry says so."""
        try:
            return self._once(method, url, headers or {}, data)
        except urllib.error.HTTPError as error:
            challenge = error.headers.get("WWW-Authenticate", "")
            if error.code != 401 or not challenge:
                raise self._refused(error) from error
            error.close()
            self._authorization = self._sign_in(challenge)
        try:
            return self._once(method, url, headers or {}, data)
        except urllib.error.HTTPError as error:
            raise self._refused(error) from error

    def _once(self, method: str, url: str, headers: Mapping[str, str], data: Any) -> HTTPResponse:
        request = self._request(url, data, {**headers}, method=method)
        if self._authorization and url.startswith(f"{self._origin}/"):
            # Not for another host: neither where an upload is sent, nor behind a redirect.
            request.add_unredirected_header("Authorization", self._authorization)
        try:
            response: HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
        except urllib.error.HTTPError:
            raise
        except (OSError, HTTPException, ValueError) as error:
            raise self._unreachable(getattr(error, "reason", error)) from error
        return response

    def _request(self, url: str, *args: Any, **kwargs: Any) -> urllib.request.Request:
        """A request to the web: a registry may name any address, a local file among them."""
        if not re.match(r"https?://", url):
            raise self._unreachable(f"it refers to {url[:200]!r}")
        return urllib.request.Request(url, *args, **kwargs)

    def _read(self, body: IO[bytes], limit: int) -> bytes:
        try:
            return body.read(limit)
        except (OSError, HTTPException) as error:
            raise self._unreachable(error) from error

    def _sign_in(self, challenge: str) -> str:
        """The Authorization header that answers a WWW-Authenticate header."""
        basic = credentials(self.reference.host)
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "basic" and basic:
            return f"Basic {basic}"
        fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        if scheme.lower() != "bearer" or "realm" not in fields:
            raise self._needs_login()
        wanted = {k: fields[k] for k in ("service", "scope") if k in fields}
        request = self._request(f"{fields['realm']}?{urllib.parse.urlencode(wanted)}")
        if basic and self._may_see_password(fields["realm"]):
            request.add_unredirected_header("Authorization", f"Basic {basic}")
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
                answer = json.loads(response.read(MAX_MANIFEST_BYTES))
            return f"Bearer {answer.get('token') or answer['access_token']}"
        except urllib.error.HTTPError as error:
            error.close()
            raise self._needs_login() from error
        except (OSError, HTTPException, ValueError, KeyError, AttributeError) as error:
            raise self._unreachable(error) from error

    def _may_see_password(self, realm: str) -> bool:
        return realm.startswith(("https://", f"{self._origin}/"))

    def _refused(self, error: urllib.error.HTTPError) -> RegistryError:
        with error:
            said = _message(error.read(MAX_MANIFEST_BYTES))
        if error.code in (401, 403):
            return self._needs_login(said)
        fix = "check the name and the tag" if error.code == 404 else "try again; ask its operator"
        what = "it is not there" if error.code == 404 else "the registry refuses"
        return RegistryError(
            f"{what} (HTTP {error.code}{said})", where=str(self.reference), fix=fix
        )

    def _needs_login(self, said: str = "") -> RegistryError:
        return RegistryError(
            f"the registry wants another login, or this one may not do that{said}",
            where=str(self.reference),
            fix="set REGISTRY_USER and REGISTRY_PASSWORD, or run docker login",
        )

    def _unreachable(self, reason: object) -> RegistryError:
        return RegistryError(
            f"the registry cannot be reached: {reason}",
            where=self._origin,
            fix="check its address; --insecure is for registries that speak plain HTTP",
        )

    def _wrong(self, what: str) -> ArtifactError:
        return ArtifactError(what, where=str(self.reference), fix="do not use it; fetch it again")


def sha256(data: bytes) -> str:
    """The digest of a blob, as OCI writes it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def credentials(host: str) -> str:
    """base64 of user:password for a registry; empty where there are none."""
    user, password = os.environ.get("REGISTRY_USER"), os.environ.get("REGISTRY_PASSWORD")
    if user and password:
        return base64.b64encode(f"{user}:{password}".encode()).decode()
    folder = os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker"
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        return str(config["auths"][host]["auth"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _message(body: bytes) -> str:
    """What a registry says about an error, in brackets of its own; empty where it says nothing."""
    try:
        first = json.loads(body)["errors"][0]
        return f", {str(first.get('message') or first['code'])[:200]}"
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return ""
