#!/bin/sh
# Installs the server's certificate and starts the server. PostgreSQL requires that the key belongs to its own user and is
# not readable by others, but the file of a secret has the owner and mode of the host's file. So the key is copied; at each
# start, to pick up a renewed certificate.
set -eu

tls=${THEA_TLS:-/etc/postgresql/tls}
secrets=${THEA_SECRETS:-/run/secrets}

if [ "$(id -u)" = 0 ]; then
    for name in server_certificate server_key; do
        [ -r "$secrets/$name" ] || { echo "the secret $name is missing: run db/make-secrets.sh" >&2; exit 1; }
    done
    install -d -o postgres -g postgres -m 0700 "$tls"
    install -o postgres -g postgres -m 0644 "$secrets/server_certificate" "$tls/server.crt"
    install -o postgres -g postgres -m 0600 "$secrets/server_key" "$tls/server.key"
fi
exec docker-entrypoint.sh "$@"
