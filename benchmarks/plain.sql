-- The schema of the peers, as a team makes it that needs these tables for itself: one-column keys, the indexes that the
-- operations need, no CHECK constraints, no row-level security. tenant_id is a column like any other.
CREATE TABLE users (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    telegram_id bigint,
    username text,
    display_name text,
    locale text,
    timezone text NOT NULL DEFAULT 'UTC',
    is_active boolean NOT NULL DEFAULT true,
    preferences jsonb NOT NULL DEFAULT '{}',
    last_seen_at timestamptz,
    deleted_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE conversations (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    user_id uuid NOT NULL,
    session_id text NOT NULL,
    is_active boolean NOT NULL DEFAULT true,
    channel text NOT NULL,
    external_chat_id text,
    title text,
    summary text,
    summary_upto_seq bigint NOT NULL DEFAULT 0,
    last_seq bigint NOT NULL DEFAULT 0,
    last_message_at timestamptz,
    deleted_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE message_history (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    user_id uuid NOT NULL,
    seq bigint NOT NULL,
    message_id text NOT NULL,
    role text NOT NULL,
    content text,
    parts jsonb,
    attachments jsonb NOT NULL DEFAULT '[]',
    parent_id uuid,
    tool_call_id text,
    tool_name text,
    model text,
    input_tokens integer,
    output_tokens integer,
    token_count integer,
    state text NOT NULL DEFAULT 'complete',
    edited_at timestamptz,
    deleted_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    metadata jsonb NOT NULL DEFAULT '{}'
);
CREATE TABLE notes (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    user_id uuid NOT NULL,
    title text,
    content text NOT NULL,
    tags text[] NOT NULL DEFAULT '{}',
    pinned boolean NOT NULL DEFAULT false,
    archived_at timestamptz,
    deleted_at timestamptz,
    source_message_id uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    search tsvector GENERATED ALWAYS AS (to_tsvector('spanish', coalesce(title, '') || ' ' || content)) STORED
);
CREATE TABLE events (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    user_id uuid NOT NULL,
    title text NOT NULL,
    description text,
    location text,
    start_datetime timestamptz NOT NULL,
    end_datetime timestamptz,
    timezone text NOT NULL DEFAULT 'UTC',
    all_day boolean NOT NULL DEFAULT false,
    status text NOT NULL DEFAULT 'scheduled',
    rrule text,
    series_id uuid,
    recurrence_id timestamptz,
    reminder_datetime timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);
-- After the rows:
ALTER TABLE users ADD PRIMARY KEY (id), ADD UNIQUE (tenant_id, telegram_id);
ALTER TABLE conversations ADD PRIMARY KEY (id), ADD FOREIGN KEY (user_id) REFERENCES users;
CREATE INDEX ON conversations (user_id);
ALTER TABLE message_history
    ADD PRIMARY KEY (id),
    ADD UNIQUE (conversation_id, seq),
    ADD UNIQUE (tenant_id, message_id),
    ADD FOREIGN KEY (conversation_id) REFERENCES conversations,
    ADD FOREIGN KEY (user_id) REFERENCES users;
CREATE INDEX ON message_history (user_id, created_at);
ALTER TABLE notes ADD PRIMARY KEY (id), ADD FOREIGN KEY (user_id) REFERENCES users;
CREATE INDEX ON notes (user_id);
CREATE INDEX ON notes USING gin (search);
ALTER TABLE events ADD PRIMARY KEY (id), ADD FOREIGN KEY (user_id) REFERENCES users;
CREATE INDEX ON events (user_id, start_datetime);
