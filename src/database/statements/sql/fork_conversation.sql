-- Copy a conversation under p_id, with its live messages up to a number. The messages keep their numbers, and get new ids
-- and keys. The copy is no chat's active conversation. There is no row if the tenant has no such conversation. An answer
-- that is being streamed is copied as interrupted: its writer does not know the copy. The columns are listed as in
-- app_get_or_start_conversation.
CREATE FUNCTION {schema}.app_fork_conversation(
    p_tenant uuid, p_conversation uuid, p_upto_seq bigint, p_id uuid, p_session_id text, p_metadata jsonb
) RETURNS TABLE (
    tenant_id uuid, id uuid, user_id uuid, session_id text, is_active boolean, channel text, external_chat_id text,
    title text, summary text, summary_upto_seq bigint, last_seq bigint, last_message_at timestamptz,
    closed_at timestamptz, close_reason text, turn_token bigint, turn_claimed_by text, turn_claimed_until timestamptz,
    deleted_at timestamptz, created_at timestamptz, updated_at timestamptz, metadata jsonb
)
LANGUAGE plpgsql ROWS 1 AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := pg_catalog.clock_timestamp();
    v_milliseconds bigint := 1000 * pg_catalog.date_part('epoch', v_now);
BEGIN
    PERFORM {schema}.app_enter_tenant(p_tenant);
    PERFORM FROM {schema}.conversations AS c
      WHERE c.tenant_id = p_tenant AND c.id = p_conversation AND c.deleted_at IS NULL
        FOR SHARE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    INSERT INTO {schema}.conversations (
        tenant_id, id, user_id, session_id, is_active, channel, external_chat_id, title, summary, summary_upto_seq,
        last_seq, last_message_at, metadata
    )
    SELECT c.tenant_id, p_id, c.user_id, p_session_id, false, c.channel, c.external_chat_id, c.title,
           CASE WHEN c.summary_upto_seq <= p_upto_seq THEN c.summary END,
           CASE WHEN c.summary_upto_seq <= p_upto_seq THEN c.summary_upto_seq ELSE 0 END,
           least(c.last_seq, p_upto_seq),
           (SELECT pg_catalog.max(m.created_at) FROM {schema}.message_history AS m
             WHERE m.tenant_id = p_tenant AND m.conversation_id = p_conversation AND m.deleted_at IS NULL
               AND m.seq <= p_upto_seq),
           c.metadata || p_metadata
      FROM {schema}.conversations AS c
     WHERE c.tenant_id = p_tenant AND c.id = p_conversation;
    -- The ids are of version 7: milliseconds, and in place of the random bits after the version, the number of the row.
    WITH copied AS MATERIALIZED (
        SELECT m.id AS old_id, pg_catalog.encode(pg_catalog.overlay(
                   pg_catalog.uuid_send(pg_catalog.gen_random_uuid()), pg_catalog.int8send(
                       ((v_milliseconds + n.number / 4096) << 16) | 28672 | (n.number % 4096)
                   ), 1, 8
               ), 'hex')::uuid AS new_id
          FROM (
              SELECT o.id, pg_catalog.row_number() OVER (ORDER BY o.seq) AS number
                FROM {schema}.message_history AS o
               WHERE o.tenant_id = p_tenant AND o.conversation_id = p_conversation AND o.deleted_at IS NULL
                 AND o.seq <= p_upto_seq
          ) AS n
          JOIN {schema}.message_history AS m ON m.tenant_id = p_tenant AND m.id = n.id
    )
    INSERT INTO {schema}.message_history (
        tenant_id, id, conversation_id, user_id, seq, message_id, role, content, token_count, fingerprint, created_at,
        parent_id, tool_call_id, tool_name, model, input_tokens, output_tokens, state, edited_at,
        parts, attachments, metadata, updated_at
    )
    SELECT m.tenant_id, o.new_id, p_id, m.user_id, m.seq, 'fork:' || p_id || ':' || m.seq, m.role, m.content,
           m.token_count, m.fingerprint, m.created_at, p.new_id, m.tool_call_id, m.tool_name, m.model, m.input_tokens,
           m.output_tokens, CASE m.state WHEN 'incomplete' THEN 'interrupted' ELSE m.state END, m.edited_at,
           m.parts, m.attachments, m.metadata, v_now
      FROM copied AS o
      JOIN {schema}.message_history AS m ON m.tenant_id = p_tenant AND m.id = o.old_id
      LEFT JOIN copied AS p ON p.old_id = m.parent_id
     ORDER BY m.seq;
    RETURN QUERY
        SELECT
            c.tenant_id, c.id, c.user_id, c.session_id::text, c.is_active, c.channel::text, c.external_chat_id::text,
            c.title::text, c.summary::text, c.summary_upto_seq, c.last_seq, c.last_message_at, c.closed_at,
            c.close_reason::text, c.turn_token, c.turn_claimed_by::text, c.turn_claimed_until, c.deleted_at,
            c.created_at, c.updated_at, c.metadata
          FROM {schema}.conversations AS c
         WHERE c.tenant_id = p_tenant AND c.id = p_id;
END
$$;
