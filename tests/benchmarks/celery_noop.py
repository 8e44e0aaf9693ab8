"""Celery's side of the overhead benchmark: jobs that do nothing, acknowledged late, on quorum queues.

    celery_noop.py AMQP_URL JOBS SINGLES SLOTS

Starts a worker of SLOTS processes, publishes JOBS jobs and waits for their results, then SINGLES jobs one after another.
Prints one line of JSON: jobs a second from the first publish to the last result, milliseconds of each single job.
"""

import json
import subprocess
import sys
import time

from celery import Celery

URL = sys.argv[1]
app = Celery("noop", broker=URL, backend="rpc://")
app.conf.update(
    task_acks_late=True,
    task_default_queue="celery-noop",
    task_default_queue_type="quorum",
    # Quorum queues know no global limit of unacknowledged messages.
    worker_detect_quorum_queues=True,
    broker_transport_options={"confirm_publish": True},
    worker_enable_remote_control=False,
)


@app.task(name="noop")
def noop(payload):
    return payload


def main():
    jobs, singles, slots = (int(text) for text in sys.argv[2:5])
    arguments = ["-A", "celery_noop", "--workdir", sys.path[0], "-b", URL, "worker", "-c", str(slots), "--loglevel", "error"]
    arguments += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    # The worker's own command line is this module's: it reads the address from there.
    code = f"import sys; sys.argv = ['celery_noop', {URL!r}]; sys.path.insert(0, {sys.path[0]!r}); import celery_noop; "
    code += f"celery_noop.app.worker_main({arguments[6:]!r})"
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    try:
        payload = "x" * 300
        # The first jobs start everything.
        for result in [noop.delay(payload) for _ in range(50)]:
            result.get(timeout=120)

        begun = time.perf_counter()
        results = [noop.delay(payload) for _ in range(jobs)]
        for result in results:
            result.get(timeout=600)
        rate = jobs / (time.perf_counter() - begun)

        latencies = []
        for _ in range(singles):
            begun = time.perf_counter()
            noop.delay(payload).get(timeout=60)
            latencies.append((time.perf_counter() - begun) * 1e3)
        print(json.dumps({"jobs_per_s": rate, "latencies_ms": latencies}))
    finally:
        worker.terminate()
        worker.wait()


if __name__ == "__main__":
    main()
