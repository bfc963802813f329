"""Checkpoints: fields, container and checksum, files of other programs, and restoring a network."""

from .format import FORMAT as FORMAT
from .format import Content as Content
from .format import augmentation_fields as augmentation_fields
from .format import class_names as class_names
from .format import config_name as config_name
from .format import load as load
from .format import load_state as load_state
from .format import read as read
from .format import run_folder as run_folder
from .format import save as save
from .format import strip_prefixes as strip_prefixes
from .format import whole as whole
from .rebuild import Restored as Restored
from .rebuild import check_size as check_size
from .rebuild import restore as restore
