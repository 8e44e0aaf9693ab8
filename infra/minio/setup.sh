#!/bin/sh
# Makes the bucket, and a user with a policy of its own for the producer and for the workers; the autoscaler has none.
# May run again: what is there stays, keys and policies that were changed hold from then on.
set -eu
export MC_CONFIG_DIR=/tmp/mc
if [ -n "${STORE_AUTHORITY-}" ]; then
  mkdir -p "$MC_CONFIG_DIR/certs/CAs"
  cp "$STORE_AUTHORITY" "$MC_CONFIG_DIR/certs/CAs/"
fi
mc alias set store "$STORE_ENDPOINT" "$STORE_ADMIN" "$(cat /run/secrets/s3-admin-password)" >/dev/null
mc mb --ignore-existing store/gannet

for role in producer worker; do
  key='' secret=''
  # The programs' own file, as Amazon's tools write it: `name = value` lines below [default].
  while IFS=' =' read -r name value; do
    case $name in
      aws_access_key_id) key=$value ;;
      aws_secret_access_key) secret=$value ;;
    esac
  done <"/run/secrets/s3-$role"
  if [ -z "$key" ] || [ -z "$secret" ]; then
    echo "setup.sh: s3-$role lacks aws_access_key_id or aws_secret_access_key" >&2
    exit 1
  fi
  mc admin user add store "$key" "$secret"
  mc admin policy create store "gannet-$role" "/etc/gannet/$role.json"
  case $(mc admin user info store "$key") in
    *"gannet-$role"*) ;;
    *) mc admin policy attach store "gannet-$role" --user "$key" ;;
  esac
done
