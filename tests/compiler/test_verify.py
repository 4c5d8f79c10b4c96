from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from calib.errors import DataError
from calib.images import write_image
from compiler.schema import Verify
from compiler.verify import pairs_of
from tests.compiler.conftest import photograph


def test_samples_stand_in_and_say_why(tmp_path: Path) -> None:
    for options, words in (
        (Verify(), "the spec names no verify.hr"),
        (Verify(hr=str(tmp_path / "absent")), "absent is absent"),
    ):
        pairs, dataset, (warning,) = pairs_of(options, 2)
        assert dataset == "samples"
        assert pairs
        assert "SAMPLE photographs" in warning
        assert words in warning


def test_a_scale_that_is_not_the_rate_is_refused() -> None:
    assert pairs_of(Verify(scale=3), 3)
    with pytest.raises(DataError, match="scales by 2") as caught:
        pairs_of(Verify(scale=3), 2)
    assert "scale: 2" in caught.value.fix


def test_the_authors_subset_names_what_is_missing(tmp_path: Path) -> None:
    write_image(tmp_path / "0801.png", photograph(0, 24, 24))
    with pytest.raises(DataError, match="0889") as caught:
        pairs_of(Verify(hr=str(tmp_path), subset="bicubic_plusplus_48"), 2)
    assert "0801" not in caught.value.what


@pytest.mark.parametrize("verb", ["verify", "analyze", "fid", "ablation", "table"])
def test_a_folder_named_on_the_command_line_must_exist(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = importlib.import_module(f"compiler.{verb}").parser()
    with pytest.raises(SystemExit) as caught:
        parser.parse_args([*["x"] * (verb != "table"), "--hr", str(tmp_path / "absent")])
    assert caught.value.code == 2
    assert "absent does not exist" in capsys.readouterr().err
