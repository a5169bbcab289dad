"""The names of `src.database.cli`; `make format` writes this file."""

import thea_database._location
from src.database.cli import *
