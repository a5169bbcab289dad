"""The names of `src.database.embedded`; `make format` writes this file."""

import thea_database._location
from src.database.embedded import *
