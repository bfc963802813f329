"""Tickets in the formats of other runtimes: ONNX, and PyTorch's exported programs.

docs/export.md has what they hold, and how to run them.
"""

from .files import Exported as Exported
from .files import save_onnx as save_onnx
from .files import save_pt2 as save_pt2
