"""Checks what `kustomize` makes of an overlay of infra/k8s, read from standard input.

    kubectl kustomize infra/k8s/overlays/NAME | manifests.py

Kubernetes' own resources are held against the schemas that it publishes (the package kubernetes-validate carries them),
unknown fields refused; so is the pod template of a KEDA ScaledJob, as that of a Job. Of KEDA's own fields the ones that
are used are listed below, from the reference at keda.sh/docs/2.17 (ScaledJob, ScaledObject, TriggerAuthentication, RabbitMQ).
Then what no schema knows: pods of least privilege, drains that have the time they need, names that lead somewhere.
"""

import sys

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
    "TriggerAuthentication": {"secretTargetRef": list},
}
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


def pod(where, template, names):
    spec = template["spec"]
    check(spec["terminationGracePeriodSeconds"] >= 3 * DRAIN, f"{where}: a drain needs {DRAIN} s, and a margin")
    check(spec["automountServiceAccountToken"] is False, f"{where}: workers need no token")
    check(("ServiceAccount", spec["serviceAccountName"]) in names, f"{where}: there is no such account")
    check(spec["securityContext"]["runAsNonRoot"] is True, f"{where}: it may be root")
    check(spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", f"{where}: it has no seccomp profile")
    volumes = {volume["name"] for volume in spec["volumes"]}
    for container in spec["containers"]:
        security = container["securityContext"]
        check(security["readOnlyRootFilesystem"] is True, f"{where}: it may write to its image")
        check(security["allowPrivilegeEscalation"] is False, f"{where}: it may become more")
        check(security["capabilities"] == {"drop": ["ALL"]}, f"{where}: it keeps capabilities")
        check("memory" in container["resources"]["limits"], f"{where}: it has no memory limit")
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        check(mounts == volumes, f"{where}: volumes {sorted(volumes)} are mounted as {sorted(mounts)}")
        for source in container["envFrom"]:
            check(("ConfigMap", source["configMapRef"]["name"]) in names, f"{where}: there is no such ConfigMap")


def main():
    documents = [document for document in yaml.safe_load_all(sys.stdin) if document]
    names = {(document["kind"], document["metadata"]["name"]) for document in documents}
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
    print(f"{len(documents)} resources")


main()
