"""Sends one job, written by hand, and prints its result: what any client does, with nothing but pika.

Usage: client.py AMQP_URL JOB_SCHEMA RESULT_SCHEMA DATASET

DATASET is a reference, {"key": …, "sha256": …}, as JSON. Both schemas are files that `gannet schema` printed.
"""

import json
import sys
import time
import uuid

import jsonschema
import pika

LIMIT_S = 180


def make_job(dataset):
    return {
        "id": "by-hand",
        "run": "python",
        "kind": "trial",
        "trial": {
            "network": {
                "layers": [
                    {"type": "conv", "filters": 4, "kernel": 3},
                    {"type": "relu"},
                    {"type": "max_pool", "kernel": 2},
                    {"type": "flatten"},
                    {"type": "linear", "units": 3, "name": "logits"},
                ]
            },
            "data": {"dataset": dataset, "validation_rows": 60},
            "training": {
                "epochs": 2,
                "batch_size": 16,
                "optimizer": {"type": "adam", "learning_rate": 0.01},
            },
            "seed": 1,
        },
    }


def connect(url):
    """A channel, once the fleet has declared its queues."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        connection = pika.BlockingConnection(pika.URLParameters(url))
        channel = connection.channel()
        try:
            channel.queue_declare("gannet.v1.trials", passive=True)
            return channel
        except pika.exceptions.ChannelClosedByBroker:
            connection.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def main():
    url, job_schema, result_schema, dataset = sys.argv[1:]
    job = make_job(json.loads(dataset))
    with open(job_schema, encoding="utf-8") as file:
        jsonschema.validate(job, json.load(file))

    channel = connect(url)
    channel.confirm_delivery()
    replies = channel.queue_declare("", exclusive=True).method.queue
    correlation = str(uuid.uuid4())
    channel.basic_publish(
        exchange="gannet.v1.jobs",
        routing_key="gannet.v1.trials",
        body=json.dumps(job),
        properties=pika.BasicProperties(
            content_type="application/json",
            delivery_mode=2,
            message_id=str(uuid.uuid4()),
            reply_to=replies,
            correlation_id=correlation,
        ),
        mandatory=True,
    )
    for _, properties, body in channel.consume(replies, auto_ack=True, inactivity_timeout=LIMIT_S):
        if body is None:
            sys.exit(f"no result within {LIMIT_S} s")
        assert properties.correlation_id == correlation, properties
        assert properties.content_type == "application/json", properties
        result = json.loads(body)
        with open(result_schema, encoding="utf-8") as file:
            jsonschema.validate(result, json.load(file))
        print(json.dumps(result))
        return


if __name__ == "__main__":
    main()
