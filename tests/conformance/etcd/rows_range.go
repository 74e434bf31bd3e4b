package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// five makes five keys with different values, versions and revisions, and says the revision of the last write.
func five(t *T) int64 {
	t.set(t.key("a"), "5")
	t.set(t.key("b"), "4")
	t.set(t.key("c"), "3")
	t.set(t.key("d"), "2")
	t.set(t.key("b"), "1")
	t.set(t.key("e"), "0")
	t.set(t.key("a"), "9")
	return t.set(t.key("b"), "7")
}

func (t *T) whole() *pb.RangeRequest {
	return &pb.RangeRequest{Key: []byte(t.prefix), RangeEnd: end([]byte(t.prefix))}
}

var rangeRows = []row{
	{name: "range-get", run: func(t *T) {
		t.get("missing", t.key("k"))
		t.set(t.key("k"), "v")
		t.get("there", t.key("k"))
		t.rangeOf("limit 1", &pb.RangeRequest{Key: t.key("k"), Limit: 1})
		t.set(t.key("k"), "w")
		t.get("version 2", t.key("k"))
		t.remove(t.key("k"))
		t.get("deleted", t.key("k"))
		t.set(t.key("k"), "x")
		t.get("next generation", t.key("k"))
	}},
	{name: "range-errors", run: func(t *T) {
		t.rangeOf("no key", &pb.RangeRequest{})
		t.rangeOf("no key but an end", &pb.RangeRequest{RangeEnd: []byte("z")})
		t.rangeOf("sort order", &pb.RangeRequest{Key: t.key("a"), SortOrder: 7})
		t.rangeOf("sort order below zero", &pb.RangeRequest{Key: t.key("a"), SortOrder: -1})
		t.rangeOf("sort target", &pb.RangeRequest{Key: t.key("a"), SortTarget: 9})
		t.rangeOf("sort target below zero", &pb.RangeRequest{Key: t.key("a"), SortTarget: -2})
		t.rangeOf("both", &pb.RangeRequest{SortTarget: 9, SortOrder: 9})
	}},
	{name: "range-ends", run: func(t *T) {
		five(t)
		for _, c := range []struct{ name, key, end string }{
			{"all", "a", "z"}, {"half open", "a", "c"}, {"until the key's successor", "b", "b\x00"}, {"end is the key", "b", "b"},
			{"end is before", "c", "a"}, {"nothing there", "f", "z"}, {"between keys", "aa", "bb"},
		} {
			t.rangeOf(c.name, &pb.RangeRequest{Key: t.key(c.key), RangeEnd: t.key(c.end)})
			t.rangeOf(c.name+", counted", &pb.RangeRequest{Key: t.key(c.key), RangeEnd: t.key(c.end), CountOnly: true})
		}
	}},
	{name: "range-whole-store", on: "own", run: func(t *T) {
		t.rangeOf("empty", &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
		t.get("empty get", []byte("k"))
		for _, key := range []string{"\x00", "\x00\x00", "a", "/registry/pods/x", "/registry/events/x", "/registry/minions/x", "compact_rev_key", "\xff", "\xff\xff"} {
			t.put("put "+fmt.Sprintf("%q", key), &pb.PutRequest{Key: []byte(key), Value: []byte("v")})
		}
		t.rangeOf("whole", &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
		t.rangeOf("whole, keys", &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, KeysOnly: true})
		t.rangeOf("whole, counted", &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, CountOnly: true})
		t.rangeOf("whole, limit", &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Limit: 4})
		t.rangeOf("whole, descending", &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, SortOrder: pb.RangeRequest_DESCEND, Limit: 5})
		t.rangeOf("from a key", &pb.RangeRequest{Key: []byte("/registry/n"), RangeEnd: []byte{0}})
		t.rangeOf("from beyond", &pb.RangeRequest{Key: []byte("\xff\xff\xff"), RangeEnd: []byte{0}})
		t.rangeOf("from 0xff", &pb.RangeRequest{Key: []byte("\xff"), RangeEnd: []byte{0}})
		t.rangeOf("whole at 4", &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: 4})
		t.rangeOf("whole at 1", &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: 1})
		t.rangeOf("future", &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: 100})
		t.del("delete whole", &pb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, PrevKv: true})
		t.rangeOf("deleted", &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	}},
	{name: "range-sort", run: func(t *T) {
		five(t)
		for target, targetName := range pb.RangeRequest_SortTarget_name {
			for order, orderName := range pb.RangeRequest_SortOrder_name {
				for _, limit := range []int64{0, 2} {
					q := t.whole()
					q.SortTarget, q.SortOrder, q.Limit = pb.RangeRequest_SortTarget(target), pb.RangeRequest_SortOrder(order), limit
					if target == int32(pb.RangeRequest_VERSION) {
						// Equal versions stand in any order: the limit is left to the other targets.
						q.Limit, q.KeysOnly = 0, true
						q.RangeEnd = t.key("d")
					}
					t.rangeOf(fmt.Sprintf("%s %s limit %d", targetName, orderName, limit), q)
				}
			}
		}
	}},
	{name: "range-filters", run: func(t *T) {
		last := five(t)
		for _, c := range []struct {
			name string
			set  func(*pb.RangeRequest)
		}{
			{"min mod", func(q *pb.RangeRequest) { q.MinModRevision = last - 2 }},
			{"max mod", func(q *pb.RangeRequest) { q.MaxModRevision = last - 2 }},
			{"min create", func(q *pb.RangeRequest) { q.MinCreateRevision = last - 5 }},
			{"max create", func(q *pb.RangeRequest) { q.MaxCreateRevision = last - 5 }},
			{"both mods", func(q *pb.RangeRequest) { q.MinModRevision, q.MaxModRevision = last-4, last-1 }},
			{"none left", func(q *pb.RangeRequest) { q.MinModRevision = last + 1 }},
			{"mod and create", func(q *pb.RangeRequest) { q.MinModRevision, q.MaxCreateRevision = last-3, last-6 }},
			{"filtered and sorted", func(q *pb.RangeRequest) {
				q.MaxModRevision, q.SortOrder, q.SortTarget = last-1, pb.RangeRequest_DESCEND, pb.RangeRequest_MOD
			}},
		} {
			for _, limit := range []int64{0, 1, 2, 5} {
				q := t.whole()
				c.set(q)
				q.Limit = limit
				t.rangeOf(fmt.Sprintf("%s, limit %d", c.name, limit), q)
			}
			q := t.whole()
			c.set(q)
			q.CountOnly = true
			t.rangeOf(c.name+", counted", q)
			q = t.whole()
			c.set(q)
			q.KeysOnly = true
			t.rangeOf(c.name+", keys", q)
		}
	}},
	{name: "range-limit", run: func(t *T) {
		five(t)
		for _, limit := range []int64{0, 1, 4, 5, 6, -1} {
			q := t.whole()
			q.Limit = limit
			t.rangeOf(fmt.Sprintf("limit %d", limit), q)
			q = t.whole()
			q.Limit, q.KeysOnly = limit, true
			t.rangeOf(fmt.Sprintf("limit %d, keys", limit), q)
			q = t.whole()
			q.Limit, q.CountOnly = limit, true
			t.rangeOf(fmt.Sprintf("limit %d, counted", limit), q)
		}
		q := t.whole()
		q.CountOnly, q.KeysOnly = true, true
		t.rangeOf("counted, keys", q)
		q = t.whole()
		q.Serializable = true
		t.rangeOf("serializable", q)
		q.Limit = 2
		t.rangeOf("serializable, limit 2", q)
		q = t.whole()
		q.CountOnly, q.SortOrder = true, pb.RangeRequest_DESCEND
		t.rangeOf("counted, sorted", q)
	}},
	{name: "range-pages", run: func(t *T) {
		five(t)
		key, at := []byte(t.prefix), int64(0)
		for page := range 4 {
			answer := t.rangeOf(fmt.Sprintf("page %d", page), &pb.RangeRequest{Key: key, RangeEnd: end([]byte(t.prefix)), Limit: 2, Revision: at})
			if len(answer.GetKvs()) == 0 {
				break
			}
			at = answer.Header.Revision
			key = append(answer.Kvs[len(answer.Kvs)-1].Key, 0)
			t.set(t.key(fmt.Sprintf("new%d", page)), "v")
		}
	}},
	{name: "range-revision", run: func(t *T) {
		first := t.set(t.key("a"), "1")
		t.set(t.key("b"), "1")
		t.remove(t.key("a"))
		last := t.set(t.key("a"), "2")
		for _, c := range []struct {
			name string
			at   int64
		}{{"before", first - 1}, {"first", first}, {"second", first + 1}, {"deleted", first + 2}, {"last", last}, {"negative", -5}} {
			q := t.whole()
			q.Revision = c.at
			t.rangeOf(c.name, q)
			t.rangeOf(c.name+", one key", &pb.RangeRequest{Key: t.key("a"), Revision: c.at})
			t.rangeOf(c.name+", counted", &pb.RangeRequest{Key: t.key(""), RangeEnd: end(t.key("")), Revision: c.at, CountOnly: true})
			q.Serializable = true
			t.rangeOf(c.name+", serializable", q)
		}
		t.rangeOf("future", &pb.RangeRequest{Key: t.key("a"), Revision: last + 1})
		t.rangeOf("far future", &pb.RangeRequest{Key: t.key("a"), Revision: 1 << 62})
		t.rangeOf("future, serializable", &pb.RangeRequest{Key: t.key("a"), Revision: last + 1, Serializable: true})
		t.rangeOf("future, inverted", &pb.RangeRequest{Key: t.key("b"), RangeEnd: t.key("a"), Revision: last + 1})
		t.rangeOf("past, inverted", &pb.RangeRequest{Key: t.key("b"), RangeEnd: t.key("a"), Revision: first})
	}},
	{name: "range-odd-keys", run: func(t *T) {
		odd := []string{"system:node", "@fake:ns!", "$", "$$", "a$b", "\x00", "k\x00", "k\x00\x00", "k", "k\x01", "\x80", "\xff", "\xff\xff", "\xc3\x28", "ü", "%", "a/b", "a//b", "..", " "}
		for _, name := range odd {
			t.put(fmt.Sprintf("put %q", name), &pb.PutRequest{Key: t.key(name), Value: []byte(name)})
		}
		t.list("all")
		for _, name := range odd {
			t.get(fmt.Sprintf("get %q", name), t.key(name))
		}
		t.rangeOf("from 0x80", &pb.RangeRequest{Key: t.key("\x80"), RangeEnd: end([]byte(t.prefix))})
		t.rangeOf("k and its successors", &pb.RangeRequest{Key: t.key("k"), RangeEnd: t.key("k\x00\x00\x00")})
		t.rangeOf("after k", &pb.RangeRequest{Key: t.key("k\x00"), RangeEnd: t.key("l")})
		t.del("delete k and NUL", &pb.DeleteRangeRequest{Key: t.key("k"), RangeEnd: t.key("k\x00\x00"), PrevKv: true})
		t.list("rest")
		t.put("binary value", &pb.PutRequest{Key: t.key("v"), Value: []byte{0, 1, 0xff, 0xfe, 0}})
		t.put("empty value", &pb.PutRequest{Key: t.key("w")})
		t.rangeOf("values", &pb.RangeRequest{Key: t.key("v"), RangeEnd: t.key("x")})
	}},
	// What Kubernetes asks.
	{name: "kubernetes-reads", run: func(t *T) {
		t.rangeOf("current revision", &pb.RangeRequest{Key: []byte("/registry/pods"), Limit: 1})
		t.rangeOf("current revision of a custom resource", &pb.RangeRequest{Key: []byte("/registry/example.com/widgets"), Limit: 1})
		t.rangeOf("health", &pb.RangeRequest{Key: []byte("/registry/health")})
		five(t)
		t.rangeOf("current revision after writes", &pb.RangeRequest{Key: []byte("/registry/pods"), Limit: 1})
		t.rangeOf("another kind's", &pb.RangeRequest{Key: []byte("/registry/minions"), Limit: 1})
		t.rangeOf("count", &pb.RangeRequest{Key: []byte(t.prefix), RangeEnd: end([]byte(t.prefix)), CountOnly: true})
		t.rangeOf("keys", &pb.RangeRequest{Key: []byte(t.prefix), RangeEnd: end([]byte(t.prefix)), KeysOnly: true})
		q := t.whole()
		q.Limit = 10000
		t.rangeOf("sync", q)
	}},
}

