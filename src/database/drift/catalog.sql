-- The objects of a schema: a row for each object, with its kind, its name and its facts, as the server deparses them.
-- A fact whose name begins with an underscore is not compared: it serves a remedy. Names are quoted where necessary.
-- Objects that belong to extensions and version tables are left out.

WITH here AS (SELECT oid, nspname, nspowner, nspacl FROM pg_namespace WHERE nspname = current_schema()),
brought AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e'),
relation AS (
SELECT c.*, quote_ident(c.relname) AS name, format('%I.%I', here.nspname, c.relname) AS qualified
  FROM pg_class c JOIN here ON here.oid = c.relnamespace
 WHERE c.relname NOT IN ('thea_alembic_version', 'thea_alembic_version_pkc', 'alembic_version', 'alembic_version_pkc')
   AND (('pg_class'::regclass)::oid, c.oid) NOT IN (SELECT classid, objid FROM brought)
),
tables AS (SELECT * FROM relation WHERE relkind IN ('r', 'p', 'f')),
routine AS (
SELECT f.*, kind, format('%I(%s)', f.proname, pg_get_function_identity_arguments(f.oid)) AS name
  FROM pg_proc f JOIN here ON here.oid = f.pronamespace
 CROSS JOIN LATERAL (SELECT CASE f.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END) AS sort (kind)
 WHERE f.prokind <> 'a' AND ('pg_proc'::regclass::oid, f.oid) NOT IN (SELECT classid, objid FROM brought)
),
facts (kind, object, facts) AS (
SELECT 'table', t.name, jsonb_build_object(
       'kind', CASE t.relkind WHEN 'r' THEN 'TABLE' WHEN 'p' THEN 'PARTITIONED TABLE' ELSE 'FOREIGN TABLE' END,
       'persistence', CASE t.relpersistence WHEN 'p' THEN 'LOGGED' ELSE 'UNLOGGED' END,
       'row-level security', t.relrowsecurity,
       'forced row-level security', t.relforcerowsecurity,
       'partition key', pg_get_partkeydef(t.oid),
       'partition bound', pg_get_expr(t.relpartbound, t.oid),
       'parents', (SELECT jsonb_agg(inhparent::regclass::text ORDER BY inhseqno)
                     FROM pg_inherits WHERE inhrelid = t.oid))
  FROM tables t
UNION ALL
-- From PostgreSQL 18 on NOT NULL is a constraint, which may be NOT VALID.
SELECT 'column', format('%s.%I', t.name, a.attname), jsonb_build_object(
       'table', t.name, '_name', quote_ident(a.attname), '_place', a.attnum,
       '_not_null', CASE WHEN NOT n.convalidated THEN quote_ident(n.conname) END,
       'type', format_type(a.atttypid, a.atttypmod),
       'nullability', CASE WHEN NOT a.attnotnull THEN 'NULL' WHEN n.convalidated IS FALSE THEN 'NOT NULL NOT VALID'
                           ELSE 'NOT NULL' END,
       'default', CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END,
       'generated', CASE WHEN a.attgenerated <> '' THEN format('(%s) %s', pg_get_expr(d.adbin, d.adrelid),
                         CASE a.attgenerated WHEN 's' THEN 'STORED' ELSE 'VIRTUAL' END) END,
       'identity', CASE a.attidentity WHEN 'a' THEN 'ALWAYS' WHEN 'd' THEN 'BY DEFAULT' END,
       'collation', CASE WHEN a.attcollation <> y.typcollation THEN a.attcollation::regcollation::text END)
  FROM tables t
  JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN pg_type y ON y.oid = a.atttypid
  LEFT JOIN pg_attrdef d ON d.adrelid = t.oid AND d.adnum = a.attnum
  LEFT JOIN pg_constraint n ON n.conrelid = t.oid AND n.contype = 'n' AND n.conkey = ARRAY[a.attnum]
UNION ALL
-- A foreign key whose triggers are disabled, on either of its tables, checks no row.
SELECT 'constraint', format('%s.%I', t.name, k.conname), jsonb_build_object(
       'table', t.name, '_name', quote_ident(k.conname), '_references', nullif(k.confrelid, 0)::regclass::text,
       '_columns', (SELECT jsonb_agg(quote_ident(attname)) FROM pg_attribute
                     WHERE attrelid = t.oid AND attnum = ANY (k.conkey)),
       'kind', CASE k.contype WHEN 'p' THEN 'PRIMARY KEY' WHEN 'u' THEN 'UNIQUE' WHEN 'x' THEN 'EXCLUDE'
                              WHEN 'f' THEN 'FOREIGN KEY' ELSE 'CHECK' END,
       'definition', CASE WHEN right(definition, 10) = ' NOT VALID' THEN left(definition, -10) ELSE definition END,
       'validated', right(definition, 10) <> ' NOT VALID',
       'valid index', coalesce(i.indisvalid AND i.indisready, true),
       '_using', CASE WHEN i.indexrelid IS NOT NULL THEN
                 substr(pg_get_indexdef(i.indexrelid), strpos(pg_get_indexdef(i.indexrelid), ' USING ') + 1) END,
       'switched off on', (SELECT coalesce(jsonb_agg(DISTINCT g.tgrelid::regclass::text), '[]') FROM pg_trigger g
                            WHERE g.tgconstraint = k.oid AND g.tgisinternal AND g.tgenabled NOT IN ('O', 'A')))
  FROM tables t
  JOIN pg_constraint k ON k.conrelid = t.oid AND k.contype IN ('p', 'u', 'x', 'f', 'c') AND k.conparentid = 0
 CROSS JOIN LATERAL (SELECT pg_get_constraintdef(k.oid)) AS written (definition)
  LEFT JOIN pg_index i ON i.indexrelid = k.conindid AND k.contype IN ('p', 'u', 'x')
UNION ALL
SELECT 'index', x.name, jsonb_build_object(
       'table', t.name, '_name', x.name,
       '_columns', (SELECT coalesce(jsonb_agg(DISTINCT quote_ident(a.attname)), '[]') FROM pg_depend d
                      JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
                     WHERE d.classid = 'pg_class'::regclass AND d.objid = x.oid AND d.refobjid = t.oid),
       'unique', i.indisunique,
       'definition', substr(pg_get_indexdef(x.oid), length(format('CREATE %sINDEX %s ON %s%s ',
                            CASE WHEN i.indisunique THEN 'UNIQUE ' END, x.name,
                            CASE WHEN t.relkind = 'p' THEN 'ONLY ' END, t.qualified)) + 1),
       'valid', i.indisvalid AND i.indisready AND i.indislive)
  FROM tables t
  JOIN pg_index i ON i.indrelid = t.oid
  JOIN relation x ON x.oid = i.indexrelid
 WHERE NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = x.oid AND contype IN ('p', 'u', 'x'))
