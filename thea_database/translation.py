"""The names of `src.database.translation`; `make format` writes this file."""

import thea_database._location
from src.database.translation import *
