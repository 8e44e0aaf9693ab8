"""Checks what `kustomize` makes of an overlay of infra/k8s, read from standard input.

    kubectl kustomize infra/k8s/overlays/NAME | manifests.py

Kubernetes' own resources are held against the schemas that it publishes (the package kubernetes-validate carries them),
unknown fields refused; so is the pod template of a KEDA ScaledJob, as that of a Job. Of KEDA's own fields the ones that
are used are listed below, from the reference at keda.sh/docs/2.17 (ScaledJob, ScaledObject, TriggerAuthentication, RabbitMQ).
Then what no schema knows: pods of least privilege, drains that have the time they need, names that lead somewhere (secrets to
the overlay's samples, which are read as well), a bucket that the store's users may use, and TLS for all or for nobody.
"""

import json
import posixpath
import sys
from pathlib import Path
from urllib.parse import urlsplit

import kubernetes_validate
import yaml

VERSION = "1.30"

# The longest drain of a worker, in seconds.
DRAIN = 10

SCALING = {"pollingInterval": int, "minReplicaCount": int, "maxReplicaCount": int, "triggers": list}
KEDA = {
    "ScaledJob": {
        **SCALING,
        "successfulJobsHistoryLimit": int,
        "failedJobsHistoryLimit": int,
        "rollout": dict,
        "scalingStrategy": dict,
        "jobTargetRef": dict,
    },
    "ScaledObject": {**SCALING, "scaleTargetRef": dict, "cooldownPeriod": int, "advanced": dict},
    "TriggerAuthentication": {"secretTargetRef": list, "configMapTargetRef": list},
}
# What a TriggerAuthentication may give the RabbitMQ scaler, of what is used here.
PARAMETERS = {"host", "tls", "ca"}
TRIGGER = {"protocol": {"amqp"}, "mode": {"QueueLength"}, "queueName": None, "value": None}
STRATEGIES = {"scalingStrategy": {"default", "accurate", "eager"}, "rollout": {"default", "gradual"}}


def check(condition, what):
    if not condition:
        raise SystemExit(f"manifests: {what}")


def keda(document):
    kind, spec = document["kind"], document["spec"]
    check(document["apiVersion"] == "keda.sh/v1alpha1" and kind in KEDA, f"{kind} is no resource of KEDA's that is known here")
    for field, value in spec.items():
        check(field in KEDA[kind], f"{kind} has no field {field}")
        check(type(value) is KEDA[kind][field], f"{kind}.{field} is {value!r}")
        if field in STRATEGIES:
            check(value["strategy"] in STRATEGIES[field], f"{kind}.{field} is {value!r}")
    for trigger in spec.get("triggers", []):
        check(trigger["type"] == "rabbitmq", f"{kind}: the trigger is {trigger['type']}")
        check(set(trigger["metadata"]) == set(TRIGGER), f"{kind}: the trigger has {sorted(trigger['metadata'])}")
        for field, value in trigger["metadata"].items():
            check(isinstance(value, str), f"{kind}: a trigger's {field} is a text, not {value!r}")
            check(TRIGGER[field] is None or value in TRIGGER[field], f"{kind}: a trigger's {field} is {value}")
        check(trigger["metadata"]["queueName"] in {"gannet.v1.trials", "gannet.v1.batches"}, "a queue that is none of ours")
    if kind == "ScaledJob":
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": document["metadata"], "spec": spec["jobTargetRef"]}
        kubernetes_validate.validate(job, VERSION, strict=True)


def template(document):
    match document["kind"]:
        case "Deployment":
            return document["spec"]["template"]
        case "ScaledJob":
            return document["spec"]["jobTargetRef"]["template"]
    return None


class Found:
    """All that there is, by kind and name."""

    def __init__(self, documents):
        self.documents = {(document["kind"], document["metadata"]["name"]): document for document in documents}

    def __contains__(self, name):
        return name in self.documents

    def content(self, kind, name):
        """What a Secret or a ConfigMap holds, by key."""
        check((kind, name) in self, f"there is no {kind} {name}")
        document = self.documents[kind, name]
        return document.get("stringData") or document.get("data") or {}

    def value(self, kind, name, key):
        content = self.content(kind, name)
        check(key in content, f"{kind} {name} has no {key}")
        return content[key]


