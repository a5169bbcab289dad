"""thea-db doctor: all checks of the settings, the network, the server and the schema, each with its remedy."""

from src.database.cli.doctor.doctor import examine, run_doctor

__all__ = ["examine", "run_doctor"]
