"""The names of `src.database.integrations.tenants`; `make format` writes this file."""

import thea_database._location
from src.database.integrations.tenants import *
