"""The names of `src.database.drift`; `make format` writes this file."""

import thea_database._location
from src.database.drift import *
