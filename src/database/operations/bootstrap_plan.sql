-- The steps of `thea-db bootstrap`, executed by psql's \gexec and by the package. Each step is a query whose rows are the
-- statements that are still needed, so that a second run finds none. A row of a refusal is the reason of the refusal.
-- Values are psql variables, :'name'. The schema is `public` or that of DATABASE_SCHEMA. In a database of another owner,
-- only that schema and the service's roles are changed. A step is: -- [phase] aim, its remedy as comments, its query.

-- [refusals] refuse superusers and the administrator as roles of the service
-- name another role in the URL; `thea-db bootstrap` creates it. Do not remove SUPERUSER from
-- the role: if no other role has SUPERUSER, none can give the attribute back
SELECT rolname || CASE WHEN rolsuper THEN ' is a superuser, to whom row-level security does not apply'
                  ELSE ' is the connected role, and the administrator must not be the owner or the application' END
  FROM pg_catalog.pg_roles
 WHERE rolname IN (:'owner', :'application') AND (rolsuper OR rolname = current_user)

-- pg_shdepend names the roles that own an object or have a privilege, in every database of the server. A role that an
-- earlier `bootstrap` created is recognized by its time limits: it may serve two databases.

-- [foreign roles] refuse a database and roles that another service uses
-- {adopt}
SELECT format('the database %s belongs to %s, and not to %s', datname, pg_catalog.pg_get_userbyid(datdba), :'owner')
  FROM pg_catalog.pg_database
 WHERE :'adopt' = '' AND datname = :'database' AND pg_catalog.pg_get_userbyid(datdba) <> :'owner'
   AND :'schema' = 'public'
 UNION ALL
SELECT format('%s would lose access to the database %s, to which PUBLIC may connect', string_agg(rolname, ', '
              ORDER BY rolname), datname)
  FROM pg_catalog.pg_database AS db CROSS JOIN pg_catalog.pg_roles AS other
 WHERE :'adopt' = '' AND datname = :'database'
   AND (:'schema' = 'public' OR pg_catalog.pg_get_userbyid(datdba) = :'owner')
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
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_db_role_setting, unnest(setconfig) AS entry
                    WHERE setdatabase = 0 AND setrole = pg_roles.oid
                      AND (entry LIKE 'lock_timeout=%' OR entry LIKE 'default_transaction_read_only=%'))

-- A database that belongs to the owner, and to which PUBLIC may not connect, was bootstrapped before.

-- [foreign tables] refuse a database with tables of another service
-- {adopt}
SELECT format('the database %s has tables that are not thea-database''s: %s', current_database(),
              string_agg(format('%I.%I of %s', nspname, relname, owner), ', ' ORDER BY nspname, relname)
              FILTER (WHERE place <= 5) || CASE WHEN count(*) > 5 THEN format(' and %s more', count(*) - 5) ELSE '' END)
  FROM (SELECT nspname, relname, pg_catalog.pg_get_userbyid(relowner) AS owner,
               row_number() OVER (ORDER BY nspname, relname) AS place
          FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
         WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND nspname !~ '^pg_' AND nspname <> 'information_schema'
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
                            WHERE classid = 'pg_catalog.pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e')
           AND (:'schema' = 'public' OR nspname = :'schema')
           AND (pg_catalog.pg_get_userbyid(relowner) NOT IN (:'owner', :'application', :'backup')
                OR NOT EXISTS (SELECT FROM pg_catalog.pg_proc
                                WHERE proname = 'app_set_tenant'
                                  AND (:'schema' = 'public' OR pronamespace = relnamespace)))) AS foreign_table
 WHERE :'adopt' = ''
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_database
                    WHERE datname = current_database() AND pg_catalog.pg_get_userbyid(datdba) = :'owner'
                      AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(coalesce(datacl,
                                                                                 pg_catalog.acldefault('d', datdba)))
                                       WHERE grantee = 0 AND privilege_type = 'CONNECT'))
HAVING count(*) > 0
 UNION ALL
SELECT format('the schema %s belongs to %s, and not to %s', nspname, pg_catalog.pg_get_userbyid(nspowner), :'owner')
  FROM pg_catalog.pg_namespace
 WHERE :'adopt' = '' AND :'schema' <> 'public' AND nspname = :'schema'
   AND pg_catalog.pg_get_userbyid(nspowner) NOT IN (:'owner', current_user)

