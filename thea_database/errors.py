"""The names of `src.database.errors`; `make format` writes this file."""

import thea_database._location
from src.database.errors import *
