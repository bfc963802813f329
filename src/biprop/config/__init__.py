"""The options of a run: schema, values, configuration files, and how they become one `Config`.

Loads no torch.
"""

from .resolve import as_dict as as_dict
from .resolve import as_yaml as as_yaml
from .resolve import check as check
from .resolve import check_data_path as check_data_path
from .resolve import check_data_source as check_data_source
from .resolve import default_config as default_config
from .resolve import override as override
from .resolve import resolve as resolve
from .resolve import warnings as warnings
from .rules import FILE_NAME_RULE as FILE_NAME_RULE
from .rules import Role as Role
from .rules import Rule as Rule
from .rules import is_file_name as is_file_name
from .rules import option as option
from .schema import BN_TYPES as BN_TYPES
from .schema import CONV_TYPES as CONV_TYPES
from .schema import DATA_SOURCE_OPTIONS as DATA_SOURCE_OPTIONS
from .schema import FIELDS as FIELDS
from .schema import HAS_WIDTH_MULT as HAS_WIDTH_MULT
from .schema import INITS as INITS
from .schema import LR_POLICIES as LR_POLICIES
from .schema import NETWORK_OPTIONS as NETWORK_OPTIONS
from .schema import PATH_OPTIONS as PATH_OPTIONS
from .schema import SETS as SETS
from .schema import TYPES as TYPES
from .schema import Config as Config
from .schema import groups as groups
from .schema import is_flag as is_flag
from .schema import metavar as metavar
from .schema import rule as rule
from .schema import with_roles as with_roles
from .values import ALIASES as ALIASES
from .values import UNSUPPORTED_OPTIONS as UNSUPPORTED_OPTIONS
from .values import coerce as coerce
from .yaml_files import DEFAULT_CONFIG as DEFAULT_CONFIG
from .yaml_files import FAST_CONFIG as FAST_CONFIG
from .yaml_files import UNSUPPORTED_CONFIGS as UNSUPPORTED_CONFIGS
from .yaml_files import comments as comments
from .yaml_files import find_file as find_file
from .yaml_files import find_recipe as find_recipe
from .yaml_files import packaged as packaged
from .yaml_files import packaged_files as packaged_files
from .yaml_files import read_file as read_file
from .yaml_files import recipe_files as recipe_files
