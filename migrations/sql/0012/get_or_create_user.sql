-- Return the live user with a Telegram id, inserted under p_id where there is none. A deleted user's Telegram id is
-- free again. The row has the id p_id exactly if this call inserted it. The columns are listed and text is cast, so
-- that calls under way survive an ALTER TABLE: a result that is the table's own row type would fail on every connection
-- that has prepared a call, until the connection ends.
CREATE FUNCTION {schema}.app_get_or_create_user(
    p_tenant uuid, p_telegram_id bigint, p_id uuid,
    p_username text DEFAULT NULL, p_display_name text DEFAULT NULL, p_locale text DEFAULT NULL,
    p_timezone text DEFAULT 'UTC', p_is_active boolean DEFAULT true, p_preferences jsonb DEFAULT '{}',
    p_retention_days integer DEFAULT NULL, p_last_seen_at timestamptz DEFAULT NULL, p_metadata jsonb DEFAULT '{}'
) RETURNS TABLE (
    tenant_id uuid, id uuid, telegram_id bigint, username text, username_lower text, display_name text, locale text,
    timezone text, is_active boolean, preferences jsonb, retention_days integer, last_seen_at timestamptz,
    is_person boolean, deleted_at timestamptz, created_at timestamptz, updated_at timestamptz, metadata jsonb
)
LANGUAGE plpgsql ROWS 1 AS $$
#variable_conflict use_column
BEGIN
    PERFORM {schema}.app_enter_tenant(p_tenant);
    -- A further round only after an insert, by this call or by another transaction.
    LOOP
        RETURN QUERY
            SELECT
                u.tenant_id, u.id, u.telegram_id, u.username::text, u.username_lower::text, u.display_name::text,
                u.locale::text, u.timezone::text, u.is_active, u.preferences, u.retention_days, u.last_seen_at,
                u.is_person, u.deleted_at, u.created_at, u.updated_at, u.metadata
              FROM {schema}.users AS u
             WHERE u.tenant_id = p_tenant AND u.telegram_id = p_telegram_id AND u.deleted_at IS NULL;
        EXIT WHEN FOUND;
        INSERT INTO {schema}.users (
            tenant_id, id, telegram_id, username, display_name, locale, timezone, is_active, preferences,
            retention_days, last_seen_at, metadata
        ) VALUES (
            p_tenant, p_id, p_telegram_id, p_username, p_display_name, p_locale, p_timezone, p_is_active,
            p_preferences, p_retention_days, p_last_seen_at, p_metadata
        ) ON CONFLICT (tenant_id, telegram_id) WHERE deleted_at IS NULL DO NOTHING;
    END LOOP;
END
$$;
