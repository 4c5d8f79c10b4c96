"""Trains Bicubic++ for one rate on a folder of photographs, on the CPU; may be stopped and resumed.

    python -m models.train --rate 3 --data ../shared/data/cc0 --steps 40000

The kernels, as matrices [O, 9*I], are trained with Muon (K. Jordan et al., "Muon: An optimizer for
hidden layers in neural networks", 2024; `torch.optim.Muon`): after 1,800 steps of 3x it was 1.4 dB
ahead of Adam on the held-out photographs. The tensors that an int8 build rounds get noise in
proportion to their range (as in A. Defossez et al., "Differentiable model compression via pseudo
quantization noise", 2022, but the range is that of the activations, and its gradient is taken).
The loss is the mean over patches of the logarithm of the squared error, that is the mean PSNR: so
smooth patches, where rounding is most of the error, count as much as others. The result is the
exponential moving average of the kernels. The same recipe on the same machine and number of threads
gives the same weights, stopped or not; other processors sum in another order.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from calib.errors import DataError, WorkbenchError
from compiler.metrics import LUMA
from compiler.store import atomic, storage, write_json
from models.bicubic_plusplus import export_onnx
from models.evaluate import measure, upscaler
from models.network import BicubicPlusPlus, Rounding
from models.patches import Images, batch, load_images
from models.recipe import Recipe

DESCRIPTION = "Bicubic++ trained by the VACC workbench on CC0 photographs; licence CC0-1.0"

_LUMA = torch.tensor(LUMA) / 255
_CHECK_EVERY = 1000  # steps between checkpoints, each with one point of the curve


class Training:
    """The state of one run: kernels, optimizer, averaged kernels, steps done, and the curve."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.step = 0
        self.curve: list[dict[str, float]] = []
        torch.manual_seed(recipe.seed)
        self.network = BicubicPlusPlus(recipe.rate)
        for conv in self.network.children():
            parametrize.register_parametrization(conv, "weight", _AsMatrix(conv.weight.shape))
        self.optimizer = torch.optim.Muon(
            self.network.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=0,
            adjust_lr_fn="match_rms_adamw",
        )
        self.average = {name: kernel.clone() for name, kernel in self._kernels().items()}

    def run(self, images: Images, until: int) -> None:
        """Trains on until so many steps are done in all."""
        recipe, pairs, share = self.recipe, images.pairs, images.share
        while self.step < until:
            lr, hr = batch(
                pairs, share, recipe.seed, self.step, recipe.patches, recipe.size, recipe.stretched
            )
            for group in self.optimizer.param_groups:
                group["lr"] = recipe.learning_rate_at(self.step)
            torch.manual_seed(recipe.seed + self.step)  # the noise, too, needs no saved state
            self.optimizer.zero_grad()
            self._loss(lr, hr).backward()
            self.optimizer.step()
            self.step += 1
            decay = min(recipe.average, self.step / (self.step + 10))
            for name, kernel in self._kernels().items():
                self.average[name].lerp_(kernel, 1 - decay)

    def _loss(self, lr: NDArray[np.uint8], hr: NDArray[np.uint8]) -> Tensor:
        """Mean logarithm of the patches' errors, with the expected error of the last rounding."""
        recipe = self.recipe
        exact = int(recipe.exact * recipe.patches)
        rounding = Rounding(recipe.noise, recipe.kernel_noise, exact)
        output, last = self.network.features(_images(lr), rounding)
        error = _squared_error(output - _unshuffled(hr, 2 * recipe.rate), recipe.luma)
        rounded = torch.arange(len(error)) >= exact
        expected = rounding.last_error(last, self.network.conv_out.weight)
        error = error + rounded * _squared_error(expected, recipe.luma)
        return torch.log(error + recipe.floor / 255**2).mean()

    def state(self) -> dict[str, NDArray[np.float32]]:
        """The averaged kernels [O, I, 3, 3], the result of the training."""
        return {name: kernel.numpy().copy() for name, kernel in self.average.items()}

    def watch(self, images: Images) -> dict[str, float]:
        """Adds a point to the curve: what the averaged kernels reach on the held-out images."""
        network = BicubicPlusPlus(self.recipe.rate)
        network.load_state_dict(self.average)

        def run(image: NDArray[np.float32]) -> NDArray[np.float32]:
            output: NDArray[np.float32] = network(torch.from_numpy(image)).detach().numpy()
            return output

        psnr = measure(upscaler(run, self.recipe.rate), images.held_out, self.recipe.rate)
        point = {"step": self.step, "rgb_db": round(psnr.rgb_db, 4), "y_db": round(psnr.y_db, 4)}
        self.curve.append(point)
        return point

    def save(self, path: Path) -> None:
        """Writes a checkpoint, complete or not at all.

        Raises:
            StorageError: the folder cannot be written.
        """
        content = {
            "recipe": dataclasses.asdict(self.recipe),
            "step": self.step,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "curve": self.curve,
        }
        with atomic(path) as temporary, storage(path):
            torch.save(content, temporary)

    def load(self, path: Path) -> None:
        """Continues from a checkpoint of the same recipe.

        Raises:
            DataError: the checkpoint is damaged, or comes from another recipe.
        """
        try:
            content: dict[str, Any] = torch.load(path, weights_only=True)
        except Exception as error:  # torch.load raises many classes on a damaged file
            raise DataError(
                "the checkpoint is damaged", where=str(path), fix="delete it to start again"
            ) from error
        recipe = dataclasses.asdict(self.recipe)
        other = [k for k, v in recipe.items() if content["recipe"].get(k) != v]
        if other:
            raise DataError(
                f"the checkpoint was trained with another {', '.join(other)}",
                where=str(path),
                fix="repeat the command it was started with, or choose another --run folder",
            )
        self.step, self.curve = content["step"], content["curve"]
        self.average = content["average"]
        self.network.load_state_dict(content["network"])
        self.optimizer.load_state_dict(content["optimizer"])

    def _kernels(self) -> dict[str, Tensor]:
        convs = self.network.named_children()
        return {f"{name}.weight": conv.weight.detach() for name, conv in convs}


