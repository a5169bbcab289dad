-- Claim the turn of a conversation for the time of a lease, which counts from the start of the caller's statement. The
-- function does not wait for the end of another lease.
-- outcome: claimed | held | no_conversation
-- claimed_until: the end of the lease of this claim, or of the claim that holds the turn.
CREATE FUNCTION {schema}.app_claim_turn(
    p_tenant uuid, p_conversation uuid, p_worker text, p_lease interval,
    OUT outcome text, OUT token bigint, OUT claimed_until timestamptz, OUT claimed_at timestamptz
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_until timestamptz := pg_catalog.statement_timestamp() + p_lease;
BEGIN
    PERFORM {schema}.app_enter_tenant(p_tenant);
    claimed_at := pg_catalog.statement_timestamp();
    UPDATE {schema}.conversations AS c
       SET turn_token = c.turn_token + 1, turn_claimed_by = p_worker, turn_claimed_until = v_until,
           updated_at = claimed_at
     WHERE c.tenant_id = p_tenant AND c.id = p_conversation AND c.deleted_at IS NULL
       AND (c.turn_claimed_until IS NULL OR c.turn_claimed_until <= claimed_at)
    RETURNING c.turn_token INTO token;
    IF FOUND THEN
        outcome := 'claimed';
        claimed_until := v_until;
        RETURN;
    END IF;
    SELECT c.turn_claimed_until INTO claimed_until
      FROM {schema}.conversations AS c
     WHERE c.tenant_id = p_tenant AND c.id = p_conversation AND c.deleted_at IS NULL;
    outcome := CASE WHEN FOUND THEN 'held' ELSE 'no_conversation' END;
END
$$;