def pod(where, template, names):
    spec = template["spec"]
    priority = spec.get("priorityClassName", "system-")
    check(priority.startswith("system-") or ("PriorityClass", priority) in names, f"{where}: there is no PriorityClass {priority}")
    check(spec["terminationGracePeriodSeconds"] >= 3 * DRAIN, f"{where}: a drain needs {DRAIN} s, and a margin")
    check(spec["automountServiceAccountToken"] is False, f"{where}: workers need no token")
    check(("ServiceAccount", spec["serviceAccountName"]) in names, f"{where}: there is no such account")
    check(spec["securityContext"]["runAsNonRoot"] is True, f"{where}: it may be root")
    check(spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", f"{where}: it has no seccomp profile")
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    for container in spec["containers"]:
        security = container["securityContext"]
        check(security["readOnlyRootFilesystem"] is True, f"{where}: it may write to its image")
        check(security["allowPrivilegeEscalation"] is False, f"{where}: it may become more")
        check(security["capabilities"] == {"drop": ["ALL"]}, f"{where}: it keeps capabilities")
        check("memory" in container["resources"]["limits"], f"{where}: it has no memory limit")
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        check(mounts == set(volumes), f"{where}: volumes {sorted(volumes)} are mounted as {sorted(mounts)}")
        files = {}
        for mount in container["volumeMounts"]:
            for path, text in content(volumes[mount["name"]], names).items():
                files[posixpath.join(mount["mountPath"], path)] = text
        settings = {}
        for source in container["envFrom"]:
            settings |= names.content("ConfigMap", source["configMapRef"]["name"])
        for variable in ("GANNET_AMQP_URL_FILE", "AWS_SHARED_CREDENTIALS_FILE", "SSL_CERT_FILE"):
            path = settings.get(variable)
            check(path is None or path in files, f"{where}: {variable} is {path}; mounted are {sorted(files)}")
        check(bucket(settings["GANNET_STORE"]), f"{where}: infra/minio opens another bucket than {settings['GANNET_STORE']}")
        scheme = urlsplit(settings["GANNET_S3_ENDPOINT"]).scheme
        own = "SSL_CERT_FILE" in settings
        check(scheme == ("https" if own else "http"), f"{where}: an authority, or none, and {settings['GANNET_S3_ENDPOINT']}")
        address(where, files[settings["GANNET_AMQP_URL_FILE"]], own)


def content(volume, names):
    """The files of a volume."""
    if "secret" in volume:
        return names.content("Secret", volume["secret"]["secretName"])
    if "configMap" in volume:
        return names.content("ConfigMap", volume["configMap"]["name"])
    return {}


def bucket(store):
    """Whether the policies of both users of the store are about the bucket of `store` alone."""
    wanted = urlsplit(store).netloc
    for role in ("producer", "worker"):
        policy = json.loads((Path(__file__).parents[2] / "infra/minio" / f"{role}.json").read_text())
        resources = [resource for statement in policy["Statement"] for resource in statement["Resource"]]
        if {resource.removeprefix("arn:aws:s3:::").split("/")[0] for resource in resources} != {wanted}:
            return False
    return True


def address(where, url, tls):
    """Holds the broker's address to be one with TLS, or without."""
    parts = urlsplit(url)
    wanted = ("amqps", 5671) if tls else ("amqp", 5672)
    check((parts.scheme, parts.port) == wanted, f"{where}: {parts.scheme} at port {parts.port}, not {wanted}")


def authentication(document, names, own):
    """How KEDA comes to the queues: by TLS with the workers' authority, if they have one of their `own`, and without TLS else."""
    where, spec = document["metadata"]["name"], document["spec"]
    found = {}
    for field, kind in (("secretTargetRef", "Secret"), ("configMapTargetRef", "ConfigMap")):
        for reference in spec.get(field, []):
            check(set(reference) == {"parameter", "name", "key"}, f"{where}: {field} has {reference}")
            check(reference["parameter"] in PARAMETERS, f"{where}: RabbitMQ's scaler is given {reference['parameter']}")
            found[reference["parameter"]] = names.value(kind, reference["name"], reference["key"])
    check("host" in found, f"{where}: it has no address of a broker")
    address(where, found["host"], own)
    if own:
        # Without both KEDA trusts the system's authorities alone.
        check(found.get("tls") == "enable", f"{where}: the parameter tls is {found.get('tls')}, not enable")
        check("CERTIFICATE" in found.get("ca", ""), f"{where}: the parameter ca has no certificate")
    else:
        check(set(found) == {"host"}, f"{where}: TLS, and workers without it")


def main():
    documents = [document for document in yaml.safe_load_all(sys.stdin) if document]
    names = Found(documents)
    own = "SSL_CERT_FILE" in {key for document in documents if document["kind"] == "ConfigMap" for key in document["data"]}
    labels = []
    for document in documents:
        if document["apiVersion"].startswith("keda.sh/"):
            keda(document)
        else:
            kubernetes_validate.validate(document, VERSION, strict=True)
        if found := template(document):
            pod(document["metadata"]["name"], found, names)
            labels.append(found["metadata"]["labels"])
    for document in documents:
        spec = document.get("spec", {})
        if document["kind"] in {"NetworkPolicy", "PodDisruptionBudget"}:
            wanted = spec.get("podSelector", spec.get("selector"))["matchLabels"].items()
            check(any(wanted <= of_pod.items() for of_pod in labels), f"{document['kind']} selects no pod")
        if document["kind"] == "ScaledObject":
            check(("Deployment", spec["scaleTargetRef"]["name"]) in names, "a ScaledObject scales what is not there")
        for trigger in spec.get("triggers", []):
            reference = ("TriggerAuthentication", trigger["authenticationRef"]["name"])
            check(reference in names, f"there is no {reference}")
        if document["kind"] == "TriggerAuthentication":
            authentication(document, names, own)
    print(f"{len(documents)} resources")


main()
