"""The names of `src.database.integrations.openai_agents`; `make format` writes this file."""

import thea_database._location
from src.database.integrations.openai_agents import *
