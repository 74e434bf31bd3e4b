"""What a client written with Python's etcd3 does. The last line is "N passed, N failed"."""

import os
import sys
import threading
import time

import etcd3

HOST, PORT = os.environ["ENDPOINT"].rsplit(":", 1)
TLS_HOST, TLS_PORT = os.environ["TLS_ENDPOINT"].rsplit(":", 1)
PKI = os.environ["PKI"]
PREFIX = "/clients/python/"


def connect():
    return etcd3.client(host=HOST, port=int(PORT), timeout=10)


def until(what, holds, seconds=15):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def put_get_delete():
    client = connect()
    client.put(PREFIX + "a", "1")
    client.put(PREFIX + "b", "2")
    value, meta = client.get(PREFIX + "a")
    assert value == b"1" and meta.version == 1, (value, meta.version)
    found = [(kv.key.decode(), value) for value, kv in client.get_prefix(PREFIX, sort_order="descend", sort_target="key")]
    assert found == [(PREFIX + "b", b"2"), (PREFIX + "a", b"1")], found
    assert client.delete(PREFIX + "a") and not client.delete(PREFIX + "a")
    assert client.get(PREFIX + "a") == (None, None)


def txn():
    client = connect()
    key = PREFIX + "txn"

    def swap(old, new):
        return client.transaction(
            compare=[client.transactions.value(key) == old],
            success=[client.transactions.put(key, new), client.transactions.get(key)],
            failure=[client.transactions.get(key)],
        )

    client.put(key, "1")
    done, answers = swap("1", "2")
    assert done and answers[1][0][0] == b"2", answers
    done, answers = swap("1", "3")
    assert not done and answers[0][0][0] == b"2", answers
    assert client.replace(key, "2", "4") and not client.replace(key, "2", "5")


def watch():
    client = connect()
    heard = []
    id_ = client.add_watch_prefix_callback(PREFIX + "watch/", lambda answer: heard.extend(answer.events), prev_kv=True)
    client.put(PREFIX + "watch/a", "1")
    client.put(PREFIX + "watch/a", "2")
    client.delete(PREFIX + "watch/a")
    until("three events", lambda: len(heard) >= 3)
    client.cancel_watch(id_)
    kinds = [type(event).__name__ for event in heard]
    assert kinds == ["PutEvent", "PutEvent", "DeleteEvent"], kinds
    assert [event.value for event in heard[:2]] == [b"1", b"2"] and heard[1].prev_value == b"1"
    # from a revision on
    events, cancel = client.watch(PREFIX + "watch/a", start_revision=heard[1].mod_revision)
    again = [next(events), next(events)]
    cancel()
    assert [type(event).__name__ for event in again] == ["PutEvent", "DeleteEvent"], again


def lease():
    client = connect()
    granted = client.lease(4)
    client.put(PREFIX + "leased", "1", lease=granted)
    assert client.get(PREFIX + "leased")[1].lease_id == granted.id
    for _ in range(6):
        time.sleep(1)
        answers = list(granted.refresh())
        assert answers[0].TTL == 4, answers
    assert client.get(PREFIX + "leased")[0] == b"1", "it was kept alive"
    assert granted.granted_ttl == 4 and 0 < granted.remaining_ttl <= 4
    assert granted.keys == [(PREFIX + "leased").encode()]
    until("the lease runs out", lambda: client.get(PREFIX + "leased")[0] is None)
    other = client.lease(600)
    client.put(PREFIX + "leased", "2", lease=other)
    other.revoke()
    assert client.get(PREFIX + "leased")[0] is None, "it went with its lease"


def lock():
    one, other = connect(), connect()
    first, second = one.lock("clients-python", ttl=10), other.lock("clients-python", ttl=10)
    assert first.acquire(timeout=5) and first.is_acquired()
    assert not second.acquire(timeout=1), "it is taken"
    taken = threading.Event()
    waiter = threading.Thread(target=lambda: second.acquire(timeout=15) and taken.set(), daemon=True)
    waiter.start()
    time.sleep(0.5)
    assert not taken.is_set()
    assert first.release()
    assert taken.wait(15), "it is free"
    assert second.release()


def members():
    client = connect()
    assert len(list(client.members)) == 1
    status = client.status()
    assert status.version.startswith("3."), status.version


def tls():
    def secure(**pair):
        return etcd3.client(host=TLS_HOST, port=int(TLS_PORT), ca_cert=PKI + "/ca.crt", timeout=5, **pair)

    client = secure(cert_cert=PKI + "/client.crt", cert_key=PKI + "/client.key")
    client.put(PREFIX + "tls", "1")
    assert client.get(PREFIX + "tls")[0] == b"1"
    try:
        secure().get(PREFIX + "tls")
    except etcd3.exceptions.Etcd3Exception:
        return
    raise AssertionError("served without a certificate")


def main():
    passed = failed = 0
    for check in (put_get_delete, txn, watch, lease, lock, members, tls):
        try:
            check()
        except Exception as error:  # whatever it is, the others are run
            failed += 1
            print(f"FAILED {check.__name__}: {type(error).__name__}: {error}")
        else:
            passed += 1
            print(f"ok {check.__name__}")
    print(f"{passed} passed, {failed} failed", flush=True)
    os._exit(1 if failed else 0)  # its threads would hold the process


if __name__ == "__main__":
    sys.exit(main())
