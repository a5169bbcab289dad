"""What `bootstrap` brings about, step by step: each is a query whose rows are the statements that are still needed.

So a second run finds nothing to do, and the same text serves psql, by gexec, and us. Values are psql's ``:'name'``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["INSIDE", "REFUSALS", "ROLES_AND_DATABASE", "Step"]

_ADMIN_OPTION: Final = (
    "from PostgreSQL 16 on only who made a role, or has it WITH ADMIN OPTION, may change it: run this as that one, or"
    " have it run GRANT <role> TO <administrator> WITH ADMIN OPTION"
)
_AS_OWNER: Final = "run this as the owner of the database, or as a role that is a member of it"


@dataclass(frozen=True, slots=True)
class Step:
    """One aim.

    Args:
        aim: What it is for, in words.
        query: Returns a statement a row; no row where nothing is needed. Of a refusal it returns the reason.
        remedy: What to do where the server refuses a statement.
        is_optional: The rest is of use without it.
    """

    aim: str
    query: str
    remedy: str
    is_optional: bool = False


REFUSALS: Final = Step(
    "refuse roles that nothing would bind",
    """
SELECT rolname || CASE WHEN rolsuper THEN ' is a superuser, whom row-level security does not bind'
                  ELSE ' is who runs this, and an administrator is not to be the owner or the application' END
  FROM pg_catalog.pg_roles
 WHERE rolname IN (:'owner', :'application') AND (rolsuper OR rolname = current_user)
""",
    "name another role in the URL; `thea-db bootstrap` creates it. Leave the superuser as it is: a server whose only"
    " superuser has lost the attribute cannot get it back",
)

ROLES_AND_DATABASE: Final = (
    Step(
        "the roles",
        """
SELECT format('CREATE ROLE %I LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION', name)
  FROM unnest(ARRAY[:'owner', :'application', :'backup']) AS name
 WHERE name <> '' AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = name) ORDER BY 1
""",
        "run this as a role with CREATEROLE",
    ),
    Step(
        "no might beyond their task; who owns the tables may be allowed to make databases",
        """
SELECT format('ALTER ROLE %I%s', rolname, concat(
           CASE WHEN NOT rolcanlogin THEN ' LOGIN' END,
           CASE WHEN rolbypassrls AND rolname <> :'backup' THEN ' NOBYPASSRLS' END,
           CASE WHEN rolcreaterole THEN ' NOCREATEROLE' END,
           CASE WHEN rolcreatedb AND rolname <> :'owner' THEN ' NOCREATEDB' END,
           CASE WHEN rolreplication THEN ' NOREPLICATION' END))
  FROM pg_catalog.pg_roles
 WHERE rolname IN (:'owner', :'application', :'backup') AND NOT rolsuper
   AND (NOT rolcanlogin OR rolbypassrls AND rolname <> :'backup' OR rolcreaterole
        OR rolcreatedb AND rolname <> :'owner' OR rolreplication)
""",
        f"BYPASSRLS and REPLICATION are a superuser's to take away, before PostgreSQL 16; {_ADMIN_OPTION}",
    ),
    Step(
        "passwords, as verifiers",
        """
SELECT format('ALTER ROLE %I PASSWORD %L', name, verifier)
  FROM (VALUES (:'owner', :'owner_verifier'), (:'application', :'application_verifier'),
               (:'backup', :'backup_verifier')) AS given (name, verifier)
 WHERE name <> '' AND verifier <> '' ORDER BY 1
""",
        f"{_ADMIN_OPTION}. A server that checks passwords takes no verifier: set the password by its console or API",
    ),
    Step(
        "the application cannot become the owner, or anybody else who is not bound",
        """
SELECT DISTINCT format('REVOKE %I FROM %I GRANTED BY %I', pg_catalog.pg_get_userbyid(roleid), :'application',
                       pg_catalog.pg_get_userbyid(grantor))
  FROM pg_catalog.pg_auth_members
 WHERE pg_catalog.pg_get_userbyid(member) = :'application'
   AND EXISTS (SELECT FROM pg_catalog.pg_roles AS mighty
                WHERE (rolsuper OR rolbypassrls OR rolname IN (:'owner', 'pg_execute_server_program',
                                                               'pg_read_server_files', 'pg_write_server_files'))
                  AND pg_catalog.pg_has_role(roleid, mighty.oid, 'MEMBER'))
""",
        "run this as who granted the membership, or as a superuser",
    ),
    Step(
        "whoever runs this can act for the owner: only so may it make what is the owner's",
        """
SELECT format('GRANT %I TO %I', :'owner', current_user)
 WHERE NOT pg_catalog.pg_has_role(current_user, :'owner', 'USAGE')
