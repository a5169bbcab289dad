"""The names of `src.database.connect`; `make format` writes this file."""

import thea_database._location
from src.database.connect import *
