package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func (t *T) live(name string, id int64, keys bool) {
	ctx, cancel := context.WithTimeout(t.ctx, patience)
	defer cancel()
	answer, err := t.lease.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: id, Keys: keys})
	if err == nil {
		// A lease's keys come in no order.
		slices.SortFunc(answer.Keys, func(a, b []byte) int { return strings.Compare(string(a), string(b)) })
	}
	t.rec(name, answer, err)
}

func (t *T) revoke(name string, id int64) {
	call(t, name, t.lease.LeaseRevoke, &pb.LeaseRevokeRequest{ID: id})
}

// keepAlive sends each id and records each answer.
func (t *T) keepAlive(name string, ids ...int64) {
	ctx, cancel := context.WithTimeout(t.ctx, patience)
	defer cancel()
	stream, err := t.lease.LeaseKeepAlive(ctx)
	if err != nil {
		t.note(name, t.failure(err))
		return
	}
	for _, id := range ids {
		if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil {
			t.note(name, t.failure(err))
			return
		}
		answer, err := stream.Recv()
		t.rec(name, answer, err)
		if err != nil {
			return
		}
	}
	_ = stream.CloseSend()
	if _, err := stream.Recv(); err != nil {
		t.note(name+" end", strings.TrimSpace(err.Error()))
	}
}

func (t *T) allLeases(name string) {
	answer, err := t.lease.LeaseLeases(t.ctx, &pb.LeaseLeasesRequest{})
	if err != nil {
		t.note(name, t.failure(err))
		return
	}
	var ids []string
	for _, lease := range answer.Leases {
		ids = append(ids, t.leaseName(lease.ID))
	}
	slices.Sort(ids)
	t.notef(name, "%s %v", t.text(answer.Header), ids)
}

