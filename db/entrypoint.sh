#!/bin/sh
# Gives the server its certificate, and starts it. The key is copied at each start, so that a renewed one is taken: the
# server wants it to be its own and nobody else's to read, and a secret's file has whatever owner the host gave it.
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
