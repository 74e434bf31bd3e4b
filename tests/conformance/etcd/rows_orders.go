package main

import (
	"fmt"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// leasesInOrder records all leases as they are listed.
func (t *T) leasesInOrder(name string) {
	answer, err := t.lease.LeaseLeases(t.ctx, &pb.LeaseLeasesRequest{})
	if err != nil {
		t.note(name, t.failure(err))
		return
	}
	var ids []string
	for _, lease := range answer.Leases {
		ids = append(ids, t.leaseName(lease.ID))
	}
	t.note(name, strings.Join(ids, " "))
}

// What comes first, and what is left out.
var orderRows = []row{
	{name: "rangestream-targets", run: func(t *T) {
		five(t)
		for _, target := range []pb.RangeRequest_SortTarget{pb.RangeRequest_KEY, pb.RangeRequest_VERSION, pb.RangeRequest_CREATE, pb.RangeRequest_MOD, pb.RangeRequest_VALUE} {
			t.stream(fmt.Sprintf("one key, %s NONE", target), &pb.RangeRequest{Key: t.key("a"), SortTarget: target})
			q := t.whole()
			q.SortTarget = target
			t.stream(fmt.Sprintf("%s NONE", target), q)
			q.Limit = 2
			t.stream(fmt.Sprintf("%s NONE limit 2", target), q)
			q.Limit, q.CountOnly = 0, true
			t.stream(fmt.Sprintf("%s NONE counted", target), q)
			q.CountOnly, q.SortOrder = false, pb.RangeRequest_ASCEND
			t.stream(fmt.Sprintf("%s ASCEND", target), q)
			q.SortOrder = pb.RangeRequest_DESCEND
			t.stream(fmt.Sprintf("%s DESCEND", target), q)
		}
	}},
	{name: "rangestream-target-long", run: func(t *T) {
		// The keys' order is that of their revisions turned round.
		for i := range 40 {
			t.set(t.key(fmt.Sprintf("%02d", 39-i)), "v")
		}
		q := t.whole()
		q.SortTarget = pb.RangeRequest_MOD
		t.stream("40 keys, MOD NONE", q)
	}},
	{name: "rangestream-filters", run: func(t *T) {
		t.set(t.key("a"), "1")
		t.stream("min mod below zero", &pb.RangeRequest{Key: t.key("a"), MinModRevision: -1})
		t.stream("max mod below zero", &pb.RangeRequest{Key: t.key("a"), MaxModRevision: -1})
		t.stream("min create below zero", &pb.RangeRequest{Key: t.key("a"), MinCreateRevision: -1})
		t.stream("max create below zero", &pb.RangeRequest{Key: t.key("a"), MaxCreateRevision: -1})
	}},
	{name: "range-filters-below-zero", run: func(t *T) {
		five(t)
		for name, change := range map[string]func(*pb.RangeRequest){
			"min mod":    func(q *pb.RangeRequest) { q.MinModRevision = -1 },
			"max mod":    func(q *pb.RangeRequest) { q.MaxModRevision = -1 },
			"min create": func(q *pb.RangeRequest) { q.MinCreateRevision = -1 },
			"max create": func(q *pb.RangeRequest) { q.MaxCreateRevision = -1 },
		} {
			q := t.whole()
			q.KeysOnly = true
			change(q)
			t.rangeOf(name, q)
			q.Limit = 2
			t.rangeOf(name+", limit 2", q)
		}
	}},
	{name: "lease-list-order", on: "own", run: func(t *T) {
		for _, lease := range []struct{ id, ttl int64 }{{1, 3000}, {2, 1000}, {3, 2000}, {4, 1000}} {
			t.grant(fmt.Sprintf("grant %d", lease.id), &pb.LeaseGrantRequest{TTL: lease.ttl, ID: lease.id})
			time.Sleep(10 * time.Millisecond)
		}
		t.leasesInOrder("soonest first")
		t.keepAlive("keep alive", 2)
		t.leasesInOrder("the second was renewed")
		t.revoke("revoke", 3)
		t.leasesInOrder("the third is gone")
	}},
	{name: "keys-only-lease", run: func(t *T) {
		lease := t.grant("grant", &pb.LeaseGrantRequest{TTL: 1000})
		t.put("leased", &pb.PutRequest{Key: t.key("leased"), Value: []byte("v"), Lease: lease})
		t.put("free", &pb.PutRequest{Key: t.key("free"), Value: []byte("v")})
		q := t.whole()
		t.rangeOf("with values", q)
		q.KeysOnly = true
		t.rangeOf("keys only", q)
		t.rangeOf("one key", &pb.RangeRequest{Key: t.key("leased"), KeysOnly: true})
		t.txn("in a transaction", &pb.TxnRequest{Success: ops(op(q))})
		t.stream("streamed", q)
		q.SortTarget, q.SortOrder = pb.RangeRequest_VALUE, pb.RangeRequest_ASCEND
		t.rangeOf("by value", q)
		t.revoke("revoke", lease)
	}},
}
