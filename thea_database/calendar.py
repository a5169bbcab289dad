"""The names of `src.database.calendar`; `make format` writes this file."""

import thea_database._location
from src.database.calendar import *
