"""docs/ and README.md against the code: keys, defaults, examples, commands, links."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

import compiler
from calib.images import OPERATORS
from calib.methods import METHODS
from compiler import explain, host, judges, operators, schema, spec, target, yaml_source
from compiler.cost.hardware import NEEDED
from compiler.vendor_keys import NO_EFFECT
from compiler.verbs import VERBS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BASE: dict[str, Any] = {
    "name": "page",
    "frontend": {"checkpoint": "net.onnx", "shape": {"x": [1, 3, 8, 8]}},
    "backend": {"dtype": "int8"},
    "dataset": {"fallback": "samples"},
}
READER_DEFAULT = "DecodeImage, Normalize, ToTensor"  # of process_ops, for people


@dataclass(frozen=True)
class Block:
    """A fenced block: the page and line it stands at, what it is marked as, and its text."""

    page: Path
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(kind: str) -> list[Block]:
    """Every block whose mark is `kind`, or begins with it and a space."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\S.*)\n((?:.*\n)*?)```$", text, re.M):
            if match[1] == kind or match[1].startswith(f"{kind} "):
                found.append(Block(page, text[: match.start()].count("\n") + 1, match[1], match[2]))
    return found


def rows(page: str, start: str = "`") -> list[list[str]]:
    """Cells of every table row whose first cell begins with `start`."""
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    table = [line for line in lines if line.startswith(f"| {start}")]
    return [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table]


def submodel(annotation: Any) -> type[BaseModel] | None:
    options = (annotation, *get_args(annotation))
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, default as the page writes it) of everything below `model`."""
    for name, field in model.model_fields.items():
        below = submodel(field.annotation)
        if below is not None:
            yield from leaves(below, f"{prefix}{name}.")
        else:
            default = "required" if field.is_required() else field.default
            yield f"{prefix}{name}", default


def merged(base: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    both = {k: merged(base[k], v) for k, v in other.items() if isinstance(v, dict) and k in base}
    return {**base, **other, **both}


def reading(block: Block, path: Path) -> spec.Reading:
    """The block as a spec; what it leaves out comes from the smallest one."""
    data = yaml_source.parse(block.text, path).data
    whole = data if "name" in data else merged(BASE, data)
    path.write_text(yaml.safe_dump(whole), encoding="utf-8")
    return spec.read(path)


# --- spec ---


def test_every_key_of_the_schema_is_on_the_page_with_its_default() -> None:
    steps = {t: m for t, m in OPERATORS.items() if set(m.model_fields) - {"type"}}
    in_code = dict(leaves(schema.Spec))
    for name, step in steps.items():
        in_code |= {k: v for k, v in leaves(step, f"{name}.") if not k.endswith(".type")}
    on_page = {row[0].strip("`"): row[2] for row in rows("spec.md") if len(row) == 4}
    assert on_page.keys() == in_code.keys()
    for key, shown in on_page.items():
        if shown != READER_DEFAULT:
            assert yaml.safe_load(shown.strip("`")) == in_code[key], key
    (default,) = (v for k, v in in_code.items() if k == "dataset.process_ops")
    assert [op.type for op in default] == READER_DEFAULT.split(", ")


def test_every_choice_is_on_the_page() -> None:
    types = {row[0].strip("`"): row[1] for row in rows("spec.md") if len(row) == 4}
    listed = {key: set(re.findall(r"`([^`]+)`", shown)) for key, shown in types.items()}
    assert listed["backend.quantize.calibrate_mode"] == {*METHODS, schema.AUTO}
    assert listed["backend.compile.host.isa"] == set(host.FEATURES)
    assert listed["frontend.type"] == set(judges.FRONTENDS)
    assert listed["backend.quantize.weight_scale"] == {"float", "max", "power2"}
    assert listed["CvtColor.code"] == set(
        get_args(OPERATORS["CvtColor"].model_fields["code"].annotation)
    )


def test_vendor_keys_are_on_the_page() -> None:
    pairs = [row for row in rows("spec.md", "") if len(row) == 2]
    on_page = {
        () if part == "top level" else tuple(part.strip("`").split(".")): frozenset(
            re.findall(r"`([^`]+)`", keys)
        )
        for part, keys in pairs
        if part not in ("part", "---")
    }
    assert on_page == NO_EFFECT


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_examples(block: Block, tmp_path: Path) -> None:
    """A spec, or part of one, is judged as the text around it says."""
    if block.kind == "yaml target":
        chosen = target.Target.model_validate(yaml_source.parse(block.text, block.page).data)
        assert chosen.name
        return
    read = reading(block, tmp_path / "spec.yaml")
    assert read.file is not None
    refusals = (*read.faults, *judges.check(read.file, target.load(read.file)))
    _, _, code = block.kind.partition("refused: ")
    assert [type(r).code() for r in refusals] == ([code] if code else []), refusals


# --- target ---


def test_every_key_of_a_target_is_on_the_page() -> None:
    on_page = {row[0].strip("`") for row in rows("target.md") if len(row) == 3}
    top = {k for k in on_page if not k.startswith("hardware.")} & set(target.Target.model_fields)
    assert top == set(target.Target.model_fields)
    figure = {k.removeprefix("hardware.*.") for k in on_page if k.startswith("hardware.*.")}
    assert figure == set(target.Figure.model_fields)
    assert set(NEEDED) <= on_page


def test_every_shipped_target_and_figure_is_on_the_page() -> None:
    text = (ROOT / "docs/target.md").read_text(encoding="utf-8")
    for path in sorted(target.TARGETS.glob("*.yaml")):
        shipped = target.Target.model_validate(yaml_source.read(path).data)
        for word in (shipped.name, *shipped.operators, *shipped.hardware):
            assert f"`{word}`" in text
    for operator in operators.READERS:
        assert f"`{operator}`" in text


# --- semantics, errors ---


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_give_what_they_say(page: Path) -> None:
    test = doctest.DocTestParser().get_doctest(
        page.read_text(encoding="utf-8"), {}, page.name, str(page), 0
    )
    report: list[str] = []
    doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert not report, "".join(report)


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_examples_name_what_exists(block: Block) -> None:
    """Those that need a bundle are read only: they must parse, and name the package's functions."""
    if ">>>" in block.text:
        return
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "compiler":
            assert node.attr in compiler.__all__


