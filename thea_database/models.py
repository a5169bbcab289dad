"""The names of `src.database.models`; `make format` writes this file."""

import thea_database._location
from src.database.models import *
