"""The names of `src.database.integrations.langchain`; `make format` writes this file."""

import thea_database._location
from src.database.integrations.langchain import *
