"""The names of `src.database.json_values`; `make format` writes this file."""

import thea_database._location
from src.database.json_values import *
