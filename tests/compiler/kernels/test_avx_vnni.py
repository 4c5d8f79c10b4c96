"""AVX-VNNI, which few machines have: its encoding, and the kernels' tests under an emulator."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tvm

from compiler.host import FEATURES, Host, cpu_features
from compiler.library import compile_module
from compiler.lower import chains
from tests.networks import LEAKY, Builder

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
TESTS = [
    "test_isa.py",
    "test_depthwise.py::test_a_chain_of_separable_layers",
    "test_depthwise.py::test_grouped_convolutions",
]


def test_its_instructions_have_the_vex_encoding() -> None:
    b = Builder(32, 2)
    b.conv(32, 1, steps=(LEAKY,))
    b.conv(32, groups=32)
    b.conv(32)
    (chain,) = chains(b.network(), (16, 64), Host("avxvnni", 1))
    kernels = [kernel.choice for kernel in chain.kernels[1:]]
    assert ["vpdpbusd" in kernel for kernel in kernels] == [True, True, False]
    assert kernels[-1].startswith("F(4x4")
    module = tvm.IRModule({chain.name: chain.function()})
    code = emitted(compile_module(module, Host("avxvnni", 1)), "s")
    for instruction in ("vpdpbusd", "vpdpwssd"):
        assert re.search(rf"{{vex}}\s+{instruction}\s.*%ymm", code)
    assert not re.search(r"(?<!{vex}\s)vpdp", code)
    assert "zmm" not in code
    assert "{%k" not in code


def emitted(compiled: object, form: str) -> str:
    """LLVM IR ("ll") or assembly ("s") of a compiled module."""
    modules = [compiled.mod, *compiled.mod.imports]  # type: ignore[attr-defined]
    return "".join(m.inspect_source(form) for m in modules if m.kind == "llvm")


def test_kernels_are_exact_under_an_emulator(tmp_path: Path) -> None:
    features = cpu_features()
    if FEATURES["avxvnni"] <= features:
        pytest.skip("this processor has AVX-VNNI: the other tests execute it")
    if not FEATURES["avx2"] <= features:
        pytest.skip("this processor lacks AVX2")
    if not (compiler := shutil.which("gcc")):
        pytest.skip("gcc, which builds the emulator, is not installed")
    emulator = tmp_path / "avx_vnni.so"
    source = str(HERE / "avx_vnni.c")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", emulator, source], check=True)
    module = "tests.compiler.kernels.emulated"
    tests = [str(HERE / test) for test in TESTS]
    done = subprocess.run(
        [sys.executable, "-m", module, emulator, *tests],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    count = re.search(r"instructions emulated: (\d+)", done.stdout)
    assert count is not None
    assert int(count[1]) > 10_000
