"""The names of `src.database.schemas`; `make format` writes this file."""

import thea_database._location
from src.database.schemas import *
