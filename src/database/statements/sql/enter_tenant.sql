-- Bind the current transaction to a tenant; refuse one that is bound to another tenant.
-- Local to the transaction: outside of one, the binding ends with the statement that called this function.
CREATE FUNCTION {schema}.app_enter_tenant(p_tenant uuid) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_bound text := nullif(pg_catalog.current_setting('app.tenant_id', true), '');
BEGIN
    IF p_tenant IS NULL THEN
        RAISE EXCEPTION 'the tenant must be a uuid, got NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF v_bound IS NULL THEN
        PERFORM pg_catalog.set_config('app.tenant_id', p_tenant::text, true);
    ELSIF v_bound::uuid <> p_tenant THEN
        RAISE EXCEPTION 'the transaction is bound to another tenant' USING ERRCODE = 'TH001';
    END IF;
END
$$;
