-- Return true if the owner of state entries exists and is not deleted: a user, a conversation, or without both the tenant.
CREATE FUNCTION {schema}.app_has_owner(p_tenant uuid, p_user uuid, p_conversation uuid) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM {schema}.app_enter_tenant(p_tenant);
    PERFORM FROM {schema}.users AS u WHERE u.tenant_id = p_tenant AND u.id = p_user AND u.deleted_at IS NULL;
    IF FOUND THEN
        RETURN true;
    END IF;
    PERFORM
       FROM {schema}.conversations AS c
      WHERE c.tenant_id = p_tenant AND c.id = p_conversation AND c.deleted_at IS NULL;
    RETURN FOUND OR (p_user IS NULL AND p_conversation IS NULL);
END
$$;
