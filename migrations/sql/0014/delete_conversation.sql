-- Delete a conversation softly. There is no deleted_at if the tenant has no such conversation.
CREATE FUNCTION {schema}.app_delete_conversation(p_tenant uuid, p_conversation uuid, OUT deleted_at timestamptz)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := pg_catalog.clock_timestamp();
BEGIN
    PERFORM {schema}.app_enter_tenant(p_tenant);
    UPDATE {schema}.conversations AS c
       SET deleted_at = v_now, updated_at = v_now
     WHERE c.tenant_id = p_tenant AND c.id = p_conversation AND c.deleted_at IS NULL;
    IF FOUND THEN
        deleted_at := v_now;
    END IF;
END
$$;
