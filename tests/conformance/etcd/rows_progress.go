package main

import (
	"fmt"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// elsewhere is a key that no watcher of this row has.
func (t *T) elsewhere() []byte { return []byte(strings.TrimSuffix(t.prefix, "/") + "-other") }

// registry is a watcher of every kind: of all groups, where there are several.
func registry() *pb.WatchCreateRequest {
	return &pb.WatchCreateRequest{Key: []byte("/registry/"), RangeEnd: []byte("/registry0")}
}

// first waits for a progress notification of one watcher, and gives it.
func (w *watching) first(id int64) string {
	found := "none"
	eventually(5*time.Second, func() bool {
		w.mutex.Lock()
		defer w.mutex.Unlock()
		for _, r := range w.responses {
			if isProgress(r) && r.WatchId == id {
				found = w.t.text(r)
				return true
			}
		}
		return false
	})
	return found
}

// What a watcher hears that begins now, while nothing is written: only a start that the client has named, above all
// that was written, holds progress back.
var progressRows = []row{
	{name: "progress-from-now", on: "watch", run: func(t *T) {
		w := t.watch()
		defer w.close()
		w.create(t.all())
		w.created(1)
		w.askProgress()
		w.progress(1)
		w.create(&pb.WatchCreateRequest{Key: t.key("k")})
		w.created(2)
		w.askProgress()
		w.progress(2)
		w.record("two that begin now")
		q := t.all()
		q.StartRevision = t.base + 1
		w.create(q)
		w.created(3)
		w.askProgress()
		time.Sleep(quiet)
		w.record("beside one that begins above")
		w.drop(2)
		w.canceled(1)
		w.askProgress()
		w.progress(3)
		w.record("without it")
		t.set(t.elsewhere(), "1")
		w.askProgress()
		w.progress(4)
		w.record("after a write elsewhere")
	}},
	{name: "progress-from-now-everything", on: "watch", run: func(t *T) {
		w := t.watch()
		defer w.close()
		w.create(registry())
		w.create(t.all())
		w.created(2)
		w.askProgress()
		w.progress(1)
		w.record("quiet store")
		t.set(t.key("k"), "1")
		w.events(2)
		w.askProgress()
		w.progress(2)
		w.record("after a write")
	}},
	{name: "progress-at-a-named-start", on: "watch", run: func(t *T) {
		now := t.set(t.key("k"), "1")
		for _, start := range []int64{now - 1, now, now + 1, now + 2} {
			w := t.watch()
			q := t.all()
			q.StartRevision = start
			w.create(q)
			w.created(1)
			if start <= now {
				w.events(1)
			}
			w.askProgress()
			if start <= now {
				w.progress(1)
			}
			w.record(fmt.Sprintf("from %s", t.revision(start)))
			w.close()
		}
	}},
	{name: "progress-from-now-periodic", on: "progress", run: func(t *T) {
		w := t.watch()
		defer w.close()
		notified := func(q *pb.WatchCreateRequest, start int64) *pb.WatchCreateRequest {
			q.ProgressNotify, q.StartRevision = true, start
			return q
		}
		w.create(notified(t.all(), 0))
		w.create(notified(registry(), 0))
		w.create(notified(t.all(), t.base+1))
		w.create(notified(t.all(), t.base))
		w.create(t.all())
		w.created(5)
		for _, id := range []int64{0, 1, 3} {
			t.note(fmt.Sprintf("progress of %d", id), w.first(id))
		}
		time.Sleep(time.Second) // three intervals
		told := map[int64]bool{}
		w.mutex.Lock()
		for _, r := range w.responses {
			if isProgress(r) {
				told[r.WatchId] = true
			}
		}
		w.mutex.Unlock()
		t.notef("told", "%v", told)
	}},
	{name: "progress-client", on: "watch", run: func(t *T) {
		client := t.client()
		answers := client.Watch(t.ctx, t.prefix, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
		created := <-answers
		t.notef("created", "%t at %s", created.Created, t.revision(created.Header.Revision))
		t.notef("asked", "%v", client.RequestProgress(t.ctx))
		select {
		case answer := <-answers:
			t.notef("answered", "progress %t at %s", answer.IsProgressNotify(), t.revision(answer.Header.Revision))
		case <-time.After(5 * time.Second):
			t.note("answered", "never")
		}
	}},
}
