"""Imports TorchScript archives (`frontend.type: pytorch`) as ONNX, with the `train` extra.

PyTorch runs in a process of its own: an archive that crashes it must not take the build down. Only
TorchScript is read; a pickled checkpoint can run any code when it is loaded, so it never is.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from compiler.errors import HostError, ModelError
from compiler.shapes import Shape

OPSET = 17
_TIMEOUT_S = 600
_MAX_CODE_BYTES = 1 << 24
_FILE_ACCESS = re.compile(r"\b(from_file|save)\s*\(")  # the file operators of TorchScript
_CHILD = """
import json, sys, warnings
warnings.simplefilter("ignore")
import torch
source, result, opset, shape = sys.argv[1:]
torch.set_num_threads(1)
torch.manual_seed(0)
example = {name: torch.rand(dims) for name, dims in json.loads(shape).items()}
network = torch.jit.load(source, map_location="cpu").eval()
torch.onnx.export(network, tuple(example.values()), result, dynamo=False,
                  opset_version=int(opset), input_names=list(example), output_names=["output"])
"""


def to_onnx(checkpoint: Path, shape: Mapping[str, Shape], result: Path) -> None:
    """Writes the network of a TorchScript archive as ONNX.

    Args:
        shape: input name to [1, C, H, W]; the exporter runs the network once at this size.
    Raises:
        ModelError: missing, a pickled checkpoint, damaged, or not exportable.
    """
    require_archive(checkpoint)
    with tempfile.TemporaryDirectory(prefix="vacc-torchscript-") as folder:
        scratch = Path(folder, "out.onnx")
        arguments = [str(checkpoint.resolve()), str(scratch), str(OPSET), json.dumps(dict(shape))]
        command = [sys.executable, "-c", _CHILD, *arguments]
        try:
            done = subprocess.run(
                command, capture_output=True, timeout=_TIMEOUT_S, text=True, cwd=folder
            )
        except subprocess.TimeoutExpired as error:
            raise _not_exported(checkpoint, f"it took longer than {_TIMEOUT_S} s") from error
        if done.returncode or not scratch.exists():
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise _not_exported(checkpoint, lines[-1].strip() if lines else "it crashed")
        result.write_bytes(scratch.read_bytes())


def torch_version() -> str:
    """Version of the installed PyTorch.

    Raises:
        HostError: there is none.
    """
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError as error:
        raise HostError(
            "frontend.type pytorch needs PyTorch, which is not installed",
            fix="install the extra: pip install '.[train]'; or export the network to ONNX",
        ) from error


def require_archive(checkpoint: Path) -> None:
    """Raises ModelError where the file is not a TorchScript archive, or its code opens files."""
    if checkpoint.exists() and not checkpoint.is_file():
        raise _no_archive(checkpoint, "no file")
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            code = [i for i in archive.infolist() if "/code/" in i.filename]
            sources = [i for i in code if i.filename.endswith(".py")]
            if not sources or not any(n.endswith("/constants.pkl") for n in archive.namelist()):
                raise _no_archive(checkpoint, "a pickled checkpoint, no TorchScript archive")
            if sum(i.file_size for i in sources) > _MAX_CODE_BYTES:
                raise _no_archive(checkpoint, "no plausible network: its code is too large")
            text = "\n".join(archive.read(i).decode("utf-8", "replace") for i in sources)
    except OSError as error:
        raise ModelError(
            f"the checkpoint cannot be read: {error.strerror or error}",
            where=str(checkpoint),
            fix="correct frontend.checkpoint in the spec",
        ) from error
    except (zipfile.BadZipFile, zipfile.LargeZipFile, RuntimeError, NotImplementedError) as error:
        raise _no_archive(checkpoint, "no TorchScript archive, or damaged") from error
    if access := _FILE_ACCESS.search(text):
        raise _no_archive(checkpoint, f"refused: its code opens files ({access[1]})")


def _no_archive(checkpoint: Path, what: str) -> ModelError:
    return ModelError(
        f"the checkpoint is {what}",
        where=str(checkpoint),
        fix="save it with torch.jit.trace(model, example).save('FILE.pt'), or export it to ONNX "
        "with torch.onnx.export",
    )


def _not_exported(checkpoint: Path, why: str) -> ModelError:
    return ModelError(
        f"PyTorch cannot export the archive to ONNX: {why}",
        where=str(checkpoint),
        fix="check frontend.shape, or export the network with torch.onnx.export and `type: onnx`",
    )
