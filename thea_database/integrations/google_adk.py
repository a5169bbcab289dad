"""The names of `src.database.integrations.google_adk`; `make format` writes this file."""

import thea_database._location
from src.database.integrations.google_adk import *
