"""`python -m compiler.table`: the published performance table of Bicubic++, ours beside it.

Ours come from the bundles of `configs/bpp2x_int8.yaml` and `configs/bpp3x_int8.yaml`, built where
they are missing, under the published protocol `vendor` and under `standard`. Measurements are kept
in the stage store.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from calib.images import read_size
from compiler import cli, published, spec, store
from compiler.data import Pair
from compiler.errors import BundleError
from compiler.progress import Reporter
from compiler.published import ROWS, Entry, Measured, Row
from compiler.schema import Protocol
from compiler.spec import SpecFile
from compiler.store import Store

if TYPE_CHECKING:
    from compiler.bundle import Bundle

CONFIGS: Final = Path(__file__).parents[1] / "configs"
PROTOCOLS: Final[tuple[Protocol, ...]] = ("vendor", "standard")
_DIV2K_NAMES: Final = frozenset(f"{number:04}" for number in range(801, 901))
_DIV2K_LONG_SIDE: Final = 2040  # pixels, of every image of DIV2K


def entries(
    rows: Sequence[Row],
    configs: Path,
    reporter: Reporter,
    *,
    out: Path | None = None,
    hr: Path | None = None,
) -> tuple[Entry, ...]:
    """The rows with our figures; builds the bundles that are missing or out of date.

    Args:
        configs: directory of the specs that the rows name.
        out: parent directory of the bundles, instead of each spec's `workspace.path`.
        hr: measure on the images of this folder (LR by MATLAB bicubic), not on the spec's.
    Raises:
        WorkbenchError: whatever `build` and `verify` raise.
    """
    files = {row.config: spec.load(configs / f"{row.config}.yaml") for row in rows}
    bundles = {name: _bundle(file, out, reporter) for name, file in files.items()}
    accuracies = {
        name: [_accuracy(bundle, protocol, hr, reporter) for protocol in PROTOCOLS]
        for name, bundle in bundles.items()
    }
    return tuple(_entry(row, bundles[row.config], accuracies[row.config]) for row in rows)


def _bundle(file: SpecFile, out: Path | None, reporter: Reporter) -> Bundle:
    """The bundle of a spec; built where it is missing, or made of another spec, model or images."""
    from compiler import bundle, pipeline  # tvm and onnxruntime: slow to import, not for --help

    folder = (out or Path(file.spec.workspace.path)) / file.spec.name
    if (folder / bundle.MANIFEST).exists():
        try:
            built = bundle.load(folder)
        except BundleError as error:
            reporter.warn(f"{folder} is built again: {error.what}")
        else:
            if _is_current(built, file):
                return built
    pipeline.run(file, reporter, out=out)
    return bundle.load(folder)


def _is_current(built: Bundle, file: SpecFile) -> bool:
    from compiler import dataset

    checkpoint = Path(file.spec.frontend.checkpoint)
    return (
        built.spec == file.spec
        and checkpoint.is_file()
        and built.manifest["model"]["sha256"] == store.file_sha256(checkpoint)
        and file.spec.dataset is not None
        and built.manifest["calibration"]["source"]
        == dataset.calibration_set(file.spec.dataset, built.engine.scaling.rate).source
    )


def _accuracy(
    bundle: Bundle, protocol: Protocol, hr: Path | None, reporter: Reporter
) -> dict[str, Any]:
    """The object of accuracy.json under `protocol`, and whether the images are DIV2K's.

    From the store where bundle, images and protocol are known.
    """
    from compiler import bundle as bundles
    from compiler import verify

    changes: dict[str, Any] = {"protocol": protocol}
    if hr is not None:
        changes |= {"hr": str(hr), "lr": None}
    options = bundle.spec.verify.model_copy(update=changes)
    pairs, _, warnings = verify.pairs_of(options, bundle.engine.scaling.rate)
    for warning in warnings if protocol == PROTOCOLS[0] else ():
        reporter.warn(f"{bundle.name}: {warning}")

    def produce(path: Path) -> None:
        reporter.stage(f"measure    {bundle.name}, protocol {protocol}, {len(pairs)} images")
        result, _ = verify.measure_engine(bundle.engine, options, reporter)
        path.write_text(json.dumps(result.to_json() | {"div2k": is_div2k(pairs)}))

    files = [path for pair in pairs for path in (pair.hr, pair.lr) if path is not None]
    key = store.key(
        "table",
        (bundle.path / bundles.SEAL).read_bytes(),
        options.model_dump(mode="json"),
        [store.file_sha256(path) for path in files],
    )
    kept = Store(bundle.path.parent / ".store")
    result: dict[str, Any] = json.loads(kept.get(key, ".json", produce).read_text())
    return result


def is_div2k(pairs: Sequence[Pair]) -> bool:
    """Whether all images are whole images of DIV2K's validation set (crops of them are not)."""
    return all(
        pair.name in _DIV2K_NAMES and max(read_size(pair.hr)) == _DIV2K_LONG_SIDE for pair in pairs
    )


def _entry(row: Row, bundle: Bundle, accuracies: Sequence[dict[str, Any]]) -> Entry:
    from compiler import fusion, stats

    counts = stats.network_stats(fusion.fuse(bundle.engine.fp32), bundle.engine.main_size)
    frontend = bundle.spec.frontend
    measured = (
        Measured(
            protocol=a["protocol"],
            dataset=a["dataset"],
            images=a["images"],
            excluded=a["excluded"],
            comparable=a["protocol"] == "vendor" and a["div2k"],
            psnr_db=a[row.competitor]["psnr_db"]["rgb"],
            ssim=a[row.competitor]["ssim"]["rgb"],
        )
        for a in accuracies
    )
    return Entry(
        row,
        frontend.checkpoint,
        tuple(frontend.dims),
        counts.macs,
        counts.params,
        tuple(measured),
    )


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    result = cli.command(
        "table",
        "The published performance table of Bicubic++, its figures beside ours.\n"
        "Builds what is missing.",
        examples=("", "--markdown table.md", "--hr data/DIV2K/DIV2K_valid_HR --json -"),
    )
    result.add_argument("--markdown", type=Path, metavar="FILE", help="write it as Markdown")
    result.add_argument(
        "--hr", type=cli.folder, metavar="DIR", help="measure on these images instead of the specs'"
    )
    result.add_argument("--out", type=Path, metavar="DIR", help="parent of the bundles")
    return cli.with_output(result, "the table")


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    """Measures what is not measured yet, and shows the table."""
    table = entries(ROWS, CONFIGS, reporter, out=args.out, hr=Path(args.hr) if args.hr else None)
    published.show(table, reporter)
    cli.write_result(args.json, published.to_json(table))
    if args.markdown:
        store.write_text(args.markdown, published.to_markdown(table) + "\n")
    return 0


if __name__ == "__main__":
    cli.main(parser(), run)