var leaseRows = []row{
	{name: "lease-grant", run: func(t *T) {
		one := t.grant("picked id", &pb.LeaseGrantRequest{TTL: 100})
		two := t.grant("another", &pb.LeaseGrantRequest{TTL: 100})
		t.notef("two ids", "positive: %t, %t; different: %t", one > 0, two > 0, one != two)
		t.grant("given id", &pb.LeaseGrantRequest{TTL: 100, ID: 4242})
		t.grant("used id", &pb.LeaseGrantRequest{TTL: 100, ID: 4242})
		t.grant("used id, another TTL", &pb.LeaseGrantRequest{TTL: 10, ID: 4242})
		t.grant("used id, no TTL", &pb.LeaseGrantRequest{ID: 4242})
		t.grant("largest id", &pb.LeaseGrantRequest{TTL: 100, ID: 1<<63 - 1})
		t.grant("negative id", &pb.LeaseGrantRequest{TTL: 100, ID: -42})
		t.grant("TTL 0", &pb.LeaseGrantRequest{ID: 4243})
		t.grant("TTL 1", &pb.LeaseGrantRequest{TTL: 1, ID: 4244})
		t.grant("TTL 2", &pb.LeaseGrantRequest{TTL: 2, ID: 4245})
		t.grant("TTL 3", &pb.LeaseGrantRequest{TTL: 3, ID: 4246})
		t.grant("negative TTL", &pb.LeaseGrantRequest{TTL: -1, ID: 4247})
		t.grant("largest TTL", &pb.LeaseGrantRequest{TTL: 9_000_000_000, ID: 4248})
		t.grant("too large TTL", &pb.LeaseGrantRequest{TTL: 9_000_000_001, ID: 4249})
		t.grant("far too large TTL", &pb.LeaseGrantRequest{TTL: 1<<63 - 1, ID: 4249})
		t.get("no revision was used", t.key("k"))
		for _, id := range []int64{4242, 1<<63 - 1, -42, 4243, 4244, 4245, 4246, 4247, 4248} {
			_, _ = t.lease.LeaseRevoke(t.ctx, &pb.LeaseRevokeRequest{ID: id})
		}
	}},
	{name: "lease-unknown", run: func(t *T) {
		t.revoke("revoke", 998877)
		t.revoke("revoke 0", 0)
		t.live("time to live", 998877, false)
		t.live("time to live, keys", 998877, true)
		t.live("time to live 0", 0, true)
		t.keepAlive("keep alive", 998877, 998878)
		t.keepAlive("keep alive 0", 0)
	}},
	{name: "lease-life", on: "own", run: func(t *T) {
		t.allLeases("none")
		lease := t.grant("grant", &pb.LeaseGrantRequest{TTL: 100})
		t.live("without keys", lease, true)
		t.put("a", &pb.PutRequest{Key: t.key("a"), Value: []byte("v"), Lease: lease})
		t.put("b", &pb.PutRequest{Key: t.key("b"), Value: []byte("v"), Lease: lease})
		t.live("keys", lease, true)
		t.live("keys not asked for", lease, false)
		t.keepAlive("keep alive", lease, lease)
		t.grant("given id", &pb.LeaseGrantRequest{TTL: 50, ID: 321})
		t.allLeases("two")
		t.put("a moves", &pb.PutRequest{Key: t.key("a"), Value: []byte("v"), Lease: 321})
		t.live("keys of the first", lease, true)
		t.live("keys of the second", 321, true)
		t.put("b detaches", &pb.PutRequest{Key: t.key("b"), Value: []byte("v")})
		t.live("keys of the first now", lease, true)
		t.del("a is deleted", &pb.DeleteRangeRequest{Key: t.key("a")})
		t.live("keys of the second now", 321, true)
		t.revoke("revoke the first", lease)
		t.revoke("revoke it again", lease)
		t.live("it is gone", lease, true)
		t.keepAlive("keep the revoked alive", lease)
		t.allLeases("one")
		t.list("all")
		t.grant("its id again", &pb.LeaseGrantRequest{TTL: 50, ID: lease})
	}},
	{name: "lease-revoke", run: func(t *T) {
		lease := t.grant("grant", &pb.LeaseGrantRequest{TTL: 100})
		w := t.watch()
		defer w.close()
		w.create(&pb.WatchCreateRequest{Key: []byte(t.prefix), RangeEnd: end([]byte(t.prefix)), PrevKv: true})
		w.created(1)
		for _, name := range []string{"c", "a", "b"} {
			t.put(name, &pb.PutRequest{Key: t.key(name), Value: []byte(name), Lease: lease})
		}
		t.set(t.key("d"), "stays")
		t.revoke("revoke", lease)
		t.list("what stays")
		w.events(7)
		w.record("one revision")
		empty := t.grant("grant", &pb.LeaseGrantRequest{TTL: 100})
		t.revoke("revoke of none", empty)
	}},
	{name: "lease-moves", run: func(t *T) {
		one := t.grant("grant", &pb.LeaseGrantRequest{TTL: 100})
		two := t.grant("grant", &pb.LeaseGrantRequest{TTL: 100})
		k := t.key("k")
		t.put("on the first", &pb.PutRequest{Key: k, Value: []byte("1"), Lease: one})
		t.put("on the second", &pb.PutRequest{Key: k, Value: []byte("2"), Lease: two})
		t.revoke("revoke the first", one)
		t.get("it stays", k)
		t.revoke("revoke the second", two)
		t.get("it goes", k)
	}},
	{name: "lease-expiry", on: "slow", run: func(t *T) {
		w := t.watch()
		defer w.close()
		w.create(&pb.WatchCreateRequest{Key: []byte(t.prefix), RangeEnd: end([]byte(t.prefix)), PrevKv: true})
		w.created(1)
		lease := t.grant("grant", &pb.LeaseGrantRequest{TTL: 2})
		for _, name := range []string{"b", "a", "c"} {
			t.put(name, &pb.PutRequest{Key: t.key(name), Value: []byte(name), Lease: lease})
		}
		began := time.Now()
		w.events(6)
		t.notef("in time", "%t", time.Since(began) > 1500*time.Millisecond && time.Since(began) < 4500*time.Millisecond)
		w.record("expiry")
		t.live("gone", lease, true)
		t.keepAlive("keep alive", lease)
		t.revoke("revoke", lease)
		t.list("keys")
		t.put("put on it", &pb.PutRequest{Key: t.key("d"), Lease: lease})
	}},
	{name: "lease-kept-alive", on: "slow2", run: func(t *T) {
		kept := t.grant("grant", &pb.LeaseGrantRequest{TTL: 2})
		old := t.grant("grant", &pb.LeaseGrantRequest{TTL: 2})
		fresh := t.grant("grant", &pb.LeaseGrantRequest{TTL: 60})
		t.put("kept", &pb.PutRequest{Key: t.key("kept"), Lease: kept})
		t.put("moved", &pb.PutRequest{Key: t.key("moved"), Lease: old})
		t.put("moved again", &pb.PutRequest{Key: t.key("moved"), Lease: fresh})
		for i := range 5 {
			time.Sleep(time.Second)
			_ = i
			t.keepAlive("keep alive", kept)
		}
		t.list("both are there")
		t.live("the old one is gone", old, true)
		t.live("the fresh one has the key", fresh, true)
	}},
}

