"""Instruction sets and threads."""

from __future__ import annotations

import os

import pytest

from compiler import host
from compiler.errors import HostError


def test_detection_takes_the_best_this_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for isa, features in host.FEATURES.items():
        favoured = features | host._FAVOURED_BY.get(isa, frozenset())
        monkeypatch.setattr(host, "cpu_features", lambda f=favoured: f)
        assert host.detect().isa == isa
    assert host.detect().threads == len(os.sched_getaffinity(0))
    assert host.detect("portable", 3) == host.Host("portable", 3)


def test_a_variant_for_one_family_runs_wherever_its_instructions_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On Intel's processors vnni is the faster one, and libraries built for zen4 run as well."""
    monkeypatch.setattr(host, "cpu_features", lambda: host.FEATURES["vnni"])
    assert host.detect().isa == "vnni"
    assert host.supports("zen4")
    assert host.detect("zen4").isa == "zen4"


def test_a_missing_feature_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "cpu_features", lambda: frozenset({"avx2"}))
    with pytest.raises(HostError, match="avx2 needs fma"):
        host.detect("avx2")


@pytest.mark.parametrize(("isa", "threads"), [("mmx", 1), ("portable", 0), ("portable", 1000)])
def test_nonsense_is_refused(isa: str, threads: int) -> None:
    with pytest.raises(HostError):
        host.Host(isa, threads)
