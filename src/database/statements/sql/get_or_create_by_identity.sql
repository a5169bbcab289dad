-- Return the live user with an identity, inserted under p_id where there is none. The identity of a deleted user passes
-- to the new user. The row has the id p_id exactly if this call inserted it. The columns are listed as in
-- app_get_or_create_user.
CREATE FUNCTION {schema}.app_get_or_create_by_identity(
    p_tenant uuid, p_provider text, p_subject text, p_is_person boolean, p_identity_id uuid, p_id uuid,
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
DECLARE
    v_owner uuid;
BEGIN
    PERFORM {schema}.app_enter_tenant(p_tenant);
    -- A further round only after an insert, or where another transaction changed the owner of the identity.
    LOOP
        SELECT i.user_id INTO v_owner
          FROM {schema}.user_identities AS i
         WHERE i.tenant_id = p_tenant AND i.provider = p_provider AND i.subject = p_subject;
        RETURN QUERY
            SELECT
                u.tenant_id, u.id, u.telegram_id, u.username::text, u.username_lower::text, u.display_name::text,
                u.locale::text, u.timezone::text, u.is_active, u.preferences, u.retention_days, u.last_seen_at,
                u.is_person, u.deleted_at, u.created_at, u.updated_at, u.metadata
              FROM {schema}.users AS u
             WHERE u.tenant_id = p_tenant AND u.id = v_owner AND u.deleted_at IS NULL;
        EXIT WHEN FOUND;
        -- The user first, for the foreign key of the identity. The owner is compared under the lock of the identity's
        -- row: if another call has passed the identity to a new user meanwhile, the user of this call is undone.
        BEGIN
            INSERT INTO {schema}.users (
                tenant_id, id, username, display_name, locale, timezone, is_active, preferences, retention_days,
                last_seen_at, is_person, metadata
            ) VALUES (
                p_tenant, p_id, p_username, p_display_name, p_locale, p_timezone, p_is_active, p_preferences,
                p_retention_days, p_last_seen_at, p_is_person, p_metadata
            );
            INSERT INTO {schema}.user_identities AS i (tenant_id, id, user_id, provider, subject)
            VALUES (p_tenant, p_identity_id, p_id, p_provider, p_subject)
                ON CONFLICT (tenant_id, provider, subject)
                DO UPDATE SET user_id = EXCLUDED.user_id, updated_at = EXCLUDED.updated_at
                    WHERE i.user_id = v_owner;
            IF NOT FOUND THEN
                RAISE EXCEPTION 'the identity has another user' USING ERRCODE = 'TH004';
            END IF;
        EXCEPTION
            WHEN SQLSTATE 'TH004' THEN NULL;
        END;
    END LOOP;
END
$$;
