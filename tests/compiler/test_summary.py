"""What a person reads at the end says what was measured, and what was not."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from compiler import summary
from compiler.accuracy import Accuracy, BitExactness, ImageAccuracy, Scores, Verdict
from compiler.progress import Reporter


def shown(scores: Scores, gate: Verdict, channels: int) -> str:
    images = (ImageAccuracy("a", scores, scores, scores),)
    exact = BitExactness(True, 1, 9)
    result = Accuracy("standard", "set", 0, images, exact, gate, seed=0, channels=channels)
    said = io.StringIO()
    summary.show_accuracy(Reporter(Console(file=said, width=200)), "net", result)
    return said.getvalue()


def test_colour_and_grey_scores_are_named_so() -> None:
    rgb = shown(Scores(30, 31, 0.8, 0.9), Verdict(True, ()), 3)
    assert "PSNR RGB (dB)" in rgb
    assert "SSIM Y" in rgb
    grey = shown(Scores(30, None, 0.8, None), Verdict(True, ()), 1)
    assert "PSNR grey (dB)" in grey
    assert "RGB" not in grey
    assert " Y" not in grey


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        (Verdict(True, (), checked=True), "gate passed"),
        (Verdict(True, (), checked=False), "no gate is set"),
        (Verdict(False, ("too low",), checked=True), "gate missed: too low"),
    ],
)
def test_the_gate(gate: Verdict, words: str) -> None:
    text = shown(Scores(30, None, 0.8, None), gate, 1)
    assert words in text
    assert text.count("gate") == 1
