"""The names of `src.database.testing`; `make format` writes this file."""

import thea_database._location
from src.database.testing import *
