"""The names of `src.database.store`; `make format` writes this file."""

import thea_database._location
from src.database.store import *
