-- The turn: get or create the user by Telegram id, or by identity if p_provider is given; get or start the conversation
-- of the chat, append the messages, and return what was said before them; all or nothing. A message_id that is taken
-- raises TH002 (by a message with other content) or TH003 (by another chat's), with the message_id as the name of the
-- constraint.
-- kind 0: the user and the conversation, as they are afterwards; 1: a message said before; 2: an appended message.
CREATE FUNCTION {schema}.app_turn(
    p_tenant uuid, p_telegram_id bigint, p_user_id uuid,
    p_username text, p_display_name text, p_locale text, p_timezone text,
    p_channel text, p_external_chat_id text, p_conversation_id uuid, p_session_id text,
    p_idle_timeout interval, p_recent integer,
    p_message_ids text[], p_roles text[], p_contents text[], p_token_counts integer[],
    p_ids uuid[], p_fingerprints bytea[], p_created_ats timestamptz[],
    p_parent_ids uuid[] DEFAULT NULL, p_tool_call_ids text[] DEFAULT NULL, p_tool_names text[] DEFAULT NULL,
    p_models text[] DEFAULT NULL, p_input_tokens integer[] DEFAULT NULL, p_output_tokens integer[] DEFAULT NULL,
    p_states text[] DEFAULT NULL, p_edited_ats timestamptz[] DEFAULT NULL,
    p_parts jsonb[] DEFAULT NULL, p_attachments jsonb[] DEFAULT NULL, p_metadata jsonb[] DEFAULT NULL,
    p_provider text DEFAULT NULL, p_subject text DEFAULT NULL, p_is_person boolean DEFAULT true,
    p_identity_id uuid DEFAULT NULL
) RETURNS TABLE (
    kind integer,
    -- of a message
    id uuid, conversation_id uuid, user_id uuid, seq bigint, message_id text, role text, content text, parts jsonb,
    attachments jsonb, parent_id uuid, tool_call_id text, tool_name text, model text, input_tokens integer,
    output_tokens integer, token_count integer, state text, created_at timestamptz, edited_at timestamptz, extra jsonb,
    -- of an appended message
    outcome text, is_live boolean,
    -- of the user
    telegram_id bigint, username text, display_name text, locale text, timezone text, is_active boolean,
    last_seen_at timestamptz, is_person boolean, user_created_at timestamptz, preferences jsonb,
    -- of the conversation
    session_id text, channel text, external_chat_id text, title text, summary text, summary_upto_seq bigint,
    last_seq bigint, last_message_at timestamptz
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_user record;
    v record;
    r record;
    v_first bigint;
BEGIN
    PERFORM {schema}.app_enter_tenant(p_tenant);
    -- The common case: the user is known, and so is a conversation that is not idle.
    IF p_provider IS NULL THEN
        SELECT u.id, u.telegram_id, u.username, u.display_name, u.locale, u.timezone, u.is_active, u.preferences,
               u.last_seen_at, u.is_person, u.created_at
          INTO v_user
          FROM {schema}.users AS u
         WHERE u.tenant_id = p_tenant AND u.telegram_id = p_telegram_id AND u.deleted_at IS NULL;
    ELSE
        SELECT u.id, u.telegram_id, u.username, u.display_name, u.locale, u.timezone, u.is_active, u.preferences,
               u.last_seen_at, u.is_person, u.created_at
          INTO v_user
          FROM {schema}.user_identities AS i
          JOIN {schema}.users AS u ON u.tenant_id = p_tenant AND u.id = i.user_id
         WHERE i.tenant_id = p_tenant AND i.provider = p_provider AND i.subject = p_subject AND u.deleted_at IS NULL;
    END IF;
    SELECT c.id, c.is_active, c.session_id, c.channel, c.external_chat_id, c.title, c.summary, c.summary_upto_seq,
           c.last_seq, c.last_message_at, c.created_at
      INTO v
      FROM {schema}.conversations AS c
     WHERE c.tenant_id = p_tenant AND c.user_id = v_user.id AND c.channel = p_channel
       AND (c.external_chat_id = p_external_chat_id OR (p_external_chat_id IS NULL AND c.external_chat_id IS NULL))
       AND c.is_active AND c.deleted_at IS NULL
       AND (p_idle_timeout IS NULL
            OR coalesce(c.last_message_at, c.created_at) >= pg_catalog.clock_timestamp() - p_idle_timeout)
       FOR NO KEY UPDATE;
    WHILE NOT FOUND LOOP -- once, unless the user is deleted, or merged into another one, in between
        IF p_provider IS NULL THEN
            SELECT u.* INTO v_user
              FROM {schema}.app_get_or_create_user(
                  p_tenant, p_telegram_id, p_user_id, p_username, p_display_name, p_locale, p_timezone
              ) AS u;
        ELSE
            SELECT u.* INTO v_user
              FROM {schema}.app_get_or_create_by_identity(
                  p_tenant, p_provider, p_subject, p_is_person, p_identity_id, p_user_id, p_username, p_display_name,
                  p_locale, p_timezone
              ) AS u;
        END IF;
        SELECT c.* INTO v
          FROM {schema}.app_get_or_start_conversation(
              p_tenant, v_user.id, p_channel, p_external_chat_id, p_conversation_id, p_session_id, p_idle_timeout,
              p_lock => true
          ) AS c
         WHERE c.is_active;
    END LOOP;
    v_first := v.last_seq + 1;
    FOR r IN
        SELECT a.* FROM {schema}.app_append_messages(
            p_tenant, v.id, NULL,
            p_message_ids, p_roles, p_contents, p_token_counts, p_ids, p_fingerprints, p_created_ats, p_parent_ids,
            p_tool_call_ids, p_tool_names, p_models, p_input_tokens, p_output_tokens, p_states, p_edited_ats, p_parts,
            p_attachments, p_metadata
        ) AS a
    LOOP
        IF r.outcome NOT IN ('inserted', 'duplicate') THEN
            RAISE EXCEPTION USING
                ERRCODE = CASE r.outcome WHEN 'other_content' THEN 'TH002' ELSE 'TH003' END,
                MESSAGE = r.outcome, CONSTRAINT = coalesce(r.message_id, '');
        END IF;
        IF r.conversation_id = v.id THEN
            v_first := least(v_first, r.seq);
        END IF;
        v.last_seq := r.last_seq;
        v.last_message_at := r.last_message_at;
        kind := 2;
        outcome := r.outcome;
        message_id := r.message_id;
        id := r.id;
        conversation_id := r.conversation_id;
        seq := r.seq;
        created_at := r.created_at;
        is_live := r.is_live;
        RETURN NEXT;
    END LOOP;
    RETURN QUERY
        SELECT 1, m.id, m.conversation_id, m.user_id, m.seq, m.message_id::text, m.role::text, m.content::text,
               m.parts, m.attachments, m.parent_id, m.tool_call_id::text, m.tool_name::text, m.model::text,
               m.input_tokens, m.output_tokens, m.token_count, m.state::text, m.created_at, m.edited_at, m.metadata,
               NULL::text, NULL::boolean, NULL::bigint, NULL::text, NULL::text, NULL::text, NULL::text, NULL::boolean,
               NULL::timestamptz, NULL::boolean, NULL::timestamptz, NULL::jsonb, NULL::text, NULL::text, NULL::text,
               NULL::text, NULL::text, NULL::bigint, NULL::bigint, NULL::timestamptz
          FROM {schema}.message_history AS m
         WHERE m.tenant_id = p_tenant AND m.conversation_id = v.id AND m.seq < v_first AND m.deleted_at IS NULL
         ORDER BY m.seq DESC
         LIMIT p_recent;
    RETURN QUERY
        SELECT 0, v.id, NULL::uuid, v_user.id, NULL::bigint, NULL::text, NULL::text, NULL::text, NULL::jsonb,
               NULL::jsonb, NULL::uuid, NULL::text, NULL::text, NULL::text, NULL::integer, NULL::integer, NULL::integer,
               NULL::text, v.created_at, NULL::timestamptz, NULL::jsonb, NULL::text, NULL::boolean,
               v_user.telegram_id, v_user.username, v_user.display_name, v_user.locale, v_user.timezone,
               v_user.is_active, v_user.last_seen_at, v_user.is_person, v_user.created_at, v_user.preferences,
               v.session_id, v.channel, v.external_chat_id, v.title, v.summary, v.summary_upto_seq, v.last_seq,
               v.last_message_at;
END
$$;
