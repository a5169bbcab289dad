-- Insert or replace entries of one owner. With p_merge, add the keys of the objects to those of the stored objects, and
-- without p_expires_in keep their expiry. An expired entry counts as missing, but its version continues: a holder of
-- the expired entry has a version that no later entry has.
-- p_expected is the version of the entry, 0 if there must be none, NULL if there may be any.
-- outcome: written | stale, with the version that is stored, 0 if there is none | no_owner
CREATE FUNCTION {schema}.app_set_state(
    p_tenant uuid, p_user uuid, p_conversation uuid, p_namespace text, p_keys text[], p_ids uuid[], p_data text[],
    p_blobs bytea[], p_expires_in interval, p_merge boolean, p_expected bigint
) RETURNS TABLE (
    tenant_id uuid, id uuid, user_id uuid, conversation_id uuid, owner_id uuid, namespace text, key text, data jsonb,
    blob bytea, version bigint, expires_at timestamptz, created_at timestamptz, updated_at timestamptz, metadata jsonb,
    outcome text
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_owner uuid := coalesce(p_conversation, p_user, p_tenant);
    v_now timestamptz := pg_catalog.clock_timestamp();
    v_expires_at timestamptz := v_now + p_expires_in;
BEGIN
    PERFORM {schema}.app_enter_tenant(p_tenant);
    IF NOT {schema}.app_has_owner(p_tenant, p_user, p_conversation) THEN
        outcome := 'no_owner';
        RETURN NEXT;
        RETURN;
    END IF;
    FOR i IN 1 .. pg_catalog.cardinality(p_keys) LOOP
        IF p_expected > 0 THEN
            UPDATE {schema}.state_entries AS s
               SET data = p_data[i]::jsonb, blob = p_blobs[i], version = s.version + 1, expires_at = v_expires_at,
                   updated_at = v_now
             WHERE s.tenant_id = p_tenant AND s.owner_id = v_owner AND s.namespace = p_namespace AND s.key = p_keys[i]
               AND s.version = p_expected AND (s.expires_at IS NULL OR s.expires_at > v_now);
        ELSE
            INSERT INTO {schema}.state_entries AS s (
                tenant_id, id, user_id, conversation_id, namespace, key, data, blob, expires_at, created_at, updated_at
            ) VALUES (
                p_tenant, p_ids[i], p_user, p_conversation, p_namespace, p_keys[i], p_data[i]::jsonb, p_blobs[i], v_expires_at,
                v_now, v_now
            ) ON CONFLICT (tenant_id, owner_id, namespace, key) DO UPDATE
               SET data = CASE
                       WHEN p_merge AND pg_catalog.jsonb_typeof(s.data) = 'object'
                            AND (s.expires_at IS NULL OR s.expires_at > v_now) THEN s.data || excluded.data
                       ELSE excluded.data
                   END,
                   blob = excluded.blob,
                   version = s.version + 1,
                   expires_at = CASE
                       WHEN p_merge AND s.expires_at > v_now THEN coalesce(excluded.expires_at, s.expires_at)
                       ELSE excluded.expires_at
                   END,
                   created_at = CASE WHEN s.expires_at <= v_now THEN v_now ELSE s.created_at END,
                   updated_at = v_now
             WHERE p_expected IS NULL OR s.expires_at <= v_now;
        END IF;
        IF NOT FOUND THEN
            outcome := 'stale';
            SELECT s.version INTO version
              FROM {schema}.state_entries AS s
             WHERE s.tenant_id = p_tenant AND s.owner_id = v_owner AND s.namespace = p_namespace AND s.key = p_keys[i]
               AND (s.expires_at IS NULL OR s.expires_at > v_now);
            version := coalesce(version, 0);
            RETURN NEXT;
            RETURN;
        END IF;
    END LOOP;
    RETURN QUERY
        SELECT
            s.tenant_id, s.id, s.user_id, s.conversation_id, s.owner_id, s.namespace::text, s.key::text, s.data, s.blob,
            s.version, s.expires_at, s.created_at, s.updated_at, s.metadata, 'written'
          FROM {schema}.state_entries AS s
         WHERE s.tenant_id = p_tenant AND s.owner_id = v_owner AND s.namespace = p_namespace AND s.key = ANY (p_keys);
END
$$;