UNION ALL
SELECT 'sequence', s.name, jsonb_build_object(
       'table', (SELECT t.name FROM pg_depend d JOIN tables t ON t.oid = d.refobjid
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = s.oid AND d.deptype = 'a'),
       'persistence', CASE s.relpersistence WHEN 'p' THEN 'LOGGED' ELSE 'UNLOGGED' END,
       'type', format_type(q.seqtypid, NULL), 'increment', q.seqincrement, 'minimum', q.seqmin, 'maximum', q.seqmax,
       'start', q.seqstart, 'cache', q.seqcache, 'cycle', q.seqcycle)
  FROM relation s JOIN pg_sequence q ON q.seqrelid = s.oid
 WHERE NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = s.oid AND deptype = 'i')
UNION ALL
SELECT 'sequence owner', s.name, jsonb_build_object(
       'table', t.name, 'owner', format('%s.%I', t.name, a.attname))
  FROM relation s
  JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = s.oid AND d.deptype = 'a'
  JOIN tables t ON t.oid = d.refobjid
  JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
 WHERE s.relkind = 'S'
UNION ALL
SELECT 'view', v.name, jsonb_build_object(
       'kind', CASE v.relkind WHEN 'v' THEN 'VIEW' ELSE 'MATERIALIZED VIEW' END,
       'options', array_to_string(v.reloptions, ', '), 'definition', rtrim(pg_get_viewdef(v.oid), ';'))
  FROM relation v WHERE v.relkind IN ('v', 'm')
