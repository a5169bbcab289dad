"""The names of `src.database.statements`; `make format` writes this file."""

import thea_database._location
from src.database.statements import *