def test_semantics_page_has_examples() -> None:
    marked = [b for b in blocks("python") if b.page.name == "semantics.md"]
    assert len(marked) >= 8
    assert all(">>>" in block.text for block in marked)


def test_errors_page_is_what_the_code_says() -> None:
    page = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    assert page == explain.page(), "python -m compiler.explain > docs/errors.md"


# --- commands, links ---


def test_every_verb_is_on_the_page() -> None:
    on_page = {row[0].strip("`"): row[1] for row in rows("commands.md")}
    assert on_page == {verb.name: verb.summary for verb in VERBS.values()}


def commands() -> list[tuple[str, str]]:
    """(place, line) of every command in a console block."""
    return [
        (f"{block}", line[2:].partition("  #")[0].partition(" > ")[0].strip())
        for block in blocks("console")
        for line in block.text.splitlines()
        if line.startswith("$ ")
    ]


@pytest.mark.parametrize(
    ("place", "line"), [c for c in commands() if " -m compiler." in c[1]], ids=str
)
def test_commands_are_taken_by_their_parsers(
    place: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, *args = shlex.split(line, comments=True)[2:]
    monkeypatch.chdir(tmp_path)
    if "--hr" in args:
        Path(args[args.index("--hr") + 1]).mkdir(parents=True)
    verb = VERBS[module.removeprefix("compiler.")]
    importlib.import_module(verb.parser_module).parser().parse_args(args)


def test_every_module_and_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"(?:\$ |`)make ([a-z-]+)", text):
            assert name in targets, f"{page.name}: make {name}"
        for name in re.findall(r"python -m (compiler\.[a-z]+)", text):
            known = name.removeprefix("compiler.") in VERBS
            assert known or name == "compiler.explain", f"{page.name}: {name}"


def test_every_spec_that_is_named_is_shipped() -> None:
    own = {"configs/espcn.yaml", "configs/x.yaml"}  # the reader's
    for page in PAGES:
        for name in re.findall(r"configs/[\w/-]+\.yaml", page.read_text(encoding="utf-8")):
            assert name in own or (ROOT / name).is_file(), f"{page.name}: {name}"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_resolve(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), link
        assert there.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(there), link
