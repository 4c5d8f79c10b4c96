"""What a build spec may say: every key with its type, its range and its default.

Whether the target can do what is said is judged by `judges.check`, with reasons.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from calib.images import DecodeImage, Normalize, ProcessOp, ToTensor

Dtype = Literal["float32", "uint8"]
Protocol = Literal["standard", "vendor"]
SOFTMAX = "softmax"  # the one head of `graph.extra_ops` that is built
AUTO = "auto"  # the calibrate_mode that tries all methods, see `compiler.recovery.auto`
_Side = Annotated[int, Field(ge=1, le=1 << 16)]


def _path(text: str) -> str:
    if not text or "\0" in text or any(len(os.fsencode(p)) > 255 for p in text.split("/")):
        raise ValueError("no file can have this name")
    return text


_Word = Annotated[str, Field(max_length=100)]
_Path = Annotated[str, Field(max_length=4000), AfterValidator(_path)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Frontend(_Part):
    """The trained network. Names and shapes are judged by `judges.check`, with reasons."""

    type: _Word | None = None
    checkpoint: _Path
    shape: dict[str, Annotated[list[_Side], Field(min_length=1, max_length=6)]]
    dtype: _Word = "fp32"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Input name to dimensions."""
        return {name: tuple(dims) for name, dims in self.shape.items()}

    @property
    def dims(self) -> list[int]:
        """[1, C, H, W] of the one input; only of a spec that `judges.check` let pass."""
        (dims,) = self.shape.values()
        return dims

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the one input."""
        return self.dims[2], self.dims[3]


class Host(_Part):
    """The machine that runs the library; None means: detect it."""

    isa: _Word | None = None
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None


class Compile(_Part):
    """Code generation."""

    host: Host = Host()


class Quantize(_Part):
    """How float becomes int8.

    Attributes:
        calibrate_mode: a key of `calib.methods.METHODS`, or `auto`: the one of least output error.
        calibrate_range: fraction of the values that `percentile` keeps.
        weight_scale: `float` (the vendor's word is `max`) or `power2`, see `calib.qparams`.
        exclude_layers, skip_conv_layers: layers (nodes or numbers; numbers of convolutions) to
            keep in a higher precision; judged by `judges.check`.
        equalize: cross-layer equalization of channel ranges, see `compiler.recovery`.
        split_residuals: compute a cheap convolution twice where its output is also a residual, so
            that equalization can scale both freely, see `compiler.recovery.split`.
        centre_image: shift an 8-bit image so that int8 holds it without loss, see
            `compiler.recovery.centre`.
        residual_bits: 16 holds the residuals that cheap convolutions make in two int8 tensors,
            see `compiler.lowparts`.
        wide_layers: layers (nodes, or numbers of convolutions) that read 16 bits, see
            `compiler.recovery.wide`.
        rounding: of the weights, to nearest or GPTQ with a least-squares target.
        search: `output` refines the thresholds by the error of the output.
        strict: calibration warnings become errors.
        seed: of everything random in the build.
    """

    calibrate_mode: _Word = "percentile"
    calibrate_range: Annotated[float, Field(gt=0.5, le=1)] = 0.99999
    quantize_per_channel: bool = True
    weight_scale: Literal["float", "max", "power2"] = "float"
    exclude_layers: list[int | str] | None = None
    skip_conv_layers: list[int] | None = None
    equalize: bool = False
    split_residuals: bool = False
    centre_image: bool = False
    residual_bits: Literal[8, 16] = 8
    wide_layers: list[int | str] = []
    rounding: Literal["nearest", "gptq"] = "nearest"
    search: Literal["none", "output"] = "none"
    strict: bool = False
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0


class Port(_Part):
    """Element type at one end of the network."""

    dtype: Dtype = "float32"


class Backend(_Part):
    """Target, quantization and compilation."""

    type: _Word = "tvm_vacc"
    dtype: _Word
    target: _Path = "vacc"
    compile: Compile = Compile()
    quantize: Quantize = Quantize()
    input: Port = Port()
    output: Port = Port()


class Sampler(_Part):
    """The first `get_data_num` files with `suffix`, in name order."""

    suffix: _Word | None = None
    get_data_num: Annotated[int, Field(ge=1, le=1_000_000)] = 50


class Dataset(_Part):
    """Calibration images and their pre-processing."""

    type: _Word = "tvm"
    path: _Path | None = None
    fallback: Literal["samples"] | None = None
    sampler: Sampler = Sampler()
    process_ops: list[ProcessOp] = [DecodeImage(), Normalize(norm_type=None), ToTensor()]


class ExtraOps(_Part):
    """A head that the vendor's compiler appends to the network."""

    type: _Word | None = None
    params: dict[str, Any] | None = None


class GraphPart(_Part):
    """Changes to the graph before it is built."""

    extra_ops: ExtraOps | None = None


class Workspace(_Part):
    """Where bundles go: the bundle is `path`/`name`."""

    path: _Path = "artifacts"


class Gate(_Part):
    """What the build must keep; RGB means under the spec's protocol. None is not checked."""

    psnr_drop_db: float | None = None
    ssim_drop: float | None = None
    above_bicubic: bool = False


class Verify(_Part):
    """Held-out images and the gate. Without `hr`, the sample photographs are used."""

    lr: _Path | None = None
    hr: _Path | None = None
    scale: Annotated[int, Field(ge=1, le=16)] | None = None
    subset: Literal["bicubic_plusplus_48"] | None = None
    protocol: Protocol = "standard"
    metrics: list[Literal["psnr", "ssim"]] = ["psnr", "ssim"]
    gate: Gate = Gate()


class Spec(_Part):
    """A complete build."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    frontend: Frontend
    backend: Backend
    graph: GraphPart | None = None
    dataset: Dataset | None = None
    workspace: Workspace = Workspace()
    verify: Verify = Verify()
