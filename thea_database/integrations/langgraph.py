"""The names of `src.database.integrations.langgraph`; `make format` writes this file."""

import thea_database._location
from src.database.integrations.langgraph import *
