-- Append one message: lock the conversation, insert under the next number, advance the conversation.
-- The common case of app_append_messages, with scalar parameters. A key that is taken is left to that function.
-- outcome: inserted | duplicate | no_conversation | lost_turn | stale | other_content | other_chat
CREATE FUNCTION {schema}.app_append_message(
    p_tenant uuid, p_conversation uuid, p_turn bigint,
    p_message_id text, p_role text, p_content text, p_token_count integer,
    p_id uuid, p_fingerprint bytea, p_created_at timestamptz,
    p_parent_id uuid DEFAULT NULL, p_tool_call_id text DEFAULT NULL, p_tool_name text DEFAULT NULL,
    p_model text DEFAULT NULL, p_input_tokens integer DEFAULT NULL, p_output_tokens integer DEFAULT NULL,
    p_state text DEFAULT 'complete', p_edited_at timestamptz DEFAULT NULL,
    p_parts jsonb DEFAULT NULL, p_attachments jsonb DEFAULT '[]', p_metadata jsonb DEFAULT '{}',
    p_expected_last_seq bigint DEFAULT NULL,
    OUT outcome text, OUT message_id text, OUT id uuid, OUT conversation_id uuid, OUT user_id uuid, OUT seq bigint,
    OUT created_at timestamptz, OUT is_live boolean,
    OUT last_seq bigint, OUT last_message_at timestamptz, OUT turn_token bigint, OUT updated_at timestamptz
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v record;
    v_now timestamptz := pg_catalog.clock_timestamp();
BEGIN
    PERFORM {schema}.app_enter_tenant(p_tenant);
    SELECT c.user_id, c.last_seq, c.last_message_at, c.turn_token INTO v
      FROM {schema}.conversations AS c
     WHERE c.tenant_id = p_tenant AND c.id = p_conversation AND c.deleted_at IS NULL
       FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        outcome := 'no_conversation';
        RETURN;
    END IF;
    turn_token := v.turn_token;
    IF p_turn <> v.turn_token THEN
        outcome := 'lost_turn';
        RETURN;
    END IF;
    -- A message that is sent again is a duplicate, although the conversation has continued.
    IF p_expected_last_seq <> v.last_seq AND NOT EXISTS (
        SELECT FROM {schema}.message_history AS m WHERE m.tenant_id = p_tenant AND m.message_id = p_message_id
    ) THEN
        outcome := 'stale';
        last_seq := v.last_seq;
        RETURN;
    END IF;
    INSERT INTO {schema}.message_history (
        tenant_id, id, conversation_id, user_id, seq, message_id, role, content, token_count, fingerprint, created_at,
        parent_id, tool_call_id, tool_name, model, input_tokens, output_tokens, state, edited_at,
        parts, attachments, metadata, updated_at
    ) VALUES (
        p_tenant, p_id, p_conversation, v.user_id, v.last_seq + 1, p_message_id, p_role, p_content, p_token_count,
        p_fingerprint, p_created_at, p_parent_id, p_tool_call_id, p_tool_name, p_model, p_input_tokens,
        p_output_tokens, p_state, p_edited_at, p_parts, p_attachments, p_metadata, v_now
    ) ON CONFLICT (tenant_id, message_id) DO NOTHING;
    IF NOT FOUND THEN
        SELECT * INTO outcome, message_id, id, conversation_id, user_id, seq, created_at, is_live,
                      last_seq, last_message_at, turn_token, updated_at
          FROM {schema}.app_append_messages(
              p_tenant, p_conversation, p_turn,
              ARRAY[p_message_id], ARRAY[p_role], ARRAY[p_content], ARRAY[p_token_count],
              ARRAY[p_id], ARRAY[p_fingerprint], ARRAY[p_created_at],
              ARRAY[p_parent_id], ARRAY[p_tool_call_id], ARRAY[p_tool_name], ARRAY[p_model],
              ARRAY[p_input_tokens], ARRAY[p_output_tokens], ARRAY[p_state], ARRAY[p_edited_at],
              ARRAY[p_parts], ARRAY[p_attachments], ARRAY[p_metadata]
          );
        RETURN;
    END IF;
    UPDATE {schema}.conversations AS c
       SET last_seq = v.last_seq + 1, last_message_at = greatest(v.last_message_at, p_created_at), updated_at = v_now
     WHERE c.tenant_id = p_tenant AND c.id = p_conversation;
    outcome := 'inserted';
    message_id := p_message_id;
    id := p_id;
    conversation_id := p_conversation;
    user_id := v.user_id;
    seq := v.last_seq + 1;
    created_at := p_created_at;
    is_live := true;
    last_seq := v.last_seq + 1;
    last_message_at := greatest(v.last_message_at, p_created_at);
    updated_at := v_now;
END
$$;
