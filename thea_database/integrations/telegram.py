"""The names of `src.database.integrations.telegram`; `make format` writes this file."""

import thea_database._location
from src.database.integrations.telegram import *
