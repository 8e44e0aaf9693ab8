#!/usr/bin/env bash
# Makes a certificate authority of your own, and a certificate for each server that programs speak to.
#
#   infra/tls/make.sh DIR [SERVER=NAME[,NAME…]]…
#
# Without servers: rabbitmq=rabbitmq,localhost,127.0.0.1 and minio=minio,localhost,127.0.0.1, as in the compose files. Each
# NAME is a host's name or address as it stands in GANNET_AMQP_URL or GANNET_S3_ENDPOINT. In DIR are then ca.pem, which
# programs name in SSL_CERT_FILE, and for each server SERVER.pem and SERVER.key. The authority's key, ca.key, belongs on no
# server: it signs the next certificates, where it is found in DIR; ca.pem then stays as it is. Run it again before
# certificates end (825 days), and start the servers again: each is replaced as a whole, with its key.
set -euo pipefail

dir=${1:?usage: infra/tls/make.sh DIR [SERVER=NAME[,NAME…]]…}
shift
(($#)) || set -- rabbitmq=rabbitmq,localhost,127.0.0.1 minio=minio,localhost,127.0.0.1
days=825
umask 077
mkdir -p "$dir"
# What is made here is moved to its place when it is whole: the files themselves may not be written to.
new=$(mktemp -d "$dir/new.XXXXXX")
trap 'rm -rf "$new"' EXIT

# run COMMAND…: openssl, which is told of only when it fails.
run() {
  openssl "$@" 2>"$new/log" || { cat "$new/log" >&2; echo "make.sh: openssl $1 failed; $dir stays as it was" >&2; exit 1; }
}

if [[ ! -e $dir/ca.key ]]; then
  [[ ! -e $dir/ca.pem ]] || { echo "make.sh: $dir has ca.pem without ca.key: put the key there, or name another folder" >&2; exit 1; }
  run req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -days 3650 -subj "/CN=Gannet's own CA" \
    -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign" \
    -keyout "$new/ca.key" -out "$new/ca.pem"
  chmod 0400 "$new/ca.key"
  chmod 0444 "$new/ca.pem"
  mv -f "$new"/ca.* "$dir/"
fi

for argument in "$@"; do
  server=${argument%%=*} names=${argument#*=} alternatives=''
  [[ $argument == ?*=?* ]] || { echo "make.sh: $argument: SERVER=NAME[,NAME…] is accepted" >&2; exit 2; }
  IFS=, read -ra each <<<"$names"
  for name in "${each[@]}"; do
    if [[ $name =~ ^[0-9.]+$ || $name == *:* ]]; then kind=IP; else kind=DNS; fi
    alternatives+=${alternatives:+,}$kind:$name
  done
  run req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -subj "/CN=${each[0]}" \
    -keyout "$new/$server.key" -out "$new/request"
  printf '%s\n' "basicConstraints=critical,CA:FALSE" "keyUsage=critical,digitalSignature" \
    "extendedKeyUsage=serverAuth" "subjectAltName=$alternatives" >"$new/extensions"
  run x509 -req -in "$new/request" -CA "$dir/ca.pem" -CAkey "$dir/ca.key" -set_serial "0x$(openssl rand -hex 16)" \
    -days "$days" -sha256 -extfile "$new/extensions" -out "$new/$server.pem"
  # Servers in containers run as users of their own; who may not enter DIR reads none of it.
  chmod 0444 "$new/$server".*
  mv -f "$new/$server.key" "$new/$server.pem" "$dir/"
done
