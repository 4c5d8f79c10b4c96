"""A real OCI registry on this machine: Debian's docker-registry, with a folder of its own."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAM = "docker-registry"
_CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: {address}}}
"""


@dataclass(frozen=True)
class LocalRegistry:
    """A running registry; without TLS."""

    address: str
    root: Path

    def blob(self, digest: str) -> Path:
        """The file that holds a blob."""
        value = digest.removeprefix("sha256:")
        folder = self.root / "docker" / "registry" / "v2" / "blobs" / "sha256"
        return folder / value[:2] / value / "data"


@contextlib.contextmanager
def registry(folder: Path) -> Iterator[LocalRegistry]:
    """A registry that keeps what it gets in `folder`; set `no_proxy` before using it.

    Skips the test where the program is not installed.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        pytest.skip(f"{PROGRAM} is not installed (Debian package {PROGRAM})")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = folder / "config.yml"
    config.write_text(_CONFIG.format(root=folder / "data", address=address))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log)
    try:
        _wait(process, f"http://{address}/v2/", folder / "log")
        yield LocalRegistry(address, folder / "data")
    finally:
        process.terminate()
        process.wait(30)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(600):
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), opener.open(url, timeout=5):
            return
        time.sleep(0.05)
    pytest.fail(f"{PROGRAM} does not start: {log.read_text(errors='replace')[-2000:]}")
