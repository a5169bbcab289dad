"""The names of `src.database.health`; `make format` writes this file."""

import thea_database._location
from src.database.health import *