-- [roles] create the roles
-- run this as a role with CREATEROLE
SELECT format('CREATE ROLE %I LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION', name)
  FROM unnest(ARRAY[:'owner', :'application', :'backup']) AS name
 WHERE name <> '' AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = name) ORDER BY 1

-- [roles] remove attributes that the roles do not need; the owner may keep CREATEDB
-- before PostgreSQL 16 only a superuser may remove BYPASSRLS and REPLICATION; {admin_option}
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

-- [roles] set the passwords, as verifiers
-- {admin_option}. A server that checks the strength of passwords accepts no verifier: set the password by the console or
-- the API of the provider
SELECT format('ALTER ROLE %I PASSWORD %L', name, verifier)
  FROM (VALUES (:'owner', :'owner_verifier'), (:'application', :'application_verifier'),
               (:'backup', :'backup_verifier')) AS required (name, verifier)
 WHERE name <> '' AND verifier <> '' ORDER BY 1

-- [roles] remove the application from roles to which row-level security does not apply
-- run this as the role that granted the membership, or as a superuser
SELECT DISTINCT format('REVOKE %I FROM %I GRANTED BY %I', pg_catalog.pg_get_userbyid(roleid), :'application',
                       pg_catalog.pg_get_userbyid(grantor))
  FROM pg_catalog.pg_auth_members
 WHERE pg_catalog.pg_get_userbyid(member) = :'application'
   AND EXISTS (SELECT FROM pg_catalog.pg_roles AS privileged
                WHERE (rolsuper OR rolbypassrls OR rolname IN (:'owner', 'pg_execute_server_program',
                                                               'pg_read_server_files', 'pg_write_server_files'))
                  AND pg_catalog.pg_has_role(roleid, privileged.oid, 'MEMBER'))

-- [roles] make the administrator a member of the owner, which CREATE DATABASE ... OWNER requires
-- {admin_option}
SELECT format('GRANT %I TO %I', :'owner', current_user)
 WHERE NOT pg_catalog.pg_has_role(current_user, :'owner', 'USAGE')

-- [roles] create the database
-- run this as a role with CREATEDB that is a member of the owner
SELECT format('CREATE DATABASE %I OWNER %I ENCODING ''UTF8'' TEMPLATE template0', :'database', :'owner')
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = :'database')

-- [roles] set the owner of the database
-- run this as the current owner of the database, with CREATEDB and as a member of the new owner
SELECT format('ALTER DATABASE %I OWNER TO %I', datname, :'owner')
  FROM pg_catalog.pg_database
 WHERE datname = :'database' AND pg_catalog.pg_get_userbyid(datdba) <> :'owner' AND :'schema' = 'public'

-- [roles] revoke the privileges of PUBLIC on the database
-- {as_owner}
SELECT format('REVOKE %s ON DATABASE %I FROM PUBLIC', string_agg(privilege_type, ', ' ORDER BY 1), datname)
  FROM pg_catalog.pg_database,
       pg_catalog.aclexplode(coalesce(datacl, pg_catalog.acldefault('d', datdba)))
 WHERE datname = :'database' AND grantee = 0
   AND (:'schema' = 'public' OR pg_catalog.pg_get_userbyid(datdba) = :'owner')
 GROUP BY datname

-- [roles] deny the application temporary tables and schemas: all tenants share its connections
-- {as_owner}
SELECT format('REVOKE %s ON DATABASE %I FROM %I', string_agg(privilege_type, ', ' ORDER BY 1), datname, :'application')
  FROM pg_catalog.pg_database, pg_catalog.aclexplode(datacl)
 WHERE datname = :'database' AND pg_catalog.pg_get_userbyid(grantee) = :'application'
   AND privilege_type IN ('CREATE', 'TEMPORARY')
 GROUP BY datname

-- [roles] allow the application and the role of backups to connect
-- {as_owner}
SELECT format('GRANT CONNECT ON DATABASE %I TO %I', :'database', name)
  FROM unnest(ARRAY[:'application', :'backup']) AS name
 WHERE name <> '' AND NOT pg_catalog.has_database_privilege(name, :'database', 'CONNECT')

