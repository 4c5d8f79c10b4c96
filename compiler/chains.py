"""The graph of an ONNX model while it is read: chains conv -> activation -> (+ residual) that grow.

`operators` has one reader for each operator; `fusion.fuse` calls them node by node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.helper import get_attribute_value

from compiler.errors import ModelError, UnsupportedOperatorError
from compiler.floatnet import FloatConv, FloatNetwork, FloatOp
from compiler.network import QuantizeInput

Pads = tuple[int, int, int, int]  # top, left, bottom, right


@dataclass(frozen=True)
class Padding:
    """What stands around a tensor of the network for a node that reads it."""

    source: str
    pads: Pads = (0, 0, 0, 0)
    value: float = 0.0


class Chains:
    """What the nodes read so far make: operators, and which of them are chains that may still grow.

    Attributes:
        ops: the operators so far, in topological order.
        channels: number of channels of every tensor.
        names: tensor of the graph to tensor of the network.
        uses: how many nodes read a tensor of the graph.
        chains: output of a growing chain to its index in `ops`.
        padded: what a Pad node makes, by its name in the graph; no tensor of the network.
        outside: what convolutions that pad the image pad it by, once one does.
        softmax: whether the graph ends in a Softmax of what `ops` compute.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.constants = {i.name: _array(i) for i in graph.initializer}
        self.input = _single(
            [i for i in graph.input if i.name not in self.constants], "input", graph.name
        )
        self.output = _single(list(graph.output), "output", graph.name)
        self.uses: dict[str, int] = {self.output.name: 1}
        for node in graph.node:
            for name in node.input:
                self.uses[name] = self.uses.get(name, 0) + 1
        dims = self.input.type.tensor_type.shape.dim
        if len(dims) != 4 or dims[1].dim_value < 1:
            raise UnsupportedOperatorError(
                f"the input {self.input.name!r} has {len(dims)} dimensions",
                where=f"input {self.input.name}",
                fix="export the network for one image, [1, channels, height, width]",
            )
        made = {name for node in graph.node for name in node.output}
        self.quantized_input = f"{self.input.name}_q"
        while self.quantized_input in made:
            self.quantized_input += "_"
        self.names = {self.input.name: self.quantized_input}
        self.channels = {
            self.input.name: dims[1].dim_value,
            self.quantized_input: dims[1].dim_value,
        }
        self.ops: list[FloatOp] = [
            QuantizeInput("quantize_input", self.input.name, self.quantized_input)
        ]
        self.chains: dict[str, int] = {}  # output of a growing chain -> its index in ops
        self.labels: set[str] = set()
        self.padded: dict[str, Padding] = {}
        self.outside: float | None = None
        self.softmax = False

    def network(self) -> FloatNetwork:
        """The network, once all nodes are read."""
        if self.output.name not in self.names:
            raise ModelError(
                "the graph's output does not depend on its input",
                where=f"output {self.output.name}",
                fix="export the network again",
            )
        net = FloatNetwork(
            self.graph.name or "network",
            tuple(self.ops),
            self.channels,
            self.input.name,
            self.names[self.output.name],
            self.softmax,
        )
        self._check_output(net)
        return net

    def _check_output(self, net: FloatNetwork) -> None:
        read = {
            name
            for op in net.ops
            if isinstance(op, FloatConv) or op.output not in net.float_tensors
            for name in op.inputs
        }
        both = (read | {self.quantized_input}) & net.float_tensors - {net.input}
        if both:
            names = sorted(self.input.name if n == self.quantized_input else n for n in both)
            raise UnsupportedOperatorError(
                f"the graph output passes {', '.join(names)} on, which the network also reads",
                where=f"output {self.output.name}",
                fix="let the last convolution feed the output alone",
            )

    def label(self, node: onnx.NodeProto) -> str:
        """A name for the node's operator that no other has."""
        name = node.output[0] if node.name in self.labels | {""} else node.name
        while name in self.labels:
            name += "_"
        self.labels.add(name)
        return name

    def tensor(self, node: onnx.NodeProto, index: int) -> str:
        """The network's name of a data input; from here on the chain that made it is closed."""
        name = node.input[index]
        if name in self.padded:
            raise unsupported(node, f"only convolutions may read {name!r}, which a Pad makes")
        if name not in self.names:
            raise unsupported(node, f"its input {name!r} is a constant")
        self.chains.pop(self.names[name], None)
        return self.names[name]

    def constant(self, node: onnx.NodeProto, index: int) -> NDArray[Any]:
        """The value of a constant input, all finite."""
        name = node.input[index]
        if name not in self.constants:
            raise unsupported(node, f"its input {name!r} is computed, not a constant")
        value = self.constants[name]
        if not np.isfinite(value).all():
            raise ModelError(
                f"the constant {name!r} holds values that are infinite or not a number",
                where=f"node {node.name or node.output[0]} ({node.op_type})",
                fix="export the network again from a checkpoint with finite weights",
            )
        return value

    def add(self, op: FloatOp, node: onnx.NodeProto, channels: int) -> None:
        """Appends the operator that makes the node's output."""
        self.ops.append(op)
        self.names[node.output[0]] = op.output
        self.channels[op.output] = channels

    def grow(
        self, node: onnx.NodeProto, index: int, grown: Callable[[FloatConv], FloatConv]
    ) -> None:
        """Moves the open chain that makes input `index` to the end, changed by `grown`."""
        old = self.names[node.input[index]]
        position = self.chains.pop(old)
        conv = self.ops.pop(position)
        assert isinstance(conv, FloatConv)
        self.chains = {k: p - (p > position) for k, p in self.chains.items()}
        output = node.output[0]
        self.channels[output] = self.channels.pop(old)
        self.chains[output] = len(self.ops)
        self.names[output] = output
        self.ops.append(replace(grown(conv), output=output))

    def is_open(self, name: str) -> bool:
        """Whether `name` is the end of a chain with no other reader."""
        return self.names.get(name) in self.chains and self.uses[name] == 1


def unsupported(node: onnx.NodeProto, why: str) -> UnsupportedOperatorError:
    """The refusal of one node: its operator, its name, and the reason."""
    return UnsupportedOperatorError(
        f"operator {node.op_type} cannot be built: {why}",
        where=f"node {node.name or node.output[0]} ({node.op_type})",
        fix="replace the node, or cut the graph there; docs/semantics.md says what is defined",
    )


def invalid(node: onnx.NodeProto, what: str, fix: str = "export the network again") -> ModelError:
    """What ONNX itself does not allow, of one node."""
    return ModelError(what, where=f"node {node.name or node.output[0]} ({node.op_type})", fix=fix)


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes by name, strings as such."""
    values = {a.name: get_attribute_value(a) for a in node.attribute}
    return {k: v.decode(errors="replace") if isinstance(v, bytes) else v for k, v in values.items()}


def _array(tensor: onnx.TensorProto) -> NDArray[Any]:
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"the constant {tensor.name!r} does not have the values that its shape needs: {error}",
            where=f"constant {tensor.name}",
            fix="export the network again",
        ) from error


def _single(ports: list[onnx.ValueInfoProto], what: str, graph: str) -> onnx.ValueInfoProto:
    if len(ports) != 1:
        raise ModelError(
            f"the network has {len(ports)} {what}s: {[p.name for p in ports]}",
            where=f"graph {graph}",
            fix=f"export a network with one image {what}",
        )
    return ports[0]