""",
        _ADMIN_OPTION,
    ),
    Step(
        "the database",
        """
SELECT format('CREATE DATABASE %I OWNER %I ENCODING ''UTF8'' TEMPLATE template0', :'database', :'owner')
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = :'database')
""",
        "run this as a role with CREATEDB that is a member of the owner",
    ),
    Step(
        "its owner",
        """
SELECT format('ALTER DATABASE %I OWNER TO %I', datname, :'owner')
  FROM pg_catalog.pg_database WHERE datname = :'database' AND pg_catalog.pg_get_userbyid(datdba) <> :'owner'
""",
        "run this as the present owner of the database, with CREATEDB and as a member of the new one",
    ),
    Step(
        "nobody connects who is not named",
        """
SELECT format('REVOKE %s ON DATABASE %I FROM PUBLIC', string_agg(privilege_type, ', ' ORDER BY 1), datname)
  FROM pg_catalog.pg_database,
       pg_catalog.aclexplode(coalesce(datacl, pg_catalog.acldefault('d', datdba)))
 WHERE datname = :'database' AND grantee = 0 GROUP BY datname
""",
        _AS_OWNER,
    ),
    Step(
        "the application creates no temporary tables and no schemas: its connections are shared by all tenants",
        """
SELECT format('REVOKE %s ON DATABASE %I FROM %I', string_agg(privilege_type, ', ' ORDER BY 1), datname, :'application')
  FROM pg_catalog.pg_database, pg_catalog.aclexplode(datacl)
 WHERE datname = :'database' AND pg_catalog.pg_get_userbyid(grantee) = :'application'
   AND privilege_type IN ('CREATE', 'TEMPORARY')
 GROUP BY datname
""",
        _AS_OWNER,
    ),
    Step(
        "the application connects, and so does who makes backups",
        """
SELECT format('GRANT CONNECT ON DATABASE %I TO %I', :'database', name)
  FROM unnest(ARRAY[:'application', :'backup']) AS name
 WHERE name <> '' AND NOT pg_catalog.has_database_privilege(name, :'database', 'CONNECT')
""",
        _AS_OWNER,
    ),
    Step(
        "time limits, in milliseconds, for whoever sets none",
        """
SELECT format('ALTER ROLE %I SET %I = %L', name, setting, value)
  FROM (VALUES (:'application', 'statement_timeout', :'statement_timeout'),
               (:'application', 'lock_timeout', :'lock_timeout'),
               (:'application', 'idle_in_transaction_session_timeout', :'idle_timeout'),
               (:'owner', 'lock_timeout', :'lock_timeout'),
               (:'backup', 'statement_timeout', '0'),
               (:'backup', 'idle_in_transaction_session_timeout', '0'),
               (:'backup', 'default_transaction_read_only', 'on')) AS given (name, setting, value)
 WHERE name <> '' AND NOT EXISTS (
           SELECT FROM pg_catalog.pg_db_role_setting
            WHERE setdatabase = 0 AND pg_catalog.pg_get_userbyid(setrole) = name
              AND setting || '=' || value = ANY (setconfig))
 ORDER BY 1
""",
        _ADMIN_OPTION,
    ),
)

INSIDE: Final = (
    Step(
        "the schema public is the owner's, by owning the database",
        """
SELECT 'ALTER SCHEMA public OWNER TO pg_database_owner'
  FROM pg_catalog.pg_namespace
 WHERE nspname = 'public' AND pg_catalog.pg_get_userbyid(nspowner) NOT IN ('pg_database_owner', :'owner')
""",
        "run this as the present owner of the schema, or as a superuser",
    ),
    Step(
        "nobody else makes tables in it",
        """
SELECT 'REVOKE CREATE ON SCHEMA public FROM ' || CASE grantee WHEN 0 THEN 'PUBLIC' ELSE format('%I', :'application') END
  FROM pg_catalog.pg_namespace, pg_catalog.aclexplode(coalesce(nspacl, pg_catalog.acldefault('n', nspowner)))
 WHERE nspname = 'public' AND privilege_type = 'CREATE'
   AND (grantee = 0 OR pg_catalog.pg_get_userbyid(grantee) = :'application')
""",
        _AS_OWNER,
    ),
    Step(
        "the application uses it, and so does who makes backups",
        """
SELECT format('GRANT USAGE ON SCHEMA public TO %I', name)
  FROM unnest(ARRAY[:'application', :'backup']) AS name
 WHERE name <> '' AND NOT pg_catalog.has_schema_privilege(name, 'public', 'USAGE')
""",
        _AS_OWNER,
    ),
    Step(
        "the application owns no table: an owner can switch row-level security off",
        """
