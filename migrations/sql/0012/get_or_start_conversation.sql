-- Return the active conversation of a user in a chat, inserted under p_id where there is none. One without a message
-- for longer than p_idle_timeout, measured from p_now (by default the server's clock), is closed and returned beside
-- the one that is started. The active row has the id p_id exactly if this call started it; there is no active row if
-- the tenant has no such live user.
-- p_lock: lock the row, so that no other transaction closes it, or appends to it, before this one ends. The columns are
-- listed and text is cast, so that calls under way survive an ALTER TABLE: a result that is the table's own row type
-- would fail on every connection that has prepared a call, until the connection ends.
CREATE FUNCTION {schema}.app_get_or_start_conversation(
    p_tenant uuid, p_user uuid, p_channel text, p_external_chat_id text, p_id uuid, p_session_id text,
    p_idle_timeout interval, p_now timestamptz DEFAULT NULL, p_lock boolean DEFAULT false
) RETURNS TABLE (
    tenant_id uuid, id uuid, user_id uuid, session_id text, is_active boolean, channel text, external_chat_id text,
    title text, summary text, summary_upto_seq bigint, last_seq bigint, last_message_at timestamptz,
    closed_at timestamptz, close_reason text, turn_token bigint, turn_claimed_by text, turn_claimed_until timestamptz,
    deleted_at timestamptz, created_at timestamptz, updated_at timestamptz, metadata jsonb
)
LANGUAGE plpgsql ROWS 1 AS $$
#variable_conflict use_column
DECLARE
    v record;
    v_now timestamptz := coalesce(p_now, pg_catalog.clock_timestamp());
    v_since timestamptz := v_now - p_idle_timeout;
    v_ids uuid[] := '{}';
BEGIN
    PERFORM {schema}.app_enter_tenant(p_tenant);
    -- A further round only where another transaction appended to, closed or started what this one looked for.
    LOOP
        -- Not IS NOT DISTINCT FROM, which uses no index.
        IF p_lock THEN
            SELECT c.id, coalesce(c.last_message_at, c.created_at) AS last_active_at INTO v
              FROM {schema}.conversations AS c
             WHERE c.tenant_id = p_tenant AND c.user_id = p_user AND c.channel = p_channel
               AND (c.external_chat_id = p_external_chat_id
                    OR (p_external_chat_id IS NULL AND c.external_chat_id IS NULL))
               AND c.is_active AND c.deleted_at IS NULL
               FOR NO KEY UPDATE;
        ELSE
            SELECT c.id, coalesce(c.last_message_at, c.created_at) AS last_active_at INTO v
              FROM {schema}.conversations AS c
             WHERE c.tenant_id = p_tenant AND c.user_id = p_user AND c.channel = p_channel
               AND (c.external_chat_id = p_external_chat_id
                    OR (p_external_chat_id IS NULL AND c.external_chat_id IS NULL))
               AND c.is_active AND c.deleted_at IS NULL;
        END IF;
        IF FOUND THEN
            IF v_since IS NULL OR v.last_active_at >= v_since THEN
                v_ids := v_ids || v.id;
                EXIT;
            END IF;
            -- The condition again, under the row's lock: an append may have been under way.
            UPDATE {schema}.conversations AS c
               SET is_active = false, closed_at = v_now, close_reason = 'idle', updated_at = pg_catalog.now()
             WHERE c.tenant_id = p_tenant AND c.id = v.id AND c.is_active AND c.deleted_at IS NULL
               AND coalesce(c.last_message_at, c.created_at) < v_since;
            CONTINUE WHEN NOT FOUND;
            v_ids := v_ids || v.id;
        END IF;
        -- The foreign key would take this lock after the insert. Taken before, a call that waits for the merge or the
        -- erasure of the user finds no user then.
        PERFORM FROM {schema}.users AS u
          WHERE u.tenant_id = p_tenant AND u.id = p_user AND u.deleted_at IS NULL
            FOR KEY SHARE;
        EXIT WHEN NOT FOUND;
        INSERT INTO {schema}.conversations (tenant_id, id, user_id, channel, external_chat_id, session_id)
        VALUES (p_tenant, p_id, p_user, p_channel, p_external_chat_id, p_session_id)
            ON CONFLICT (tenant_id, user_id, channel, external_chat_id) WHERE is_active AND deleted_at IS NULL
            DO NOTHING;
        IF FOUND THEN
            v_ids := v_ids || p_id;
            EXIT;
        END IF;
    END LOOP;
    RETURN QUERY
        SELECT
            c.tenant_id, c.id, c.user_id, c.session_id::text, c.is_active, c.channel::text, c.external_chat_id::text,
            c.title::text, c.summary::text, c.summary_upto_seq, c.last_seq, c.last_message_at, c.closed_at,
            c.close_reason::text, c.turn_token, c.turn_claimed_by::text, c.turn_claimed_until, c.deleted_at,
            c.created_at, c.updated_at, c.metadata
          FROM {schema}.conversations AS c
         WHERE c.tenant_id = p_tenant AND c.id = ANY (v_ids);
END
$$;
