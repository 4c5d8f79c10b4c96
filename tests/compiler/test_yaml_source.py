from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from compiler import yaml_source
from compiler.errors import SpecError

HERE = Path("spec.yaml")
scalars = st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=8)
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3)
)


@given(st.dictionaries(st.text(max_size=5), values, max_size=4))
def test_reads_what_a_yaml_library_wrote(data: dict) -> None:
    text = yaml.safe_dump(data, default_style='"')  # quoted: YAML 1.1 and 1.2 agree on strings
    assert yaml_source.parse(text, HERE).data == data


@given(st.text(max_size=200))
def test_any_text_is_a_mapping_or_an_error_of_the_family(text: str) -> None:
    with contextlib.suppress(SpecError):
        assert isinstance(yaml_source.parse(text, HERE).data, dict)


def test_lines_and_yaml_1_2_numbers() -> None:
    document = yaml_source.parse("a: 1\nb:\n  - x: 1e-4\n  - {y: 2}\n", HERE)
    assert document.data == {"a": 1, "b": [{"x": 1e-4}, {"y": 2}]}
    assert document.line(("b",)) == 2
    assert document.line(("b", 0, "x")) == 3
    assert document.line(("b", 1, "y")) == 4
    assert document.where(("b", 1, "absent")) == "spec.yaml:4"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: [1\nb", 2, "not valid YAML"),
        ("a: 1\n\tb: 2", 2, "not valid YAML"),
        ("a: 1\nb: 2\na: 3", 3, "'a' stands here twice"),
        ("a: !!python/object/apply:os.system [ls]", 1, "tag"),
        ("a: !mine 3", 1, "tag"),
        ("a:\n  3: x", 2, "not a word"),
        ("? [1]\n: 2", 1, "a key must be a word"),
        ("- 1", None, "mapping of keys to values"),
        ("", None, "mapping of keys to values"),
    ],
)
def test_faults_name_their_line(text: str, line: int | None, words: str) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        yaml_source.parse(text, HERE)
    assert caught.value.line == line
    assert caught.value.fix


def test_a_billion_laughs_is_refused_before_it_expands() -> None:
    levels = ["a0: &a0 [lol]"] + [
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)
    ]
    with pytest.raises(SpecError, match="without bound"):
        yaml_source.parse("\n".join(levels), HERE)


def test_an_alias_of_itself_is_refused() -> None:
    with pytest.raises(SpecError):
        yaml_source.parse("a: &a [*a]", HERE)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(SpecError):
        yaml_source.parse("a: " + "[" * 5000, HERE)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b"a: " + b"x" * (1 << 21)])
def test_unreadable_files(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "spec.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        yaml_source.read(path)
    assert str(path) in caught.value.where


def test_half_a_surrogate_pair_is_refused_with_its_line() -> None:
    with pytest.raises(SpecError, match="invalid Unicode") as caught:
        yaml_source.parse('name: a\nb: "\\ud800"\n', HERE)
    assert caught.value.line == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 0x" + "f" * 5000, "too large a number"),
        ("a: " + "9" * 25, "too large a number"),
        ("a: " + "9" * 5000, "not a valid value"),
        ("a: " + "x" * 20_000, "20000 characters"),
        ("k" * 300 + ": 1", "not a word"),
        ('"a\\ud800": 1', "invalid Unicode"),
        ("a: \ud800", "not valid Unicode"),
        ("a: !!int x", "not a valid value"),
    ],
)
def test_values_that_no_message_could_show(text: str, words: str) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        yaml_source.parse(text, HERE)
    assert len(str(caught.value)) < 300


def test_an_equals_sign_is_text() -> None:
    assert yaml_source.parse("a: =\nb: 2020-01-01", HERE).data == {"a": "=", "b": "2020-01-01"}


def test_the_line_of_an_error_stands_in_the_file() -> None:
    with pytest.raises(SpecError) as caught:
        yaml_source.parse("a: [1", HERE)
    assert caught.value.line == 1


def test_a_file_without_end_is_not_read_to_it(tmp_path: Path) -> None:
    (tmp_path / "large.yaml").write_text("a" * (1 << 21))
    (tmp_path / "endless.yaml").symlink_to("/dev/zero")
    for name in ("large.yaml", "endless.yaml"):
        with pytest.raises(SpecError, match="too large for a spec"):
            yaml_source.read(tmp_path / name)
