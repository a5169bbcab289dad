"""Tables and what belongs to them, as the server itself writes it; each query gives kind, object and facts.

A fact whose name begins with an underscore is not compared: a remedy is made of it. Names are quoted where need be.
"""

from __future__ import annotations

from typing import Final

__all__ = ["RELATIONS", "WITH"]

# What an extension brought is the extension's; alembic_version is Alembic's.
WITH: Final = """
WITH here AS (SELECT oid, nspname, nspowner, nspacl FROM pg_namespace WHERE nspname = current_schema()),
brought AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e'),
relation AS (
SELECT c.*, quote_ident(c.relname) AS name, format('%I.%I', here.nspname, c.relname) AS qualified
  FROM pg_class c JOIN here ON here.oid = c.relnamespace
 WHERE c.relname NOT IN ('alembic_version', 'alembic_version_pkc')
   AND (('pg_class'::regclass)::oid, c.oid) NOT IN (SELECT classid, objid FROM brought)
),
tables AS (SELECT * FROM relation WHERE relkind IN ('r', 'p', 'f'))
"""

_TABLES: Final = """
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
"""

# From 18 on NOT NULL is a constraint, and one that may not have been looked at yet.
_COLUMNS: Final = """
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
"""

# A foreign key whose triggers were switched off binds nobody, on either of its two tables.
_CONSTRAINTS: Final = """
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
"""

_INDEXES: Final = """
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
"""

_SEQUENCES: Final = """
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
"""

_VIEWS: Final = """
SELECT 'view', v.name, jsonb_build_object(
       'kind', CASE v.relkind WHEN 'v' THEN 'VIEW' ELSE 'MATERIALIZED VIEW' END,
       'options', array_to_string(v.reloptions, ', '), 'definition', rtrim(pg_get_viewdef(v.oid), ';'))
  FROM relation v WHERE v.relkind IN ('v', 'm')
"""

RELATIONS: Final = (_TABLES, _COLUMNS, _CONSTRAINTS, _INDEXES, _SEQUENCES, _VIEWS)
