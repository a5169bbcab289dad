"""The names of `src.database.integrations.fastapi`; `make format` writes this file."""

import thea_database._location
from src.database.integrations.fastapi import *
