"""Operations of an administrator: bootstrap of roles and privileges, backup, restore."""

from src.database.operations.backup import Manifest, Restored, back_up, restore, verify_backup
from src.database.operations.bootstrap_plan import init_script
from src.database.operations.roles import Bootstrapped, bootstrap, bootstrap_script

__all__ = [
    "Bootstrapped",
    "Manifest",
    "Restored",
    "back_up",
    "bootstrap",
    "bootstrap_script",
    "init_script",
    "restore",
    "verify_backup",
]
