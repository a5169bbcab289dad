"""bootstrap: its results, a second run that changes nothing, and its errors."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import psycopg
import pytest

from src.config import Settings
from src.database import get_db
from src.database.embedded.process import programs
from src.database.errors import ConfigurationError
from src.database.migrate import upgrade
from src.database.operations import Bootstrapped, bootstrap, bootstrap_script, init_script
from src.database.operations.roles import roles_of
from src.database.repositories import UserRepository
from tests import other_migrations
from tests.database.operations.conftest import CANARY, Cluster
from tests.database.statements.bodies import bodies

ATTRIBUTES = "SELECT rolcanlogin, rolsuper, rolbypassrls, rolcreatedb, rolcreaterole, rolreplication FROM pg_roles"
PLAIN = (True, False, False, False, False, False)


def attributes(cluster: Cluster, role: str) -> tuple[object, ...]:
    return cluster.sql(f"{ATTRIBUTES} WHERE rolname = '{role}'")[0]


async def test_creates_everything_and_changes_nothing_the_second_time(
    cluster: Cluster, use_database: Callable[..., Settings]
) -> None:
    settings = cluster.settings("made")

    first = await bootstrap(settings)
    await upgrade(settings)
    second = await bootstrap(settings)

    assert first.changed
    assert first.refused == []
    assert second == Bootstrapped()
    assert attributes(cluster, "made_owner") == attributes(cluster, "made_app") == PLAIN
    assert attributes(cluster, "made_backup") == (True, False, True, False, False, False)
    use_database(cluster.url("made_app", "made"))
    async with get_db() as session:
        user, created = await UserRepository(session).get_or_create_by_telegram_id(1)
        assert created
        assert user.telegram_id == 1
    allowed = "SELECT proname, has_function_privilege('made_app', oid, 'EXECUTE'), proowner::regrole::text FROM pg_proc"
    rows = cluster.sql(f"{allowed} WHERE proname ~ '^app_' AND prorettype <> 'trigger'::regtype", database="made")
    assert set(bodies()) <= {name for name, *_ in rows}
    assert {(is_allowed, owner) for _, is_allowed, owner in rows} == {(True, "made_owner")}


async def test_other_roles_cannot_connect_and_the_application_creates_no_tables(cluster: Cluster) -> None:
    await bootstrap(cluster.settings("isolated"))
    cluster.sql(f"CREATE ROLE isolated_stranger LOGIN PASSWORD $${CANARY}isolated_stranger$$")

    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        cluster.connect("isolated_stranger", "isolated")
    cluster.sql("GRANT CONNECT ON DATABASE isolated TO isolated_stranger")
    for user in ("isolated_stranger", "isolated_app"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for schema public"):
            cluster.sql("CREATE TABLE mine (n int)", user=user, database="isolated")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        cluster.sql("CREATE TEMPORARY TABLE mine (n int)", user="isolated_app", database="isolated")
    cluster.sql("CREATE TABLE ours (n int)", user="isolated_owner", database="isolated")
    cluster.sql("INSERT INTO ours VALUES (1)", user="isolated_app", database="isolated")
    assert cluster.sql("SELECT n FROM ours", user="isolated_backup", database="isolated") == [(1,)]
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        cluster.sql("DELETE FROM ours", user="isolated_backup", database="isolated")
    assert cluster.sql("SELECT has_table_privilege('isolated_backup', 'ours', 'DELETE')", database="isolated") == [
        (False,)
    ]


async def test_only_the_owner_may_write_the_revision(cluster: Cluster) -> None:
    settings = cluster.settings("revised")
    rights = "SELECT DISTINCT grantee::regrole::text, privilege_type FROM pg_class, aclexplode(relacl)"
    rights += " WHERE oid = 'thea_alembic_version'::regclass AND grantee <> relowner ORDER BY 1"
    readers = [("revised_app", "SELECT"), ("revised_backup", "SELECT")]
    await bootstrap(settings)
    await upgrade(settings)
    assert cluster.sql(rights, database="revised") == readers

    cluster.sql("GRANT ALL ON thea_alembic_version TO revised_app", database="revised")
    done = await bootstrap(settings)

    assert [statement for statement in done.changed if "thea_alembic_version" in statement] == done.changed
    assert len(done.changed) == 1
    assert cluster.sql(rights, database="revised") == readers


async def test_time_limits_are_the_defaults_of_the_roles(cluster: Cluster) -> None:
    url = cluster.url("limits_app", "limits").update_query_dict({"statement_timeout": "1234"})
    await bootstrap(cluster.settings("limits", DATABASE_URL=url, DATABASE_LOCK_TIMEOUT="77"))

    def limits_of(user: str) -> list[tuple[object, ...]]:
        query = "SELECT current_setting('statement_timeout'), current_setting('lock_timeout')"
        return cluster.sql(query, user=user, database="limits")

    assert limits_of("limits_app") == [("1234ms", "77ms")]
    assert limits_of("limits_owner") == [("0", "77ms")]


async def test_a_changed_password_is_the_only_change(cluster: Cluster) -> None:
    await bootstrap(cluster.settings("turned"))

    done = await bootstrap(cluster.settings("turned", DATABASE_URL=cluster.url("turned_app", "turned", "another")))

    assert done.changed == ["ALTER ROLE turned_app PASSWORD '***'"]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        cluster.connect("turned_app", "turned")


async def test_removes_excess_privileges(cluster: Cluster) -> None:
    await bootstrap(cluster.settings("repaired"))
    cluster.sql("ALTER ROLE repaired_app BYPASSRLS CREATEDB CREATEROLE REPLICATION")
    cluster.sql(
        "CREATE ROLE repaired_between; GRANT repaired_owner TO repaired_between; GRANT repaired_between TO repaired_app"
    )
    cluster.sql("GRANT CREATE, USAGE ON SCHEMA public TO PUBLIC, repaired_app", database="repaired")
    cluster.sql("GRANT CREATE, TEMPORARY ON DATABASE repaired TO repaired_app")
    cluster.sql("CREATE TABLE old (id bigserial PRIMARY KEY)", user="repaired_app", database="repaired")

    done = await bootstrap(cluster.settings("repaired"))

    assert done.refused == []
    assert attributes(cluster, "repaired_app") == PLAIN
    assert cluster.sql("SELECT pg_has_role('repaired_app', 'repaired_owner', 'MEMBER')") == [(False,)]
    owners = "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relname LIKE 'old%'"
    assert cluster.sql(owners, database="repaired") == [("repaired_owner",)]
    cluster.sql("INSERT INTO old DEFAULT VALUES", user="repaired_app", database="repaired")
    for statement in ("CREATE TEMPORARY TABLE mine ()", "CREATE TABLE mine ()", "CREATE SCHEMA repaired_app"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            cluster.sql(statement, user="repaired_app", database="repaired")
    assert await bootstrap(cluster.settings("repaired")) == Bootstrapped()


async def test_rejects_a_superuser_as_application_and_the_administrator_as_owner(cluster: Cluster) -> None:
    cluster.sql("CREATE ROLE privileged_app LOGIN SUPERUSER")

    with pytest.raises(ConfigurationError, match="privileged_app is a superuser, to whom"):
        await bootstrap(cluster.settings("privileged"))
    settings = cluster.settings("privileged2", DATABASE_MIGRATION_URL=cluster.admin_url.set(database="privileged2"))
    with pytest.raises(ConfigurationError, match="postgres is a superuser"):
        await bootstrap(settings)
    assert attributes(cluster, "privileged_app")[1] is True  # another service may need the attribute
    assert cluster.sql("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'privileged%'") == [(1,)]


async def test_reports_bypassrls_if_the_administrator_is_no_superuser(cluster: Cluster) -> None:
    """The administrator of RDS and of Cloud SQL is no superuser."""
    cluster.sql(f"CREATE ROLE boss LOGIN CREATEROLE CREATEDB PASSWORD $${CANARY}boss$$")
    settings = cluster.settings("managed", DATABASE_ADMIN_URL=cluster.url("boss", "postgres"))

    first = await bootstrap(settings)
    second = await bootstrap(settings)

    for done in (first, second):
        assert [refusal.statement for refusal in done.refused] == ["ALTER ROLE managed_backup BYPASSRLS"]
        assert "permission denied" in done.refused[0].reason
        assert "the provider's snapshots" in done.refused[0].remedy
    assert not first.is_stopped
    assert second.changed == []
    assert attributes(cluster, "managed_app") == attributes(cluster, "managed_owner") == PLAIN
    cluster.sql("CREATE TABLE made (n int)", user="managed_owner", database="managed")
    cluster.sql("INSERT INTO made VALUES (1)", user="managed_app", database="managed")


async def test_names_the_rejected_statement_and_stops(cluster: Cluster) -> None:
    cluster.sql(f"CREATE ROLE nobody_much LOGIN CREATEDB PASSWORD $${CANARY}nobody_much$$")
    settings = cluster.settings("lacking", DATABASE_ADMIN_URL=cluster.url("nobody_much", "postgres"))

    done = await bootstrap(settings)

    assert done.is_stopped
    assert done.changed == []
    assert done.refused[0].statement.startswith("CREATE ROLE lacking_app LOGIN NOSUPERUSER")
    assert done.refused[0].remedy == "run this as a role with CREATEROLE"


async def test_a_role_of_another_administrator_is_rejected_with_the_remedy(cluster: Cluster) -> None:
    cluster.sql(f"CREATE ROLE second_boss LOGIN CREATEROLE CREATEDB PASSWORD $${CANARY}second_boss$$")
    cluster.sql("CREATE ROLE foreign_owner LOGIN; CREATE ROLE foreign_app LOGIN")

    settings = cluster.settings("foreign", DATABASE_ADMIN_URL=cluster.url("second_boss", "postgres"))
    done = await bootstrap(settings)

    assert done.refused[0].statement == "ALTER ROLE foreign_app PASSWORD '***'"
    assert "WITH ADMIN OPTION" in done.refused[0].remedy

    grant = "".join(done.refused[0].remedy.partition("GRANT <role>")[1:]).partition(".")[0]
    for role in ("foreign_owner", "foreign_app"):
        cluster.sql(grant.replace("<role>", role).replace("<administrator>", "second_boss"))

    again = await bootstrap(settings)

    assert [one for one in again.refused if not one.is_optional] == []


def test_one_user_for_both_roles_or_two_databases_are_rejected(cluster: Cluster) -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_MIGRATION_URL must be set, and name another user"):
        roles_of(cluster.settings("x", DATABASE_MIGRATION_URL=None))
    with pytest.raises(ConfigurationError, match="must name the database of DATABASE_URL, x, got y"):
        roles_of(cluster.settings("x", DATABASE_MIGRATION_URL=cluster.url("x_owner", "y")))
    with pytest.raises(ConfigurationError, match="DATABASE_BACKUP_URL must name a third user"):
        roles_of(cluster.settings("x", DATABASE_BACKUP_URL=cluster.url("x_owner", "x")))
    with pytest.raises(ConfigurationError, match="at most 63 bytes"):
        roles_of(cluster.settings("ñ" * 32))


def run_psql(cluster: Cluster, script: str) -> str:
    done = subprocess.run(
        [programs() / "psql", "-X", "-h", "127.0.0.1", "-p", str(cluster.port), "-U", "postgres", "-d", "postgres"],
        input=script,
        env={"PGPASSWORD": str(cluster.admin_url.password)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


async def test_the_script_does_the_same_and_contains_no_password(cluster: Cluster) -> None:
    settings = cluster.settings("by_script's")
    script = bootstrap_script(settings)

    first, second = run_psql(cluster, script), run_psql(cluster, script)

    assert "c4n4ry" not in script
    assert "CREATE ROLE" in first
    assert "ERROR" not in first + second
    assert "CREATE" not in second
    assert await bootstrap(settings) == Bootstrapped()  # the passwords too
    cluster.sql("CREATE ROLE sc_privileged_app LOGIN SUPERUSER")
    assert "sc_privileged_app is a superuser" in run_psql(cluster, bootstrap_script(cluster.settings("sc_privileged")))


def test_the_images_script_is_current() -> None:
    kept = Path(__file__).parents[3] / "db" / "init" / "sql" / "bootstrap.sql"

    assert kept.read_text() == init_script(), "its first line has the command that generates it"


async def test_no_password_reaches_the_servers_log(cluster: Cluster) -> None:
    """The server logs every statement."""
    await bootstrap(cluster.settings("logged"))

    assert "ALTER ROLE logged_app PASSWORD 'SCRAM-SHA-256$4096:" in cluster.log
    # `CREATE ROLE` of a test of this file has the canary in it as a superuser sent it; ours are of this name.
    assert not [line for line in cluster.log.splitlines() if "logged" in line and "c4n4ry" in line]


async def test_a_database_that_other_migrations_made_keeps_its_owners_and_privileges(cluster: Cluster) -> None:
    cluster.sql(f"CREATE ROLE theirs_app LOGIN PASSWORD $${CANARY}theirs_app$$")
    cluster.sql("CREATE DATABASE theirs OWNER theirs_app")
    with cluster.connect("theirs_app", "theirs") as connection:
        other_migrations.make(connection)
        before = other_migrations.dump(connection)

    with pytest.raises(ConfigurationError, match="other migrations than thea-database's made this database"):
        await bootstrap(cluster.settings("theirs"))

    with cluster.connect("theirs_app", "theirs") as connection:
        assert other_migrations.dump(connection) == before
    assert cluster.sql("SELECT rolname FROM pg_roles WHERE rolname = 'theirs_owner'") == []


def rights_of(cluster: Cluster, database: str) -> list[tuple[object, ...]]:
    """Return the owner and the privileges of a database."""
    query = "SELECT pg_get_userbyid(datdba), datacl::text FROM pg_database"
    return cluster.sql(f"{query} WHERE datname = '{database}'")


async def test_a_mistyped_owner_does_not_become_the_owner(cluster: Cluster) -> None:
    await bootstrap(cluster.settings("live"))
    before = rights_of(cluster, "live")
    mistyped = cluster.settings("live", DATABASE_MIGRATION_URL=cluster.url("live_onwer", "live"))

    with pytest.raises(ConfigurationError, match="belongs to live_owner, and not to live_onwer") as caught:
        await bootstrap(mistyped)

    assert "ALTER DATABASE live OWNER TO live_onwer" in str(caught.value)
    assert "--adopt" in str(caught.value.hint)
    assert rights_of(cluster, "live") == before
    assert cluster.sql("SELECT rolname FROM pg_roles WHERE rolname = 'live_onwer'") == []


async def test_a_database_of_another_service_is_rejected_without_adopt(cluster: Cluster) -> None:
    """The database has the owner that the URL names; its tables and its readers are another service's."""
    for role in ("shared_owner", "shared_reader"):
        cluster.sql(f"CREATE ROLE {role} LOGIN PASSWORD $${CANARY}{role}$$")
    cluster.sql("CREATE DATABASE shared OWNER shared_owner")
    cluster.sql("CREATE TABLE bill (n int)", user="shared_owner", database="shared")
    cluster.sql("GRANT SELECT ON bill TO shared_reader", user="shared_owner", database="shared")
    before = rights_of(cluster, "shared")

    with pytest.raises(ConfigurationError) as caught:
        await bootstrap(cluster.settings("shared"))

    message = str(caught.value)
    assert "shared_reader would lose access to the database shared" in message
    assert "has tables that are not thea-database's: public.bill of shared_owner" in message
    assert "ON DATABASE shared FROM PUBLIC" in message
    assert CANARY not in message
    assert rights_of(cluster, "shared") == before
    assert cluster.sql("SELECT n FROM bill", user="shared_reader", database="shared") == []
    script = run_psql(cluster, bootstrap_script(cluster.settings("shared")))
    assert "shared_reader would lose access" in script
    assert "--adopt" in script
    assert rights_of(cluster, "shared") == before
    plans: list[list[str]] = []
    adopted = await bootstrap(cluster.settings("shared"), adopt=True, on_plan=lambda plan: plans.append(list(plan)))
    assert adopted.changed == plans[0]
    assert await bootstrap(cluster.settings("shared")) == Bootstrapped()


