"""An S3 server that judges every request by the policies in infra/minio, as a store with users does.

    store.py POLICY.json…

moto keeps the objects in memory and evaluates the policies. Each POLICY file makes a user called like it, with the access
key `gannet-NAME` and the secret `for-tests`. It prints `listening on ADDRESS` once it answers, and serves one request at a
time, so that its conditional writes are atomic.
"""

import json
import logging
import os
import pathlib
import sys

# From the first request on; moto reads it when it is imported.
os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = "0"

from moto.iam.models import iam_backends
from moto.s3.models import s3_backends
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

ACCOUNT = "123456789012"


def user(path: pathlib.Path) -> None:
    iam = iam_backends[ACCOUNT]["aws"]
    name = path.stem
    iam.create_user("us-east-1", name)
    iam.put_user_policy(name, "gannet", json.dumps(json.loads(path.read_text())))
    key = iam.create_access_key(name)
    key.access_key_id, key.secret_access_key = f"gannet-{name}", "for-tests"


def main() -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    for path in sys.argv[1:]:
        user(pathlib.Path(path))
    s3_backends[ACCOUNT]["aws"].create_bucket("gannet", "us-east-1")
    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, application, threaded=False)
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
