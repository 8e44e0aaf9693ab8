#!/bin/sh
# The broker's entry point: gives it users, rights, exchanges and queues before it takes its first connection.
#
# The passwords are those of the addresses in /run/secrets/amqp-ROLE, which are the secrets of the programs, too. What is
# written here lies in memory (/run/gannet is a tmpfs) and is read again at each start: a password that was changed holds
# from then on.
set -eu
definitions=/run/gannet/definitions.json

# password ROLE: that of `amqp://ROLE:password@host`.
password() {
  address=$(cat "/run/secrets/amqp-$1")
  credentials=${address#*://}
  credentials=${credentials%@*}
  case $credentials in
    "$1":*) ;;
    *) echo "start.sh: the address in amqp-$1 is not one of the user $1 (amqp://$1:password@host)" >&2; exit 1 ;;
  esac
  word=${credentials#*:}
  case $word in
    '' | *[!A-Za-z0-9._~-]*)
      echo "start.sh: in the password of $1 letters, digits and . _ ~ - are accepted, and at least one" >&2
      exit 1
      ;;
  esac
  printf %s "$word"
}

umask 077
admin=$(password admin)
producer=$(password producer)
worker=$(password worker)
autoscaler=$(password autoscaler)
sed -e "s|@ADMIN@|$admin|" -e "s|@PRODUCER@|$producer|" -e "s|@WORKER@|$worker|" -e "s|@AUTOSCALER@|$autoscaler|" \
  /etc/gannet/definitions.json >"$definitions"
chown -R rabbitmq "${definitions%/*}"
exec docker-entrypoint.sh rabbitmq-server
