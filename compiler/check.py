"""`python -m compiler.check SPEC...`: judges specs against schema and target, builds nothing."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compiler import cli, judges, spec, torchscript
from compiler import target as targets
from compiler.errors import ModelError, SpecError
from compiler.explain import explain
from compiler.progress import Reporter
from compiler.spec import SpecFile

_NETWORK_BYTES = 200 << 20  # larger checkpoints are not read, only those that none may be
_NETWORK_KEYS = ("frontend", "backend.dtype", "backend.target")  # at fault: no need to read it


@dataclass(frozen=True)
class Reason:
    """Why a spec is refused."""

    code: str
    line: int | None
    key: str
    message: str
    fix: str


@dataclass(frozen=True)
class Verdict:
    """One spec: buildable or refused, what it misses on this disk, has no effect, was read how."""

    spec: str
    verdict: str
    reasons: tuple[Reason, ...]
    missing: tuple[str, ...] = ()
    no_effect: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def judge(path: Path) -> Verdict:
    """The verdict on one spec and, where it lies on this disk, on its network.

    Never raises for what the files hold.
    """
    reading = spec.read(path)
    if reading.file is None:
        return Verdict(str(path), "refused", tuple(map(_reason, reading.faults)))
    try:
        refusals = judges.check(reading.file, targets.load(reading.file))
    except SpecError as error:
        refusals = (error,)
    faulty = {error.key for error in reading.faults}
    more = [error for error in refusals if not _about_any(error.key, faulty)]
    reasons = [_reason(error) for error in (*reading.faults, *more)]
    if not any(reason.key.startswith(_NETWORK_KEYS) for reason in reasons):
        reasons += [r for r in _network_reasons(reading.file) if r not in reasons]
    reasons.sort(key=lambda reason: reason.line or 0)
    return Verdict(
        str(path),
        "refused" if reasons else "buildable",
        tuple(reasons),
        _missing(reading.file),
        tuple(key for key in reading.file.no_effect if key not in {r.key for r in reasons}),
        (*reading.file.notes, *_stand_ins(reading.file)),
    )


def _network_reasons(file: SpecFile) -> tuple[Reason, ...]:
    """Why the network in the checkpoint cannot be built, where reading it costs little."""
    frontend = file.spec.frontend
    checkpoint = Path(frontend.checkpoint)
    if not _is_there(checkpoint):
        return ()
    from compiler import (  # slow to import; most specs' files are elsewhere
        fusion,
        model,
        simplify,
        stages,
    )

    shape = {name: tuple(dims) for name, dims in frontend.shape.items()}
    try:
        if frontend.type == "pytorch":
            torchscript.require_archive(checkpoint)
        elif not _NETWORK_BYTES < checkpoint.stat().st_size <= model.MAX_MODEL_BYTES:
            graph = stages.with_head(simplify.supported(model.load(checkpoint, shape)), file)
            stages.require_operators(graph, targets.load(file))
            stages.require_layers(file, fusion.fuse(graph))
    except SpecError as error:
        return (_reason(error),)
    except ModelError as error:
        line = file.document.line(("frontend", "checkpoint"))
        message = f"{error.where}: {error.what}" if error.where else error.what
        return (Reason(type(error).code(), line, "frontend.checkpoint", message, error.fix),)
    return ()


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _about_any(key: str, faulty: set[str]) -> bool:
    """Whether a refusal only repeats a fault: what was at fault was taken out of the spec."""
    return any(f == key or f.startswith(f"{key}.") or key.startswith(f"{f}.") for f in faulty)


def _reason(error: SpecError) -> Reason:
    return Reason(type(error).code(), error.line, error.key, error.what, error.fix)


def _missing(file: SpecFile) -> tuple[str, ...]:
    """Paths that the spec names and this disk lacks; a fallback stands in for a data set."""
    wanted = [file.spec.frontend.checkpoint]
    dataset = file.spec.dataset
    if dataset is not None and dataset.path and dataset.fallback is None:
        wanted.append(dataset.path)
    return tuple(path for path in wanted if not _is_there(Path(path)))


def _stand_ins(file: SpecFile) -> tuple[str, ...]:
    """Folders of images that are absent, for which a build takes the sample photographs."""
    dataset = file.spec.dataset
    wanted = [("verify.hr", file.spec.verify.hr)]
    if dataset is not None and dataset.fallback is not None:
        wanted.insert(0, ("dataset.path", dataset.path))
    absent = [(key, path) for key, path in wanted if path and not _is_there(Path(path))]
    return tuple(f"{key}: {path} is absent, sample photographs stand in" for key, path in absent)


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    result = cli.command(
        "check",
        "Validate specs against schema and target; build nothing. Missing files are noted, no\n"
        "reason to refuse.",
        examples=("configs/*.yaml", "configs/bpp3x_int8.yaml --json -", "--explain all"),
        status="0 if all are buildable, 2 otherwise",
    )
    result.add_argument("specs", nargs="*", type=Path, metavar="SPEC", help="build specs")
    result.add_argument(
        "--explain", metavar="CODE", help="cause and fix of an error code (`all` lists every one)"
    )
    return cli.with_output(result, "the verdicts")


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    """Judges every spec, also after the first bad one."""
    if args.explain:
        for explanation in explain(args.explain):
            reporter.console.print(str(explanation), markup=False, highlight=False)
        if not args.specs:
            return 0
    elif not args.specs:
        raise SpecError("no spec is named", fix="name one or more, such as configs/*.yaml")
    verdicts = [judge(path) for path in args.specs]
    for verdict in verdicts:
        _show(verdict, reporter)
    cli.write_result(args.json, [_to_json(verdict) for verdict in verdicts])
    return 0 if all(verdict.verdict == "buildable" for verdict in verdicts) else 2


def _to_json(verdict: Verdict) -> dict[str, Any]:
    """The verdict as scripts read it; notes are for people."""
    return {key: value for key, value in asdict(verdict).items() if key != "notes"}


def _show(verdict: Verdict, reporter: Reporter) -> None:
    colour = "green" if verdict.verdict == "buildable" else "red"
    reporter.stage(f"{verdict.verdict}  {verdict.spec}", f"bold {colour}")
    for reason in verdict.reasons:
        where = " ".join(filter(None, (f"line {reason.line}" * bool(reason.line), reason.key)))
        reporter.detail(f"{where or 'the file'}: {reason.message}\n    fix: {reason.fix}")
    for label, names in (("missing", verdict.missing), ("without effect", verdict.no_effect)):
        if names:
            reporter.detail(f"{label}: {', '.join(names)}")
    for note in verdict.notes:
        reporter.detail(f"note: {note}")


if __name__ == "__main__":
    cli.main(parser(), run)