async def test_a_service_that_connects_as_public_keeps_its_access(cluster: Cluster) -> None:
    cluster.sql(f"CREATE ROLE guest LOGIN PASSWORD $${CANARY}guest$$; CREATE ROLE visited_owner LOGIN")
    cluster.sql("CREATE DATABASE visited OWNER visited_owner")

    with cluster.connect("guest", "visited"), pytest.raises(ConfigurationError, match="guest would lose access"):
        await bootstrap(cluster.settings("visited"))


async def test_a_role_of_another_service_keeps_its_password_and_attributes(cluster: Cluster) -> None:
    cluster.sql(f"CREATE ROLE etl LOGIN CREATEROLE PASSWORD $${CANARY}etl$$")
    cluster.sql("CREATE DATABASE etl_data OWNER etl")
    settings = cluster.settings("careless", DATABASE_URL=cluster.url("etl", "careless", "another"))
    kept = "SELECT rolpassword, rolcreaterole, rolconnlimit FROM pg_authid WHERE rolname = 'etl'"
    before = cluster.sql(kept)

    with pytest.raises(ConfigurationError, match="the role etl is in use outside of the database careless"):
        await bootstrap(settings)

    assert cluster.sql(kept) == before
    assert cluster.sql("SELECT datname FROM pg_database WHERE datname = 'careless'") == []
    assert (await bootstrap(settings, adopt=True)).refused == []


