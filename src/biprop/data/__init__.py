"""Data sets: recognising, reading, splitting and augmenting images."""

from .dataset import DataSet as DataSet
from .dataset import Recipe as Recipe
from .dataset import other_classes as other_classes
from .dataset import sample as sample
from .dataset import slices as slices
from .dataset import spread as spread
from .loading import load as load
from .loading import recipe_of as recipe_of
from .sources import Expect as Expect
from .sources import Progress as Progress
from .sources import Source as Source
from .sources import Split as Split
from .sources import no_progress as no_progress
