"""What is in force and what is wrong: info, wait, doctor, pool."""

from src.database.cli.diagnose.doctor import run_doctor
from src.database.cli.diagnose.info import run_info
from src.database.cli.diagnose.pool import run_pool
from src.database.cli.diagnose.wait import run_wait

__all__ = ["run_doctor", "run_info", "run_pool", "run_wait"]
