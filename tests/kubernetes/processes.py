#!/usr/bin/env python3
"""What manifests and units would run, as something that can be run here.

    processes.py pod PORT ROOT OUT < LIST.json        a Pod or StatefulSet, with ConfigMaps beside it
    processes.py unit PORT ROOT OUT [@TARGET=FILE] UNIT[=INSTANCE]:ENVFILE...

Command lines stay as they are but for three things: every port becomes one from PORT on, every address one of this
machine's loopback (the host's own 192.0.2.10 is 127.0.0.2, its neighbours follow, all others are 127.0.0.1), every path
below /etc and /var/lib one below ROOT. Files of ConfigMaps and of @TARGET=FILE are changed likewise and written below
ROOT. OUT gets a directory with NN-NAME.argv and NN-NAME.env (NUL-separated), `probes` (one URL per line), `peers` (those
that want a certificate of proxies) and `endpoint`.
"""

import json
import os
import re
import sys

HOST = "192.0.2.10"
NEIGHBOURS = {f"192.0.2.{10 + n}": f"127.0.0.{2 + n}" for n in range(3)}
ENDPOINT = "2379"


class Here:
    """How things are called here."""

    def __init__(self, port, root, out):
        self.port, self.root, self.out = int(port), root, out
        self.ports, self.processes, self.probes = {}, [], []
        os.makedirs(out)

    def new_port(self, port):
        return str(self.ports.setdefault(port, self.port + len(self.ports)))

    def address(self, found):
        return f"//{NEIGHBOURS.get(found[1], '127.0.0.1')}:{self.new_port(found[2])}"

    def text(self, text):
        text = re.sub(r"//([A-Za-z0-9.-]+):(\d{4,5})\b", self.address, text)
        return re.sub(r"(?<![\w/.])/(?=(?:etc|var/lib)/)", self.root + "/", text)

    def write(self, path, text):
        path = self.root + path
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(self.text(text))

    def add(self, name, argv, env):
        stem = f"{self.out}/{len(self.processes):02}-{name}"
        self.processes.append(name)
        for end, items in ((".argv", argv), (".env", env)):
            with open(stem + end, "w") as file:
                file.write("".join(self.text(item) + "\0" for item in items))

    def finish(self):
        scheme = "https" if any(re.search("--cert-file|ETCD_CERT_FILE", open(f"{self.out}/{name}").read()) for name in os.listdir(self.out)) else "http"
        with open(f"{self.out}/endpoint", "w") as file:
            file.write(f"{scheme}://127.0.0.1:{self.new_port(ENDPOINT)}\n")
        with open(f"{self.out}/peers", "w") as file:
            for place, name in enumerate(self.processes):
                argv, env = (open(f"{self.out}/{place:02}-{name}{end}").read() for end in (".argv", ".env"))
                if "\0brain\0" in argv:  # no other program has peers; standalone takes etcd's flag without meaning
                    urls = re.findall(r"(?:ETCD_LISTEN_PEER_URLS|--listen-peer-urls)=(https://[^,\s\0]+)", argv + env)
                    file.write("".join(url + "\n" for url in urls))
        with open(f"{self.out}/probes", "w") as file:
            file.write("".join(url + "\n" for url in dict.fromkeys(self.probes)))


