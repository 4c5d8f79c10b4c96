import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from calib.errors import DataError
from models.curve import main, to_svg


def curve(steps: int) -> list[dict[str, float]]:
    return [{"step": s, "rgb_db": 30 + s / steps, "y_db": 32.0} for s in range(1, steps + 1)]


@pytest.mark.parametrize("steps", [1, 2, 9, 40, 1234])
def test_draws_both_lines_inside_the_picture(steps: int) -> None:
    root = ET.fromstring(to_svg(curve(steps)))
    lines = [e for e in root if e.tag.endswith("polyline")]
    assert len(lines) == 2
    for line in lines:
        points = [tuple(map(float, p.split(","))) for p in line.attrib["points"].split()]
        assert len(points) == steps
        assert all(60 <= x <= 630 and 20 <= y <= 310 for x, y in points)
    rising = [float(p.split(",")[1]) for p in lines[1].attrib["points"].split()]
    assert rising == sorted(rising, reverse=True)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, picture = tmp_path / "curve.json", tmp_path / "curve.svg"
    assert main([str(source), str(picture)]) == 2
    assert "not a readable curve" in capsys.readouterr().err
    source.write_text(json.dumps(curve(3)))
    assert main([str(source), str(picture)]) == 0
    assert picture.read_text() == to_svg(curve(3))
    with pytest.raises(DataError, match="no points"):
        to_svg([])
