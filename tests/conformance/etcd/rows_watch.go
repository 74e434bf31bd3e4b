package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"
)

func (t *T) all() *pb.WatchCreateRequest {
	return &pb.WatchCreateRequest{Key: []byte(t.prefix), RangeEnd: end([]byte(t.prefix))}
}

var watchRows = []row{
	{name: "watch-live", on: "watch", run: func(t *T) {
		t.once("one key", &pb.WatchCreateRequest{Key: t.key("k")}, func() {
			t.set(t.key("k"), "1")
			t.set(t.key("l"), "1")
			t.set(t.key("k"), "2")
			t.remove(t.key("k"))
			t.set(t.key("k"), "3")
		}, 4)
		q := t.all()
		q.PrevKv = true
		t.once("prefix, previous", q, func() {
			t.set(t.key("k"), "4")
			t.remove(t.key("k"))
			t.set(t.key("n"), "1")
			t.remove(t.key("missing"))
		}, 3)
	}},
	{name: "watch-ranges", on: "watch", run: func(t *T) {
		for _, c := range []struct{ name, from, to string }{{"half open", "a", "c"}, {"successor", "b", "b\x00"}} {
			t.once(c.name, &pb.WatchCreateRequest{Key: t.key(c.from), RangeEnd: t.key(c.to)}, func() {
				for _, name := range []string{"a", "b", "b\x00", "bb", "c", "d"} {
					t.set(t.key(name), "v")
				}
				t.set(t.key("b"), "end")
			}, 0)
		}
		w := t.watch()
		defer w.close()
		w.create(&pb.WatchCreateRequest{Key: t.key("a"), RangeEnd: t.key("a")})
		w.create(&pb.WatchCreateRequest{Key: t.key("b"), RangeEnd: t.key("a")})
		w.create(&pb.WatchCreateRequest{Key: t.key("b"), RangeEnd: t.key("a"), WatchId: 5})
		w.create(&pb.WatchCreateRequest{Key: t.key("a")})
		w.created(4)
		t.set(t.key("a"), "after")
		w.events(1)
		w.record("empty ranges")
	}},
	{name: "watch-whole-store", on: "own", run: func(t *T) {
		w := t.watch()
		defer w.close()
		w.create(&pb.WatchCreateRequest{})                                        // no key: the key NUL
		w.create(&pb.WatchCreateRequest{RangeEnd: []byte{0}})                     // all
		w.create(&pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}})     // all
		w.create(&pb.WatchCreateRequest{Key: []byte("m"), RangeEnd: []byte{0}})   // from m on
		w.create(&pb.WatchCreateRequest{Key: []byte("a"), RangeEnd: []byte("b")}) // a..b
		w.created(5)
		for _, key := range []string{"\x00", "a", "/registry/pods/x", "z", "/registry/events/y", "\xff"} {
			t.put("put", &pb.PutRequest{Key: []byte(key), Value: []byte("v")})
		}
		w.events(1 + 6 + 6 + 2 + 1)
		w.record("live")
		t.once("history", &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: 1}, nil, 6)
	}},
	{name: "watch-ids", on: "watch", run: func(t *T) {
		w := t.watch()
		defer w.close()
		q := func(id int64) *pb.WatchCreateRequest { return &pb.WatchCreateRequest{Key: t.key("k"), WatchId: id} }
		for _, id := range []int64{0, 0, 3, 0, 3, 0, 0, 100, -1, -2, 1, 0, 1 << 62} {
			w.create(q(id))
		}
		w.created(13)
		t.set(t.key("k"), "1")
		w.record("ids")
		w.drop(3)
		w.canceled(1)
		w.create(q(3))
		w.drop(77)
		w.drop(77)
		w.created(14)
		t.set(t.key("k"), "2")
		w.record("ids again")
	}},
	{name: "watch-cancel", on: "watch", run: func(t *T) {
		w := t.watch()
		defer w.close()
		w.create(t.all())
		w.created(1)
		t.set(t.key("k"), "1")
		w.events(1)
		w.drop(0)
		w.canceled(1)
		t.set(t.key("k"), "2")
		w.drop(0)
		w.create(t.all())
		w.created(2)
		t.set(t.key("k"), "3")
		w.events(2)
		w.record("canceled")
	}},
	{name: "watch-start-revision", on: "watch", run: func(t *T) {
		first := t.set(t.key("a"), "1")
		t.set(t.key("b"), "1")
		t.remove(t.key("a"))
		last := t.set(t.key("a"), "2")
		for _, c := range []struct {
			name   string
			start  int64
			events int
		}{{"first", first, 5}, {"second", first + 1, 4}, {"last", last, 2}, {"next", last + 1, 1}, {"beyond next", last + 3, 0}} {
			q := t.all()
			q.StartRevision, q.PrevKv = c.start, true
			w := t.watch()
			w.create(q)
			w.created(1)
			if c.name == "first" {
				t.set(t.key("c"), "now")
				w.events(5)
			} else {
				w.events(c.events)
			}
			w.record(c.name)
			w.close()
		}
		t.once("one key", &pb.WatchCreateRequest{Key: t.key("a"), StartRevision: first}, nil, 3)
		t.once("negative", &pb.WatchCreateRequest{Key: t.key("a"), StartRevision: -1}, func() { t.set(t.key("a"), "n") }, 0)
		t.once("smallest", &pb.WatchCreateRequest{Key: t.key("a"), StartRevision: -1 << 63}, nil, 0)
	}},
	{name: "watch-future", on: "watch", run: func(t *T) {
		now := t.set(t.key("a"), "1")
		q := t.all()
		q.StartRevision = now + 3
		w := t.watch()
		defer w.close()
		w.create(q)
		w.created(1)
		for i := range 5 {
			t.set(t.key("a"), fmt.Sprint(i))
		}
		w.events(3)
		w.record("events below are withheld")
		t.once("far future", &pb.WatchCreateRequest{Key: t.key("a"), StartRevision: 1 << 62}, func() { t.set(t.key("a"), "x") }, 0)
	}},
	{name: "watch-compacted", on: "watch", run: func(t *T) {
		first := t.set(t.key("a"), "1")
		t.set(t.key("a"), "2")
		at := t.set(t.key("a"), "3")
		t.set(t.key("a"), "4")
		t.compact("compact", at)
		w := t.watch()
		defer w.close()
		for _, start := range []int64{first, at - 1, 1, at, at + 1} {
			q := t.all()
			q.StartRevision, q.PrevKv = start, true
			w.create(q)
			// One after the other: which comes first is else up to chance.
			time.Sleep(quiet)
		}
		w.created(5)
		w.canceled(3)
		t.set(t.key("a"), "5")
		w.events(3 + 2)
		w.record("compacted")
		// An id that was canceled is free.
		q := t.all()
		q.WatchId = 1
		w.create(q)
		w.created(6)
		w.record("its id again")
	}},
	{name: "watch-filters", on: "watch", run: func(t *T) {
		start := t.set(t.key("z"), "0") + 1
		act := func() {
			t.set(t.key("a"), "1")
			t.set(t.key("a"), "2")
			t.remove(t.key("a"))
			t.txn("a put and a delete", &pb.TxnRequest{Success: ops(opPut(t.key("b"), "1"), opDel(t.key("z")))})
		}
		w := t.watch()
		defer w.close()
		filters := [][]pb.WatchCreateRequest_FilterType{{pb.WatchCreateRequest_NOPUT}, {pb.WatchCreateRequest_NODELETE},
			{pb.WatchCreateRequest_NOPUT, pb.WatchCreateRequest_NODELETE}, {7}, {pb.WatchCreateRequest_NOPUT, pb.WatchCreateRequest_NOPUT}}
		for _, f := range filters {
			q := t.all()
			q.Filters, q.PrevKv = f, true
			w.create(q)
		}
		w.created(5)
		act()
		w.events(2 + 3 + 0 + 5 + 2)
		w.record("live")
		h := t.watch()
		defer h.close()
		for _, f := range filters {
			q := t.all()
			q.Filters, q.StartRevision = f, start
			h.create(q)
		}
		h.created(5)
		h.events(2 + 3 + 0 + 5 + 2)
		h.record("history")
	}},
	{name: "watch-txn", on: "watch", run: func(t *T) {
		start := t.set(t.key("x"), "0") + 1
		q := t.all()
		q.PrevKv = true
		act := func() {
			t.txn("many", &pb.TxnRequest{Success: ops(opPut(t.key("c"), "1"), opPut(t.key("a"), "1"), opDel(t.key("x")), opPut(t.key("b"), "1"))})
			t.del("range", &pb.DeleteRangeRequest{Key: t.key("a"), RangeEnd: t.key("z")})
			t.txn("nested", &pb.TxnRequest{Success: ops(op(&pb.TxnRequest{Success: ops(opPut(t.key("d"), "1"))}), opPut(t.key("a"), "2"))})
			t.txn("no change", &pb.TxnRequest{Success: ops(opGet(t.key("a")))})
		}
		t.once("live", q, act, 4+3+2)
		q.StartRevision = start
		t.once("history", q, nil, 4+3+2)
		t.once("part of it", &pb.WatchCreateRequest{Key: t.key("a"), StartRevision: start}, nil, 3)
	}},
	{name: "watch-several", on: "watch", run: func(t *T) {
		w := t.watch()
		defer w.close()
		start := t.set(t.key("a"), "0")
		w.create(&pb.WatchCreateRequest{Key: t.key("a")})
		w.create(t.all())
		q := t.all()
		q.StartRevision = start
		w.create(q)
		w.create(&pb.WatchCreateRequest{Key: t.key("b")})
		w.created(4)
		t.set(t.key("a"), "1")
		t.set(t.key("b"), "1")
		t.set(t.key("c"), "1")
		w.events(1 + 3 + 4 + 1)
		w.drop(1)
		w.canceled(1)
		t.set(t.key("a"), "2")
		w.events(1 + 3 + 4 + 1 + 2)
		w.record("several")
	}},
	{name: "watch-creates-in-order", on: "watch", run: func(t *T) {
		w := t.watch()
		defer w.close()
		for i := range 200 {
			q := &pb.WatchCreateRequest{Key: t.key(fmt.Sprint(i))}
			if i%3 == 0 {
				q.StartRevision = 1 + t.base
			}
			w.create(q)
		}
		w.created(200)
		time.Sleep(quiet)
		w.mutex.Lock()
		defer w.mutex.Unlock()
		var order []string
		for _, r := range w.responses {
			if r.Created {
				order = append(order, fmt.Sprint(r.WatchId))
			}
		}
		t.note("order", strings.Join(order, " "))
	}},
	{name: "watch-history-long", on: "watch", run: func(t *T) {
		start := int64(0)
		for i := range 30 {
			q := &pb.TxnRequest{}
			for j := range 100 {
				q.Success = append(q.Success, opPut(t.key(fmt.Sprintf("%02d", j)), fmt.Sprint(i)))
			}
			answer, err := t.kv.Txn(t.ctx, q)
			if err != nil {
				t.note("setup", t.failure(err))
				return
			}
			if i == 0 {
				start = answer.Header.Revision
			}
		}
		w := t.watch()
		defer w.close()
		q := t.all()
		q.StartRevision = start
		w.create(q)
		w.events(3000)
		time.Sleep(quiet)
		w.mutex.Lock()
		defer w.mutex.Unlock()
		count, wrong := 0, 0
		for _, r := range w.responses {
			for _, e := range r.Events {
				if e.Kv.ModRevision != start+int64(count/100) || string(e.Kv.Key) != string(t.key(fmt.Sprintf("%02d", count%100))) {
					wrong++
				}
				count++
			}
		}
		t.notef("events", "%d, %d out of order", count, wrong)
	}},
	{name: "watch-fragment", on: "watch", run: func(t *T) {
		start := int64(0)
		big := &pb.TxnRequest{}
		for i := range 10 {
			big.Success = append(big.Success, opPut(t.key(fmt.Sprint(i)), strings.Repeat("x", 120_000)))
		}
		for range 3 {
			answer, err := t.kv.Txn(t.ctx, big)
			if err != nil {
				t.note("setup", t.failure(err))
				return
			}
			if start == 0 {
				start = answer.Header.Revision
			}
		}
		for _, fragment := range []bool{false, true} {
			w := t.watch()
			q := t.all()
			q.StartRevision, q.Fragment, q.PrevKv = start, fragment, true
			w.create(q)
			w.events(30)
			w.record(fmt.Sprintf("fragment %t", fragment))
			w.mutex.Lock()
			last, largest, revisions := false, 0, map[int64]bool{}
			for _, r := range w.responses {
				if r.Fragment && !fragment {
					t.note("a fragment that nobody asked for", "")
				}
				if len(r.Events) > 0 {
					last = r.Fragment
				}
				size := 0
				for _, e := range r.Events {
					size += len(e.Kv.Value) + len(e.PrevKv.GetValue())
					revisions[e.Kv.ModRevision] = true
				}
				largest = max(largest, size)
			}
			t.notef(fmt.Sprintf("fragment %t, shape", fragment), "revisions %d, the last has more to come: %t, responses within 2 MiB: %t",
				len(revisions), last, largest <= 2<<20 || !fragment)
			w.mutex.Unlock()
			w.close()
		}
	}},
	{name: "watch-progress", on: "watch", run: func(t *T) {
		w := t.watch()
		defer w.close()
		// Without a watcher there is no answer.
		w.askProgress()
		time.Sleep(quiet)
		w.create(t.all())
		w.created(1)
		w.record("nothing yet")
		t.set(t.key("a"), "1")
		w.events(1)
		w.askProgress()
		w.progress(1)
		w.askProgress()
		w.progress(2)
		// A write that nobody here watches moves it.
		t.set([]byte(strings.TrimSuffix(t.prefix, "/")+"-other"), "1")
		w.askProgress()
		w.progress(3)
		w.record("progress")
	}},
	{name: "watch-progress-fresh", on: "watch", run: func(t *T) {
		// Open at current + 1: no progress until something is written.
		w := t.watch()
		defer w.close()
		q := t.all()
		q.StartRevision = t.base + 1
		w.create(q)
		w.created(1)
		w.askProgress()
		time.Sleep(quiet)
		w.record("quiet store")
		t.set([]byte(strings.TrimSuffix(t.prefix, "/")+"-other"), "1")
		ok := eventually(5*time.Second, func() bool {
			w.askProgress()
			time.Sleep(50 * time.Millisecond)
			w.mutex.Lock()
			defer w.mutex.Unlock()
			for _, r := range w.responses {
				if isProgress(r) && r.Header.Revision >= t.base+1 {
					return true
				}
			}
			return false
		})
		t.notef("after a write elsewhere", "%t", ok)
	}},
	{name: "watch-progress-all-synced", on: "watch", run: func(t *T) {
		now := t.set(t.key("a"), "1")
		w := t.watch()
		defer w.close()
		w.create(t.all())
		q := t.all()
		q.StartRevision = now + 100
		w.create(q)
		w.created(2)
		t.set(t.key("a"), "2")
		w.events(1)
		w.askProgress()
		time.Sleep(2 * quiet)
		w.record("one watcher is ahead of all")
		w.drop(1)
		w.canceled(1)
		w.askProgress()
		w.progress(1)
		w.record("it is gone")
	}},
	{name: "watch-progress-never-early", on: "watch", run: func(t *T) {
		// Progress with a revision comes after all events up to it.
		w := t.watch()
		defer w.close()
		w.create(t.all())
		w.created(1)
		for i := range 50 {
			t.set(t.key("a"), fmt.Sprint(i))
			w.askProgress()
		}
		w.events(50)
		time.Sleep(quiet)
		w.mutex.Lock()
		defer w.mutex.Unlock()
		early, sunk, shown := 0, 0, int64(0)
		for _, r := range w.responses {
			if isProgress(r) {
				if r.WatchId != -1 {
					t.note("progress of", fmt.Sprint(r.WatchId))
				}
				if r.Header.Revision < shown {
					sunk++
				}
				shown = max(shown, r.Header.Revision)
			}
			for _, e := range r.Events {
				if e.Kv.ModRevision <= shown {
					early++
				}
			}
		}
		t.notef("order", "%d events after their progress, %d times back, some progress: %t", early, sunk, shown > 0)
	}},
	{name: "watch-progress-periodic", on: "progress", run: func(t *T) {
		w := t.watch()
		defer w.close()
		q := t.all()
		q.ProgressNotify = true
		w.create(q)
		w.create(t.all())
		w.created(2)
		t.set(t.key("a"), "1")
		w.events(2)
		t.set([]byte(strings.TrimSuffix(t.prefix, "/")+"-other"), "1")
		eventually(5*time.Second, func() bool {
			w.mutex.Lock()
			defer w.mutex.Unlock()
			count := 0
			for _, r := range w.responses {
				if isProgress(r) && r.WatchId == 0 && r.Header.Revision == t.base+2 {
					count++
				}
			}
			return count >= 2
		})
		w.mutex.Lock()
		defer w.mutex.Unlock()
		ids := map[int64]bool{}
		for _, r := range w.responses {
			if isProgress(r) {
				ids[r.WatchId] = true
				t.steps = removed(t.steps, fmt.Sprintf("progress of %d", r.WatchId))
				t.note(fmt.Sprintf("progress of %d", r.WatchId), t.text(r))
			}
		}
		t.notef("told", "%v", ids)
	}},
	{name: "watch-progress-from-history", on: "progress", run: func(t *T) {
		start := t.set(t.key("a"), "1")
		w := t.watch()
		defer w.close()
		q := t.all()
		q.ProgressNotify, q.StartRevision = true, start
		w.create(q)
		w.events(1)
		t.notef("comes", "%t", w.progress(2))
	}},
	{name: "watch-has-leader", on: "watch", run: func(t *T) {
		ctx := metadata.AppendToOutgoingContext(t.ctx, "hasleader", "true", "client-api-version", "3.7.0", "source", "cache")
		save := t.ctx
		t.ctx = ctx
		t.once("metadata", t.all(), func() { t.set(t.key("k"), "v") }, 1)
		t.get("unary", t.key("k"))
		t.ctx = metadata.AppendToOutgoingContext(save, "client-api-version", "strange")
		t.get("strange version", t.key("k"))
		t.ctx = metadata.AppendToOutgoingContext(save, "hasleader", "false")
		t.get("other value", t.key("k"))
		t.ctx = save
	}},
	{name: "watch-strange", on: "watch", run: func(t *T) {
		w := t.watch()
		defer w.close()
		w.send(&pb.WatchRequest{})
		w.create(t.all())
		w.created(1)
		t.set(t.key("k"), "1")
		w.events(1)
		w.record("a request of no kind")
	}},
	{name: "watch-half-close", on: "watch", run: func(t *T) {
		w := t.watch()
		w.create(t.all())
		w.created(1)
		_ = w.stream.CloseSend()
		select {
		case <-w.ended:
			t.note("ended", "yes")
		case <-time.After(time.Second):
			t.note("ended", "no")
		}
		w.record("half closed")
		w.close()
	}},
	{name: "watch-client", on: "watch", run: func(t *T) {
		client := t.client()
		ctx, cancel := context.WithCancel(t.ctx)
		events := client.Watch(ctx, string(t.key("k")))
		time.Sleep(quiet)
		t.set(t.key("k"), "1")
		answer := <-events
		for _, e := range answer.Events {
			t.notef("event", "%s %q %q create %t", e.Type, e.Kv.Key, e.Kv.Value, e.IsCreate())
		}
		cancel()
		_, open := <-events
		t.notef("after cancel", "%t", open)
		t.compact("compact", t.set(t.key("k"), "2"))
		for answer := range client.Watch(t.ctx, string(t.key("k")), clientv3.WithRev(t.base+1)) {
			t.notef("compacted", "%v canceled %t compact %s", answer.Err(), answer.Canceled, t.revision(answer.CompactRevision))
		}
	}},
}

func removed(steps []step, name string) []step {
	var rest []step
	for _, s := range steps {
		if s.name != name {
			rest = append(rest, s)
		}
	}
	return rest
}
