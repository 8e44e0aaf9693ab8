#!/usr/bin/env bash
# Makes a folder of secrets for the compose files, each with a password of its own.
#
#   infra/secrets/make.sh DIR          then GANNET_SECRETS=DIR docker compose …
#   infra/secrets/make.sh DIR --tls    addresses with TLS, and certificates in DIR/tls (infra/tls/make.sh)
#
# What is there already stays: passwords do not change. With --tls again, certificates are made anew. In DIR are then
#
#   amqp-ROLE           the broker's address with the role's user and password, for GANNET_AMQP_URL_FILE
#   s3-ROLE             the store's keys, for AWS_SHARED_CREDENTIALS_FILE
#   s3-admin-password   for who makes buckets and users
set -euo pipefail

dir=${1:?usage: infra/secrets/make.sh DIR [--tls]}
scheme=amqp port=5672
case ${2-} in
  '') ;;
  --tls) scheme=amqps port=5671 ;;
  *) echo "make.sh: $2: --tls is accepted" >&2; exit 2 ;;
esac
umask 077
mkdir -p "$dir"

password() { openssl rand -hex 24; }

# secret NAME CONTENT: readable for the users of containers, who are let into no other file of DIR.
secret() {
  if [[ -e $dir/$1 ]]; then
    [[ $2 != amqp*://* || $(<"$dir/$1") == "$scheme"://*:"$port"/* ]] || {
      echo "make.sh: $dir/$1 is no address of $scheme:// at port $port: name another folder, or change it by hand" >&2
      exit 1
    }
    return 0
  fi
  printf '%s\n' "$2" >"$dir/$1"
  chmod 0444 "$dir/$1"
}

for role in admin producer worker autoscaler; do
  secret "amqp-$role" "$scheme://$role:$(password)@rabbitmq:$port/%2f"
done
for role in producer worker; do
  secret "s3-$role" "[default]
aws_access_key_id = gannet-$role
aws_secret_access_key = $(password)"
done
secret s3-admin-password "$(password)"
if [[ $scheme == amqps ]]; then
  "$(dirname "${BASH_SOURCE[0]}")/../tls/make.sh" "$dir/tls"
fi
