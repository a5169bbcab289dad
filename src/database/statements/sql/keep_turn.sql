-- Renew the lease of a turn from the start of the caller's statement on, or release the turn: p_lease is NULL then. A
-- lease that has ended is renewed too, unless the turn was released. There is no kept_at if another worker has claimed
-- the turn.
CREATE FUNCTION {schema}.app_keep_turn(
    p_tenant uuid, p_conversation uuid, p_token bigint, p_lease interval,
    OUT kept_at timestamptz, OUT claimed_until timestamptz
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := pg_catalog.statement_timestamp();
    v_until timestamptz := pg_catalog.statement_timestamp() + p_lease;
BEGIN
    PERFORM {schema}.app_enter_tenant(p_tenant);
    UPDATE {schema}.conversations AS c
       SET turn_claimed_by = CASE WHEN p_lease IS NULL THEN NULL ELSE c.turn_claimed_by END,
           turn_claimed_until = v_until, updated_at = v_now
     WHERE c.tenant_id = p_tenant AND c.id = p_conversation AND c.deleted_at IS NULL AND c.turn_token = p_token
       AND (p_lease IS NULL OR c.turn_claimed_until IS NOT NULL);
    IF FOUND THEN
        kept_at := v_now;
        claimed_until := v_until;
    END IF;
END
$$;
