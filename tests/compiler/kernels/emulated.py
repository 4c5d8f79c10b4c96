"""`python -m tests.compiler.kernels.emulated EMULATOR PYTEST_ARGUMENTS`: pytest with AVX-VNNI.

EMULATOR is `avx_vnni.c`, compiled. Prints how many instructions it executed.
"""

from __future__ import annotations

import ctypes
import sys

import pytest

from compiler import host


def main(emulator: str, arguments: list[str]) -> int:
    library = ctypes.CDLL(emulator)
    library.install()
    features = host.cpu_features() | {"avx_vnni"}
    host.cpu_features = lambda: features  # before the tests ask which instruction sets there are
    # pytest would take SIGILL for itself
    plugins = ["-p", "no:faulthandler", "-p", "no:cacheprovider"]
    code = pytest.main([*arguments, *plugins, "-k", "avxvnni"])
    print(f"instructions emulated: {library.instructions()}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