SELECT format('ALTER TABLE %I.%I OWNER TO %I', nspname, relname, :'owner')
  FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
 WHERE pg_catalog.pg_get_userbyid(relowner) = :'application' AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
   AND nspname !~ '^pg_'
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
                    WHERE classid = 'pg_catalog.pg_class'::regclass AND objid = pg_class.oid AND deptype IN ('a', 'i')
                      AND relkind = 'S')
""",
        "run this as a superuser, or as a member of both roles",
    ),
    Step(
        "and no function",
        """
SELECT format('ALTER ROUTINE %s OWNER TO %I', oid::regprocedure, :'owner')
  FROM pg_catalog.pg_proc WHERE pg_catalog.pg_get_userbyid(proowner) = :'application'
""",
        "run this as a superuser, or as a member of both roles",
    ),
    Step(
        "what migrations will make is there for the application, and can be backed up",
        """
SELECT format('ALTER DEFAULT PRIVILEGES FOR ROLE %I GRANT %s ON %s TO %I', :'owner', rights, kinds, name)
  FROM (VALUES (:'application', 'r', 'TABLES', 'SELECT, INSERT, UPDATE, DELETE'),
               (:'application', 'S', 'SEQUENCES', 'USAGE, SELECT'),
               (:'application', 'f', 'FUNCTIONS', 'EXECUTE'),
               (:'backup', 'r', 'TABLES', 'SELECT'),
               (:'backup', 'S', 'SEQUENCES', 'SELECT')) AS given (name, kind, kinds, rights)
 WHERE name <> '' AND NOT string_to_array(rights, ', ') <@ ARRAY(
           SELECT privilege_type FROM pg_catalog.pg_default_acl, pg_catalog.aclexplode(defaclacl)
            WHERE defaclnamespace = 0 AND defaclobjtype::text = kind
              AND pg_catalog.pg_get_userbyid(defaclrole) = :'owner' AND pg_catalog.pg_get_userbyid(grantee) = name)
 ORDER BY 1
""",
        "run this as the owner of the tables, or as a member of it",
    ),
    Step(
        "and so is what they made before",
        """
SELECT format('GRANT %s ON %s %I.%I TO %I', rights, CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, nspname,
              relname, name)
  FROM (VALUES (:'application', 'table', 'SELECT, INSERT, UPDATE, DELETE'), (:'application', 'revision', 'SELECT'),
               (:'application', 'sequence', 'USAGE, SELECT'), (:'backup', 'table', 'SELECT'),
               (:'backup', 'revision', 'SELECT'), (:'backup', 'sequence', 'SELECT')) AS given (name, kind, rights),
       pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
 WHERE name <> '' AND nspname = 'public' AND pg_catalog.pg_get_userbyid(relowner) = :'owner'
   AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
   AND kind = CASE WHEN relkind = 'S' THEN 'sequence' WHEN relname = 'alembic_version' THEN 'revision' ELSE 'table' END
   AND EXISTS (SELECT FROM unnest(string_to_array(rights, ', ')) AS one
                WHERE NOT CASE WHEN kind = 'sequence' THEN pg_catalog.has_sequence_privilege(name, pg_class.oid, one)
                          ELSE pg_catalog.has_table_privilege(name, pg_class.oid, one) END)
""",
        "run this as the owner of the tables, or as a member of it",
    ),
    Step(
        "only the owner writes the revision",
        """
SELECT format('REVOKE %s ON TABLE %I.%I FROM %I', string_agg(privilege_type, ', ' ORDER BY 1), nspname, relname,
              pg_catalog.pg_get_userbyid(grantee))
  FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
 CROSS JOIN LATERAL pg_catalog.aclexplode(relacl)
 WHERE nspname = 'public' AND relname = 'alembic_version' AND pg_catalog.pg_get_userbyid(relowner) = :'owner'
   AND pg_catalog.pg_get_userbyid(grantee) IN (:'application', :'backup') AND privilege_type <> 'SELECT'
 GROUP BY nspname, relname, grantee ORDER BY 1
""",
        "run this as the owner of the tables, or as a member of it",
    ),
    Step(
        "who makes backups reads every tenant's rows",
        """
SELECT format('ALTER ROLE %I BYPASSRLS', rolname)
  FROM pg_catalog.pg_roles WHERE rolname = :'backup' AND NOT rolbypassrls AND NOT rolsuper
""",
        "a superuser may, and from PostgreSQL 16 on a role with CREATEROLE that has BYPASSRLS itself. Where the"
        " provider gives it to nobody, back up by the provider's snapshots: `thea-db backup` refuses without it",
        is_optional=True,
    ),
)
