package main

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Hashes before and after a compaction, where no history goes with it: there etcd's is the same, too.
var hashRows = []row{
	{name: "hashkv-compacted", on: "hash", run: func(t *T) {
		hash := func(revision int64) uint32 {
			answer, err := t.maintenance.HashKV(t.ctx, &pb.HashKVRequest{Revision: revision})
			if err != nil {
				t.note("hash", t.failure(err))
			}
			return answer.GetHash()
		}
		var at int64
		for i := range 5 {
			at = t.set(t.key(fmt.Sprint(i)), "v")
		}
		before := hash(at)
		later := t.set(t.key("later"), "v")
		t.notef("the same after a write", "%t", hash(at) == before)
		t.compact("compact", at)
		t.notef("the same after a compaction", "%t", hash(at) == before)
		call(t, "defragment", t.maintenance.Defragment, &pb.DefragmentRequest{})
		t.notef("the same after a defragmentation", "%t", hash(at) == before)
		t.notef("later it differs", "%t", hash(later) != before)
		t.notef("now is later", "%t", hash(0) == hash(later))
	}},
}
