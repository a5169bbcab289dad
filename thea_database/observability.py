"""The names of `src.database.observability`; `make format` writes this file."""

import thea_database._location
from src.database.observability import *
