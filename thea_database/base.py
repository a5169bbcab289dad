"""The names of `src.database.base`; `make format` writes this file."""

import thea_database._location
from src.database.base import *
