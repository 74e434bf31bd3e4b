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
	all      = []target{brain, groups, proxy, elected}
	onGroups = []target{groups, proxy, elected}
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
		name:   "a streamed range comes in the order of its keys",
		reason: "etcd sorts each chunk by a target that has no order and goes on after the chunk's last key, so that keys come twice or not at all; here what has no order is in that of the keys",
		on:     all,
		seen: []difference{
			{"rangestream-targets", "VERSION NONE", streamedFive},
			{"rangestream-targets", "VERSION NONE limit 2", streamedTwo},
			{"rangestream-targets", "MOD NONE", streamedFive},
			{"rangestream-targets", "MOD NONE limit 2", streamedTwo},
			{"rangestream-targets", "VALUE NONE", streamedFive},
			{"rangestream-targets", "VALUE NONE limit 2", streamedTwo},
			{"rangestream-target-long", "40 keys, MOD NONE", "40 keys from \"/registry/pods/rangestream-target-long/00\" to \"/registry/pods/rangestream-target-long/39\" in several chunks: true\n{header:{cluster_id:+ member_id:+ revision:b+40 raft_term:+} count:40}"},
		},
	},
	{
		name:   "a keys-only answer carries the key's lease",
		reason: "as in etcd 3.6, deliberately: etcd 3.7 answers from its index, which has no leases, and clients that see by the lease whether somebody holds a lock hang",
		on:     all,
		seen: []difference{
			{"keys-only-lease", "keys only", `{header:{cluster_id:+ member_id:+ revision:b+2 raft_term:+} ` + leasedKeys + `}`},
			{"keys-only-lease", "one key", `{header:{cluster_id:+ member_id:+ revision:b+2 raft_term:+} kvs:[{key:"/registry/pods/keys-only-lease/leased" create_revision:b+1 mod_revision:b+1 version:1 lease:L1}] count:1}`},
			{"keys-only-lease", "in a transaction", `{header:{cluster_id:+ member_id:+ revision:b+2 raft_term:+} succeeded:true responses:[{response_range:{header:{revision:b+2} ` + leasedKeys + `}}]}`},
			{"keys-only-lease", "streamed", `{header:{cluster_id:+ member_id:+ revision:b+2 raft_term:+} ` + leasedKeys + `}`},
		},
	},
	{
		name:   "a proxy's readiness has a check for each group",
		reason: "one of its groups may be away while the others are served: a probe leaves it out by name, as it does with etcd's own checks",
		on:     []target{proxy, elected},
		seen: []difference{
			{"http", "GET /readyz?verbose", `200 text/plain; charset=utf-8 "[+]data_corruption ok\n[+]group-core ok\n[+]group-events ok\n[+]group-pods ok\n[+]linearizable_read ok\n[+]non_learner ok\n[+]serializable_read ok\nok\n"`},
			{"alarm-corrupt", "corrupt: /readyz", `503 text/plain; charset=utf-8 "\n[+]group-core ok\n[+]group-events ok\n[+]group-pods ok\n[+]linearizable_read ok\n[+]non_learner ok\n[+]serializable_read ok\n[-]data_corruption failed: alarm activated: CORRUPT\n"`},
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
		name:   "of a field that stands twice in JSON the last one counts",
		reason: "protobuf leaves it open; etcd's library refuses it",
		on:     all,
		seen: []difference{
			{"gateway-errors", `range of {"key":"YQ==","key":"YQ=="}`, `200 application/json {header:{cluster_id:"+" member_id:"+" raft_term:"+" revision:"b"}}`},
		},
	},
	{
		name:   "a stream whose requests cannot be read says so",
		reason: "etcd's gateway logs it and goes on without them: the client waits for ever, or hears nothing",
		on:     all,
		seen: []difference{
			{"gateway-watch-unread", "no message", `400 {error:{code:3 message:"<no such message>"}}`},
			{"gateway-keepalive-unread", "no message", `400 application/json {error:{code:3 message:"<no such message>"}}`},
		},
	},
	{
		name:   "a compaction of the future is that first",
		reason: "the proxy knows the groups' revisions before it asks any of them to compact, and so before it hears of an alarm",
		on:     onGroups,
		seen: []difference{
			{"alarm-corrupt", "corrupt: compact the future", `OutOfRange "etcdserver: mvcc: required revision is a future revision"`},
		},
	},
	{
		name:   "no users and roles",
		reason: "certificates decide who may connect; what a client may do inside is Kubernetes' matter",
		on:     all,
		seen: []difference{
			{"auth", "enable", refused("Auth/AuthEnable", noUsers)},
			{"auth", "disable", refused("Auth/AuthDisable", noUsers)},
			{"auth", "users", refused("Auth/UserList", noUsers)},
			{"auth", "roles", refused("Auth/RoleList", noUsers)},
			{"auth", "user get", refused("Auth/UserGet", noUsers)},
			{"auth", "role get", refused("Auth/RoleGet", noUsers)},
			{"auth", "user without a name", refused("Auth/UserAdd", noUsers)},
			{"auth", "role without a name", refused("Auth/RoleAdd", noUsers)},
			{"auth", "user add", refused("Auth/UserAdd", noUsers)},
			{"auth", "role add", refused("Auth/RoleAdd", noUsers)},
			{"auth", "grant", refused("Auth/RoleGrantPermission", noUsers)},
			{"auth", "revoke", refused("Auth/RoleRevokePermission", noUsers)},
			{"auth", "user grant", refused("Auth/UserGrantRole", noUsers)},
			{"auth", "user revoke", refused("Auth/UserRevokeRole", noUsers)},
			{"auth", "user password", refused("Auth/UserChangePassword", noUsers)},
			{"auth", "user delete", refused("Auth/UserDelete", noUsers)},
			{"auth", "role delete", refused("Auth/RoleDelete", noUsers)},
			{"gateway-auth", "user/list", refusedInJSON("Auth/UserList", noUsers)},
			{"gateway-auth", "role/list", refusedInJSON("Auth/RoleList", noUsers)},
			{"gateway-auth", "user/get", refusedInJSON("Auth/UserGet", noUsers)},
			{"gateway-auth", "role/get", refusedInJSON("Auth/RoleGet", noUsers)},
			{"gateway-auth", "enable", refusedInJSON("Auth/AuthEnable", noUsers)},
			{"ctl-auth", "enable", refusedByTool("Auth/AuthEnable", noUsers)},
			{"ctl-auth", "users", refusedByTool("Auth/UserList", noUsers)},
			{"ctl-auth", "roles", refusedByTool("Auth/RoleList", noUsers)},
		},
	},
	{
		name:   "members are not changed by calls",
		reason: "there is no consensus group: the placement names the brains",
		on:     all,
		seen: []difference{
			{"member-changes", "add with no URL", refused("Cluster/MemberAdd", noMembers)},
			{"member-changes", "add with a bad URL", refused("Cluster/MemberAdd", noMembers)},
			{"member-changes", "remove the only one", refused("Cluster/MemberRemove", noMembers)},
			{"gateway-cluster", "add", refusedInJSON("Cluster/MemberAdd", noMembers)},
		},
	},
	{
		name:   "no downgrade",
		reason: "there is no cluster version that members agree on",
		on:     all,
		seen: []difference{
			{"downgrade", "*", refused("Maintenance/Downgrade", noDowngrade)},
			{"gateway-maintenance", "downgrade", refusedInJSON("Maintenance/Downgrade", noDowngrade)},
			{"ctl-maintenance", "downgrade", refusedByTool("Maintenance/Downgrade", noDowngrade)},
		},
	},
	{
		name:   "an unknown call is refused in words of our own",
		reason: "the code is the same, and no client reads the words",
		on:     all,
		seen: []difference{
			{"unknown-method", "/etcdserverpb.KV/Nope", refused("KV/Nope", noCall)},
			{"unknown-method", "/etcdserverpb.Nope/Range", refused("Nope/Range", noCall)},
			{"unknown-method", "/nope.Nope/Nope", `Unimplemented "kubebrain: nope.Nope/Nope is not served: ` + noCall + `"`},
			{"unknown-method", "/v3electionpb.Election/Nope", `Unimplemented "kubebrain: v3electionpb.Election/Nope is not served: ` + noCall + `"`},
			{"unknown-method", "/v3lockpb.Lock/Nope", `Unimplemented "kubebrain: v3lockpb.Lock/Nope is not served: ` + noCall + `"`},
		},
	},
	{
		name:   "no quota unless it is asked for, and no storage version",
		reason: "the quota of 2 GiB guards etcd's memory-mapped file; the storage version is that file's",
		on:     all,
		seen: []difference{
			{"status", "quota", "0"},
			{"status", "storage version", "false"},
			{"ctl-endpoint", "status", "exit 0\n" + statusLine("")},
			{"ctl-endpoint", "status of the cluster", "exit 0\n" + statusLine("")},
			{"ctl-endpoint", "status, JSON", "exit 0\n[{Endpoint:+ Status:{dbSize:+ downgradeInfo:{} header:{cluster_id:+ member_id:+ raft_term:+ revision:b+1} leader:+ raftAppliedIndex:+ raftIndex:+ raftTerm:+ version:X.Y.Z}}]"},
			{"ctl-endpoint", "status, fields", statusFields},
			{"ctl-maintenance", "status", "exit 0\n" + statusLine("memberID:<id> alarm:NOSPACE")},
		},
	},
	{
		name:   "a proxy's quota is that of its groups together",
		reason: "each group's brain has a store and a quota of its own",
		on:     []target{proxy, elected},
		seen:   []difference{{"quota", "size of the quota", "12582912"}},
	},
	{
		name:   "hashes are of our own rows",
		reason: "an empty store hashes to 0, and no hash is taken at a negative revision, which etcd takes of nothing",
		on:     all,
		seen: []difference{
			{"hashkv", "fresh", "{header:{cluster_id:+ member_id:+ revision:r1 raft_term:+} compact_revision:+ hash_revision:r1}"},
			{"hashkv", "fresh at 1", "{header:{cluster_id:+ member_id:+ revision:r1 raft_term:+} compact_revision:+ hash_revision:r1}"},
			{"hashkv", "negative", `OutOfRange "etcdserver: mvcc: required revision has been compacted"`},
		},
	},
	{
		name:   "a snapshot is a file of our own",
		reason: "it holds all groups; kubebrain ctl reads and restores it, etcdutl does not",
		on:     all,
		seen: []difference{
			{"ctl-maintenance", "snapshot status", "exit 1\nstderr Error: invalid database"},
			{"ctl-maintenance", "restore", "exit status 2"},
		},
	},
	{
		name:   "a snapshot says its revision",
		reason: "etcd's stream has no header",
		on:     all,
		seen:   []difference{{"snapshot", "header", "{cluster_id:+ member_id:+ revision:r21 raft_term:+}"}},
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

// What rangestream-targets and keys-only-lease answer.
const (
	streamedFive = `{header:{cluster_id:+ member_id:+ revision:b+8 raft_term:+} kvs:[{key:"/registry/pods/rangestream-targets/a" create_revision:b+1 mod_revision:b+7 version:2 value:"9"} {key:"/registry/pods/rangestream-targets/b" create_revision:b+2 mod_revision:b+8 version:3 value:"7"} {key:"/registry/pods/rangestream-targets/c" create_revision:b+3 mod_revision:b+3 version:1 value:"3"} {key:"/registry/pods/rangestream-targets/d" create_revision:b+4 mod_revision:b+4 version:1 value:"2"} {key:"/registry/pods/rangestream-targets/e" create_revision:b+6 mod_revision:b+6 version:1 value:"0"}] count:5}`
	streamedTwo  = `{header:{cluster_id:+ member_id:+ revision:b+8 raft_term:+} kvs:[{key:"/registry/pods/rangestream-targets/a" create_revision:b+1 mod_revision:b+7 version:2 value:"9"} {key:"/registry/pods/rangestream-targets/b" create_revision:b+2 mod_revision:b+8 version:3 value:"7"}] more:true count:5}`
	leasedKeys   = `kvs:[{key:"/registry/pods/keys-only-lease/free" create_revision:b+2 mod_revision:b+2 version:1} {key:"/registry/pods/keys-only-lease/leased" create_revision:b+1 mod_revision:b+1 version:1 lease:L1}] count:2`
)

func crossing(first, one, second, other string) string {
	return `InvalidArgument "kubebrain: a transaction must stay in one group: ` + first + " belongs to " + one + ", " + second + " to " + other + `"`
}

const (
	noUsers     = "there are no users and roles: let clients show certificates (--client-cert-auth), and keep everybody else off the network"
	noMembers   = "there are no voting members to change: name the brains of each group in the placement file, and apply it by kubebrain ctl placement"
	noDowngrade = "there is no cluster version to lower: stop this program and start the other version on the same data; one that cannot read it says so and changes nothing"
	noCall      = "this program does not have this call"
)

func refused(method, why string) string {
	return `Unimplemented "kubebrain: etcdserverpb.` + method + ` is not served: ` + why + `"`
}

func refusedInJSON(method, why string) string {
	return `501 application/json {code:12 message:"kubebrain: etcdserverpb.` + method + " is not served: " + why + `"}`
}

func refusedByTool(method, why string) string {
	text := "rpc error: code = Unimplemented desc = kubebrain: etcdserverpb." + method + " is not served: " + why
	return "exit 1\nstderr log warn: retrying of unary invoker failed: " + text + "\nstderr Error: " + text
}

func statusLine(alarms string) string {
	return "http://<address>, <id>, X.Y.Z, , <size>, <size>, <part>, <size>, true, false, <n>, <n>, <n>, " + alarms + ", , false"
}

const statusFields = `exit 0
"ClusterID" : +
"MemberID" : +
"Revision" : b+1
"RaftTerm" : +
"Version" : "X.Y.Z"
"StorageVersion" : ""
"DBSize" : +
"DBSizeInUse" : <n>
"DBSizeQuota" : 0
"Leader" : +
"IsLearner" : false
"RaftIndex" : +
"RaftAppliedIndex" : +
"Errors" : []
"Endpoint" : "http://<address>"
"DowngradeTargetVersion" : ""
"DowngradeEnabled" : false
`