// stream reads a RangeStream to its end. How keys are cut into chunks is the server's matter: recorded are the keys,
// what the last chunk says, and whether an earlier one says anything that only the last may.
func (t *T) stream(name string, q *pb.RangeRequest) {
	ctx, cancel := context.WithTimeout(t.ctx, patience)
	defer cancel()
	stream, err := t.kv.RangeStream(ctx, q)
	if err != nil {
		t.note(name, t.failure(err))
		return
	}
	var chunks []*pb.RangeResponse
	for {
		answer, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.note(name, fmt.Sprintf("after %v chunks: %s", len(chunks) > 0, t.failure(err)))
			return
		}
		if answer.RangeResponse == nil {
			t.note(name, "A CHUNK WITHOUT AN ANSWER")
			return
		}
		chunks = append(chunks, answer.RangeResponse)
	}
	var out []string
	merged := &pb.RangeResponse{}
	for i, chunk := range chunks {
		merged.Kvs = append(merged.Kvs, chunk.Kvs...)
		if i < len(chunks)-1 && (chunk.Header != nil || chunk.Count != 0 || chunk.More || len(chunk.Kvs) == 0) {
			out = append(out, "AN EARLY CHUNK SAYS "+t.text(chunk))
		}
		merged.Header, merged.Count, merged.More = chunk.Header, chunk.Count, chunk.More
	}
	if len(merged.Kvs) > 20 {
		out = append(out, fmt.Sprintf("%d keys from %q to %q in several chunks: %t", len(merged.Kvs), merged.Kvs[0].Key, merged.Kvs[len(merged.Kvs)-1].Key, len(chunks) > 1))
		for i := 1; i < len(merged.Kvs); i++ {
			if string(merged.Kvs[i-1].Key) >= string(merged.Kvs[i].Key) {
				out = append(out, "NOT ASCENDING")
			}
		}
		merged.Kvs = nil
	}
	t.note(name, strings.Join(append(out, t.text(merged)), "\n"))
}

