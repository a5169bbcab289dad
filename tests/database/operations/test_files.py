"""The other files of db/: the compose files, the creation of their secrets, the virtual machine."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from src.config import get_settings
from src.database.session import forget_settings
from tests.database.operations.configured import DB

COMPOSE = ("compose.yaml", "compose.publish.yaml", "compose.app.yaml")
needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None or sys.platform == "win32", reason="openssl is not installed"
)


def read(name: str) -> Any:
    return YAML(typ="safe").load(DB / name)


def test_the_compose_files_follow_the_specification() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
        + [str(DB / name) for name in COMPOSE],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout


def test_the_database_is_reachable_only_by_the_service() -> None:
    db = read("compose.yaml")["services"]["db"]

    assert "ports" not in db
    assert db["networks"] == ["database"]
    assert read("compose.yaml")["networks"]["database"] == {"internal": True}
    assert db["volumes"] == ["data:/var/lib/postgresql"]
    assert db["healthcheck"]["test"][:2] == ["CMD", "pg_isready"]
    assert (db["cpus"], db["mem_limit"]) == (2, "4g")
    assert db["shm_size"]


def test_the_files_contain_no_secret() -> None:
    for name in COMPOSE:
        document = read(name)
        for service in document["services"].values():
            assert not [key for key in service.get("environment", {}) if key.endswith("PASSWORD")]
            assert set(service.get("secrets", [])) <= document.get("secrets", {}).keys() | {"ca_certificate"}
        assert all(set(secret) == {"file"} for secret in document.get("secrets", {}).values())


def test_a_port_is_published_only_on_request_and_on_loopback() -> None:
    assert read("compose.publish.yaml")["services"]["db"]["ports"] == ["127.0.0.1:${THEA_PORT:-5432}:5432"]


def test_the_service_waits_for_the_migrations_and_lacks_the_owners_password() -> None:
    document = read("compose.app.yaml")
    service, migrate = document["services"]["service"], document["services"]["migrate"]

    assert document["include"] == ["compose.yaml"]
    assert migrate["depends_on"] == {"db": {"condition": "service_healthy"}}
    assert (migrate["command"], migrate["restart"]) == (["thea-db", "upgrade"], "no")
    assert service["depends_on"]["db"] == {"condition": "service_healthy"}
    assert service["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert service["secrets"] == ["app_env", "ca_certificate"]


def test_the_image_has_the_files_and_is_pinned() -> None:
    lines = (DB / "Dockerfile").read_text().splitlines()

    assert any(line.startswith("FROM postgres:18.") and "-" in line for line in lines)
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[2:-1]]
    assert copied
    assert all((DB / name).exists() for name in copied)
    for script in (*DB.glob("*.sh"), *DB.glob("init/*.sh")):
        assert os.access(script, os.X_OK)
        assert subprocess.run(["sh", "-n", script], check=False).returncode == 0  # noqa: S607 - the system's


@needs_openssl
def test_secrets_are_created_once_and_connect_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> dict[str, str]:
        subprocess.run([DB / "make-secrets.sh", tmp_path / "secrets"], check=True)
        return {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}

    made, again = make(), make()

    assert made == again
    named = {Path(secret["file"]).name for name in COMPOSE for secret in read(name).get("secrets", {}).values()}
    assert named <= made.keys()
    assert len({made[f"{name}_password"] for name in ("postgres", "owner", "app", "backup")}) == 4
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert made["owner_password"].strip() not in made["app_env"]
    certificate = ["openssl", "verify", "-CAfile", "ca_certificate", "-verify_hostname", "db", "server_certificate"]
    subprocess.run(certificate, cwd=tmp_path / "secrets", check=True, stdout=subprocess.DEVNULL)

    for name in ("ENVIRONMENT", "DATABASE_URL"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("ENV_FILE", str(tmp_path / "secrets" / "migrations_env"))
    forget_settings()
    settings = get_settings()
    monkeypatch.undo()
    forget_settings()

    assert settings.ENVIRONMENT == "production"
    assert settings.DATABASE_URL is not None
    assert settings.DATABASE_MIGRATION_URL is not None
    assert settings.DATABASE_URL.query["sslmode"] == "verify-full"
    assert (settings.DATABASE_URL.username, settings.DATABASE_MIGRATION_URL.username) == ("thea_app", "thea_owner")


def test_the_virtual_machine_forwards_its_port_to_loopback() -> None:
    text = (DB / "Vagrantfile").read_text()

    assert 'config.vm.box = "ubuntu/jammy64"' in text
    assert 'config.vm.network "forwarded_port", guest: 5432, host: 5432, host_ip: "127.0.0.1"' in text
    assert (DB / "vagrant.sh").exists()
