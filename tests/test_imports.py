"""The arrow of imports: models -> compiler -> calib, and heavy packages in their homes only."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {"calib": {"calib"}, "compiler": {"calib", "compiler"}}
HOMES = {
    "tvm": ("compiler/lower.py", "compiler/library.py", "compiler/kernels/"),
    "onnxruntime": ("compiler/runner.py",),
    "torch": ("models/", "compiler/torchscript.py"),
    "model_signing": ("compiler/publish/signature.py",),
}
LATE = {"compiler/kernels/measure.py"}  # times compiled kernels: it stands behind `library`
# A module may import those before it in this list (and, lazily inside a function, any).
CALIB_ORDER = ["errors", "qparams", "histogram", "methods", "table", "images", "bicubic"]
COMPILER_ORDER = [
    "svg",
    "errors",
    "progress",
    "yaml_source",
    "vendor_keys",
    "schema",
    "spec",
    "target",
    "judges",
    "host",
    "network",
    "accumulators",
    "ports",
    "floatnet",
    "lowparts",
    "chains",
    "operators",
    "fusion",
    "quantize",
    "qdq",
    "reference",
    "kernels",
    "rules",
    "lower",
    "library",
    "runner",
    "float_values",
    "shapes",
    "canonical",
    "model",
    "simplify",
    "stats",
    "store",
    "metrics",
    "scaling",
    "crops",
    "accuracy",
    "data",
    "dataset",
    "calibrate",
    "recovery",
    "engine",
    "protocols",
    "provenance",
    "vectors",
    "bundle",
    "measured",
    "summary",
    "cli",
    "verify",
    "stages",
    "pipeline",
    "publish",
    "pull",
]


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path, *, top_level: bool = False) -> set[str]:
    """Dotted names of what a file imports (not under TYPE_CHECKING)."""
    tree = ast.parse(path.read_text("utf-8"))
    nodes = tree.body if top_level else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_packages_point_one_way(package: str) -> None:
    own = {"calib", "compiler", "models", "tests"}
    for path in sources(package):
        roots = {name.split(".")[0] for name in imported(path)} & own
        assert roots <= ALLOWED[package], f"{path} imports {roots - ALLOWED[package]}"


@pytest.mark.parametrize("heavy", sorted(HOMES))
def test_heavy_packages_stay_home(heavy: str) -> None:
    for package in ("calib", "compiler", "models"):
        for path in sources(package):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith(HOMES[heavy]):
                roots = {i.split(".")[0] for i in imported(path)}
                assert heavy not in roots, f"{name} imports {heavy}"


@pytest.mark.parametrize(
    ("package", "order"), [("calib", CALIB_ORDER), ("compiler", COMPILER_ORDER)]
)
def test_modules_follow_the_order(package: str, order: list[str]) -> None:
    rank = {name: i for i, name in enumerate(order)}
    for name in order:
        base = ROOT / package / name
        modules = sorted(base.rglob("*.py")) if base.is_dir() else [base.with_suffix(".py")]
        for path in modules:
            if path.relative_to(ROOT).as_posix() in LATE:
                continue
            for target in imported(path, top_level=True):
                parts = target.split(".")
                if parts[0] == package and len(parts) > 1 and parts[1] in rank:
                    assert rank[parts[1]] <= rank[name], f"{path} imports {target}"


def test_help_imports_neither_tvm_nor_onnxruntime() -> None:
    program = (
        "import sys, compiler.build, compiler.check\n"
        "compiler.build.parser().format_help()\n"
        "print([m for m in ('tvm', 'onnxruntime', 'torch') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"
