"""The names of `src.database.integrations.pydantic_ai`; `make format` writes this file."""

import thea_database._location
from src.database.integrations.pydantic_ai import *
