"""Several processes: ranks, collectives, launchers."""

from .group import ALONE as ALONE
from .group import Group as Group
from .group import average_as_bfloat16 as average_as_bfloat16
from .launchers import LAUNCHERS as LAUNCHERS
from .launchers import detect as detect
from .launchers import is_restart as is_restart
from .spawn import launch as launch
