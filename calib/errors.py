"""The one exception family. Every error says what is wrong, where, and how to mend it."""

from __future__ import annotations

import re
from typing import ClassVar


class WorkbenchError(Exception):
    """Base of every error that a user can cause or meet.

    Attributes:
        what: one sentence that says what is wrong, with the offending value.
        where: place of the fault: ``file:line``, a node, a tensor, a path; empty where the whole
            input is at fault.
        fix: one imperative sentence that says what to do about it.
        exit_code: the process exit status (2 bad input, 3 internal; see the README).

    The class is the kind of error: its docstring is the cause that the documentation shows, and
    `code()` its stable name.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    @classmethod
    def code(cls) -> str:
        """Stable kebab-case name of this kind of error, derived from the class name."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__.removesuffix("Error")).lower()

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  fix: {self.fix}" if self.fix else head


class ImageError(WorkbenchError):
    """An image cannot be read: missing, truncated, not an image, or of a kind we do not take.

    Fix: replace the file that the message names, or take it out of the folder.
    """


class DataError(WorkbenchError):
    """A folder of images is missing, empty, or does not fit what was asked of it.

    Fix: correct the path, or complete the folder; `make data` fetches DIV2K.
    """


class ProcessOpError(WorkbenchError):
    """A pre-processing step has arguments that it cannot work with.

    Fix: correct the step of `dataset.process_ops` that the message names.
    """


class CalibrationError(WorkbenchError):
    """Calibration cannot give a usable threshold: no data, non-finite activations, bad argument.

    Fix: calibrate on images that the network takes; the message names the tensor.
    """
