package main

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func opPut(key []byte, value string) *pb.RequestOp {
	return op(&pb.PutRequest{Key: key, Value: []byte(value)})
}
func opGet(key []byte) *pb.RequestOp { return op(&pb.RangeRequest{Key: key}) }
func opDel(key []byte) *pb.RequestOp { return op(&pb.DeleteRangeRequest{Key: key}) }

func op(q any) *pb.RequestOp {
	switch q := q.(type) {
	case *pb.PutRequest:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: q}}
	case *pb.RangeRequest:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: q}}
	case *pb.DeleteRangeRequest:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: q}}
	case *pb.TxnRequest:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: q}}
	}
	panic("no such operation")
}

func ops(list ...*pb.RequestOp) []*pb.RequestOp { return list }

func modIs(key []byte, result pb.Compare_CompareResult, revision int64) *pb.Compare {
	return &pb.Compare{Key: key, Result: result, Target: pb.Compare_MOD, TargetUnion: &pb.Compare_ModRevision{ModRevision: revision}}
}
func createIs(key []byte, result pb.Compare_CompareResult, revision int64) *pb.Compare {
	return &pb.Compare{Key: key, Result: result, Target: pb.Compare_CREATE, TargetUnion: &pb.Compare_CreateRevision{CreateRevision: revision}}
}
func versionIs(key []byte, result pb.Compare_CompareResult, version int64) *pb.Compare {
	return &pb.Compare{Key: key, Result: result, Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{Version: version}}
}
func valueIs(key []byte, result pb.Compare_CompareResult, value string) *pb.Compare {
	return &pb.Compare{Key: key, Result: result, Target: pb.Compare_VALUE, TargetUnion: &pb.Compare_Value{Value: []byte(value)}}
}
func leaseIs(key []byte, result pb.Compare_CompareResult, lease int64) *pb.Compare {
	return &pb.Compare{Key: key, Result: result, Target: pb.Compare_LEASE, TargetUnion: &pb.Compare_Lease{Lease: lease}}
}

const (
	equal    = pb.Compare_EQUAL
	greater  = pb.Compare_GREATER
	less     = pb.Compare_LESS
	notEqual = pb.Compare_NOT_EQUAL
)

var results = []pb.Compare_CompareResult{equal, greater, less, notEqual}

// holds records only whether the compares held.
func (t *T) holds(name string, compares ...*pb.Compare) {
	answer, err := t.kv.Txn(t.ctx, &pb.TxnRequest{Compare: compares})
	if err != nil {
		t.note(name, t.failure(err))
		return
	}
	t.note(name, fmt.Sprint(answer.Succeeded))
}

func many(count int, f func(int) *pb.RequestOp) []*pb.RequestOp {
	var list []*pb.RequestOp
	for i := range count {
		list = append(list, f(i))
	}
	return list
}

