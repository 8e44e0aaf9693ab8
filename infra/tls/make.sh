#!/usr/bin/env bash
# Makes a certificate authority of your own, and a certificate for each server that programs speak to.
#
#   infra/tls/make.sh DIR [SERVER=NAME[,NAME…]]…
#
# Without servers: rabbitmq=rabbitmq,localhost,127.0.0.1 and minio=minio,localhost,127.0.0.1, as in the compose files. Each
# NAME is a host's name or address as it stands in GANNET_AMQP_URL or GANNET_S3_ENDPOINT. In DIR are then ca.pem, which
# programs name in SSL_CERT_FILE, and for each server SERVER.pem and SERVER.key. The authority's key, ca.key, belongs on no
# server: it signs the next certificates, where it is found in DIR; ca.pem then stays as it is.
set -euo pipefail

dir=${1:?usage: infra/tls/make.sh DIR [SERVER=NAME[,NAME…]]…}
shift
(($#)) || set -- rabbitmq=rabbitmq,localhost,127.0.0.1 minio=minio,localhost,127.0.0.1
days=825
umask 077
mkdir -p "$dir"

if [[ ! -e $dir/ca.key ]]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -days 3650 -subj "/CN=Gannet's own CA" \
    -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign" \
    -keyout "$dir/ca.key" -out "$dir/ca.pem" 2>/dev/null
fi

for argument in "$@"; do
  server=${argument%%=*} names=${argument#*=} alternatives=''
  [[ $argument == ?*=?* ]] || { echo "make.sh: $argument: SERVER=NAME[,NAME…] is accepted" >&2; exit 2; }
  IFS=, read -ra each <<<"$names"
  for name in "${each[@]}"; do
    if [[ $name =~ ^[0-9.]+$ || $name == *:* ]]; then kind=IP; else kind=DNS; fi
    alternatives+=${alternatives:+,}$kind:$name
  done
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -subj "/CN=${each[0]}" \
    -keyout "$dir/$server.key" -out "$dir/$server.csr" 2>/dev/null
  printf '%s\n' "basicConstraints=critical,CA:FALSE" "keyUsage=critical,digitalSignature" \
    "extendedKeyUsage=serverAuth" "subjectAltName=$alternatives" >"$dir/$server.extensions"
  openssl x509 -req -in "$dir/$server.csr" -CA "$dir/ca.pem" -CAkey "$dir/ca.key" -CAcreateserial -days "$days" -sha256 \
    -extfile "$dir/$server.extensions" -out "$dir/$server.pem" 2>/dev/null
  rm -f "$dir/$server.csr" "$dir/$server.extensions"
done
# Servers in containers run as users of their own; who may not enter DIR reads none of it.
chmod 0444 "$dir"/*.pem "$dir"/*.key
chmod 0400 "$dir/ca.key"
