"""two_proxies.py ROUNDS DIR DIR: the rounds of two-proxies over two control planes that `up` started."""
import http.client, json, re, ssl, sys, time


class Server:
    """One apiserver over one kept connection."""

    def __init__(self, directory):
        config = open(f"{directory}/kubeconfig").read()
        host, port = re.search(r"https://([\d.]+):(\d+)", config).groups()
        self.token = re.search(r'token: "(\w+)"', config)[1]
        context = ssl.create_default_context(cafile=f"{directory}/pki/ca.crt")
        self.connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=60)

    def call(self, method, path, body=None):
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        self.connection.request(method, path, json.dumps(body) if body else None, headers)
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status == 409 and method == "POST":
            return None
        if answer.status >= 300:
            sys.exit(f"{method} {path}: {answer.status} {text[:500]!r}")
        return json.loads(text)


def pod(name, mark):
    spec = {"containers": [{"name": "c", "image": "example.com/c"}], "automountServiceAccountToken": False}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"mark": mark}}, "spec": spec}


def configmap(name, mark):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"mark": mark}}}


def seen(server, path):
    """Names and marks in a consistent list (no resourceVersion), and its revision."""
    answer = server.call("GET", path)
    marks = {i["metadata"]["name"]: i["metadata"].get("labels", {}).get("mark") for i in answer["items"]}
    return marks, int(answer["metadata"]["resourceVersion"])


def expect(ok, text):
    if not ok:
        sys.exit(f"FAILED: {text}")


def round_trip(number, kind, make, writer, reader):
    path, name = f"/api/v1/namespaces/default/{kind}", f"n{number}"
    made = writer.call("POST", path, make(name, "new"))
    marks, revision = seen(reader, path)
    expect(marks.get(name) == "new", f"{kind} {name}: created through one, the other lists {marks.get(name)}")
    expect(revision >= int(made["metadata"]["resourceVersion"]), f"{kind} {name}: a list older than the write")
    made["metadata"]["labels"]["mark"] = "old"
    writer.call("PUT", f"{path}/{name}", made)
    marks, _ = seen(reader, path)
    expect(marks.get(name) == "old", f"{kind} {name}: changed through one, the other lists {marks.get(name)}")
    # and back: the reader deletes, the writer must not see it any more
    reader.call("DELETE", f"{path}/{name}?gracePeriodSeconds=0")
    marks, _ = seen(writer, path)
    expect(name not in marks, f"{kind} {name}: deleted through one, the other lists it")


def main(rounds, directories):
    servers = [Server(d) for d in directories]
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
    servers[0].call("POST", "/api/v1/namespaces/default/serviceaccounts", account)
    begin = time.monotonic()
    for number in range(rounds):
        for kind, make in (("configmaps", configmap), ("pods", pod)):
            round_trip(f"{number}a", kind, make, servers[0], servers[1])
            round_trip(f"{number}b", kind, make, servers[1], servers[0])
    print(f"{rounds} rounds of {len(servers)} directions, 2 kinds: {time.monotonic() - begin:.1f} s")


main(int(sys.argv[1]), sys.argv[2:])
