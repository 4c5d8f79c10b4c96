"""Images: reading and writing files, and the pre-processing that a spec lists.

`files` turns bytes into uint8 RGB arrays and back; `process_ops` holds the steps, and `preprocess`
turns such an array by them into the float32 CHW tensor that a network takes. One implementation
serves calibration, verification and running.
"""

from calib.images.arrays import read_npz, write_npz
from calib.images.files import SUFFIXES, digest, list_images, read_image, read_size, write_image
from calib.images.fit import channels
from calib.images.preprocess import apply_ops, byte_values, pointwise_table, warnings
from calib.images.process_ops import (
    OPERATORS,
    CenterCrop,
    ChannelSplit,
    CvtColor,
    DecodeImage,
    Normalize,
    Pad,
    ProcessOp,
    Resize,
    ToTensor,
)

__all__ = [
    "OPERATORS",
    "SUFFIXES",
    "CenterCrop",
    "ChannelSplit",
    "CvtColor",
    "DecodeImage",
    "Normalize",
    "Pad",
    "ProcessOp",
    "Resize",
    "ToTensor",
    "apply_ops",
    "byte_values",
    "channels",
    "digest",
    "list_images",
    "pointwise_table",
    "read_image",
    "read_npz",
    "read_size",
    "warnings",
    "write_image",
    "write_npz",
]