UNION ALL
SELECT 'trigger', format('%s.%I', t.name, g.tgname), jsonb_build_object(
       'table', t.name, '_name', quote_ident(g.tgname),
       'definition', replace(pg_get_triggerdef(g.oid), format(' ON %s ', t.qualified), format(' ON %s ', t.name)),
       'enabled', CASE g.tgenabled WHEN 'O' THEN 'ENABLE' WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA'
                                   ELSE 'ENABLE ALWAYS' END)
  FROM tables t JOIN pg_trigger g ON g.tgrelid = t.oid AND NOT g.tgisinternal AND g.tgparentid = 0
UNION ALL
SELECT 'rule', format('%s.%I', t.name, r.rulename), jsonb_build_object(
       'table', t.name, '_name', quote_ident(r.rulename),
       'definition', rtrim(replace(pg_get_ruledef(r.oid), ' TO ' || t.qualified, ' TO ' || t.name), ';'),
       'enabled', CASE r.ev_enabled WHEN 'O' THEN 'ENABLE' WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA'
                                    ELSE 'ENABLE ALWAYS' END)
  FROM tables t JOIN pg_rewrite r ON r.ev_class = t.oid AND r.rulename <> '_RETURN'
UNION ALL
SELECT 'policy', format('%s.%I', t.name, p.polname), {policy_facts}
  FROM tables t JOIN pg_policy p ON p.polrelid = t.oid
UNION ALL
SELECT 'function', f.name, jsonb_build_object(
       '_name', quote_ident(f.proname), '_kind', f.kind,
       '_definition', 'CREATE OR REPLACE ' || f.kind || ' ' || substr(pg_get_functiondef(f.oid),
                      length(format('CREATE OR REPLACE %s %I.', f.kind, here.nspname)) + 1),
       'returns', coalesce(pg_get_function_result(f.oid), 'PROCEDURE'),
       'arguments', pg_get_function_arguments(f.oid),
       'language', (SELECT lanname FROM pg_language WHERE oid = f.prolang),
       'body', coalesce(pg_get_function_sqlbody(f.oid), f.prosrc),
       'volatility', CASE f.provolatile WHEN 'i' THEN 'IMMUTABLE' WHEN 's' THEN 'STABLE' ELSE 'VOLATILE' END,
       'security', CASE WHEN f.prosecdef THEN 'DEFINER' ELSE 'INVOKER' END,
       'strict', f.proisstrict, 'leakproof', f.proleakproof,
       'parallel', CASE f.proparallel WHEN 's' THEN 'SAFE' WHEN 'r' THEN 'RESTRICTED' ELSE 'UNSAFE' END,
       'settings', array_to_string(f.proconfig, ', '))
  FROM routine f CROSS JOIN here
