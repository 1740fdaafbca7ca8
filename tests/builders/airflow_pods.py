"""The pods of a file of DAGs, in Airflow's environment: ``python airflow_pods.py DAGS``. A program, not a module.

Prints as JSON what each task would send to Kubernetes, and what a task makes of pods that ended with 1 and with 2.
Kubernetes is a server that shows the pod that ended, whatever is asked.
"""

import json
import os
import runpy
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from airflow.providers.common.compat.sdk import AirflowException
from kubernetes.client import ApiClient, V1Pod
from kubernetes.client import models as k8s

SHOWN = V1Pod()


def ended_pod(asked: V1Pod, status: int) -> V1Pod:
    ended = k8s.V1ContainerStateTerminated(exit_code=status, message="a sentence")
    base = k8s.V1ContainerStatus(
        name="base", image="", image_id="", ready=False, restart_count=0,
        state=k8s.V1ContainerState(terminated=ended),
    )  # fmt: skip
    about = k8s.V1ObjectMeta(name="pod", namespace="space", labels={})
    return V1Pod(
        metadata=about, spec=asked.spec, status=k8s.V1PodStatus(phase="Failed", container_statuses=[base])
    )


class Kubernetes(BaseHTTPRequestHandler):
    def log_message(self, *_): ...

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.dumps(ApiClient().sanitize_for_serialization(SHOWN)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PATCH = do_DELETE = answer  # noqa: N815


server = ThreadingHTTPServer(("127.0.0.1", 0), Kubernetes)
threading.Thread(target=server.serve_forever, daemon=True).start()
with open(os.environ["KUBECONFIG"], "w") as config:
    json.dump(
        {
            "apiVersion": "v1", "kind": "Config", "current-context": "x", "users": [{"name": "x", "user": {}}],
            "clusters": [{"name": "x", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        },
        config,
    )  # fmt: skip
tasks = runpy.run_path(sys.argv[1])["nightly"].task_dict
pods = {name: task.build_pod_request_obj() for name, task in tasks.items()}
fails = {}
for status in (1, 2):
    SHOWN = ended_pod(pods["verify"], status)
    try:
        tasks["verify"].cleanup(SHOWN, SHOWN)
    except AirflowException as err:
        fails[status] = [type(err).__name__, str(err)]
print(json.dumps({"pods": ApiClient().sanitize_for_serialization(pods), "fails": fails}))
