"""The names of `src.database.check_result`; `make format` writes this file."""

import thea_database._location
from src.database.check_result import *