var compactRows = []row{
	{name: "compact", on: "own", run: func(t *T) {
		t.compact("nothing at -1", -1)
		t.compact("nothing at 2", 2)
		for i := range 5 {
			t.set(t.key("k"), fmt.Sprint(i))
		}
		t.set(t.key("gone"), "v")
		t.remove(t.key("gone"))
		last := t.set(t.key("k"), "last")
		t.compact("future", last+1)
		t.compact("negative", -1)
		t.compact("zero", 0)
		t.compact("compact", 4)
		t.compact("again", 4)
		t.compact("below", 3)
		t.compact("zero after", 0)
		t.compact("negative after", -1)
		for at := int64(-1); at <= last+1; at++ {
			q := t.whole()
			q.Revision = at
			t.rangeOf(fmt.Sprintf("list at %d", at), q)
			t.rangeOf(fmt.Sprintf("get at %d", at), &pb.RangeRequest{Key: t.key("k"), Revision: at})
			q.CountOnly = true
			t.rangeOf(fmt.Sprintf("count at %d", at), q)
			q.Key, q.RangeEnd = t.key("b"), t.key("a")
			t.rangeOf(fmt.Sprintf("inverted at %d", at), q)
		}
		call(t, "physical", t.kv.Compact, &pb.CompactionRequest{Revision: 6, Physical: true})
		t.rangeOf("below the physical one", &pb.RangeRequest{Key: t.key("k"), Revision: 5})
		t.rangeOf("at the physical one", &pb.RangeRequest{Key: t.key("k"), Revision: 6})
		call(t, "physical again", t.kv.Compact, &pb.CompactionRequest{Revision: 6, Physical: true})
		t.compact("to the last", last)
		t.list("all")
		q := t.whole()
		q.Revision = last
		t.rangeOf("all at the last", q)
		t.set(t.key("k"), "more")
		t.rangeOf("all at the last, after a write", q)
	}},
	{name: "compact-zero", on: "own", run: func(t *T) {
		t.compact("zero of a fresh store", 0)
		t.compact("zero again", 0)
		t.compact("one", 1)
		t.compact("one again", 1)
		t.get("read", t.key("k"))
		t.rangeOf("read at one", &pb.RangeRequest{Key: t.key("k"), Revision: 1})
	}},
	{name: "compact-deleted", run: func(t *T) {
		first := t.set(t.key("a"), "1")
		deleted := t.remove(t.key("a"))
		t.set(t.key("b"), "1")
		t.compact("at the deletion", deleted)
		t.rangeOf("read at the deletion", &pb.RangeRequest{Key: t.key("a"), Revision: deleted})
		t.rangeOf("read before", &pb.RangeRequest{Key: t.key("a"), Revision: first})
		t.once("watch from the deletion", &pb.WatchCreateRequest{Key: []byte(t.prefix), RangeEnd: end([]byte(t.prefix)), StartRevision: deleted, PrevKv: true}, nil, 2)
		t.once("watch from before", &pb.WatchCreateRequest{Key: []byte(t.prefix), RangeEnd: end([]byte(t.prefix)), StartRevision: first}, nil, 0)
	}},
	{name: "compact-history", run: func(t *T) {
		var at []int64
		for i := range 4 {
			at = append(at, t.set(t.key("a"), fmt.Sprint(i)), t.set(t.key("b"), fmt.Sprint(i)))
		}
		t.compact("compact", at[3])
		for _, revision := range at {
			q := t.whole()
			q.Revision = revision
			t.rangeOf(fmt.Sprintf("at %s", t.revision(revision)), q)
		}
		t.once("watch from the compacted", &pb.WatchCreateRequest{Key: []byte(t.prefix), RangeEnd: end([]byte(t.prefix)), StartRevision: at[3], PrevKv: true}, nil, 5)
		t.once("watch from the next", &pb.WatchCreateRequest{Key: []byte(t.prefix), RangeEnd: end([]byte(t.prefix)), StartRevision: at[4], PrevKv: true}, nil, 4)
	}},
}
