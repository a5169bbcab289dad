-- Claim reminders that are due, and those of series that were tried too often and whose occurrence has begun. The lease
-- counts from the server's clock when the claim is made, not from the transaction's BEGIN. The columns are listed and
-- text is cast, so that calls under way survive an ALTER TABLE: a result that is the table's own row type would fail on
-- every connection that has prepared a call, until the connection ends.
CREATE FUNCTION {schema}.app_claim_reminders(
    p_tenant uuid, p_worker text, p_limit integer, p_lease interval, p_token uuid, p_max_attempts integer,
    p_user uuid DEFAULT NULL
) RETURNS TABLE (
    tenant_id uuid, id uuid, user_id uuid, title text, description text, location text, start_datetime timestamptz,
    start_local timestamp, end_datetime timestamptz, timezone text, all_day boolean, status text, rrule text,
    exdates timestamptz[], series_id uuid, recurrence_id timestamptz, ical_uid text, reminder_datetime timestamptz,
    reminder_offset integer, reminder_attempts integer, reminder_claimed_by text, reminder_claimed_until timestamptz,
    reminder_token uuid, reminder_sent_at timestamptz, version integer, local_start timestamp, local_start_basis text,
    created_at timestamptz, updated_at timestamptz, metadata jsonb
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := pg_catalog.clock_timestamp();
    v_until timestamptz := pg_catalog.clock_timestamp() + p_lease;
    v_due uuid[];
BEGIN
    PERFORM {schema}.app_enter_tenant(p_tenant);
    v_due := ARRAY(
        SELECT e.id FROM {schema}.events AS e
         WHERE e.tenant_id = p_tenant AND e.status = 'scheduled' AND e.reminder_sent_at IS NULL
           AND (e.reminder_claimed_until IS NULL OR e.reminder_claimed_until < v_now)
           AND (p_user IS NULL OR e.user_id = p_user)
           AND EXISTS (
               SELECT FROM {schema}.users AS u
                WHERE u.tenant_id = p_tenant AND u.id = e.user_id AND u.deleted_at IS NULL
           )
           AND e.reminder_datetime <= v_now
           AND (e.reminder_attempts < p_max_attempts OR (
               e.rrule IS NOT NULL
               AND e.reminder_datetime + pg_catalog.make_interval(secs => coalesce(e.reminder_offset, 0)) <= v_now
           ))
         ORDER BY e.reminder_datetime, e.id
         LIMIT p_limit
           FOR UPDATE SKIP LOCKED
    );
    UPDATE {schema}.events AS e
       SET reminder_claimed_by = p_worker, reminder_claimed_until = v_until, reminder_token = p_token,
           reminder_attempts = e.reminder_attempts + 1, updated_at = v_now
     WHERE e.tenant_id = p_tenant AND e.id = ANY (v_due);
    RETURN QUERY
        SELECT
            e.tenant_id, e.id, e.user_id, e.title::text, e.description::text, e.location::text, e.start_datetime,
            e.start_local, e.end_datetime, e.timezone::text, e.all_day, e.status::text, e.rrule::text, e.exdates,
            e.series_id, e.recurrence_id, e.ical_uid::text, e.reminder_datetime, e.reminder_offset,
            e.reminder_attempts, e.reminder_claimed_by::text, e.reminder_claimed_until, e.reminder_token,
            e.reminder_sent_at, e.version, e.local_start, e.local_start_basis::text, e.created_at, e.updated_at,
            e.metadata
          FROM {schema}.events AS e
         WHERE e.tenant_id = p_tenant AND e.id = ANY (v_due);
END
$$;
