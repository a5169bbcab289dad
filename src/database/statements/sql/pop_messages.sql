-- Delete the last live messages of a conversation softly, and return them, the oldest first. The lock of the
-- conversation orders the call with appends and with other calls of this function. The rows are locked too: a deletion
-- of one message does not lock the conversation, and a row that it has deleted meanwhile does not count.
-- The first row has the outcome alone: popped | other_last | no_conversation | lost_turn. The columns are listed as in
-- app_claim_reminders.
CREATE FUNCTION {schema}.app_pop_messages(
    p_tenant uuid, p_conversation uuid, p_turn bigint, p_last_seq bigint, p_limit integer
) RETURNS TABLE (
    tenant_id uuid, id uuid, conversation_id uuid, user_id uuid, seq bigint, message_id text, fingerprint bytea,
    role text, content text, parts jsonb, attachments jsonb, parent_id uuid, tool_call_id text, tool_name text,
    model text, input_tokens integer, output_tokens integer, token_count integer, state text, edited_at timestamptz,
    deleted_at timestamptz, created_at timestamptz, updated_at timestamptz, metadata jsonb,
    outcome text, turn_token bigint
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := pg_catalog.clock_timestamp();
    v_seqs bigint[];
BEGIN
    PERFORM {schema}.app_enter_tenant(p_tenant);
    SELECT c.turn_token INTO turn_token
      FROM {schema}.conversations AS c
     WHERE c.tenant_id = p_tenant AND c.id = p_conversation AND c.deleted_at IS NULL
       FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        outcome := 'no_conversation';
        RETURN NEXT;
        RETURN;
    END IF;
    IF p_turn <> turn_token THEN
        outcome := 'lost_turn';
        RETURN NEXT;
        RETURN;
    END IF;
    v_seqs := ARRAY(
        SELECT m.seq FROM {schema}.message_history AS m
         WHERE m.tenant_id = p_tenant AND m.conversation_id = p_conversation AND m.deleted_at IS NULL
         ORDER BY m.seq DESC
         LIMIT p_limit
           FOR NO KEY UPDATE
    );
    IF p_last_seq <> v_seqs[1] THEN
        outcome := 'other_last';
        RETURN NEXT;
        RETURN;
    END IF;
    outcome := 'popped';
    RETURN NEXT;
    UPDATE {schema}.message_history AS m
       SET deleted_at = v_now, updated_at = v_now
     WHERE m.tenant_id = p_tenant AND m.conversation_id = p_conversation AND m.seq = ANY (v_seqs);
    RETURN QUERY
        SELECT
            m.tenant_id, m.id, m.conversation_id, m.user_id, m.seq, m.message_id::text, m.fingerprint, m.role::text,
            m.content::text, m.parts, m.attachments, m.parent_id, m.tool_call_id::text, m.tool_name::text,
            m.model::text, m.input_tokens, m.output_tokens, m.token_count, m.state::text, m.edited_at, m.deleted_at,
            m.created_at, m.updated_at, m.metadata, NULL::text, NULL::bigint
          FROM {schema}.message_history AS m
         WHERE m.tenant_id = p_tenant AND m.conversation_id = p_conversation AND m.seq = ANY (v_seqs)
         ORDER BY m.seq;
END
$$;
