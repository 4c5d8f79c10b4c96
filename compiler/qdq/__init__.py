"""Networks as standard ONNX: the float network, and the integer one with Quantize/DequantizeLinear.

The QDQ file is complete: `read(write(net))` is the same integer network, so a bundle's `qdq.onnx`
is all that is needed to compile it for another size. Sizes are symbolic. A conv chain's float
result keeps the name `t` that it has in the original graph; `t_q` is its int8 form and `t_dq`
what the next layers read (with underscores behind, where the graph has such a tensor already).
"""

from compiler.qdq.reader import read
from compiler.qdq.writer import IR_VERSION, OPSET, write, write_float, write_mixed

__all__ = ["IR_VERSION", "OPSET", "read", "write", "write_float", "write_mixed"]
