-- Append messages in their order, each key once, all or none: lock the conversation, number and insert, advance the
-- conversation. The keys within a call are distinct.
-- The conversation's lock orders appends to it. The first insert takes no key for stored. Where it falls short, the rows
-- that it inserted have wrong numbers: they are deleted, and the keys that are stored are left out of the next one. A
-- key that another conversation takes in between makes that one fall short too.
-- outcome, one row a message: inserted | duplicate
-- outcome, one row alone: no_conversation | lost_turn | stale | other_content | other_chat (the last two name the
-- message_id)
CREATE FUNCTION {schema}.app_append_messages(
    p_tenant uuid, p_conversation uuid, p_turn bigint,
    p_message_ids text[], p_roles text[], p_contents text[], p_token_counts integer[],
    p_ids uuid[], p_fingerprints bytea[], p_created_ats timestamptz[],
    p_parent_ids uuid[] DEFAULT NULL, p_tool_call_ids text[] DEFAULT NULL, p_tool_names text[] DEFAULT NULL,
    p_models text[] DEFAULT NULL, p_input_tokens integer[] DEFAULT NULL, p_output_tokens integer[] DEFAULT NULL,
    p_states text[] DEFAULT NULL, p_edited_ats timestamptz[] DEFAULT NULL,
    p_parts jsonb[] DEFAULT NULL, p_attachments jsonb[] DEFAULT NULL, p_metadata jsonb[] DEFAULT NULL,
    p_expected_last_seq bigint DEFAULT NULL
) RETURNS TABLE (
    outcome text, message_id text, id uuid, conversation_id uuid, user_id uuid, seq bigint, created_at timestamptz,
    is_live boolean, last_seq bigint, last_message_at timestamptz, turn_token bigint, updated_at timestamptz
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v record;
    v_now timestamptz := pg_catalog.clock_timestamp();
    v_known text[] := '{}';
    v_new bigint;
    v_inserted bigint;
BEGIN
    PERFORM {schema}.app_enter_tenant(p_tenant);
    SELECT c.user_id, c.channel, c.external_chat_id, c.last_seq, c.last_message_at, c.turn_token INTO v
      FROM {schema}.conversations AS c
     WHERE c.tenant_id = p_tenant AND c.id = p_conversation AND c.deleted_at IS NULL
       FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        outcome := 'no_conversation';
        RETURN NEXT;
        RETURN;
    END IF;
    turn_token := v.turn_token;
    IF p_turn <> v.turn_token THEN
        outcome := 'lost_turn';
        RETURN NEXT;
        RETURN;
    END IF;
    -- Messages that are all sent again are duplicates, although the conversation has continued.
    IF p_expected_last_seq <> v.last_seq AND (
        SELECT pg_catalog.count(*) FROM {schema}.message_history AS m
         WHERE m.tenant_id = p_tenant AND m.message_id = ANY (p_message_ids)
    ) < pg_catalog.cardinality(p_message_ids) THEN
        outcome := 'stale';
        last_seq := v.last_seq;
        RETURN NEXT;
        RETURN;
    END IF;
    LOOP
        v_new := pg_catalog.cardinality(p_message_ids) - pg_catalog.cardinality(v_known);
        EXIT WHEN v_new = 0;
        -- From the conversation's row, so that the rows are of its tenant for a distributed planner too; by key, so
        -- that two calls that share keys wait for each other in one direction only.
        INSERT INTO {schema}.message_history (
            tenant_id, id, conversation_id, user_id, seq, message_id, role, content, token_count, fingerprint,
            created_at, parent_id, tool_call_id, tool_name, model, input_tokens, output_tokens, state, edited_at,
            parts, attachments, metadata, updated_at
        )
        SELECT c.tenant_id, g.id, c.id, c.user_id, c.last_seq + g.number, g.message_id, g.role, g.content,
               g.token_count, g.fingerprint, g.created_at, g.parent_id, g.tool_call_id, g.tool_name, g.model,
               g.input_tokens, g.output_tokens, coalesce(g.state, 'complete'), g.edited_at, g.parts,
               coalesce(g.attachments, '[]'), coalesce(g.metadata, '{}'), v_now
          FROM {schema}.conversations AS c
         CROSS JOIN (
             SELECT n.*, pg_catalog.row_number() OVER (ORDER BY n.place) AS number
               FROM unnest(
                   p_ids, p_message_ids, p_roles, p_contents, p_token_counts, p_fingerprints, p_created_ats,
                   p_parent_ids, p_tool_call_ids, p_tool_names, p_models, p_input_tokens, p_output_tokens, p_states,
                   p_edited_ats, p_parts, p_attachments, p_metadata
               ) WITH ORDINALITY AS n(
                   id, message_id, role, content, token_count, fingerprint, created_at, parent_id, tool_call_id,
                   tool_name, model, input_tokens, output_tokens, state, edited_at, parts, attachments, metadata, place
               )
              WHERE n.message_id <> ALL (v_known)
         ) AS g
         WHERE c.tenant_id = p_tenant AND c.id = p_conversation
         ORDER BY g.message_id
            ON CONFLICT (tenant_id, message_id) DO NOTHING;
        GET DIAGNOSTICS v_inserted = ROW_COUNT;
        EXIT WHEN v_inserted = v_new;
        DELETE FROM {schema}.message_history AS m WHERE m.tenant_id = p_tenant AND m.id = ANY (p_ids);
        SELECT coalesce(pg_catalog.array_agg(m.message_id), '{}') INTO v_known
          FROM {schema}.message_history AS m
         WHERE m.tenant_id = p_tenant AND m.message_id = ANY (p_message_ids);
        IF pg_catalog.cardinality(v_known) > 0 THEN
            -- The first key that is not simply sent again. An edited version has no fingerprint: of it only the
            -- speaker is compared. A key of another conversation counts as sent again within the same chat: an earlier
            -- conversation of this user, or of a deleted user's row (an unnamed chat is its user's own, so there that
            -- row has the same Telegram id).
            SELECT CASE WHEN k.differs THEN 'other_content' ELSE 'other_chat' END, k.message_id
              INTO outcome, message_id
              FROM (
                  SELECT m.message_id, m.conversation_id, g.place,
                         coalesce(m.fingerprint <> g.fingerprint, false) OR m.role <> g.role
                         OR m.tool_call_id IS DISTINCT FROM g.tool_call_id
                         OR m.tool_name IS DISTINCT FROM g.tool_name AS differs
                    FROM unnest(p_message_ids, p_roles, p_tool_call_ids, p_tool_names, p_fingerprints)
                         WITH ORDINALITY AS g(message_id, role, tool_call_id, tool_name, fingerprint, place)
                    JOIN {schema}.message_history AS m ON m.tenant_id = p_tenant AND m.message_id = g.message_id
              ) AS k
             WHERE k.differs OR (k.conversation_id <> p_conversation AND NOT EXISTS (
                  SELECT FROM {schema}.conversations AS c
                    JOIN {schema}.users AS u ON u.tenant_id = c.tenant_id AND u.id = c.user_id
                   WHERE c.tenant_id = p_tenant AND u.tenant_id = p_tenant AND c.id = k.conversation_id
                     AND c.channel = v.channel AND c.external_chat_id IS NOT DISTINCT FROM v.external_chat_id
                     AND (c.user_id = v.user_id OR (u.deleted_at IS NOT NULL AND (
                         v.external_chat_id IS NOT NULL OR u.telegram_id = (
                             SELECT o.telegram_id FROM {schema}.users AS o
                              WHERE o.tenant_id = p_tenant AND o.id = v.user_id
                         )
                     )))
             ))
             ORDER BY k.differs DESC, k.place
             LIMIT 1;
            IF FOUND THEN
                RETURN NEXT;
                RETURN;
            END IF;
        END IF;
    END LOOP;
    FOR i IN 1 .. pg_catalog.cardinality(p_message_ids) LOOP
        IF v_known = '{}' OR p_message_ids[i] <> ALL (v_known) THEN
            v.last_message_at := greatest(v.last_message_at, p_created_ats[i]);
        END IF;
    END LOOP;
    IF v_new > 0 THEN
        UPDATE {schema}.conversations AS c
           SET last_seq = v.last_seq + v_new, last_message_at = v.last_message_at, updated_at = v_now
         WHERE c.tenant_id = p_tenant AND c.id = p_conversation;
    END IF;
    last_seq := v.last_seq + v_new;
    last_message_at := v.last_message_at;
    updated_at := v_now;
    IF v_known = '{}' THEN
        outcome := 'inserted';
        conversation_id := p_conversation;
        user_id := v.user_id;
        is_live := true;
        FOR i IN 1 .. v_new LOOP
            message_id := p_message_ids[i];
            id := p_ids[i];
            seq := v.last_seq + i;
            created_at := p_created_ats[i];
            RETURN NEXT;
        END LOOP;
    ELSE
        RETURN QUERY
            SELECT CASE WHEN m.id = g.id THEN 'inserted' ELSE 'duplicate' END, m.message_id, m.id, m.conversation_id,
                   m.user_id, m.seq, m.created_at, m.deleted_at IS NULL AND (
                       m.conversation_id = p_conversation OR EXISTS (
                           SELECT FROM {schema}.conversations AS c
                            WHERE c.tenant_id = p_tenant AND c.id = m.conversation_id AND c.deleted_at IS NULL
                       )
                   ), last_seq, last_message_at, v.turn_token, v_now
              FROM unnest(p_message_ids, p_ids) WITH ORDINALITY AS g(message_id, id, place)
              JOIN {schema}.message_history AS m ON m.tenant_id = p_tenant AND m.message_id = g.message_id
             ORDER BY g.place;
    END IF;
END
$$;