async def test_the_same_roles_serve_a_second_database_without_adoption(cluster: Cluster) -> None:
    """The steps of a move into a new database: name it in the URLs, bootstrap, restore."""
    await bootstrap(cluster.settings("moving"))
    urls = {
        f"DATABASE_{name}URL": cluster.url(f"moving_{role}", "moved")
        for name, role in (("", "app"), ("MIGRATION_", "owner"), ("BACKUP_", "backup"))
    }

    done = await bootstrap(cluster.settings("moved", **urls))

    assert done.changed[0].startswith("CREATE DATABASE moved OWNER moving_owner")
    assert done.refused == []


async def test_the_plan_is_what_is_executed(cluster: Cluster) -> None:
    plans: list[list[str]] = []

    def keep(plan: Sequence[str]) -> None:
        assert cluster.sql("SELECT rolname FROM pg_roles WHERE rolname LIKE 'planned%'") == []
        plans.append(list(plan))

    done = await bootstrap(cluster.settings("planned"), on_plan=keep)

    assert plans[0][-1].startswith("-- then privileges on the database")
    assert set(plans[0][:-1]) <= set(done.changed)
    assert "CREATE DATABASE planned OWNER planned_owner ENCODING 'UTF8' TEMPLATE template0" in plans[0]
    assert "ALTER ROLE planned_app SET statement_timeout = '30000'" in plans[0]
