"""The names of `src.database.repositories`; `make format` writes this file."""

import thea_database._location
from src.database.repositories import *