-- [roles] set default time limits, in milliseconds
-- {admin_option}
SELECT format('ALTER ROLE %I SET %I = %L', name, setting, value)
  FROM (VALUES (:'application', 'statement_timeout', :'statement_timeout'),
               (:'application', 'lock_timeout', :'lock_timeout'),
               (:'application', 'idle_in_transaction_session_timeout', :'idle_timeout'),
               (:'owner', 'lock_timeout', :'lock_timeout'),
               (:'backup', 'statement_timeout', '0'),
               (:'backup', 'idle_in_transaction_session_timeout', '0'),
               (:'backup', 'default_transaction_read_only', 'on')) AS required (name, setting, value)
 WHERE name <> '' AND NOT EXISTS (
           SELECT FROM pg_catalog.pg_db_role_setting
            WHERE setdatabase = 0 AND pg_catalog.pg_get_userbyid(setrole) = name
              AND setting || '=' || value = ANY (setconfig))
 ORDER BY 1

-- [inside] make the owner of the database the owner of the schema public
-- run this as the current owner of the schema, or as a superuser
SELECT 'ALTER SCHEMA public OWNER TO pg_database_owner'
  FROM pg_catalog.pg_namespace
 WHERE nspname = 'public' AND :'schema' = 'public'
   AND pg_catalog.pg_get_userbyid(nspowner) NOT IN ('pg_database_owner', :'owner')

-- [inside] create the schema
-- run this as a role with CREATE on the database that is a member of the owner
SELECT format('CREATE SCHEMA %I AUTHORIZATION %I', :'schema', :'owner')
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = :'schema')

-- [inside] make the owner of the tables the owner of the schema
-- run this as the current owner of the schema, or as a superuser
SELECT format('ALTER SCHEMA %I OWNER TO %I', nspname, :'owner')
  FROM pg_catalog.pg_namespace
 WHERE nspname = :'schema' AND :'schema' <> 'public' AND pg_catalog.pg_get_userbyid(nspowner) <> :'owner'

-- [inside] prevent other roles from creating objects in the schema
-- {as_owner}
SELECT format('REVOKE CREATE ON SCHEMA %I FROM %s', nspname,
              CASE grantee WHEN 0 THEN 'PUBLIC' ELSE format('%I', :'application') END)
  FROM pg_catalog.pg_namespace, pg_catalog.aclexplode(coalesce(nspacl, pg_catalog.acldefault('n', nspowner)))
 WHERE nspname = :'schema' AND privilege_type = 'CREATE'
   AND (grantee = 0 OR pg_catalog.pg_get_userbyid(grantee) = :'application')

-- [inside] allow the application and the role of backups to use the schema
-- {as_owner}
SELECT format('GRANT USAGE ON SCHEMA %I TO %I', :'schema', name)
  FROM unnest(ARRAY[:'application', :'backup']) AS name
 WHERE name <> '' AND NOT pg_catalog.has_schema_privilege(name, :'schema', 'USAGE')

-- [inside, optional] let the application find the schema behind PgBouncer, which passes no search_path on
-- {admin_option}. Without PgBouncer this is not needed
SELECT format('ALTER ROLE %I IN DATABASE %I SET search_path = %I', :'application', current_database(), :'schema')
 WHERE :'schema' <> 'public' AND NOT EXISTS (
           SELECT FROM pg_catalog.pg_db_role_setting JOIN pg_catalog.pg_database AS db ON db.oid = setdatabase,
                       unnest(setconfig) AS entry
            WHERE datname = current_database() AND pg_catalog.pg_get_userbyid(setrole) = :'application'
              AND split_part(entry, ',', 1) = 'search_path=' || quote_ident(:'schema'))

-- [inside] give the tables of the application to the owner: the owner of a table can switch row-level security off
-- run this as a superuser, or as a member of both roles
SELECT format('ALTER TABLE %I.%I OWNER TO %I', nspname, relname, :'owner')
  FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
 WHERE pg_catalog.pg_get_userbyid(relowner) = :'application' AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
   AND nspname !~ '^pg_' AND (:'schema' = 'public' OR nspname = :'schema')
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
                    WHERE classid = 'pg_catalog.pg_class'::regclass AND objid = pg_class.oid AND deptype IN ('a', 'i')
                      AND relkind = 'S')