var streamRows = []row{
	{name: "rangestream", run: func(t *T) {
		t.stream("empty", t.whole())
		first := five(t)
		t.stream("all", t.whole())
		t.stream("one key", &pb.RangeRequest{Key: t.key("a")})
		t.stream("missing key", &pb.RangeRequest{Key: t.key("zz")})
		for _, limit := range []int64{1, 4, 5, 6} {
			q := t.whole()
			q.Limit = limit
			t.stream(fmt.Sprintf("limit %d", limit), q)
		}
		q := t.whole()
		q.Revision = first - 3
		t.stream("old", q)
		q = t.whole()
		q.Serializable = true
		t.stream("serializable", q)
		q = t.whole()
		q.KeysOnly = true
		t.stream("keys", q)
		q = t.whole()
		q.CountOnly = true
		t.stream("counted", q)
		q.Limit = 2
		t.stream("counted, limit 2", q)
		t.stream("end before key", &pb.RangeRequest{Key: t.key("b"), RangeEnd: t.key("a")})
	}},
	{name: "rangestream-errors", run: func(t *T) {
		last := five(t)
		t.stream("no key", &pb.RangeRequest{})
		t.stream("sort order", &pb.RangeRequest{Key: t.key("a"), SortOrder: 5})
		t.stream("sort target", &pb.RangeRequest{Key: t.key("a"), SortTarget: 9})
		t.stream("future", &pb.RangeRequest{Key: t.key("a"), Revision: last + 1})
		t.stream("descending", &pb.RangeRequest{Key: t.key("a"), SortOrder: pb.RangeRequest_DESCEND})
		t.stream("ascending keys", &pb.RangeRequest{Key: []byte(t.prefix), RangeEnd: end([]byte(t.prefix)), SortOrder: pb.RangeRequest_ASCEND})
		t.stream("ascending one key", &pb.RangeRequest{Key: t.key("a"), SortOrder: pb.RangeRequest_ASCEND})
		t.stream("by version", &pb.RangeRequest{Key: t.key("a"), SortTarget: pb.RangeRequest_VERSION})
		t.stream("min mod", &pb.RangeRequest{Key: t.key("a"), MinModRevision: 1})
		t.stream("max mod", &pb.RangeRequest{Key: t.key("a"), MaxModRevision: 1})
		t.stream("min create", &pb.RangeRequest{Key: t.key("a"), MinCreateRevision: 1})
		t.stream("max create", &pb.RangeRequest{Key: t.key("a"), MaxCreateRevision: 1})
		t.stream("sorted and counted", &pb.RangeRequest{Key: t.key("a"), SortOrder: pb.RangeRequest_DESCEND, CountOnly: true})
		t.compact("compact", last-1)
		t.stream("compacted", &pb.RangeRequest{Key: t.key("a"), Revision: last - 2})
		t.stream("at the compacted revision", &pb.RangeRequest{Key: t.key("a"), Revision: last - 1})
	}},
	{name: "rangestream-long", run: func(t *T) {
		for i := range 10 {
			q := &pb.TxnRequest{}
			for j := range 100 {
				q.Success = append(q.Success, opPut(t.key(fmt.Sprintf("%04d", i*100+j)), strings.Repeat("x", 1000)))
			}
			if _, err := t.kv.Txn(t.ctx, q); err != nil {
				t.note("setup", t.failure(err))
			}
		}
		t.stream("thousand keys", t.whole())
		q := t.whole()
		q.Limit = 700
		t.stream("limit 700", q)
		q = t.whole()
		q.KeysOnly = true
		t.stream("thousand names", q)
	}},
}
