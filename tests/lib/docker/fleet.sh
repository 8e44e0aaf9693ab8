# Sourced by tests/docker: the fleet of the compose file, and what is asked of it.
# shellcheck shell=bash disable=SC2154 # set by tests/docker

# The files of the compose file beside infra/docker-compose.yml.
overlays=()

compose() {
  GANNET_FILES=$work/files docker-compose --ansi never -f "$work/tree/infra/docker-compose.yml" "${overlays[@]}" \
    -f "$work/tree/tests/lib/docker/compose.yml" "$@"
}

# quietly ARGUMENT…: compose, whose words are kept for when it fails.
quietly() {
  compose "$@" >>"$work/compose.log" 2>&1 || {
    compose logs --tail 40 >&2
    tail -n 30 "$work/compose.log" >&2
    die "compose $* failed"
  }
}

# gannet COMMAND…: as a user runs it, to its good end.
gannet() {
  compose run --rm -T gannet "$@" 2>>"$work/gannet.log" || { tail -n 30 "$work/gannet.log" >&2; die "gannet $* failed"; }
}

# eventually SECONDS WHAT COMMAND…
eventually() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    ((SECONDS < deadline)) || { describe; die "$what: not in time"; }
    sleep 0.5
  done
}

# What there is, and its last words.
describe() {
  local command
  compose ps
  compose logs --tail 20
  for command in $(docker ps --all --quiet --filter name=tune-); do docker logs --tail 20 "$command"; done
} >&2

workers() { docker ps --quiet --filter label=com.docker.compose.service=worker; }

count_is() { (($(workers | wc -l) == $1)); }

# Those that the autoscaler started.
autoscaled() { docker ps --quiet --filter label=gannet.autoscaler; }

none_autoscaled() { [[ -z $(docker ps --all --quiet --filter label=gannet.autoscaler) ]]; }

container() { docker ps --quiet --filter "label=com.docker.compose.service=$1" | head -n 1; }

process() { docker inspect --format '{{.State.Pid}}' "$@"; }

# The process itself: what `docker kill` ends the engine does not start again.
kill_inside() { kill -KILL "$(process "$1")"; }

healthy() { [[ $(docker inspect --format '{{.State.Health.Status}}' "$1") == healthy ]]; }

all_healthy() {
  local worker
  for worker in $(workers); do healthy "$worker" || return 1; done
}

# results RUN: how many jobs of it have one.
results() {
  find "/proc/$(process "$(container minio)")/root/data/objects/gannet/runs/$1/results" -name '*.json' 2>/dev/null | wc -l
}

has_results() { (($(results "$1") >= $2)); }

# Broker and store by the first line of README.md, with no worker so far.
bring_up() {
  quietly up --build --detach --scale worker=0
  gannet status >"$work/status.log"
  count_is 0 || die "there is a worker"
  local size
  size=$(docker image inspect --format '{{.Size}}' gannet-worker)
  ((size < 60000000)) || die "the worker's image has $size bytes: fewer than 60 MB are wanted"
  say "broker and store are up; the worker's image has $((size / 1000000)) MB, the producer's" \
    "$(($(docker image inspect --format '{{.Size}}' gannet-producer) / 1000000))"
}

# From here on broker and store speak TLS, with an authority and secrets of their own.
use_tls() {
  "$work/tree/infra/secrets/make.sh" "$work/secrets" --tls
  export GANNET_SECRETS=$work/secrets GANNET_S3_ENDPOINT=https://minio:9000
  overlays=(-f "$work/tree/infra/docker-compose.tls.yml")
  say "now with TLS"
}

take_down() {
  quietly --profile command --profile autoscale --profile prometheus down --volumes --timeout 60
  local left
  left=$(docker ps --all --quiet; docker volume ls --quiet; docker network ls --quiet --filter type=custom)
  [[ -z $left ]] || die "this is left: $left"
  say "all is taken down"
}