-- [inside] give the functions of the application to the owner
-- run this as a superuser, or as a member of both roles
SELECT format('ALTER ROUTINE %s OWNER TO %I', oid::regprocedure, :'owner')
  FROM pg_catalog.pg_proc
 WHERE pg_catalog.pg_get_userbyid(proowner) = :'application'
   AND (:'schema' = 'public' OR pronamespace = to_regnamespace(quote_ident(:'schema')))

-- [inside] grant privileges on future tables, sequences and functions of the owner
-- run this as the owner of the tables, or as a member of that role
SELECT format('ALTER DEFAULT PRIVILEGES FOR ROLE %I%s GRANT %s ON %s TO %I', :'owner',
              CASE WHEN :'schema' <> 'public' THEN format(' IN SCHEMA %I', :'schema') END, rights, kinds, name)
  FROM (VALUES (:'application', 'r', 'TABLES', 'SELECT, INSERT, UPDATE, DELETE'),
               (:'application', 'S', 'SEQUENCES', 'USAGE, SELECT'),
               (:'application', 'f', 'FUNCTIONS', 'EXECUTE'),
               (:'backup', 'r', 'TABLES', 'SELECT'),
               (:'backup', 'S', 'SEQUENCES', 'SELECT')) AS required (name, kind, kinds, rights)
 WHERE name <> '' AND NOT string_to_array(rights, ', ') <@ ARRAY(
           SELECT privilege_type FROM pg_catalog.pg_default_acl, pg_catalog.aclexplode(defaclacl)
            WHERE defaclnamespace IN (0::oid, CASE WHEN :'schema' <> 'public'
                                                   THEN to_regnamespace(quote_ident(:'schema'))::oid END)
              AND defaclobjtype::text = kind
              AND pg_catalog.pg_get_userbyid(defaclrole) = :'owner' AND pg_catalog.pg_get_userbyid(grantee) = name)
 ORDER BY 1

-- [inside] grant privileges on existing tables and sequences of the owner
-- run this as the owner of the tables, or as a member of that role
SELECT format('GRANT %s ON %s %I.%I TO %I', rights, CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, nspname,
              relname, name)
  FROM (VALUES (:'application', 'table', 'SELECT, INSERT, UPDATE, DELETE'), (:'application', 'revision', 'SELECT'),
               (:'application', 'sequence', 'USAGE, SELECT'), (:'backup', 'table', 'SELECT'),
               (:'backup', 'revision', 'SELECT'), (:'backup', 'sequence', 'SELECT')) AS required (name, kind, rights),
       pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
 WHERE name <> '' AND nspname = :'schema' AND pg_catalog.pg_get_userbyid(relowner) = :'owner'
   AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
   AND kind = CASE WHEN relkind = 'S' THEN 'sequence' WHEN relname IN ('thea_alembic_version', 'alembic_version')
              THEN 'revision' ELSE 'table' END
   AND EXISTS (SELECT FROM unnest(string_to_array(rights, ', ')) AS one
                WHERE NOT CASE WHEN kind = 'sequence' THEN pg_catalog.has_sequence_privilege(name, pg_class.oid, one)
                          ELSE pg_catalog.has_table_privilege(name, pg_class.oid, one) END)

-- [inside] prevent other roles from writing the version tables
-- run this as the owner of the tables, or as a member of that role
SELECT format('REVOKE %s ON TABLE %I.%I FROM %I', string_agg(privilege_type, ', ' ORDER BY 1), nspname, relname,
              pg_catalog.pg_get_userbyid(grantee))
  FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
 CROSS JOIN LATERAL pg_catalog.aclexplode(relacl)
 WHERE nspname = :'schema' AND relname IN ('thea_alembic_version', 'alembic_version')
   AND pg_catalog.pg_get_userbyid(relowner) = :'owner'
   AND pg_catalog.pg_get_userbyid(grantee) IN (:'application', :'backup') AND privilege_type <> 'SELECT'
 GROUP BY nspname, relname, grantee ORDER BY 1

-- [inside, optional] allow the role of backups to read the rows of every tenant
-- run this as a superuser, or from PostgreSQL 16 on as a role with CREATEROLE and BYPASSRLS. If the provider grants
-- BYPASSRLS to no role, back up by the provider's snapshots: `thea-db backup` needs BYPASSRLS
SELECT format('ALTER ROLE %I BYPASSRLS', rolname)
  FROM pg_catalog.pg_roles WHERE rolname = :'backup' AND NOT rolbypassrls AND NOT rolsuper
