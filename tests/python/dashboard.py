"""Asks a Prometheus that watches a fleet what the dashboard asks it.

    dashboard.py infra/grafana/gannet.json http://127.0.0.1:9090

Whoever should be watched was seen at work, each query is understood, and what it is about has been told by somebody.
"""

import json
import re
import sys
import time
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

# The store's metrics are MinIO's own.
JOBS = {"gannet-worker", "gannet-autoscaler", "rabbitmq", "rabbitmq-queues"}
LIMIT_S = 300


def ask(server, path, **query):
    try:
        with urlopen(f"{server}/api/v1/{path}?{urlencode(query)}", timeout=10) as answer:
            return json.load(answer)["data"]
    except HTTPError as error:
        raise SystemExit(f"dashboard: {path} {query}: {error.read().decode()}") from error


def watched(server):
    seen = ask(server, "query", query="max by (job) (max_over_time(up[10m])) == 1")["result"]
    return {series["metric"]["job"] for series in seen}


def told(server, names):
    metadata = set(ask(server, "metadata"))
    return {name for name in names if {name, re.sub("_(total|bucket|sum|count)$", "", name)} & metadata}


def main():
    file, server = sys.argv[1:]
    with open(file, encoding="utf-8") as text:
        panels = json.load(text)["panels"]
    queries = [target["expr"].replace("$__rate_interval", "1m") for panel in panels for target in panel.get("targets", [])]
    names = {name for query in queries for name in re.findall(r"\b(?:gannet|rabbitmq)_\w+", query)}
    # Counts of what has not happened yet are told by nobody, and those who have left tell nothing more.
    deadline, seen = time.monotonic() + LIMIT_S, set()
    while True:
        missing, seen = JOBS - watched(server), seen | told(server, names)
        if not missing and seen == names:
            break
        if time.monotonic() > deadline:
            raise SystemExit(f"dashboard: nobody answered as {sorted(missing)}, nobody told {sorted(names - seen)}")
        time.sleep(1)
    for query in queries:
        ask(server, "query", query=query)
    print(f"{len(queries)} queries about {len(names)} metrics")


main()
