-- Delete an entry. p_expected is its version, NULL if it may be any.
-- outcome: deleted | stale, with the version that is stored, 0 if there is none | missing
CREATE FUNCTION {schema}.app_delete_state(
    p_tenant uuid, p_user uuid, p_conversation uuid, p_namespace text, p_key text, p_expected bigint,
    OUT outcome text, OUT version bigint
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_owner uuid := coalesce(p_conversation, p_user, p_tenant);
BEGIN
    PERFORM {schema}.app_enter_tenant(p_tenant);
    version := 0;
    IF {schema}.app_has_owner(p_tenant, p_user, p_conversation) THEN
        SELECT s.version INTO version
          FROM {schema}.state_entries AS s
         WHERE s.tenant_id = p_tenant AND s.owner_id = v_owner AND s.namespace = p_namespace AND s.key = p_key
           AND (s.expires_at IS NULL OR s.expires_at > pg_catalog.clock_timestamp())
           FOR UPDATE;
        version := coalesce(version, 0);
    END IF;
    IF p_expected <> version THEN
        outcome := 'stale';
    ELSIF version = 0 THEN
        outcome := 'missing';
    ELSE
        DELETE FROM {schema}.state_entries AS s
         WHERE s.tenant_id = p_tenant AND s.owner_id = v_owner AND s.namespace = p_namespace AND s.key = p_key;
        outcome := 'deleted';
    END IF;
END
$$;
