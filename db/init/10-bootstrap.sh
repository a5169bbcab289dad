#!/bin/sh
# Creates the database and the roles of the owner, the application and the backup. The image runs this script on an empty
# volume, as the superuser, over the Unix socket. To change what differs and to set the passwords again, repeat it:
#   docker compose exec -u postgres db /docker-entrypoint-initdb.d/10-bootstrap.sh
# The script rejects a database and roles that others use; with THEA_ADOPT=yes it changes them too.
# The SQL is that of `thea-db bootstrap`. A password goes from its file to psql's \password, which sends a SCRAM verifier:
# the password is in no argument list, no log and no statement.
set -eu

init=${THEA_INIT:-/docker-entrypoint-initdb.d}
secrets=${THEA_SECRETS:-/run/secrets}
owner=${THEA_OWNER:-thea_owner}
application=${THEA_APPLICATION:-thea_app}
backup=${THEA_BACKUP-thea_backup}

as_superuser() {
    psql -X -q -v ON_ERROR_STOP=1 -U "${POSTGRES_USER:-postgres}" -d postgres "$@"
}

as_superuser -o /dev/null -f "$init/sql/bootstrap.sql" \
    -v database="${THEA_DATABASE:-thea}" -v owner="$owner" -v application="$application" -v backup="$backup" \
    -v schema="${THEA_SCHEMA:-public}" -v adopt="${THEA_ADOPT-}" \
    -v owner_verifier= -v application_verifier= -v backup_verifier= \
    -v statement_timeout="${THEA_STATEMENT_TIMEOUT:-30000}" -v lock_timeout="${THEA_LOCK_TIMEOUT:-10000}" \
    -v idle_timeout="${THEA_IDLE_TRANSACTION_TIMEOUT:-60000}"

# setsid: with a controlling terminal, \password would read from the terminal and not from standard input.
set_password() {
    password=$(cat "$secrets/$2")
    [ -n "$password" ] || { echo "10-bootstrap: $secrets/$2 is empty" >&2; exit 1; }
    output=$(printf '%s\n%s\n' "$password" "$password" | setsid -w psql -X -q -v ON_ERROR_STOP=1 \
        -U "${POSTGRES_USER:-postgres}" -d postgres -c "\\password \"$1\"" 2>&1) || { echo "$output" >&2; exit 1; }
}

set_password "$owner" owner_password
set_password "$application" app_password
[ -z "$backup" ] || set_password "$backup" backup_password
