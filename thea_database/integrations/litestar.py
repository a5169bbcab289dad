"""The names of `src.database.integrations.litestar`; `make format` writes this file."""

import thea_database._location
from src.database.integrations.litestar import *
