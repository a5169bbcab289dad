-- The writes of the floor: the fewest statements on this project's schema, one call each, as the application's role.
-- Row-level security applies, so each sets the tenant; nothing is checked, deduplicated or retried.
CREATE FUNCTION bench_get_or_create_user(p_tenant uuid, p_telegram_id bigint) RETURNS SETOF users
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    RETURN QUERY SELECT * FROM users
        WHERE tenant_id = p_tenant AND telegram_id = p_telegram_id AND deleted_at IS NULL;
    IF NOT FOUND THEN
        RETURN QUERY INSERT INTO users (tenant_id, id, telegram_id)
            VALUES (p_tenant, uuidv7(), p_telegram_id) RETURNING *;
    END IF;
END $$;

CREATE FUNCTION bench_get_or_start(p_tenant uuid, p_user uuid, p_channel text, p_chat text)
RETURNS SETOF conversations LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    RETURN QUERY SELECT * FROM conversations
        WHERE tenant_id = p_tenant AND user_id = p_user AND channel = p_channel AND external_chat_id = p_chat
          AND is_active AND deleted_at IS NULL;
    IF NOT FOUND THEN
        RETURN QUERY INSERT INTO conversations (tenant_id, id, user_id, session_id, channel, external_chat_id)
            VALUES (p_tenant, uuidv7(), p_user, uuidv7()::text, p_channel, p_chat) RETURNING *;
    END IF;
END $$;

CREATE FUNCTION bench_append(
    p_tenant uuid, p_conversation uuid, p_key text, p_role text, p_content text, p_tokens integer, p_at timestamptz
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    number bigint;
    person uuid;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    UPDATE conversations SET last_seq = last_seq + 1, last_message_at = p_at
        WHERE tenant_id = p_tenant AND id = p_conversation RETURNING last_seq, user_id INTO number, person;
    INSERT INTO message_history
        (tenant_id, id, conversation_id, user_id, seq, message_id, role, content, token_count, created_at)
        VALUES (p_tenant, uuidv7(), p_conversation, person, number, p_key, p_role, p_content, p_tokens, p_at);
    RETURN number;
END $$;

CREATE FUNCTION bench_append_many(
    p_tenant uuid, p_conversation uuid,
    p_keys text[], p_roles text[], p_contents text[], p_tokens integer[], p_ats timestamptz[]
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    number bigint;
    person uuid;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    UPDATE conversations SET last_seq = last_seq + cardinality(p_keys), last_message_at = p_ats[cardinality(p_ats)]
        WHERE tenant_id = p_tenant AND id = p_conversation RETURNING last_seq, user_id INTO number, person;
    INSERT INTO message_history
        (tenant_id, id, conversation_id, user_id, seq, message_id, role, content, token_count, created_at)
        SELECT p_tenant, uuidv7(), p_conversation, person, number - cardinality(p_keys) + place,
               key, said_by, said, tokens, at
          FROM unnest(p_keys, p_roles, p_contents, p_tokens, p_ats)
                   WITH ORDINALITY AS new (key, said_by, said, tokens, at, place);
    RETURN number;
END $$;

CREATE FUNCTION bench_turn(
    p_tenant uuid, p_telegram_id bigint, p_channel text, p_chat text,
    p_keys text[], p_roles text[], p_contents text[], p_tokens integer[], p_ats timestamptz[]
) RETURNS TABLE (person users, conversation conversations, message message_history) LANGUAGE plpgsql AS $$
DECLARE
    the_user users;
    chat conversations;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    SELECT * INTO the_user FROM users AS u
        WHERE u.tenant_id = p_tenant AND u.telegram_id = p_telegram_id AND u.deleted_at IS NULL;
    UPDATE conversations AS c
        SET last_seq = last_seq + cardinality(p_keys), last_message_at = p_ats[cardinality(p_ats)]
        WHERE c.tenant_id = p_tenant AND c.user_id = the_user.id AND c.channel = p_channel
          AND c.external_chat_id = p_chat AND c.is_active AND c.deleted_at IS NULL
        RETURNING * INTO chat;
    RETURN QUERY SELECT the_user, chat, NULL::message_history;
    RETURN QUERY SELECT NULL::users, NULL::conversations, m FROM message_history AS m
        WHERE m.tenant_id = p_tenant AND m.conversation_id = chat.id AND m.deleted_at IS NULL
        ORDER BY m.seq DESC LIMIT 20;
    INSERT INTO message_history
        (tenant_id, id, conversation_id, user_id, seq, message_id, role, content, token_count, created_at)
        SELECT p_tenant, uuidv7(), chat.id, the_user.id, chat.last_seq - cardinality(p_keys) + place,
               key, said_by, said, tokens, at
          FROM unnest(p_keys, p_roles, p_contents, p_tokens, p_ats)
                   WITH ORDINALITY AS new (key, said_by, said, tokens, at, place);
END $$;
