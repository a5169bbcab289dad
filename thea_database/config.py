"""The names of `src.config`; `make format` writes this file."""

import thea_database._location
from src.config import *