def pod(here, objects):
    def of(kind):
        return [item for item in objects if item["kind"] == kind]

    pods = [item["spec"] for item in of("Pod")] + [item["spec"]["template"]["spec"] for item in of("StatefulSet")]
    if len(pods) != 1:
        raise SystemExit(f"{len(pods)} pods")
    selected(objects)
    spec = pods[0]
    for volume in spec.get("volumes", []):
        for configmap in of("ConfigMap"):
            if volume.get("configMap", {}).get("name") == configmap["metadata"]["name"]:
                for name, text in configmap["data"].items():
                    here.write(f"{mounted(spec, volume['name'])}/{name}", text)
    known = {"status.hostIP": HOST, "spec.nodeName": "node", "metadata.namespace": "kubebrain"}
    for container in spec["containers"]:
        values = {env["name"]: known[env["valueFrom"]["fieldRef"]["fieldPath"]] for env in container.get("env", [])}
        argv = container.get("command", ["/usr/local/bin/kubebrain"]) + container.get("args", [])
        argv = [re.sub(r"\$\((\w+)\)", lambda found: values[found[1]], item) for item in argv]
        check_paths(container, argv)
        here.add(container["name"], argv, [])
        names = {port["name"]: port["containerPort"] for port in container.get("ports", []) if "name" in port}
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = container.get(kind)
            if probe:
                get = probe["httpGet"]
                port = names.get(get["port"], get["port"])
                here.probes.append(here.text(f"{get.get('scheme', 'HTTP').lower()}://127.0.0.1:{port}{get['path']}"))


def mounted(spec, volume):
    return next(m["mountPath"] for c in spec["containers"] for m in c["volumeMounts"] if m["name"] == volume)


def check_paths(container, argv):
    """Every path that a flag names lies in a volume that is mounted, what is written in one that can be."""
    for item in argv[1:]:
        flag, _, value = item.partition("=")
        if not value.startswith("/"):
            continue
        mounts = [m for m in container["volumeMounts"] if (value + "/").startswith(m["mountPath"] + "/")]
        if not mounts:
            raise SystemExit(f"{container['name']}: {item} is in no volume")
        if flag == "--data-dir" and any(m.get("readOnly") for m in mounts):
            raise SystemExit(f"{container['name']}: {item} is in a volume that cannot be written")


def selected(objects):
    """Every selector finds the pod."""
    for stateful in (item for item in objects if item["kind"] == "StatefulSet"):
        labels = stateful["spec"]["template"]["metadata"]["labels"]
        for item in objects:
            spec = item.get("spec", {})
            selector = {"Service": "selector", "PodDisruptionBudget": "selector", "NetworkPolicy": "podSelector"}.get(item["kind"])
            if selector:
                wanted = spec.get(selector) or {}
                wanted = wanted.get("matchLabels", wanted)
                if not wanted or any(labels.get(key) != value for key, value in wanted.items()):
                    raise SystemExit(f"{item['kind']} {item['metadata']['name']} does not select the pod: {wanted}")
            for rule in spec.get("ingress", []) if item["kind"] == "NetworkPolicy" else []:
                for peer in rule["from"]:
                    if set(peer["podSelector"]["matchLabels"]) & set(labels):
                        raise SystemExit("the network policy lets only the pod itself in")


def unit(here, arguments):
    for argument in arguments:
        if argument.startswith("@"):
            target, _, file = argument[1:].partition("=")
            here.write(target, open(file).read())
            continue
        path, _, env = argument.partition(":")
        path, _, instance = path.partition("=")
        lines = open(path).read().replace("\\\n", " ").splitlines()
        found = dict(line.split("=", 1) for line in lines if re.match(r"[A-Za-z]+=", line))
        command = found["ExecStart"].replace("%i", instance)
        state = "/var/lib/" + found.get("StateDirectory", "").replace("%i", instance)
        argv = [item.replace("${STATE_DIRECTORY}", state) for item in command.split()]
        variables = [line for line in open(env).read().splitlines() if line and not line.startswith("#")]
        here.add(os.path.basename(path).split(".")[0].replace("@", "-") + instance, argv, variables)
    metrics = re.search(r"ETCD_LISTEN_METRICS_URLS=(http://[^,\s]+)", "\n".join(variables))
    for path in ("/livez", "/readyz", "/health?exclude=NOSPACE&serializable=true"):
        here.probes.append(here.text((metrics[1] if metrics else f"http://127.0.0.1:{ENDPOINT}") + path))


def main():
    what, port, root, out, *rest = sys.argv[1:]
    here = Here(port, root, out)
    if what == "pod":
        listed = json.load(sys.stdin)
        pod(here, listed.get("items", [listed]))
    else:
        unit(here, rest)
    here.finish()


main()
