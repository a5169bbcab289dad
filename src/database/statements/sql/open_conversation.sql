-- Return the conversation with a session's id, inserted under p_id where there is none. It is no chat's active
-- conversation. There is no row if the tenant has no such live user, and no such conversation. A deleted conversation
-- gives its session's id up: it keeps its messages, under another one. The columns are listed as in
-- app_get_or_start_conversation.
CREATE FUNCTION {schema}.app_open_conversation(
    p_tenant uuid, p_session_id text, p_user uuid, p_channel text, p_id uuid, p_metadata jsonb
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
BEGIN
    PERFORM {schema}.app_enter_tenant(p_tenant);
    -- A further round only where another transaction opened, deleted or restored what this one looked for.
    LOOP
        SELECT c.id, c.deleted_at INTO v
          FROM {schema}.conversations AS c
         WHERE c.tenant_id = p_tenant AND c.session_id = p_session_id;
        IF FOUND THEN
            EXIT WHEN v.deleted_at IS NULL;
            UPDATE {schema}.conversations AS c
               SET session_id = 'deleted:' || c.id, updated_at = pg_catalog.now()
             WHERE c.tenant_id = p_tenant AND c.id = v.id AND c.deleted_at IS NOT NULL;
        END IF;
        -- Locked before the insert, as in app_get_or_start_conversation.
        PERFORM FROM {schema}.users AS u
          WHERE u.tenant_id = p_tenant AND u.id = p_user AND u.deleted_at IS NULL
            FOR KEY SHARE;
        EXIT WHEN NOT FOUND;
        INSERT INTO {schema}.conversations (tenant_id, id, user_id, channel, session_id, is_active, metadata)
        VALUES (p_tenant, p_id, p_user, p_channel, p_session_id, false, p_metadata)
            ON CONFLICT (tenant_id, session_id) DO NOTHING;
        EXIT WHEN FOUND;
    END LOOP;
    RETURN QUERY
        SELECT
            c.tenant_id, c.id, c.user_id, c.session_id::text, c.is_active, c.channel::text, c.external_chat_id::text,
            c.title::text, c.summary::text, c.summary_upto_seq, c.last_seq, c.last_message_at, c.closed_at,
            c.close_reason::text, c.turn_token, c.turn_claimed_by::text, c.turn_claimed_until, c.deleted_at,
            c.created_at, c.updated_at, c.metadata
          FROM {schema}.conversations AS c
         WHERE c.tenant_id = p_tenant AND c.session_id = p_session_id AND c.deleted_at IS NULL;
END
$$;
