"""The names of `src.database.integrations.aiogram`; `make format` writes this file."""

import thea_database._location
from src.database.integrations.aiogram import *
