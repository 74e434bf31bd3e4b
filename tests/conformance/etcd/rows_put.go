package main

import (
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

var putRows = []row{
	{name: "put", run: func(t *T) {
		k := t.key("k")
		t.put("create", &pb.PutRequest{Key: k, Value: []byte("1")})
		t.put("same value", &pb.PutRequest{Key: k, Value: []byte("1")})
		t.put("previous", &pb.PutRequest{Key: k, Value: []byte("2"), PrevKv: true})
		t.put("no value", &pb.PutRequest{Key: k, PrevKv: true})
		t.get("read", k)
		t.put("previous of a new key", &pb.PutRequest{Key: t.key("l"), Value: []byte("2"), PrevKv: true})
		t.put("long key", &pb.PutRequest{Key: t.key(strings.Repeat("k", 4000)), Value: []byte("v"), PrevKv: true})
		t.list("all")
	}},
	{name: "put-errors", run: func(t *T) {
		k := t.key("k")
		t.put("no key", &pb.PutRequest{Value: []byte("1")})
		t.put("nothing", &pb.PutRequest{})
		t.put("ignore value, missing", &pb.PutRequest{Key: k, IgnoreValue: true})
		t.put("ignore lease, missing", &pb.PutRequest{Key: k, Value: []byte("v"), IgnoreLease: true})
		t.put("ignore both, missing", &pb.PutRequest{Key: k, IgnoreValue: true, IgnoreLease: true})
		t.put("ignore value with a value", &pb.PutRequest{Key: k, Value: []byte("v"), IgnoreValue: true})
		t.put("ignore lease with a lease", &pb.PutRequest{Key: k, Value: []byte("v"), Lease: 77, IgnoreLease: true})
		t.put("ignore both with both", &pb.PutRequest{Key: k, Value: []byte("v"), Lease: 77, IgnoreLease: true, IgnoreValue: true})
		t.put("unknown lease", &pb.PutRequest{Key: k, Value: []byte("v"), Lease: 77})
		t.put("negative lease", &pb.PutRequest{Key: k, Value: []byte("v"), Lease: -7})
		t.put("unknown lease, ignore value, missing", &pb.PutRequest{Key: k, Lease: 77, IgnoreValue: true})
		t.get("nothing was written", k)
		t.set(k, "v")
		t.put("unknown lease, ignore value", &pb.PutRequest{Key: k, Lease: 77, IgnoreValue: true})
		t.put("no key, ignore value with a value", &pb.PutRequest{Value: []byte("v"), IgnoreValue: true})
		t.get("still as it was", k)
	}},
	{name: "put-ignore", run: func(t *T) {
		k := t.key("k")
		lease := t.grant("grant", &pb.LeaseGrantRequest{TTL: 100})
		t.put("with a lease", &pb.PutRequest{Key: k, Value: []byte("1"), Lease: lease})
		t.put("ignore lease", &pb.PutRequest{Key: k, Value: []byte("2"), IgnoreLease: true, PrevKv: true})
		t.get("lease kept", k)
		t.put("ignore value", &pb.PutRequest{Key: k, IgnoreValue: true, PrevKv: true})
		t.get("value kept, lease gone", k)
		t.put("ignore value, new lease", &pb.PutRequest{Key: k, IgnoreValue: true, Lease: lease})
		t.put("ignore both", &pb.PutRequest{Key: k, IgnoreValue: true, IgnoreLease: true})
		t.get("all kept, version up", k)
	}},
	{name: "delete", run: func(t *T) {
		t.del("missing", &pb.DeleteRangeRequest{Key: t.key("k")})
		t.del("missing, previous", &pb.DeleteRangeRequest{Key: t.key("k"), PrevKv: true})
		five(t)
		t.del("one", &pb.DeleteRangeRequest{Key: t.key("a")})
		t.del("one, previous", &pb.DeleteRangeRequest{Key: t.key("b"), PrevKv: true})
		t.del("end is the key", &pb.DeleteRangeRequest{Key: t.key("c"), RangeEnd: t.key("c")})
		t.del("end before key", &pb.DeleteRangeRequest{Key: t.key("c"), RangeEnd: t.key("a"), PrevKv: true})
		t.list("rest")
		t.del("range", &pb.DeleteRangeRequest{Key: t.key("c"), RangeEnd: t.key("e"), PrevKv: true})
		t.del("range of nothing", &pb.DeleteRangeRequest{Key: t.key("c"), RangeEnd: t.key("e"), PrevKv: true})
		t.list("last")
		t.del("prefix", &pb.DeleteRangeRequest{Key: []byte(t.prefix), RangeEnd: end([]byte(t.prefix))})
		t.list("none")
	}},
	{name: "delete-errors", run: func(t *T) {
		t.del("no key", &pb.DeleteRangeRequest{})
		t.del("no key but an end", &pb.DeleteRangeRequest{RangeEnd: []byte("z")})
	}},
}
