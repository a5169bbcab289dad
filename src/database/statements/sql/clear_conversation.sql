-- Delete all messages of a conversation softly, and its summary, under the lock that orders appends. The numbers
-- continue, and the keys of the messages stay taken.
-- outcome: cleared | no_conversation | lost_turn
CREATE FUNCTION {schema}.app_clear_conversation(
    p_tenant uuid, p_conversation uuid, p_turn bigint,
    OUT outcome text, OUT cleared bigint, OUT turn_token bigint, OUT cleared_at timestamptz
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM {schema}.app_enter_tenant(p_tenant);
    SELECT c.turn_token INTO turn_token
      FROM {schema}.conversations AS c
     WHERE c.tenant_id = p_tenant AND c.id = p_conversation AND c.deleted_at IS NULL
       FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        outcome := 'no_conversation';
        RETURN;
    END IF;
    IF p_turn <> turn_token THEN
        outcome := 'lost_turn';
        RETURN;
    END IF;
    cleared_at := pg_catalog.clock_timestamp();
    UPDATE {schema}.message_history AS m
       SET deleted_at = cleared_at, updated_at = cleared_at
     WHERE m.tenant_id = p_tenant AND m.conversation_id = p_conversation AND m.deleted_at IS NULL;
    GET DIAGNOSTICS cleared = ROW_COUNT;
    UPDATE {schema}.conversations AS c
       SET summary = NULL, summary_upto_seq = 0, updated_at = cleared_at
     WHERE c.tenant_id = p_tenant AND c.id = p_conversation;
    outcome := 'cleared';
END
$$;
