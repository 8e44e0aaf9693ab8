# Sourced by tests/docker: the fleet of the compose file, at work and in trouble.
# shellcheck shell=bash disable=SC2154 # set by tests/docker

compose() {
  GANNET_FILES=$work/files docker-compose --ansi never -f "$work/tree/infra/docker-compose.yml" \
    -f "$work/tree/tests/lib/docker/compose.yml" "$@"
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
    ((SECONDS < deadline)) || { compose ps >&2; compose logs --tail 20 >&2; die "$what: not in time"; }
    sleep 0.5
  done
}

scale() {
  compose up --detach --scale "worker=$1" >>"$work/up.log" 2>&1 || {
    compose logs --tail 40 >&2
    tail -n 30 "$work/up.log" >&2
    die "compose up failed"
  }
}

workers() { docker ps --quiet --filter label=com.docker.compose.service=worker; }

count_is() { (($(workers | wc -l) == $1)); }

container() { docker ps --quiet --filter "label=com.docker.compose.service=$1" | head -n 1; }

# The process itself: what `docker kill` ends the engine does not start again.
kill_inside() { kill -KILL "$(docker inspect --format '{{.State.Pid}}' "$1")"; }

healthy() { [[ $(docker inspect --format '{{.State.Health.Status}}' "$1") == healthy ]]; }

# results RUN: how many jobs of it have one.
results() {
  find "/proc/$(docker inspect --format '{{.State.Pid}}' "$(container minio)")/root/data/objects/gannet/runs/$1/results" \
    -name '*.json' 2>/dev/null | wc -l
}

has_results() { (($(results "$1") >= $2)); }

has_checkpoint() {
  local found
  found=$(find "/proc/$(docker inspect --format '{{.State.Pid}}' "$(container minio)")/root/data/objects/gannet/runs/$1/checkpoints" \
    -name '*.safetensors' 2>/dev/null | head -n 1)
  [[ -n $found ]]
}

bring_up() {
  local began=$SECONDS
  scale 0
  say "broker and store are up in $((SECONDS - began)) s, with no worker"
  gannet status >"$work/status.log"
}

autoscaled() { docker ps --all --quiet --filter label=gannet.autoscaler; }

none_autoscaled() { [[ -z $(autoscaled) ]]; }

# A study, its test, a model of it and a classification: the demo.
works_from_zero() {
  count_is 0 || die "there is a worker"
  if "$work/tree/prebuilt/gannet" autoscale --help >/dev/null 2>&1; then
    works_by_the_autoscaler
  else
    say "SKIPPED the autoscaler: this gannet has none"
    scale 2
    gannet demo --quick >"$work/demo.log"
    eventually 120 "the workers are healthy" all_healthy
    scale 0
  fi
  eventually 60 "no worker is left" count_is 0
  grep -q . "$work/demo.log" || die "the demo says nothing"
  say "a study and a classification, from no worker to two and back"
}

works_by_the_autoscaler() {
  local most=0
  export DOCKER_SOCKET=$work/engine/socket GANNET_MAX_WORKERS=2
  compose --profile autoscale up --detach --scale worker=0 >>"$work/up.log" 2>&1 || die "the autoscaler is not up"
  none_autoscaled || die "there is work where nobody asked for any"
  gannet demo --quick >"$work/demo.log" &
  local demo=$!
  while kill -0 "$demo" 2>/dev/null; do
    local now
    now=$(autoscaled | wc -l)
    ((now <= most)) || most=$now
    sleep 0.5
  done
  wait "$demo" || die "the demo failed"
  ((most == 2)) || die "the autoscaler had $most workers at most, not 2"
  eventually 180 "the autoscaler is back at none" none_autoscaled
  compose --profile autoscale stop autoscaler >>"$work/up.log" 2>&1
}

all_healthy() {
  # Programs that tell their health; the image asks them.
  "$work/tree/prebuilt/gannet-worker" --help | grep -q -- --health || return 0
  local worker
  for worker in $(workers); do healthy "$worker" || return 1; done
}

# study NAME TRIALS: long enough to be met in the middle.
study() {
  cat >"$work/files/$1.toml" <<-TOML
	name = "$1"
	seed = 7
	[data]
	dataset = "digits"
	validation = 200
	[search]
	sampler = "random"
	trials = $2
	[training]
	epochs = 12
	batch_size = 16
	optimizer = { type = "sgd", learning_rate = "\$learning_rate" }
	[space]
	learning_rate = { log = [5e-3, 5e-2] }
	[network]
	layers = [
	    { type = "conv", filters = 16, kernel = 5, padding = "same" }, { type = "relu" }, { type = "max_pool", kernel = 2 },
	    { type = "flatten" }, { type = "linear", units = 64 }, { type = "relu" }, { type = "linear", units = "\$classes" },
	]
	TOML
}

start_study() {
  study "$1" "$2"
  compose run --detach --name "tune-$1" gannet tune "$1.toml" --run "$1" >>"$work/gannet.log" 2>&1
}

# ends_well RUN TRIALS: the command ends with 0, and each trial, and the test of the best one, has its one result.
ends_well() {
  local status
  status=$(timeout 600 docker wait "tune-$1") || die "tune $1 does not end"
  docker logs "tune-$1" >"$work/tune-$1.log" 2>&1
  [[ $status == 0 ]] || { tail -n 30 "$work/tune-$1.log" >&2; die "tune $1 ended with $status"; }
  (($(results "$1") == $2 + 1)) || die "$1 has $(results "$1") results, not $(($2 + 1))"
  docker rm "tune-$1" >/dev/null
}

survives_kills() {
  export GANNET_SLICE=1s
  scale 2
  start_study kills 6
  eventually 300 "the study is under way" has_results kills 1
  local worker began
  worker=$(workers | head -n 1)
  kill_inside "$worker"
  kill_inside "$(container rabbitmq)"
  kill_inside "$(container minio)"
  ends_well kills 6
  [[ $(docker inspect --format '{{.RestartCount}}' "$worker") != 0 ]] || die "the killed worker was not started again"
  say "a study survives that a worker, the broker and the store are killed"
}

survives_a_cut() {
  local network worker
  network=$(docker network ls --quiet --filter label=com.docker.compose.project=gannet)
  start_study cut 6
  eventually 300 "the study is under way" has_results cut 1
  for worker in $(workers); do docker network disconnect "$network" "$worker"; done
  # Both lines are dead; the workers notice it by themselves.
  sleep 5
  for worker in $(workers); do docker network connect "$network" "$worker"; done
  ends_well cut 6
  say "a study survives that the workers' network is cut for five seconds"
}

keeps_its_secrets() {
  local worker
  worker=$(workers | head -n 1)
  ! docker inspect "$worker" | grep -q for-development || die "a worker's environment holds a secret"
  ! docker history --no-trunc gannet-worker | grep -q for-development || die "the image holds a secret"
  [[ $(docker inspect --format '{{.HostConfig.ReadonlyRootfs}} {{.Config.User}}' "$worker") == "true 65532:65532" ]] ||
    die "a worker may write to its image or is root"
  # The worker's key opens no more than is its own: it may not say a word to all workers.
  say "no secret is in an image or an environment"
}

take_down() {
  compose --profile command down --volumes --timeout 60 >"$work/down.log" 2>&1 || { tail "$work/down.log" >&2; die "down failed"; }
  local left
  left=$(docker ps --all --quiet; docker volume ls --quiet; docker network ls --quiet --filter type=custom)
  [[ -z $left ]] || die "this is left: $left"
  say "all is taken down"
}
