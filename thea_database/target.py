"""The names of `src.database.target`; `make format` writes this file."""

import thea_database._location
from src.database.target import *
