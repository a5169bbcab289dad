"""The names of `src.database.migrate`; `make format` writes this file."""

import thea_database._location
from src.database.migrate import *
