"""The error family: each kind says its cause and fix, is raised somewhere, and has a test."""

from __future__ import annotations

import ast
import functools
import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from calib import errors as calib_errors
from calib.errors import WorkbenchError
from compiler import check, errors, library, pipeline, spec
from compiler.errors import CalibrationWarningError, CompileError, SpecError
from compiler.explain import explain, explanations
from compiler.host import Host
from compiler.progress import Reporter, silent
from tests.compiler.conftest import tiny_spec

ROOT = Path(__file__).parents[2]
KINDS = [
    kind
    for module in (calib_errors, errors)
    for kind in vars(module).values()
    if isinstance(kind, type)
    and issubclass(kind, WorkbenchError)
    and kind.__module__ == module.__name__
    and kind is not WorkbenchError
]


@functools.cache
def names_in(*folders: str) -> set[str]:
    """Every name that the Python files of some folders use, other than where it is imported."""
    trees = [
        ast.parse(path.read_text(encoding="utf-8"))
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
    ]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    plain = {node.id for node in nodes if isinstance(node, ast.Name)}
    return plain | {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def test_every_kind_is_explained() -> None:
    assert set(explanations()) == {kind.code() for kind in KINDS}
    for each in explanations().values():
        assert each.cause
        assert each.fix
        assert "Fix:" not in each.cause
        assert each.exit_code in (2, 3)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_is_raised(kind: type[WorkbenchError]) -> None:
    assert kind.__name__ in names_in("calib", "compiler", "models")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_has_a_test(kind: type[WorkbenchError]) -> None:
    assert kind.__name__ in names_in("tests")


@functools.cache
def texts_of_tests() -> tuple[str, ...]:
    return tuple(p.read_text(encoding="utf-8") for p in sorted((ROOT / "tests").rglob("*.py")))


def test_no_kind_is_defined_elsewhere() -> None:
    """`--explain` lists the two modules of errors; a kind in another one would be missing there."""
    known = {kind.__name__ for kind in KINDS} | {"WorkbenchError"}
    strays = [
        f"{path}: {node.name}"
        for folder in ("calib", "compiler", "models")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        and known & {base.id for base in node.bases if isinstance(base, ast.Name)}
        and node.name not in known
    ]
    assert strays == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_is_caught_by_name_in_a_test(kind: type[WorkbenchError]) -> None:
    """`pytest.raises(Kind, ...)`, or a code that a verdict shows: its text was looked at."""
    texts = texts_of_tests()
    raised = re.compile(rf"raises\(\s*{kind.__name__}\b|{kind.__name__}, \w")
    shown = f'"{kind.code()}"'
    assert any(raised.search(text) or shown in text for text in texts)


def test_explain_prints_cause_and_fix() -> None:
    out = io.StringIO()
    reporter = Reporter(Console(file=out, soft_wrap=True))
    assert check.run(check.parser().parse_args(["--explain", "unknown-key"]), reporter) == 0
    assert out.getvalue().startswith("unknown-key (exit status 2)\n")
    assert "misspelling" in out.getvalue()
    assert "fix: write the key" in out.getvalue()


def test_all_are_listed_in_order() -> None:
    codes = [each.code for each in explain("all")]
    assert codes == sorted(codes)
    assert {"spec", "bundle", "image", "not-bit-exact"} <= set(codes)


def test_an_unknown_code_is_refused() -> None:
    with pytest.raises(SpecError, match="did you mean 'unknown-key'") as caught:
        explain("unknown-kye")
    assert "capability" in caught.value.fix


def test_without_specs_the_command_says_so() -> None:
    with pytest.raises(SpecError, match="no spec is named"):
        check.run(check.parser().parse_args([]), Reporter(Console(quiet=True)))


def test_a_doubtful_calibration_is_an_error_under_strict(tiny_folder: Path) -> None:
    path = tiny_spec(tiny_folder, dataset__sampler__get_data_num=1, backend__quantize__strict=True)
    with pytest.raises(CalibrationWarningError) as caught:
        pipeline.run(spec.load(path), silent(), until="calibrate")
    assert caught.value.what
    assert "strict: false" in caught.value.fix


def test_a_code_generator_that_fails_is_told() -> None:
    with pytest.raises(CompileError) as caught:
        library.compile_module(None, Host("portable", 1))  # type: ignore[arg-type]
    assert caught.value.exit_code == 3
    assert caught.value.fix
