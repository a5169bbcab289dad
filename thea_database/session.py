"""The names of `src.database.session`; `make format` writes this file."""

import thea_database._location
from src.database.session import *
