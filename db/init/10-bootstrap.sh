#!/bin/sh
# Makes the database, its owner, the application's role and who makes backups. The image runs it on an empty volume, as
# the superuser and over the Unix socket; it can be run again, and then changes what differs and sets the passwords anew:
#   docker compose exec -u postgres db /docker-entrypoint-initdb.d/10-bootstrap.sh
# It refuses a database or roles that somebody else uses; THEA_ADOPT=yes changes them too.
# The SQL is what `thea-db bootstrap` does. A password goes from its file through psql's \password, which sends a verifier:
# it is in no list of arguments, and the server does not get it.
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
    -v adopt="${THEA_ADOPT-}" -v owner_verifier= -v application_verifier= -v backup_verifier= \
    -v statement_timeout="${THEA_STATEMENT_TIMEOUT:-30000}" -v lock_timeout="${THEA_LOCK_TIMEOUT:-10000}" \
    -v idle_timeout="${THEA_IDLE_TRANSACTION_TIMEOUT:-60000}"

# setsid: where there is a terminal \password would ask there.
set_password() {
    password=$(cat "$secrets/$2")
    [ -n "$password" ] || { echo "10-bootstrap: $secrets/$2 is empty" >&2; exit 1; }
    told=$(printf '%s\n%s\n' "$password" "$password" | setsid -w psql -X -q -v ON_ERROR_STOP=1 \
        -U "${POSTGRES_USER:-postgres}" -d postgres -c "\\password \"$1\"" 2>&1) || { echo "$told" >&2; exit 1; }
}

set_password "$owner" owner_password
set_password "$application" app_password
[ -z "$backup" ] || set_password "$backup" backup_password
