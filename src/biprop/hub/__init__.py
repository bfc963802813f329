"""Tickets on the Hugging Face Hub: where a file is, its download and its upload.

The library huggingface_hub is loaded when it is needed.
"""

from .address import Address as Address
from .address import check_file_name as check_file_name
from .address import is_address as is_address
from .address import parse_address as parse_address
from .address import parse_repository as parse_repository
from .client import Location as Location
from .client import download as download
from .client import fetch as fetch
from .client import find as find
from .client import local as local
from .client import upload as upload