var txnRows = []row{
	// The four transactions that Kubernetes sends, and what it reads from their answers.
	{name: "kubernetes-txns", on: "txn", run: func(t *T) {
		k := t.key("k")
		create := &pb.TxnRequest{Compare: []*pb.Compare{modIs(k, equal, 0)}, Success: ops(opPut(k, "1"))}
		created := t.txn("create", create)
		t.txn("create again", create)
		mod := created.GetHeader().GetRevision()
		update := func(at int64, value string) *pb.TxnRequest {
			return &pb.TxnRequest{Compare: []*pb.Compare{modIs(k, equal, at)}, Success: ops(opPut(k, value)), Failure: ops(opGet(k))}
		}
		updated := t.txn("update", update(mod, "2"))
		t.txn("update of the past", update(mod, "3"))
		t.txn("create on update, there already", update(0, "3"))
		delete := func(at int64) *pb.TxnRequest {
			return &pb.TxnRequest{Compare: []*pb.Compare{modIs(k, equal, at)}, Success: ops(opDel(k)), Failure: ops(opGet(k))}
		}
		t.txn("delete of the past", delete(mod))
		t.txn("delete", delete(updated.GetHeader().GetRevision()))
		t.txn("delete of the deleted", delete(updated.GetHeader().GetRevision()))
		t.txn("update of the deleted", update(mod, "4"))
		t.txn("create on update", update(0, "5"))
		lease := t.grant("grant", &pb.LeaseGrantRequest{TTL: 3660})
		t.txn("create with a lease", &pb.TxnRequest{Compare: []*pb.Compare{modIs(t.key("l"), equal, 0)},
			Success: ops(op(&pb.PutRequest{Key: t.key("l"), Value: []byte("v"), Lease: lease}))})
		t.get("leased", t.key("l"))
	}},
	{name: "kubernetes-compaction", on: "own", run: func(t *T) {
		k := []byte("compact_rev_key")
		lock := func(version int64, value string) *pb.TxnRequest {
			return &pb.TxnRequest{Compare: []*pb.Compare{versionIs(k, equal, version)}, Success: ops(opPut(k, value)), Failure: ops(opGet(k))}
		}
		t.get("at first", k)
		t.set(t.key("a"), "1")
		t.set(t.key("a"), "2")
		one := t.txn("first of A", lock(0, "0"))
		t.txn("first of B", lock(0, "0"))
		t.set(t.key("a"), "3")
		t.get("the compactor's read", k)
		w := t.watch()
		defer w.close()
		w.create(&pb.WatchCreateRequest{Key: k, StartRevision: one.GetHeader().GetRevision()})
		w.created(1)
		t.txn("second of A", lock(1, fmt.Sprint(one.GetHeader().GetRevision())))
		t.compact("compact", one.GetHeader().GetRevision())
		t.txn("second of B", lock(1, "3"))
		t.compact("compact again", one.GetHeader().GetRevision())
		q := t.whole()
		q.Revision = one.GetHeader().GetRevision() - 1
		t.rangeOf("list below", q)
		q.Revision++
		t.rangeOf("list at", q)
		w.events(2)
		w.record("the compactor's watch")
	}},
	{name: "txn-empty", on: "txn", run: func(t *T) {
		t.txn("nothing", &pb.TxnRequest{})
		t.txn("one compare", &pb.TxnRequest{Compare: []*pb.Compare{versionIs(t.key("k"), equal, 0)}})
		t.txn("one that fails", &pb.TxnRequest{Compare: []*pb.Compare{versionIs(t.key("k"), equal, 1)}})
		t.txn("an empty one inside", &pb.TxnRequest{Success: ops(op(&pb.TxnRequest{}))})
		t.txn("an operation without a body", &pb.TxnRequest{Success: ops(&pb.RequestOp{})})
		t.txn("one without a body on failure", &pb.TxnRequest{Failure: ops(&pb.RequestOp{})})
		t.txn("one without a body inside", &pb.TxnRequest{Success: ops(op(&pb.TxnRequest{Success: ops(&pb.RequestOp{})}))})
		t.txn("bodies that are nil", &pb.TxnRequest{Success: ops(
			&pb.RequestOp{Request: &pb.RequestOp_RequestRange{}}, &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{}})})
		t.txn("put that is nil", &pb.TxnRequest{Success: ops(&pb.RequestOp{Request: &pb.RequestOp_RequestPut{}})})
	}},
	{name: "txn-compares", on: "txn", run: func(t *T) {
		k, gone := t.key("k"), t.key("gone")
		lease := t.grant("grant", &pb.LeaseGrantRequest{TTL: 100})
		created := t.set(k, "m")
		if _, err := t.kv.Put(t.ctx, &pb.PutRequest{Key: k, Value: []byte("m"), Lease: lease}); err != nil {
			t.note("put", t.failure(err))
		}
		modified := created + 1
		for _, result := range results {
			for d := int64(-1); d <= 1; d++ {
				t.holds(fmt.Sprintf("mod %s %+d", result, d), modIs(k, result, modified+d))
				t.holds(fmt.Sprintf("create %s %+d", result, d), createIs(k, result, created+d))
				t.holds(fmt.Sprintf("version %s %+d", result, d), versionIs(k, result, 2+d))
				t.holds(fmt.Sprintf("lease %s %+d", result, d), leaseIs(k, result, lease+d))
				t.holds(fmt.Sprintf("missing mod %s %+d", result, d), modIs(gone, result, d))
				t.holds(fmt.Sprintf("missing create %s %+d", result, d), createIs(gone, result, d))
				t.holds(fmt.Sprintf("missing version %s %+d", result, d), versionIs(gone, result, d))
				t.holds(fmt.Sprintf("missing lease %s %+d", result, d), leaseIs(gone, result, d))
			}
			for _, value := range []string{"", "l", "m", "m\x00", "mm", "n", "\xff"} {
				t.holds(fmt.Sprintf("value %s %q", result, value), valueIs(k, result, value))
				t.holds(fmt.Sprintf("missing value %s %q", result, value), valueIs(gone, result, value))
			}
			t.holds(fmt.Sprintf("no union, mod %s", result), &pb.Compare{Key: k, Result: result, Target: pb.Compare_MOD})
			t.holds(fmt.Sprintf("no union, value %s", result), &pb.Compare{Key: k, Result: result, Target: pb.Compare_VALUE})
			t.holds(fmt.Sprintf("other union %s", result), &pb.Compare{Key: k, Result: result, Target: pb.Compare_MOD, TargetUnion: &pb.Compare_Version{Version: modified}})
			t.holds(fmt.Sprintf("missing, no union, mod %s", result), &pb.Compare{Key: gone, Result: result, Target: pb.Compare_MOD})
		}
		t.holds("strange result", modIs(k, 9, modified))
		t.holds("strange target", &pb.Compare{Key: k, Target: 9, TargetUnion: &pb.Compare_Version{Version: 2}})
		t.holds("no key", modIs(nil, equal, 0))
		t.holds("two that hold", modIs(k, equal, modified), valueIs(k, equal, "m"))
		t.holds("one of two", modIs(k, equal, modified), valueIs(k, equal, "x"))
	}},
	{name: "txn-compare-ranges", on: "txn", run: func(t *T) {
		first := t.set(t.key("a"), "1")
		t.set(t.key("b"), "1")
		t.set(t.key("c"), "2")
		in := func(c *pb.Compare, from, to string) *pb.Compare {
			c.Key, c.RangeEnd = t.key(from), t.key(to)
			return c
		}
		t.holds("all versions", in(versionIs(nil, equal, 1), "a", "z"))
		t.holds("all values", in(valueIs(nil, equal, "1"), "a", "z"))
		t.holds("some values", in(valueIs(nil, equal, "1"), "a", "c"))
		t.holds("less than three", in(valueIs(nil, less, "3"), "a", "z"))
		t.holds("mod greater", in(modIs(nil, greater, first-1), "a", "z"))
		t.holds("mod greater than the first", in(modIs(nil, greater, first), "a", "z"))
		t.holds("create less", in(createIs(nil, less, first+3), "a", "z"))
		t.holds("leases none", in(leaseIs(nil, equal, 0), "a", "z"))
		t.holds("empty range, version 0", in(versionIs(nil, equal, 0), "x", "z"))
		t.holds("empty range, version 1", in(versionIs(nil, equal, 1), "x", "z"))
		t.holds("empty range, value", in(valueIs(nil, equal, ""), "x", "z"))
		t.holds("empty range, value differs", in(valueIs(nil, notEqual, "x"), "x", "z"))
		t.holds("inverted range", in(versionIs(nil, equal, 0), "c", "a"))
		t.holds("inverted range, version 1", in(versionIs(nil, equal, 1), "c", "a"))
		t.holds("end is the key", in(versionIs(nil, equal, 1), "a", "a"))
		from := versionIs(t.key("c"), equal, 1)
		from.RangeEnd = end([]byte(t.prefix))
		t.holds("to the prefix's end", from)
	}},
	{name: "txn-ops", on: "txn", run: func(t *T) {
		a, b, c := t.key("a"), t.key("b"), t.key("c")
		t.set(a, "0")
		t.txn("each kind", &pb.TxnRequest{Success: ops(
			opGet(a), op(&pb.PutRequest{Key: a, Value: []byte("1"), PrevKv: true}), opGet(a), opPut(b, "1"),
			op(&pb.DeleteRangeRequest{Key: c, PrevKv: true}), op(&pb.RangeRequest{Key: []byte(t.prefix), RangeEnd: end([]byte(t.prefix))}))})
		t.txn("delete then read", &pb.TxnRequest{Success: ops(op(&pb.DeleteRangeRequest{Key: a, RangeEnd: c, PrevKv: true}), opGet(a))})
		t.txn("read only", &pb.TxnRequest{Success: ops(opGet(a), op(t.whole()))})
		t.txn("delete of nothing", &pb.TxnRequest{Success: ops(opDel(a))})
		t.txn("delete of nothing, then read", &pb.TxnRequest{Success: ops(opDel(a), opGet(a))})
		t.txn("delete twice", &pb.TxnRequest{Success: ops(opPut(b, "1"), opDel(c), opDel(c))})
		t.txn("one range twice deleted", &pb.TxnRequest{Success: ops(op(&pb.DeleteRangeRequest{Key: a, RangeEnd: c}), op(&pb.DeleteRangeRequest{Key: a, RangeEnd: c}))})
		t.txn("many puts", &pb.TxnRequest{Success: ops(opPut(a, "1"), opPut(b, "2"), opPut(c, "3"))})
		t.list("one revision")
		t.txn("failure writes", &pb.TxnRequest{Compare: []*pb.Compare{versionIs(a, equal, 9)}, Success: ops(opPut(a, "x")), Failure: ops(opPut(a, "y"), opGet(a))})
		t.txn("failure with nothing", &pb.TxnRequest{Compare: []*pb.Compare{versionIs(a, equal, 9)}, Success: ops(opPut(a, "x"))})
		t.txn("count, limit, sort", &pb.TxnRequest{Success: ops(
			op(&pb.RangeRequest{Key: []byte(t.prefix), RangeEnd: end([]byte(t.prefix)), CountOnly: true}),
			op(&pb.RangeRequest{Key: []byte(t.prefix), RangeEnd: end([]byte(t.prefix)), Limit: 1}),
			op(&pb.RangeRequest{Key: []byte(t.prefix), RangeEnd: end([]byte(t.prefix)), SortOrder: pb.RangeRequest_DESCEND, SortTarget: pb.RangeRequest_MOD, Limit: 2, KeysOnly: true}))})
		t.txn("ignore value", &pb.TxnRequest{Success: ops(op(&pb.PutRequest{Key: a, IgnoreValue: true, PrevKv: true}))})
		// A put of a transaction sees what earlier operations of it did, in its checks too.
		t.txn("delete then put of one range", &pb.TxnRequest{Success: ops(opDel(a), opPut(b, "9"))})
		t.txn("inverted ranges", &pb.TxnRequest{Success: ops(op(&pb.RangeRequest{Key: c, RangeEnd: a}), op(&pb.DeleteRangeRequest{Key: c, RangeEnd: a}))})
		t.list("end")
	}},
	{name: "txn-reads-of-the-past", on: "txn", run: func(t *T) {
		a := t.key("a")
		first := t.set(a, "1")
		last := t.set(a, "2")
		at := func(revision int64) *pb.RequestOp { return op(&pb.RangeRequest{Key: a, Revision: revision}) }
		t.txn("old", &pb.TxnRequest{Success: ops(at(first))})
		t.txn("old among writes", &pb.TxnRequest{Success: ops(opPut(a, "3"), at(last), opGet(a))})
		t.txn("future", &pb.TxnRequest{Success: ops(at(last + 5))})
		t.txn("future in the branch not taken", &pb.TxnRequest{Failure: ops(at(last + 5))})
		t.txn("future after a put", &pb.TxnRequest{Success: ops(opPut(a, "4"), at(last+50))})
		t.get("nothing was written", a)
		t.compact("compact", last)
		t.txn("compacted", &pb.TxnRequest{Success: ops(at(first))})
		t.txn("at the compacted", &pb.TxnRequest{Success: ops(at(last))})
		t.txn("compacted inside", &pb.TxnRequest{Success: ops(op(&pb.TxnRequest{Success: ops(at(first))}))})
		t.txn("its own revision", &pb.TxnRequest{Success: ops(opPut(a, "5"), at(last+2))})
	}},
	{name: "txn-nested", on: "txn", run: func(t *T) {
		a, b := t.key("a"), t.key("b")
		t.set(a, "1")
		inner := &pb.TxnRequest{Compare: []*pb.Compare{valueIs(a, equal, "1")}, Success: ops(opPut(b, "then"), opGet(b)), Failure: ops(opPut(b, "else"))}
		t.txn("inner compares see the state before", &pb.TxnRequest{Success: ops(opPut(a, "2"), op(inner), opGet(a))})
		t.txn("inner failure", &pb.TxnRequest{Success: ops(op(inner))})
		t.txn("three deep", &pb.TxnRequest{Success: ops(op(&pb.TxnRequest{Success: ops(op(&pb.TxnRequest{Success: ops(opPut(a, "3"), opGet(a))})), Failure: ops(opGet(b))}), opDel(b))})
		t.txn("on failure", &pb.TxnRequest{Compare: []*pb.Compare{versionIs(a, equal, 99)}, Failure: ops(op(&pb.TxnRequest{Success: ops(opGet(a))}))})
		t.list("end")
	}},
	{name: "txn-errors", on: "txn", run: func(t *T) {
		k := t.key("k")
		for name, operation := range map[string]*pb.RequestOp{
			"put without a key":         opPut(nil, "v"),
			"get without a key":         opGet(nil),
			"delete without a key":      opDel(nil),
			"put of value ignored":      op(&pb.PutRequest{Key: k, Value: []byte("v"), IgnoreValue: true}),
			"put of lease ignored":      op(&pb.PutRequest{Key: k, Lease: 7, IgnoreLease: true}),
			"put of nothing to ignore":  op(&pb.PutRequest{Key: k, IgnoreValue: true}),
			"put of no lease to ignore": op(&pb.PutRequest{Key: k, IgnoreLease: true}),
			"put of an unknown lease":   op(&pb.PutRequest{Key: k, Lease: 7}),
			"get of a strange order":    op(&pb.RangeRequest{Key: k, SortOrder: 9}),
			"get of a strange target":   op(&pb.RangeRequest{Key: k, SortTarget: 9}),
			"compare without a key":     op(&pb.TxnRequest{Compare: []*pb.Compare{{}}}),
		} {
			t.txn(name, &pb.TxnRequest{Success: ops(operation)})
			t.txn(name+", inside", &pb.TxnRequest{Success: ops(op(&pb.TxnRequest{Success: ops(operation)}))})
			t.txn(name+", not taken", &pb.TxnRequest{Failure: ops(operation)})
			t.txn(name+", after a put", &pb.TxnRequest{Success: ops(opPut(t.key("l"), "v"), operation)})
			t.txn(name+", inside, after a put", &pb.TxnRequest{Success: ops(opPut(t.key("m"), "v"), op(&pb.TxnRequest{Success: ops(operation)}))})
		}
		t.list("nothing was written")
	}},
	{name: "txn-put-sees-put", on: "txn", run: func(t *T) {
		k := t.key("k")
		t.set(t.key("d"), "v")
		t.txn("a put that needs what is deleted", &pb.TxnRequest{Success: ops(opDel(t.key("d")), opPut(k, "v"))})
		t.txn("ignore value after a nested put", &pb.TxnRequest{Success: ops(op(&pb.TxnRequest{Success: ops(opPut(k, "1"))}), op(&pb.PutRequest{Key: t.key("n"), IgnoreValue: true}))})
		t.list("end")
	}},
	{name: "txn-duplicates", on: "txn", run: func(t *T) {
		a, b, z := t.key("a"), t.key("b"), t.key("z")
		delRange := op(&pb.DeleteRangeRequest{Key: a, RangeEnd: z})
		inside := func(list ...*pb.RequestOp) *pb.RequestOp { return op(&pb.TxnRequest{Success: list}) }
		insideElse := func(list ...*pb.RequestOp) *pb.RequestOp { return op(&pb.TxnRequest{Failure: list}) }
		for _, c := range []struct {
			name string
			q    *pb.TxnRequest
		}{
			{"put put", &pb.TxnRequest{Success: ops(opPut(a, "1"), opPut(a, "2"))}},
			{"put put, not taken", &pb.TxnRequest{Failure: ops(opPut(a, "1"), opPut(a, "2"))}},
			{"put delete", &pb.TxnRequest{Success: ops(opPut(a, "1"), opDel(a))}},
			{"delete put", &pb.TxnRequest{Success: ops(opDel(a), opPut(a, "1"))}},
			{"put delete range", &pb.TxnRequest{Success: ops(opPut(b, "1"), delRange)}},
			{"delete range put", &pb.TxnRequest{Success: ops(delRange, opPut(b, "1"))}},
			{"delete range, put at its end", &pb.TxnRequest{Success: ops(delRange, opPut(z, "1"))}},
			{"delete from, put beyond", &pb.TxnRequest{Success: ops(op(&pb.DeleteRangeRequest{Key: b, RangeEnd: end([]byte(t.prefix))}), opPut(t.key("zz"), "1"))}},
			{"delete inverted, put inside", &pb.TxnRequest{Success: ops(op(&pb.DeleteRangeRequest{Key: z, RangeEnd: a}), opPut(b, "1"))}},
			{"delete delete", &pb.TxnRequest{Success: ops(opDel(a), opDel(a), delRange, delRange)}},
			{"then and else", &pb.TxnRequest{Success: ops(opPut(a, "1")), Failure: ops(opPut(a, "2"))}},
			{"put, put inside", &pb.TxnRequest{Success: ops(opPut(a, "1"), inside(opPut(a, "2")))}},
			{"put inside, put", &pb.TxnRequest{Success: ops(inside(opPut(a, "2")), opPut(a, "1"))}},
			{"put inside, put inside", &pb.TxnRequest{Success: ops(inside(opPut(a, "2")), inside(opPut(a, "1")))}},
			{"put inside then, put inside else", &pb.TxnRequest{Success: ops(inside(opPut(a, "2")), insideElse(opPut(a, "1")))}},
			{"then and else inside", &pb.TxnRequest{Success: ops(op(&pb.TxnRequest{Success: ops(opPut(a, "1")), Failure: ops(opPut(a, "2"))}))}},
			{"put, delete inside", &pb.TxnRequest{Success: ops(opPut(a, "1"), inside(delRange))}},
			{"delete inside, put", &pb.TxnRequest{Success: ops(inside(delRange), opPut(a, "1"))}},
			{"delete inside else, put", &pb.TxnRequest{Success: ops(insideElse(delRange), opPut(a, "1"))}},
			{"delete inside, put inside", &pb.TxnRequest{Success: ops(inside(delRange), inside(opPut(a, "1")))}},
			{"delete inside then, put inside else", &pb.TxnRequest{Success: ops(op(&pb.TxnRequest{Success: ops(delRange), Failure: ops(opPut(a, "1"))}))}},
			{"three deep", &pb.TxnRequest{Success: ops(opPut(a, "1"), inside(inside(inside(opPut(a, "2")))))}},
			{"get of a key that is put", &pb.TxnRequest{Success: ops(opGet(b), opPut(b, "1"), opGet(b))}},
		} {
			t.txn(c.name, c.q)
		}
	}},
	{name: "txn-limits", on: "txn", run: func(t *T) {
		put := func(i int) *pb.RequestOp { return opPut(t.key(fmt.Sprintf("%03d", i)), "v") }
		get := func(i int) *pb.RequestOp { return opGet(t.key("none")) }
		compares := func(count int) []*pb.Compare {
			var list []*pb.Compare
			for range count {
				list = append(list, versionIs(t.key("none"), equal, 0))
			}
			return list
		}
		refused := func(name string, q *pb.TxnRequest) {
			answer, err := t.kv.Txn(t.ctx, q)
			if err != nil {
				t.note(name, t.failure(err))
				return
			}
			t.notef(name, "%t, %d responses, %s", answer.Succeeded, len(answer.Responses), t.text(answer.Header))
		}
		refused("128 puts", &pb.TxnRequest{Success: many(128, put)})
		refused("129 puts", &pb.TxnRequest{Success: many(129, put)})
		refused("129 on failure", &pb.TxnRequest{Failure: many(129, put)})
		refused("128 compares", &pb.TxnRequest{Compare: compares(128)})
		refused("129 compares", &pb.TxnRequest{Compare: compares(129)})
		refused("128 of each", &pb.TxnRequest{Compare: compares(128), Success: many(128, get), Failure: many(128, get)})
		// A nested one is allowed what the longest list of its parent leaves.
		nested := func(outer, inner int) *pb.TxnRequest {
			return &pb.TxnRequest{Success: append(many(outer-1, get), op(&pb.TxnRequest{Success: many(inner, get)}))}
		}
		refused("1 and 127", nested(1, 127))
		refused("1 and 128", nested(1, 128))
		refused("100 and 28", nested(100, 28))
		refused("100 and 29", nested(100, 29))
		refused("128 and 0", nested(128, 0))
		refused("128 and 1", nested(128, 1))
		refused("compares count", &pb.TxnRequest{Compare: compares(100), Success: ops(op(&pb.TxnRequest{Success: many(29, get)}))})
		refused("compares inside", &pb.TxnRequest{Success: append(many(99, get), op(&pb.TxnRequest{Compare: compares(29)}))})
		refused("two nested of 127", &pb.TxnRequest{Success: ops(op(&pb.TxnRequest{Success: many(126, get)}), op(&pb.TxnRequest{Success: many(126, get)}))})
		refused("three deep, 126", &pb.TxnRequest{Success: ops(op(&pb.TxnRequest{Success: ops(op(&pb.TxnRequest{Success: many(126, get)}))}))})
		refused("three deep, 127", &pb.TxnRequest{Success: ops(op(&pb.TxnRequest{Success: ops(op(&pb.TxnRequest{Success: many(127, get)}))}))})
		refused("too many and a duplicate", &pb.TxnRequest{Success: append(many(129, put), put(0))})
	}},
	{name: "txn-leases", on: "txn", run: func(t *T) {
		lease := t.grant("grant", &pb.LeaseGrantRequest{TTL: 100})
		leased := func(name string, id int64) *pb.RequestOp {
			return op(&pb.PutRequest{Key: t.key(name), Value: []byte("v"), Lease: id})
		}
		t.txn("two on one lease", &pb.TxnRequest{Success: ops(leased("a", lease), leased("b", lease), opPut(t.key("c"), "v"))})
		t.txn("one lease is missing", &pb.TxnRequest{Success: ops(leased("d", lease), leased("e", 77))})
		t.txn("missing inside", &pb.TxnRequest{Success: ops(leased("d", lease), op(&pb.TxnRequest{Success: ops(leased("e", 77))}))})
		t.txn("missing on the branch not taken", &pb.TxnRequest{Success: ops(leased("d", lease)), Failure: ops(leased("e", 77))})
		t.list("end")
		t.live("keys of the lease", lease, true)
		t.txn("detach by put", &pb.TxnRequest{Success: ops(opPut(t.key("a"), "w"))})
		t.live("keys after", lease, true)
		call(t, "revoke", t.lease.LeaseRevoke, &pb.LeaseRevokeRequest{ID: lease})
		t.list("after the revoke")
	}},
}
