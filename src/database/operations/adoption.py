"""What `bootstrap` does not change unless it is told to: a database, tables and roles that somebody else uses."""

from __future__ import annotations

from typing import Final

from src.database.operations.bootstrap_plan import Step

__all__ = ["FOREIGN_ROLES_AND_DATABASE", "FOREIGN_TABLES"]

_REMEDY: Final = (
    "correct the user or the database in the URL (`thea-db info` shows where each value comes from); only if nobody"
    " else needs the database and the roles, `thea-db bootstrap --adopt` makes these changes"
)

# pg_shdepend names the roles that own or are granted something, in every database of the server.
FOREIGN_ROLES_AND_DATABASE: Final = Step(
    "refuse a database and roles that somebody else uses",
    """
SELECT format('the database %s belongs to %s, and not to %s', datname, pg_catalog.pg_get_userbyid(datdba), :'owner')
  FROM pg_catalog.pg_database
 WHERE :'adopt' = '' AND datname = :'database' AND pg_catalog.pg_get_userbyid(datdba) <> :'owner'
 UNION ALL
SELECT format('%s would lose access to the database %s, to which PUBLIC may connect', string_agg(rolname, ', '
              ORDER BY rolname), datname)
  FROM pg_catalog.pg_database AS db CROSS JOIN pg_catalog.pg_roles AS other
 WHERE :'adopt' = '' AND datname = :'database'
   AND rolname NOT IN (:'owner', :'application', :'backup', current_user) AND NOT rolsuper AND rolname !~ '^pg_'
   AND (EXISTS (SELECT FROM pg_catalog.pg_shdepend
                 WHERE dbid = db.oid AND refclassid = 'pg_catalog.pg_authid'::regclass AND refobjid = other.oid)
        OR EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE datid = db.oid AND usesysid = other.oid))
   AND EXISTS (SELECT FROM pg_catalog.aclexplode(coalesce(datacl, pg_catalog.acldefault('d', datdba)))
                WHERE grantee = 0 AND privilege_type = 'CONNECT')
   AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(coalesce(datacl, pg_catalog.acldefault('d', datdba)))
                    WHERE grantee NOT IN (0, datdba) AND privilege_type = 'CONNECT'
                      AND pg_catalog.pg_has_role(other.oid, grantee, 'USAGE'))
 GROUP BY datname
 UNION ALL
SELECT format('the role %s is in use outside of the database %s', rolname, :'database')
  FROM pg_catalog.pg_roles
 WHERE :'adopt' = '' AND rolname IN (:'owner', :'application', :'backup') AND NOT rolsuper
   AND (EXISTS (SELECT FROM pg_catalog.pg_shdepend
                 WHERE refclassid = 'pg_catalog.pg_authid'::regclass AND refobjid = pg_roles.oid
                   AND classid <> 'pg_catalog.pg_auth_members'::regclass)
        OR rolcreaterole OR rolreplication OR rolcreatedb AND rolname <> :'owner'
        OR rolbypassrls AND rolname <> :'backup')
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_shdepend JOIN pg_catalog.pg_database AS db ON datname = :'database'
                    WHERE refclassid = 'pg_catalog.pg_authid'::regclass AND refobjid = pg_roles.oid
                      AND (dbid = db.oid OR classid = 'pg_catalog.pg_database'::regclass AND objid = db.oid))
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_db_role_setting, unnest(setconfig) AS given
                    WHERE setdatabase = 0 AND setrole = pg_roles.oid
                      AND (given LIKE 'lock_timeout=%' OR given LIKE 'default_transaction_read_only=%'))
""",
    _REMEDY,
)
"""A role that an earlier `bootstrap` made is recognized by the limits that it was given: it may serve two databases."""

FOREIGN_TABLES: Final = Step(
    "refuse a database with tables that somebody else made",
    """
SELECT format('the database %s has tables that are not thea-database''s: %s', current_database(),
              string_agg(format('%I.%I of %s', nspname, relname, owner), ', ' ORDER BY nspname, relname)
              FILTER (WHERE place <= 5) || CASE WHEN count(*) > 5 THEN format(' and %s more', count(*) - 5) ELSE '' END)
  FROM (SELECT nspname, relname, pg_catalog.pg_get_userbyid(relowner) AS owner,
               row_number() OVER (ORDER BY nspname, relname) AS place
          FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
         WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND nspname !~ '^pg_' AND nspname <> 'information_schema'
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
                            WHERE classid = 'pg_catalog.pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e')
           AND (pg_catalog.pg_get_userbyid(relowner) NOT IN (:'owner', :'application', :'backup')
                OR NOT EXISTS (SELECT FROM pg_catalog.pg_proc WHERE proname = 'app_set_tenant'))) AS foreign_table
 WHERE :'adopt' = ''
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_database
                    WHERE datname = current_database() AND pg_catalog.pg_get_userbyid(datdba) = :'owner'
                      AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(coalesce(datacl,
                                                                                 pg_catalog.acldefault('d', datdba)))
                                       WHERE grantee = 0 AND privilege_type = 'CONNECT'))
HAVING count(*) > 0
""",
    _REMEDY,
)
"""A database that belongs to the owner, and to which PUBLIC may not connect, was bootstrapped before."""
