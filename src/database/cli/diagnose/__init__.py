"""What is in force, what is wrong and what goes on: info, wait, doctor, pool, health, activity."""

from src.database.cli.diagnose.activity import run_activity
from src.database.cli.diagnose.doctor import run_doctor
from src.database.cli.diagnose.health import run_health
from src.database.cli.diagnose.info import run_info
from src.database.cli.diagnose.pool import run_pool
from src.database.cli.diagnose.wait import run_wait

__all__ = ["run_activity", "run_doctor", "run_health", "run_info", "run_pool", "run_wait"]
