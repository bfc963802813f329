"""The corruptions of CIFAR-10-C and ImageNet-C, computed in PyTorch."""

from .apply import corrupt as corrupt
from .filters import Draws as Draws