UNION ALL
SELECT 'enum', quote_ident(y.typname), jsonb_build_object(
       'labels', (SELECT jsonb_agg(enumlabel ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = y.oid))
  FROM pg_type y JOIN here ON here.oid = y.typnamespace
 WHERE y.typtype = 'e' AND ('pg_type'::regclass::oid, y.oid) NOT IN (SELECT classid, objid FROM brought)
UNION ALL
SELECT 'domain', quote_ident(y.typname), jsonb_build_object(
       'type', format_type(y.typbasetype, y.typtypmod), 'default', y.typdefault, 'nullable', NOT y.typnotnull,
       'collation', CASE WHEN y.typcollation <> b.typcollation THEN y.typcollation::regcollation::text END,
       'checks', (SELECT coalesce(jsonb_object_agg(quote_ident(conname), pg_get_constraintdef(oid)), '{}')
                    FROM pg_constraint WHERE contypid = y.oid AND contype = 'c'))
  FROM pg_type y JOIN here ON here.oid = y.typnamespace JOIN pg_type b ON b.oid = y.typbasetype
 WHERE y.typtype = 'd' AND ('pg_type'::regclass::oid, y.oid) NOT IN (SELECT classid, objid FROM brought)
UNION ALL
SELECT 'extension', quote_ident(extname), jsonb_build_object('_name', quote_ident(extname)) FROM pg_extension
UNION ALL
-- The privileges of PUBLIC. Without an ACL, PUBLIC may execute a function.
SELECT 'rights of PUBLIC', thing,
       jsonb_build_object('rights', jsonb_agg(DISTINCT privilege_type ORDER BY privilege_type)) FROM (
SELECT 'TABLE ' || quote_ident(c.relname) AS thing, x.*
  FROM pg_class c JOIN here ON here.oid = c.relnamespace CROSS JOIN aclexplode(c.relacl) AS x
 WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm')
   AND (('pg_class'::regclass)::oid, c.oid) NOT IN (SELECT classid, objid FROM brought)
UNION ALL
SELECT format('TABLE %s', t.name), acl.grantor, acl.grantee,
       format('%s (%I)', acl.privilege_type, a.attname), acl.is_grantable
  FROM tables t JOIN pg_attribute a ON a.attrelid = t.oid AND NOT a.attisdropped CROSS JOIN aclexplode(a.attacl) AS acl
UNION ALL
SELECT 'SEQUENCE ' || s.name, x.* FROM relation s CROSS JOIN aclexplode(s.relacl) AS x WHERE s.relkind = 'S'
UNION ALL
SELECT f.kind || ' ' || f.name, x.*
  FROM routine f CROSS JOIN aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) AS x
UNION ALL
SELECT 'SCHEMA ' || quote_ident(here.nspname), x.*
  FROM here CROSS JOIN aclexplode(coalesce(here.nspacl, acldefault('n', here.nspowner))) AS x
) AS granted WHERE grantee = 0 GROUP BY thing
UNION ALL
-- The privileges of the connected role; the owner of an object has all of them. Row-level security does not apply to
-- TRUNCATE. On the version table the privilege to write a single column counts.
SELECT 'rights', thing, jsonb_build_object('_role', quote_ident(current_user), '_owns', owns, 'rights', rights)
  FROM (
SELECT 'TABLE ' || quote_ident(c.relname), pg_has_role(c.relowner, 'USAGE'),
       (SELECT coalesce(jsonb_agg(p), '[]')
          FROM unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) AS p
         WHERE has_table_privilege(c.oid, p) OR c.relname = 'thea_alembic_version' AND p IN ('INSERT', 'UPDATE')
                                                AND has_any_column_privilege(c.oid, p))
  FROM pg_class c JOIN here ON here.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'f')
UNION ALL
SELECT 'SEQUENCE ' || s.name, pg_has_role(s.relowner, 'USAGE'),
       CASE WHEN has_sequence_privilege(s.oid, 'USAGE') THEN '["USAGE"]'::jsonb ELSE '[]' END
  FROM relation s WHERE s.relkind = 'S'
UNION ALL
SELECT f.kind || ' ' || f.name, pg_has_role(f.proowner, 'USAGE'),
       CASE WHEN has_function_privilege(f.oid, 'EXECUTE') THEN '["EXECUTE"]'::jsonb ELSE '[]' END
  FROM routine f
) AS held (thing, owns, rights)
UNION ALL
-- The collation version with which the indexes were built, and the current one of the system.
SELECT 'collation version', 'DATABASE ' || quote_ident(d.datname), jsonb_build_object('_of', 'DATABASE',
       '_name', quote_ident(d.datname), 'recorded', d.datcollversion,
       'actual', pg_database_collation_actual_version(d.oid))
  FROM pg_database d WHERE d.datname = current_database()
UNION ALL
SELECT 'collation version', 'COLLATION ' || l.oid::regcollation::text, jsonb_build_object('_of', 'COLLATION',
       '_name', l.oid::regcollation::text, 'recorded', l.collversion, 'actual', pg_collation_actual_version(l.oid),
       '_indexes', (SELECT jsonb_agg(x.name) FROM pg_index i JOIN relation x ON x.oid = i.indexrelid
                     WHERE l.oid = ANY (i.indcollation::oid[])))
  FROM pg_collation l
 WHERE l.collversion IS NOT NULL
   AND l.oid IN (SELECT attcollation FROM pg_attribute a JOIN relation t ON t.oid = a.attrelid)
)
SELECT kind, object, facts::text FROM facts
