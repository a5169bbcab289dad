"""The names of `src.database.operations`; `make format` writes this file."""

import thea_database._location
from src.database.operations import *
