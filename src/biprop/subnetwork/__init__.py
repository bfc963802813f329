"""Masked layers: scores, masks, gains, and how a model becomes a subnetwork."""

from .conversion import Density as Density
from .conversion import Exempt as Exempt
from .conversion import convert as convert
from .layers import BinaryActivation as BinaryActivation
from .subnetwork import LayerReport as LayerReport
from .subnetwork import Subnetwork as Subnetwork
