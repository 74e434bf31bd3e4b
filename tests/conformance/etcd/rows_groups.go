package main

import (
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// at is a key of this row below another kind.
func (t *T) at(kind, name string) []byte {
	return []byte("/registry/" + kind + t.prefix[len("/registry/pods"):] + name)
}

// The kinds of three groups; minions are nodes and in no rule.
var kinds = []string{"pods", "events", "minions"}

// Rows that cross groups. On etcd and one brain there is nothing to cross; over groups each answer that differs is
// named in deviations.go, and all others must be as on etcd.
var groupRows = []row{
	{name: "groups-clock", on: "own", run: func(t *T) {
		for range 3 {
			for _, kind := range kinds {
				t.put("put "+kind, &pb.PutRequest{Key: t.at(kind, "a"), Value: []byte("v")})
				t.get("get "+kind, t.at(kind, "a"))
			}
		}
		for _, kind := range kinds {
			t.get("header of "+kind, t.at(kind, "none"))
			t.del("delete "+kind, &pb.DeleteRangeRequest{Key: t.at(kind, "a")})
			t.txn("txn "+kind, &pb.TxnRequest{Compare: []*pb.Compare{modIs(t.at(kind, "b"), equal, 0)}, Success: ops(opPut(t.at(kind, "b"), "1")), Failure: ops(opGet(t.at(kind, "b")))})
		}
		t.put("outside of all kinds", &pb.PutRequest{Key: []byte("outside"), Value: []byte("v")})
		t.status("status")
	}},
	{name: "groups-range", on: "own", run: func(t *T) {
		for i, kind := range kinds {
			for j := range 3 {
				t.put("put", &pb.PutRequest{Key: t.at(kind, fmt.Sprint(j)), Value: fmt.Appendf(nil, "%d", i*10+j)})
			}
		}
		whole := func(set func(*pb.RangeRequest)) *pb.RangeRequest {
			q := &pb.RangeRequest{Key: []byte("/registry/"), RangeEnd: []byte("/registry0")}
			if set != nil {
				set(q)
			}
			return q
		}
		t.rangeOf("all", whole(nil))
		t.rangeOf("keys", whole(func(q *pb.RangeRequest) { q.KeysOnly = true }))
		t.rangeOf("counted", whole(func(q *pb.RangeRequest) { q.CountOnly = true }))
		for _, limit := range []int64{1, 3, 4, 8, 9, 10} {
			t.rangeOf(fmt.Sprintf("limit %d", limit), whole(func(q *pb.RangeRequest) { q.Limit = limit }))
		}
		t.rangeOf("descending", whole(func(q *pb.RangeRequest) { q.SortOrder = pb.RangeRequest_DESCEND; q.Limit = 4 }))
		t.rangeOf("by mod revision", whole(func(q *pb.RangeRequest) {
			q.SortOrder, q.SortTarget, q.Limit = pb.RangeRequest_DESCEND, pb.RangeRequest_MOD, 5
		}))
		t.rangeOf("by version, all the same", whole(func(q *pb.RangeRequest) {
			q.SortOrder, q.SortTarget, q.Limit, q.KeysOnly = pb.RangeRequest_DESCEND, pb.RangeRequest_VERSION, 5, true
		}))
		t.rangeOf("by value", whole(func(q *pb.RangeRequest) { q.SortOrder, q.SortTarget = pb.RangeRequest_ASCEND, pb.RangeRequest_VALUE }))
		t.rangeOf("min mod", whole(func(q *pb.RangeRequest) { q.MinModRevision = 5 }))
		t.rangeOf("max create, limit", whole(func(q *pb.RangeRequest) { q.MaxCreateRevision, q.Limit = 6, 2 }))
		t.rangeOf("serializable", whole(func(q *pb.RangeRequest) { q.Serializable = true }))
		for at := int64(1); at <= 11; at++ {
			t.rangeOf(fmt.Sprintf("at %d", at), whole(func(q *pb.RangeRequest) { q.Revision = at }))
			for _, kind := range kinds {
				t.rangeOf(fmt.Sprintf("%s at %d", kind, at), &pb.RangeRequest{Key: t.at(kind, ""), RangeEnd: end(t.at(kind, "")), Revision: at, KeysOnly: true})
			}
		}
		t.stream("stream", whole(nil))
		t.stream("stream, limit", whole(func(q *pb.RangeRequest) { q.Limit = 4 }))
		t.stream("stream, old", whole(func(q *pb.RangeRequest) { q.Revision = 5 }))
		t.compact("compact", 6)
		t.rangeOf("compacted", whole(func(q *pb.RangeRequest) { q.Revision = 5 }))
		t.rangeOf("at the compacted", whole(func(q *pb.RangeRequest) { q.Revision = 6 }))
		t.compact("again", 6)
		t.compact("future", 100)
	}},
	{name: "groups-delete", on: "own", run: func(t *T) {
		for _, kind := range kinds {
			t.put("put", &pb.PutRequest{Key: t.at(kind, "a"), Value: []byte("v")})
		}
		w := t.watch()
		defer w.close()
		w.create(&pb.WatchCreateRequest{Key: []byte("/registry/"), RangeEnd: []byte("/registry0"), PrevKv: true})
		w.created(1)
		// Each group deletes at a revision of its own; which ones fall together is chance. What is recorded holds on both.
		answer, err := t.kv.DeleteRange(t.ctx, &pb.DeleteRangeRequest{Key: []byte("/registry/"), RangeEnd: []byte("/registry0"), PrevKv: true})
		if err != nil {
			t.note("all", t.failure(err))
			return
		}
		for _, kv := range answer.PrevKvs {
			t.note("deleted", t.text(kv))
		}
		w.events(3)
		time.Sleep(quiet)
		w.mutex.Lock()
		defer w.mutex.Unlock()
		var events []string
		highest, back, revisions := int64(0), 0, map[int64]bool{}
		for _, r := range w.responses {
			for _, e := range r.Events {
				if e.Kv.ModRevision < highest {
					back++
				}
				highest = max(highest, e.Kv.ModRevision)
				revisions[e.Kv.ModRevision] = true
				events = append(events, fmt.Sprintf("%s %s before %s", e.Type, e.Kv.Key, t.text(e.PrevKv)))
			}
		}
		slices.Sort(events)
		t.notef("events", "%v, %d out of order, at most one revision for each group: %t", events, back, len(revisions) <= len(kinds))
		t.notef("header", "deleted %d, the highest revision: %t", answer.Deleted, answer.Header.Revision == highest)
		left, err := t.kv.Range(t.ctx, &pb.RangeRequest{Key: []byte("/registry/"), RangeEnd: []byte("/registry0")})
		t.notef("left", "%d %v", left.GetCount(), err)
		after := t.set(t.at("pods", "a"), "v")
		t.notef("put after", "%+d", after-highest)
	}},
	{name: "groups-txn", on: "own", run: func(t *T) {
		t.put("put", &pb.PutRequest{Key: t.at("pods", "a"), Value: []byte("v")})
		both := ops(opPut(t.at("pods", "x"), "1"), opPut(t.at("events", "x"), "1"))
		t.txn("puts in two groups", &pb.TxnRequest{Success: both})
		t.txn("compare in another group", &pb.TxnRequest{Compare: []*pb.Compare{modIs(t.at("events", "none"), equal, 0)}, Success: ops(opPut(t.at("pods", "y"), "1"))})
		t.txn("failure in another group", &pb.TxnRequest{Success: ops(opPut(t.at("pods", "z"), "1")), Failure: ops(opGet(t.at("events", "z")))})
		t.txn("nested in another group", &pb.TxnRequest{Success: ops(opPut(t.at("pods", "q"), "1"), op(&pb.TxnRequest{Success: ops(opGet(t.at("minions", "q")))}))})
		t.txn("range over groups", &pb.TxnRequest{Success: ops(op(&pb.RangeRequest{Key: []byte("/registry/"), RangeEnd: []byte("/registry0")}))})
		t.txn("delete over groups", &pb.TxnRequest{Success: ops(op(&pb.DeleteRangeRequest{Key: []byte("/registry/nothing"), RangeEnd: []byte("/registry/pods/n")}))})
		t.rangeOf("what was written", &pb.RangeRequest{Key: []byte("/registry/"), RangeEnd: []byte("/registry0"), KeysOnly: true})
	}},
	{name: "groups-txn-in-one", on: "own", run: func(t *T) {
		for _, kind := range kinds {
			x, y := t.at(kind, "x"), t.at(kind, "y")
			t.txn(kind, &pb.TxnRequest{Compare: []*pb.Compare{modIs(x, equal, 0), modIs(y, equal, 0)}, Success: ops(opPut(x, "1"), op(&pb.TxnRequest{Success: ops(opPut(y, "1"))}), opGet(x))})
			t.txn(kind+" range", &pb.TxnRequest{Success: ops(op(&pb.RangeRequest{Key: t.at(kind, ""), RangeEnd: end(t.at(kind, ""))}), op(&pb.DeleteRangeRequest{Key: t.at(kind, ""), RangeEnd: end(t.at(kind, ""))}))})
		}
		t.txn("empty", &pb.TxnRequest{})
		t.txn("error before the groups are looked at", &pb.TxnRequest{Success: ops(opPut(t.at("pods", "x"), "1"), opPut(t.at("pods", "x"), "1"), opPut(t.at("events", "x"), "1"))})
	}},
	{name: "groups-lease", on: "own", run: func(t *T) {
		lease := t.grant("grant", &pb.LeaseGrantRequest{TTL: 100})
		for _, kind := range kinds {
			t.put("put "+kind, &pb.PutRequest{Key: t.at(kind, "a"), Value: []byte("v"), Lease: lease})
		}
		t.live("keys", lease, true)
		t.keepAlive("keep alive", lease)
		t.allLeases("leases")
		t.put("unknown", &pb.PutRequest{Key: t.at("events", "b"), Lease: 77})
		t.grant("same id", &pb.LeaseGrantRequest{TTL: 100, ID: lease})
		w := t.watch()
		defer w.close()
		w.create(&pb.WatchCreateRequest{Key: []byte("/registry/"), RangeEnd: []byte("/registry0")})
		w.created(1)
		t.revoke("revoke", lease)
		w.events(3)
		w.record("events")
		t.live("gone", lease, true)
		t.allLeases("none")
		t.rangeOf("left", &pb.RangeRequest{Key: []byte("/registry/"), RangeEnd: []byte("/registry0")})
		t.put("put on it", &pb.PutRequest{Key: t.at("events", "b"), Lease: lease})
	}},
	{name: "groups-lease-expiry", on: "own", run: func(t *T) {
		w := t.watch()
		defer w.close()
		w.create(&pb.WatchCreateRequest{Key: []byte("/registry/"), RangeEnd: []byte("/registry0")})
		w.created(1)
		lease := t.grant("grant", &pb.LeaseGrantRequest{TTL: 2})
		for _, kind := range kinds[:2] {
			if _, err := t.kv.Put(t.ctx, &pb.PutRequest{Key: t.at(kind, "a"), Value: []byte("v"), Lease: lease}); err != nil {
				t.note("put", t.failure(err))
			}
		}
		w.events(4)
		// One revision here, one for each group there, and those may fall together.
		left, err := t.kv.Range(t.ctx, &pb.RangeRequest{Key: []byte("/registry/"), RangeEnd: []byte("/registry0"), CountOnly: true})
		used := left.GetHeader().GetRevision() - 3
		t.notef("left", "%d, at most one revision for each group: %t, %v", left.GetCount(), used >= 1 && used <= 2, err)
	}},
	{name: "groups-watch", on: "own", run: func(t *T) {
		w := t.watch()
		defer w.close()
		w.create(&pb.WatchCreateRequest{Key: []byte("/registry/"), RangeEnd: []byte("/registry0"), PrevKv: true})
		for _, kind := range kinds {
			w.create(&pb.WatchCreateRequest{Key: t.at(kind, ""), RangeEnd: end(t.at(kind, ""))})
		}
		w.created(4)
		for round := range 3 {
			for _, kind := range kinds {
				t.put("put", &pb.PutRequest{Key: t.at(kind, "a"), Value: fmt.Append(nil, round)})
			}
		}
		t.txn("two of one group", &pb.TxnRequest{Success: ops(opPut(t.at("pods", "a"), "x"), opPut(t.at("pods", "b"), "x"))})
		w.events(11 + 11)
		w.askProgress()
		w.progress(1)
		w.record("live")
		t.once("history", &pb.WatchCreateRequest{Key: []byte("/registry/"), RangeEnd: []byte("/registry0"), StartRevision: 5}, nil, 8)
		t.once("history, filtered", &pb.WatchCreateRequest{Key: []byte("/registry/"), RangeEnd: []byte("/registry0"), StartRevision: 5, Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}}, nil, 0)
		t.compact("compact", 7)
		t.once("compacted", &pb.WatchCreateRequest{Key: []byte("/registry/"), RangeEnd: []byte("/registry0"), StartRevision: 6}, nil, 0)
		t.once("at the compacted", &pb.WatchCreateRequest{Key: []byte("/registry/"), RangeEnd: []byte("/registry0"), StartRevision: 7}, nil, 6)
		t.once("next", &pb.WatchCreateRequest{Key: []byte("/registry/"), RangeEnd: []byte("/registry0"), StartRevision: 12}, func() {
			t.put("after", &pb.PutRequest{Key: t.at("events", "z"), Value: []byte("v")})
		}, 1)
		t.once("empty range", &pb.WatchCreateRequest{Key: []byte("/registry0"), RangeEnd: []byte("/registry/")}, nil, 0)
	}},
	{name: "groups-progress", on: "own", run: func(t *T) {
		// An idle kind's watch is told of writes elsewhere.
		w := t.watch()
		defer w.close()
		t.set(t.at("pods", "a"), "v")
		w.create(&pb.WatchCreateRequest{Key: t.at("pods", ""), RangeEnd: end(t.at("pods", ""))})
		w.created(1)
		last := t.set(t.at("events", "a"), "v")
		ok := eventually(3e9, func() bool {
			w.askProgress()
			w.progress(1)
			w.mutex.Lock()
			defer w.mutex.Unlock()
			for _, r := range w.responses {
				if isProgress(r) && r.Header.Revision >= last {
					return true
				}
			}
			return false
		})
		t.notef("reaches the other group's revision", "%t", ok)
	}},
}
