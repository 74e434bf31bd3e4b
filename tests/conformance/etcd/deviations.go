package main

// A deviation is a difference from etcd that is meant: where, why, and exactly what is answered instead.
//
// A row's answer that is neither etcd's nor named here is a failure, and so is a deviation that is no longer seen.
type deviation struct {
	name   string
	reason string
	on     []target
	seen   []difference
}

// difference is what is answered in a step of a row: patterns of path.Match, as some hold for all calls of a kind.
type difference struct{ row, step, got string }

var (
	all      = []target{brain, groups, proxy}
	onGroups = []target{groups, proxy}
)

var deviations = []deviation{
	{
		name:   "a sort without an order sorts the whole range",
		reason: "etcd cuts such a range by its limit first and sorts what is left, so the limit decides what comes first; here a limit always takes the first ones of the order",
		on:     all,
		seen: []difference{
			{"range-sort", "MOD NONE limit 2", `{header:{cluster_id:+ member_id:+ revision:b+8 raft_term:+} kvs:[{key:"/registry/pods/range-sort/c" create_revision:b+3 mod_revision:b+3 version:1 value:"3"} {key:"/registry/pods/range-sort/d" create_revision:b+4 mod_revision:b+4 version:1 value:"2"}] more:true count:5}`},
			{"range-sort", "VALUE NONE limit 2", `{header:{cluster_id:+ member_id:+ revision:b+8 raft_term:+} kvs:[{key:"/registry/pods/range-sort/e" create_revision:b+6 mod_revision:b+6 version:1 value:"0"} {key:"/registry/pods/range-sort/d" create_revision:b+4 mod_revision:b+4 version:1 value:"2"}] more:true count:5}`},
		},
	},
	{
		name:   "a streamed range takes no sort target without an order",
		reason: "etcd sorts each chunk for itself and goes on after the chunk's last key, which skips keys; here it is refused as any sort",
		on:     all,
		seen: []difference{
			{"rangestream-errors", "by version", `after false chunks: Unimplemented "RangeStream does not support custom sort orders"`},
		},
	},
	{
		name:   "the id of a watcher that a compaction has ended is free",
		reason: "etcd has told the client that the watcher is gone, and keeps its id taken until the client cancels it all the same",
		on:     all,
		seen: []difference{
			{"watch-compacted", "its id again creates", "0 1 2 3 4 1"},
			{"watch-compacted", "its id again watcher -1", missing},
			{"watch-compacted", "its id again watcher 1", "{header:{cluster_id:+ member_id:+ revision:b+4 raft_term:+} watch_id:1 created:true}\n{header:{cluster_id:+ member_id:+ raft_term:+} watch_id:1 canceled:true compact_revision:b+3}\n{header:{cluster_id:+ member_id:+ revision:b+5 raft_term:+} watch_id:1 created:true}"},
		},
	},
	{
		name:   "a body that is no message is the client's fault",
		reason: "etcd calls it Internal, in words of its protobuf library",
		on:     []target{brain},
		seen: []difference{
			{"malformed", "*", `InvalidArgument "the request is not the message that this call takes: failed to decode Protobuf message: RangeRequest.key: buffer underflow"`},
		},
	},
	{
		name:   "a body that is no message is the client's fault",
		reason: "the proxy looks at the keys alone, and finds it in its own words",
		on:     onGroups,
		seen: []difference{
			{"malformed", "*", `InvalidArgument "the request is not valid protobuf: a field ends after its message"`},
		},
	},
	{
		name:   "no JSON gateway",
		reason: "Kubernetes and etcdctl speak gRPC; /v3/... over HTTP/1 is not served",
		on:     all,
		seen:   []difference{{"http-gateway", "range", "405"}},
	},
	{
		name:   "a transaction stays in one group",
		reason: "groups have clocks of their own and no commit in common; the answer names both groups and the keys",
		on:     onGroups,
		seen: []difference{
			{"groups-txn", "puts in two groups", crossing("/registry/pods/groups-txn/x", "pods", "/registry/events/groups-txn/x", "events")},
			{"groups-txn", "compare in another group", crossing("/registry/events/groups-txn/none", "events", "/registry/pods/groups-txn/y", "pods")},
			{"groups-txn", "failure in another group", crossing("/registry/pods/groups-txn/z", "pods", "/registry/events/groups-txn/z", "events")},
			{"groups-txn", "nested in another group", crossing("/registry/pods/groups-txn/q", "pods", "/registry/minions/groups-txn/q", "core")},
			{"groups-txn", "range over groups", crossing("[/registry/, /registry0)", "core", "[/registry/, /registry0)", "events")},
			{"groups-txn", "delete over groups", crossing("[/registry/nothing, /registry/pods/n)", "core", "[/registry/nothing, /registry/pods/n)", "pods")},
			{"groups-txn", "what was written", `{header:{cluster_id:+ member_id:+ revision:r2 raft_term:+} kvs:[{key:"/registry/pods/groups-txn/a" create_revision:r2 mod_revision:r2 version:1}] count:1}`},
			{"groups-txn-in-one", "error before the groups are looked at", crossing("/registry/pods/groups-txn-in-one/x", "pods", "/registry/events/groups-txn-in-one/x", "events")},
		},
	},
	{
		name:   "the end of a lease is one revision in each group",
		reason: "each group deletes the lease's keys that it owns; the home group, which granted it, comes last",
		on:     onGroups,
		seen: []difference{
			{"groups-lease", "revoke", "{header:{cluster_id:+ member_id:+ revision:r6 raft_term:+}}"},
			{"groups-lease", "events watcher 0", "{header:{cluster_id:+ member_id:+ revision:r4 raft_term:+} created:true}\nDELETE {key:\"/registry/events/groups-lease/a\" mod_revision:r5}\nDELETE {key:\"/registry/pods/groups-lease/a\" mod_revision:r5}\nDELETE {key:\"/registry/minions/groups-lease/a\" mod_revision:r6}"},
			{"groups-lease", "gone", "{header:{cluster_id:+ member_id:+ revision:r6 raft_term:+} ID:L1 TTL:-1}"},
			{"groups-lease", "none", "{cluster_id:+ member_id:+ revision:r6 raft_term:+} []"},
			{"groups-lease", "left", "{header:{cluster_id:+ member_id:+ revision:r6 raft_term:+}}"},
		},
	},
}

func crossing(first, one, second, other string) string {
	return `InvalidArgument "kubebrain: a transaction must stay in one group: ` + first + " belongs to " + one + ", " + second + " to " + other + `"`
}
