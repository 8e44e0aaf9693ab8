# Sourced by tests/docker: the fleet at work and in trouble.
# shellcheck shell=bash disable=SC2154 # set by tests/docker

# A study, its test, a model of it and a classification (the demo), by workers that the autoscaler starts and ends.
works_from_zero() {
  local most=0 now demo autoscaler kilobytes
  export DOCKER_SOCKET=$work/engine/socket GANNET_MAX_WORKERS=2
  quietly --profile autoscale up --build --detach --scale worker=0
  [[ -n $quick ]] || quietly --profile prometheus up --detach prometheus
  autoscaler=$(container autoscaler)
  eventually 300 "the autoscaler is healthy" healthy "$autoscaler"
  none_autoscaled || die "there is work where nobody asked for any"
  gannet demo --quick >"$work/demo.log" &
  demo=$!
  while kill -0 "$demo" 2>/dev/null; do
    now=$(autoscaled | wc -l)
    if ((now > most)); then
      most=$now
      ((most < 2)) || are_confined
    fi
    sleep 0.5
  done
  wait "$demo" || die "the demo failed"
  grep -q . "$work/demo.log" || die "the demo says nothing"
  ((most == 2)) || die "the autoscaler had $most workers at most, not 2"
  say "a study and a classification are done by two workers of the autoscaler"
  [[ -n $quick ]] || python3 tests/python/dashboard.py infra/grafana/gannet.json http://127.0.0.1:9090 ||
    die "the dashboard has queries that nobody answers"
  eventually 600 "the autoscaler is back at none" none_autoscaled
  kilobytes=$(awk '/^VmRSS:/ { print $2 }' "/proc/$(process "$autoscaler")/status")
  ((kilobytes < 20000 || ${#overlays[@]})) || die "the autoscaler holds $kilobytes KB when there is nothing to do: fewer than 20 MB are wanted"
  quietly --profile autoscale stop autoscaler
  say "from no worker to two and back; the autoscaler alone holds $((kilobytes / 1000)) MB"
}

# What the autoscaler's containers may do, as the kernel has it; and whether others find them.
are_confined() {
  local worker facts pid
  for worker in $(autoscaled); do
    eventually 120 "its process runs" has_process "$worker"
    pid=$(process "$worker")
    facts=$(awk '/^(Uid|Gid|CapPrm|CapEff|CapBnd|NoNewPrivs):/ { print $1 $2 }' "/proc/$pid/status" | tr '\n' ' ')
    [[ $facts == "Uid:65532 Gid:65532 CapPrm:0000000000000000 CapEff:0000000000000000 CapBnd:0000000000000000 NoNewPrivs:1 " ]] ||
      die "an autoscaled worker has $facts"
    awk '$5 == "/" { exit $6 !~ /^ro/ }' "/proc/$pid/mountinfo" || die "an autoscaled worker may write to its image"
    facts=$(docker inspect --format '{{index .Config.Labels "gannet.autoscaler"}} {{index .Config.Labels "gannet.pool"}}' "$worker")
    [[ $facts == ?*" "?* ]] || die "an autoscaled worker's labels are $facts"
    ! docker inspect "$worker" | grep -q for-development || die "an autoscaled worker's environment holds a secret"
  done
  local found
  found=$({ docker exec "$(container rabbitmq)" getent ahostsv4 worker || true; } | awk '{ print $1 }' | sort -u | wc -l)
  ((found == 2)) || die "the name worker leads to $found of the two workers"
  say "the autoscaler's workers are nobody, without capabilities, on a root file system that is read only, and found by name"
}

has_process() { (($(process "$1") > 0)); }

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
  status=$(timeout 1200 docker wait "tune-$1") || die "tune $1 does not end"
  docker logs "tune-$1" >"$work/tune-$1.log" 2>&1
  [[ $status == 0 ]] || { tail -n 30 "$work/tune-$1.log" >&2; die "tune $1 ended with $status"; }
  (($(results "$1") == $2 + 1)) || die "$1 has $(results "$1") results, not $(($2 + 1))"
  docker rm "tune-$1" >/dev/null
}

survives_kills() {
  export GANNET_SLICE=3s
  quietly up --detach --scale worker=2
  start_study kills 6
  eventually 900 "the study is under way" has_results kills 1
  local worker
  worker=$(workers | head -n 1)
  kill_inside "$worker"
  kill_inside "$(container rabbitmq)"
  kill_inside "$(container minio)"
  ends_well kills 6
  [[ $(docker inspect --format '{{.RestartCount}}' "$worker") != 0 ]] || die "the killed worker was not started again"
  say "a study survives that a worker, the broker and the store are killed"
}

# For longer than two heartbeats: both ends have given the line up, and the workers come back by themselves.
survives_a_cut() {
  local network worker processes cut since
  network=$(docker network ls --quiet --filter label=com.docker.compose.project=gannet)
  start_study cut 4
  eventually 900 "the study is under way" has_results cut 1
  # shellcheck disable=SC2046 # two words
  processes=$(process $(workers))
  cut=$SECONDS since=$EPOCHSECONDS
  for worker in $(workers); do docker network disconnect "$network" "$worker"; done
  sleep 35
  eventually 600 "the broker gives the workers up" no_worker_connected
  cut=$((SECONDS - cut))
  for worker in $(workers); do docker network connect --alias worker "$network" "$worker"; done
  ends_well cut 4
  # shellcheck disable=SC2046
  [[ $(process $(workers)) == "$processes" ]] || die "a worker that was cut off was started again"
  for worker in $(workers); do
    docker logs --since "$since" "$worker" 2>&1 | grep -q 'connected again' || die "a worker did not connect again"
  done
  say "a study survives that the workers' network is cut for $cut seconds"
}

no_worker_connected() {
  local users
  users=$(docker exec "$(container rabbitmq)" rabbitmqctl --quiet list_connections user) && ! grep -qx worker <<<"$users"
}

is_well_and_keeps_its_secrets() {
  local worker
  eventually 300 "the workers are healthy" all_healthy
  worker=$(workers | head -n 1)
  ! docker inspect "$worker" | grep -q for-development || die "a worker's environment holds a secret"
  ! docker history --no-trunc gannet-worker | grep -q for-development || die "the image holds a secret"
  [[ $(docker inspect --format '{{.HostConfig.ReadonlyRootfs}} {{.Config.User}}' "$worker") == "true 65532:65532" ]] ||
    die "a worker may write to its image or is root"
  say "the workers are healthy, and no secret is in an image or an environment"
}
