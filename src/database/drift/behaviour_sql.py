"""What acts on rows and who may: triggers, rules, policies, functions, types, extensions, rights, collations."""

from __future__ import annotations

from typing import Final

__all__ = ["BEHAVIOUR", "CIRCUMSTANCES", "POLICY_FACTS"]

_TRIGGERS: Final = """
SELECT 'trigger', format('%s.%I', t.name, g.tgname), jsonb_build_object(
       'table', t.name, '_name', quote_ident(g.tgname),
       'definition', replace(pg_get_triggerdef(g.oid), format(' ON %s ', t.qualified), format(' ON %s ', t.name)),
       'enabled', CASE g.tgenabled WHEN 'O' THEN 'ENABLE' WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA'
                                   ELSE 'ENABLE ALWAYS' END)
  FROM tables t JOIN pg_trigger g ON g.tgrelid = t.oid AND NOT g.tgisinternal AND g.tgparentid = 0
"""

_RULES: Final = """
SELECT 'rule', format('%s.%I', t.name, r.rulename), jsonb_build_object(
       'table', t.name, '_name', quote_ident(r.rulename),
       'definition', replace(pg_get_ruledef(r.oid), ' TO ' || t.qualified, ' TO ' || t.name),
       'enabled', r.ev_enabled IN ('O', 'A'))
  FROM tables t JOIN pg_rewrite r ON r.ev_class = t.oid AND r.rulename <> '_RETURN'
"""

POLICY_FACTS: Final = """jsonb_build_object(
       'table', t.name, '_name', quote_ident(p.polname),
       'command', CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
                                WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
       'kind', CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
       'roles', (SELECT string_agg(name, ', ' ORDER BY name) FROM unnest(p.polroles) AS role CROSS JOIN LATERAL (
                 SELECT CASE role WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(role)) END) AS named (name)),
       'using', pg_get_expr(p.polqual, p.polrelid), 'check', pg_get_expr(p.polwithcheck, p.polrelid))"""
"""Of policy `p` of table `t`."""

_POLICIES: Final = f"""
SELECT 'policy', format('%s.%I', t.name, p.polname), {POLICY_FACTS}
  FROM tables t JOIN pg_policy p ON p.polrelid = t.oid
"""  # noqa: S608 - a constant

_FUNCTIONS: Final = """
SELECT 'function', format('%I(%s)', f.proname, pg_get_function_identity_arguments(f.oid)), jsonb_build_object(
       '_name', quote_ident(f.proname), '_kind', kind,
       '_definition', 'CREATE OR REPLACE ' || kind || ' ' || substr(pg_get_functiondef(f.oid),
                      length(format('CREATE OR REPLACE %s %I.', kind, here.nspname)) + 1),
       'returns', coalesce(pg_get_function_result(f.oid), 'PROCEDURE'),
       'arguments', pg_get_function_arguments(f.oid),
       'language', (SELECT lanname FROM pg_language WHERE oid = f.prolang),
       'body', coalesce(pg_get_function_sqlbody(f.oid), f.prosrc),
       'volatility', CASE f.provolatile WHEN 'i' THEN 'IMMUTABLE' WHEN 's' THEN 'STABLE' ELSE 'VOLATILE' END,
       'security', CASE WHEN f.prosecdef THEN 'DEFINER' ELSE 'INVOKER' END,
       'strict', f.proisstrict, 'leakproof', f.proleakproof,
       'parallel', CASE f.proparallel WHEN 's' THEN 'SAFE' WHEN 'r' THEN 'RESTRICTED' ELSE 'UNSAFE' END,
       'settings', array_to_string(f.proconfig, ', '))
  FROM pg_proc f JOIN here ON here.oid = f.pronamespace
 CROSS JOIN LATERAL (SELECT CASE f.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END) AS sort (kind)
 WHERE f.prokind <> 'a' AND ('pg_proc'::regclass::oid, f.oid) NOT IN (SELECT classid, objid FROM brought)
"""

_TYPES: Final = """
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
"""

_EXTENSIONS: Final = (
    "SELECT 'extension', quote_ident(extname), jsonb_build_object('_name', quote_ident(extname)) FROM pg_extension"
)

# What everybody may. A function is PUBLIC's to execute unless somebody took that away.
_OF_PUBLIC: Final = """
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
SELECT format('%s %I(%s)', CASE f.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END, f.proname,
              pg_get_function_identity_arguments(f.oid)), x.*
  FROM pg_proc f JOIN here ON here.oid = f.pronamespace
 CROSS JOIN aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) AS x
 WHERE f.prokind <> 'a' AND ('pg_proc'::regclass::oid, f.oid) NOT IN (SELECT classid, objid FROM brought)
UNION ALL
SELECT 'SCHEMA ' || quote_ident(here.nspname), x.*
  FROM here CROSS JOIN aclexplode(coalesce(here.nspacl, acldefault('n', here.nspowner))) AS x
) AS granted WHERE grantee = 0 GROUP BY thing
"""

BEHAVIOUR: Final = (_TRIGGERS, _RULES, _POLICIES, _FUNCTIONS, _TYPES, _EXTENSIONS, _OF_PUBLIC)

# What the role that asks may, who owns a thing may all. TRUNCATE is bound by no row-level security. On Alembic's table
# the right to write one column counts.
_RIGHTS: Final = """
SELECT 'rights', thing, jsonb_build_object('_role', quote_ident(current_user), '_owns', owns, 'rights', rights)
  FROM (
SELECT 'TABLE ' || quote_ident(c.relname), pg_has_role(c.relowner, 'USAGE'),
       (SELECT coalesce(jsonb_agg(p), '[]')
          FROM unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) AS p
         WHERE has_table_privilege(c.oid, p) OR c.relname = 'alembic_version' AND p IN ('INSERT', 'UPDATE')
                                                AND has_any_column_privilege(c.oid, p))
  FROM pg_class c JOIN here ON here.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'f')
UNION ALL
SELECT 'SEQUENCE ' || s.name, pg_has_role(s.relowner, 'USAGE'),
       CASE WHEN has_sequence_privilege(s.oid, 'USAGE') THEN '["USAGE"]'::jsonb ELSE '[]' END
  FROM relation s WHERE s.relkind = 'S'
UNION ALL
SELECT format('%s %I(%s)', CASE f.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END, f.proname,
              pg_get_function_identity_arguments(f.oid)), pg_has_role(f.proowner, 'USAGE'),
       CASE WHEN has_function_privilege(f.oid, 'EXECUTE') THEN '["EXECUTE"]'::jsonb ELSE '[]' END
  FROM pg_proc f JOIN here ON here.oid = f.pronamespace WHERE f.prokind <> 'a'
) AS held (thing, owns, rights)
"""

# In which order text was when the indexes were built, and in which it is now.
_COLLATIONS: Final = """
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
"""

CIRCUMSTANCES: Final = (_RIGHTS, _COLLATIONS)
