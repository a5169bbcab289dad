#!/bin/sh
# Sets up the virtual machine: PostgreSQL 18 from the packages of postgresql.org, the configuration and the roles. Can be
# repeated.
set -eu
export DEBIAN_FRONTEND=noninteractive

if ! command -v /usr/lib/postgresql/18/bin/postgres >/dev/null; then
    apt-get update -q
    apt-get install -q -y postgresql-common ssl-cert
    /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y -v 18
fi

configuration=/etc/postgresql/18/main
install -d -o postgres -g postgres -m 0700 /etc/postgresql/tls
install -o postgres -g postgres -m 0644 /etc/ssl/certs/ssl-cert-snakeoil.pem /etc/postgresql/tls/server.crt
install -o postgres -g postgres -m 0600 /etc/ssl/private/ssl-cert-snakeoil.key /etc/postgresql/tls/server.key
install -o postgres -g postgres -m 0644 /vagrant/postgresql.conf "$configuration/conf.d/thea.conf"
# Connections in development do not use TLS. VirtualBox's port forwarding makes them come from 10.0.2.2.
{
    echo "hostnossl iact_dev dev_user,dev_owner 10.0.2.2/32 scram-sha-256"
    cat /vagrant/pg_hba.conf
} >"$configuration/pg_hba.conf"
systemctl restart postgresql@18-main

secrets=$(mktemp -d)
trap 'rm -r "$secrets"' EXIT
for name in owner app; do echo dev_password >"$secrets/${name}_password"; done
chmod 0755 "$secrets"
cd /
sudo -u postgres env THEA_INIT=/vagrant/init THEA_SECRETS="$secrets" THEA_DATABASE=iact_dev \
    THEA_OWNER=dev_owner THEA_APPLICATION=dev_user THEA_BACKUP= sh /vagrant/init/10-bootstrap.sh