class _AsMatrix(nn.Module):  # type: ignore[misc]  # torch is an optional extra, so untyped
    """Keeps a kernel [O, I, 3, 3] as the matrix [O, 9*I] that Muon needs."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, matrix: Tensor) -> Tensor:
        return matrix.view(self.shape)

    def right_inverse(self, kernel: Tensor) -> Tensor:
        return kernel.reshape(len(kernel), -1).clone()


def _images(patches: NDArray[np.uint8]) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W] in [0, 1], channels last in memory."""
    return torch.from_numpy(patches).permute(0, 3, 1, 2).float() / 255


def _unshuffled(patches: NDArray[np.uint8], block: int) -> Tensor:
    """What the network should have before its pixel shuffle: [N, 3*block^2, H/block, W/block]."""
    count, height, width, _ = patches.shape
    rows, columns = height // block, width // block
    blocks = torch.from_numpy(patches).view(count, rows, block, columns, block, 3)
    channels = blocks.permute(0, 1, 3, 5, 2, 4).reshape(count, rows, columns, 3 * block**2)
    return channels.permute(0, 3, 1, 2).float() / 255


def _squared_error(error: Tensor, luma: float) -> Tensor:
    """[N], the mean square over RGB plus `luma` times that of Y; error [N, 3*block^2, h, w]."""
    y = (error.unflatten(1, (3, -1)) * _LUMA.view(3, 1, 1, 1)).sum(1)
    return error.square().mean((1, 2, 3)) + luma * y.square().mean((1, 2, 3))


def train(recipe: Recipe, data: Path, folder: Path, report: Callable[[str], None]) -> Training:
    """Trains to the end, or continues the run in `folder`, saving a checkpoint every 1,000 steps.

    Args:
        recipe: what to do.
        data: folder of photographs.
        folder: holds `checkpoint.pt` and `curve.json`; made when missing.
        report: takes one line of progress for each checkpoint.

    Raises:
        DataError: no photographs, or a checkpoint of another recipe.
        StorageError: `folder` cannot be written.
    """
    checkpoint = folder / "checkpoint.pt"
    training = Training(recipe)
    if checkpoint.exists():
        training.load(checkpoint)
    images = load_images(data, recipe)
    while training.step < recipe.steps:
        training.run(images, min(recipe.steps, training.step + _CHECK_EVERY))
        point = training.watch(images)
        training.save(checkpoint)
        write_json(folder / "curve.json", training.curve)
        report(f"step {training.step}: {point['rgb_db']:.3f} dB RGB, {point['y_db']:.3f} dB Y")
    return training


def main(arguments: list[str] | None = None) -> int:
    """Command line of the training; returns the exit status."""
    options = vars(_parser().parse_args(arguments))
    data, out, folder, threads = (options.pop(k) for k in ("data", "out", "run", "threads"))
    torch.set_num_threads(threads)
    try:
        listed = {key: tuple(options[key]) for key in ("factors", "noise")}
        recipe = Recipe(**options | listed)
        folder = folder or Path(f"models/runs/{recipe.rate}x")
        out = out or folder / f"bicubic_plusplus_{recipe.rate}x.onnx"
        training = train(recipe, data, folder, lambda line: print(line, flush=True))
        export_onnx(training.state(), recipe.rate, out, DESCRIPTION, centred=True)
    except WorkbenchError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; the same command continues from the last checkpoint", file=sys.stderr)
        return 130
    print(f"wrote {out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models.train", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="photographs")
    parser.add_argument("--out", type=Path, metavar="ONNX", help="default: in the run's folder")
    parser.add_argument("--run", type=Path, metavar="DIR", help="default: models/runs/<rate>x")
    parser.add_argument("--threads", type=int, default=1)
    for field in dataclasses.fields(Recipe):
        flag = f"--{field.name.replace('_', '-')}"
        if field.default is dataclasses.MISSING:
            parser.add_argument(flag, type=int, required=True)
        elif isinstance(field.default, tuple):
            parser.add_argument(flag, type=float, nargs="+", default=field.default)
        else:
            parser.add_argument(flag, type=type(field.default), default=field.default)
    return parser


if __name__ == "__main__":
    sys.exit(main())
