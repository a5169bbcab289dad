"""The names of `src.database.tenant_scope`; `make format` writes this file."""

import thea_database._location
from src.database.tenant_scope import *
