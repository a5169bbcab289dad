#!/bin/sh
# Creates the secrets that db/compose*.yaml read from files: passwords, a CA with the server's certificate, and the settings
# of the service. Existing files are kept. To replace a secret, remove its file; for a password, remove the *_env files too.
#   db/make-secrets.sh [folder] [host]     default: db/secrets, and db, the name of the service in compose.yaml
set -eu
umask 077

folder=${1:-$(dirname "$0")/secrets}
host=${2:-db}
mkdir -p "$folder"
cd "$folder"

for name in postgres owner app backup; do
    [ -s "${name}_password" ] || openssl rand -hex 24 >"${name}_password"
done

make_certificate() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes "$@" 2>/dev/null
}

[ -s ca_certificate ] || make_certificate -days 3650 -subj "/CN=thea database CA" \
    -addext "keyUsage=critical,keyCertSign" -keyout ca_key -out ca_certificate
[ -s server_certificate ] || make_certificate -days 397 -subj "/CN=$host" -CA ca_certificate -CAkey ca_key \
    -addext "subjectAltName=DNS:$host,DNS:localhost,IP:127.0.0.1" -addext "basicConstraints=critical,CA:FALSE" \
    -keyout server_key -out server_certificate

url() {
    echo "postgresql://$1:$(cat "$2")@$host:5432/thea?sslmode=verify-full&sslrootcert=/run/secrets/ca_certificate"
}
[ -s app_env ] || printf 'ENVIRONMENT=production\nDATABASE_URL=%s\n' "$(url thea_app app_password)" >app_env
[ -s migrations_env ] || printf 'ENVIRONMENT=production\nDATABASE_URL=%s\nDATABASE_MIGRATION_URL=%s\n' \
    "$(url thea_app app_password)" "$(url thea_owner owner_password)" >migrations_env

# Other users of the host cannot enter the directory. The files are readable for everyone, because the user id in the
# container is not known here.
chmod 0644 ./*_password ./*_env server_key server_certificate ca_certificate
chmod 0600 ca_key
