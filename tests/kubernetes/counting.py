"""counting.py DIR OUT: on the control plane that `up` started in DIR, counts up a label of a configmap and one of a
service every 50 ms, and watches both, until it is told to end (SIGTERM). OUT gets a line for each refused or slow
write. At the end a line for each object: writes, refused ones, the longest time without one, events. Fails when a
watch ends early, or leaves out or repeats an acknowledged value."""
import http.client, json, re, signal, ssl, sys, threading, time

OBJECTS = {
    "configmap": ("/api/v1/namespaces/default/configmaps", {"apiVersion": "v1", "kind": "ConfigMap"}),
    "service": ("/api/v1/namespaces/default/services",
                {"apiVersion": "v1", "kind": "Service", "spec": {"clusterIP": "None", "selector": {"none": "none"}}}),
}
SLOW = 0.3  # seconds
stop = threading.Event()


class Server:
    """One apiserver."""

    def __init__(self, directory):
        config = open(f"{directory}/kubeconfig").read()
        host, port = re.search(r"https://([\d.]+):(\d+)", config).groups()
        self.address = host, int(port)
        self.headers = {"Authorization": "Bearer " + re.search(r'token: "(\w+)"', config)[1]}
        self.context = ssl.create_default_context(cafile=f"{directory}/pki/ca.crt")

    def connection(self, timeout=60):
        return http.client.HTTPSConnection(*self.address, context=self.context, timeout=timeout)

    def ask(self, connection, method, path, body=None, kind="application/json"):
        connection.request(method, path, json.dumps(body) if body else None, self.headers | {"Content-Type": kind})
        return connection.getresponse()


class Count:
    """One object that is counted up, and a watch of it."""

    def __init__(self, server, name, out):
        self.server, self.name, self.out = server, name, out
        self.path, self.object = OBJECTS[name]
        self.acknowledged, self.refused, self.gap, self.seen, self.ended = [], 0, 0.0, [], None

    def run(self):
        connection = self.server.connection()
        made = self.object | {"metadata": {"name": "counted", "labels": {"n": "0"}}}
        answer = self.server.ask(connection, "POST", self.path, made)
        text = answer.read()
        if answer.status == 409: # from an earlier call
            answer = self.server.ask(connection, "GET", f"{self.path}/counted")
            text = answer.read()
        if answer.status not in (200, 201):
            self.ended = f"it never began: {answer.status} {text[:300]!r}"
            return
        metadata = json.loads(text)["metadata"]
        watch = threading.Thread(target=self.watch, args=(metadata["resourceVersion"],), daemon=True)
        watch.start()
        n, last = int(metadata["labels"]["n"]), time.monotonic()
        while not stop.is_set():
            n += 1
            began = time.monotonic()
            patch = {"metadata": {"labels": {"n": str(n)}}}
            answer = self.server.ask(connection, "PATCH", f"{self.path}/counted", patch, "application/merge-patch+json")
            text, now = answer.read(), time.monotonic()
            if answer.status == 200:
                self.acknowledged.append(n)
                self.gap, last = max(self.gap, now - last), now
            else:
                self.refused += 1
            if answer.status != 200 or now - began > SLOW:
                said = "" if answer.status == 200 else json.loads(text).get("message")
                print(f"{time.strftime('%T')} {self.name} {n}: {answer.status} after {now - began:.3f} s {said}",
                      file=self.out, flush=True)
            stop.wait(0.05)
        end = time.monotonic() + 20
        newest = self.acknowledged[-1:]
        while watch.is_alive() and self.seen[-1:] < newest and time.monotonic() < end:
            time.sleep(0.05)

    def watch(self, begin):
        connection = self.server.connection(timeout=None)
        query = f"?watch=1&resourceVersion={begin}&fieldSelector=metadata.name%3Dcounted&timeoutSeconds=3600"
        answer = self.server.ask(connection, "GET", self.path + query)
        while line := answer.readline():
            event = json.loads(line)
            if event["type"] != "MODIFIED":
                self.ended = f"{event['type']} {event['object'].get('message')}"
                return
            self.seen.append(int(event["object"]["metadata"]["labels"]["n"]))
        self.ended = "its stream ended"

    def verdict(self):
        """A line, and whether it is good."""
        lost = sorted(set(self.acknowledged) - set(self.seen))
        order = all(a < b for a, b in zip(self.seen, self.seen[1:]))
        line = (f"{self.name}: {len(self.acknowledged)} writes, {self.refused} refused, "
                f"longest time without one {self.gap:.3f} s, {len(self.seen)} events")
        wrong = [f"the watch ended: {self.ended}"] * bool(self.ended)
        wrong += [f"{len(lost)} acknowledged values not seen, first {lost[0]}"] if lost else []
        wrong += [] if order else ["events out of order or repeated"]
        return line + "".join(f"; FAILED: {what}" for what in wrong), not wrong


def main(directory, path):
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with open(path, "w") as out:
        counts = [Count(Server(directory), name, out) for name in OBJECTS]
        threads = [threading.Thread(target=count.run) for count in counts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    good = True
    for line, fine in (count.verdict() for count in counts):
        print(line)
        good &= fine
    sys.exit(0 if good else 1)


main(*sys.argv[1:])
