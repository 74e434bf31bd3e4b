package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// tryAll records what each kind of call says while the server is in a special state.
func (t *T) tryAll(name string, lease int64) {
	k := t.key("try")
	t.put(name+": put", &pb.PutRequest{Key: k, Value: []byte("v")})
	t.get(name+": get", k)
	t.rangeOf(name+": serializable get", &pb.RangeRequest{Key: k, Serializable: true})
	t.stream(name+": stream", &pb.RangeRequest{Key: k})
	t.txn(name+": txn with a put", &pb.TxnRequest{Success: ops(opPut(k, "v"))})
	t.txn(name+": txn with a put on failure", &pb.TxnRequest{Failure: ops(opPut(k, "v"))})
	t.txn(name+": txn with a nested put", &pb.TxnRequest{Success: ops(op(&pb.TxnRequest{Success: ops(opPut(k, "v"))}))})
	t.txn(name+": txn that reads", &pb.TxnRequest{Success: ops(opGet(k))})
	t.txn(name+": txn that deletes", &pb.TxnRequest{Success: ops(opDel(k))})
	t.del(name+": delete", &pb.DeleteRangeRequest{Key: k})
	t.grant(name+": grant", &pb.LeaseGrantRequest{TTL: 100})
	t.keepAlive(name+": keep alive", lease)
	t.live(name+": time to live", lease, false)
	t.compact(name+": compact the future", 1<<40)
	t.status(name + ": status")
	call(t, name+": alarms", t.maintenance.Alarm, &pb.AlarmRequest{})
	t.http(name+": /health", "/health")
	t.http(name+": /health without NOSPACE", "/health?exclude=NOSPACE")
	t.http(name+": /livez", "/livez")
	t.http(name+": /readyz", "/readyz")
	t.once(name+": watch", &pb.WatchCreateRequest{Key: k}, nil, 0)
}

// status records all but the numbers of the storage, which the row "status" looks at.
func (t *T) status(name string) *pb.StatusResponse {
	ctx, cancel := context.WithTimeout(t.ctx, patience)
	defer cancel()
	answer, err := t.maintenance.Status(ctx, &pb.StatusRequest{})
	if err != nil {
		t.note(name, t.failure(err))
		return answer
	}
	shown := proto.Clone(answer).(*pb.StatusResponse)
	shown.StorageVersion, shown.DbSizeQuota, shown.DbSizeInUse = "", 0, 0
	t.note(name, t.text(shown))
	return answer
}

func (t *T) member() uint64 {
	answer, err := t.maintenance.Status(t.ctx, &pb.StatusRequest{})
	if err != nil {
		t.note("member", t.failure(err))
		return 0
	}
	return answer.Header.MemberId
}

var maintenanceRows = []row{
	{name: "status", on: "own", run: func(t *T) {
		t.status("fresh")
		t.set(t.key("k"), "v")
		answer := t.status("after a write")
		t.notef("quota", "%d", answer.GetDbSizeQuota())
		t.notef("storage version", "%t", versions.MatchString(answer.GetStorageVersion()))
		t.notef("leader of one", "%t", answer.GetLeader() == answer.GetHeader().GetMemberId())
		t.notef("sizes", "%t", answer.GetDbSize() >= answer.GetDbSizeInUse())
	}},
	{name: "alarm-nospace", on: "own", run: func(t *T) {
		alarm := func(name string, action pb.AlarmRequest_AlarmAction, kind pb.AlarmType, member uint64) {
			call(t, name, t.maintenance.Alarm, &pb.AlarmRequest{Action: action, Alarm: kind, MemberID: member})
		}
		me := t.member()
		lease := t.grant("grant", &pb.LeaseGrantRequest{TTL: 100})
		alarm("none", pb.AlarmRequest_GET, pb.AlarmType_NONE, 0)
		alarm("deactivate what is not", pb.AlarmRequest_DEACTIVATE, pb.AlarmType_NOSPACE, me)
		alarm("activate", pb.AlarmRequest_ACTIVATE, pb.AlarmType_NOSPACE, me)
		alarm("activate again", pb.AlarmRequest_ACTIVATE, pb.AlarmType_NOSPACE, me)
		alarm("get", pb.AlarmRequest_GET, pb.AlarmType_NONE, 0)
		alarm("get NOSPACE", pb.AlarmRequest_GET, pb.AlarmType_NOSPACE, 0)
		alarm("get CORRUPT", pb.AlarmRequest_GET, pb.AlarmType_CORRUPT, 0)
		t.tryAll("no space", lease)
		alarm("deactivate another member's", pb.AlarmRequest_DEACTIVATE, pb.AlarmType_NOSPACE, me+1)
		t.put("still", &pb.PutRequest{Key: t.key("k")})
		alarm("deactivate", pb.AlarmRequest_DEACTIVATE, pb.AlarmType_NOSPACE, me)
		alarm("get none", pb.AlarmRequest_GET, pb.AlarmType_NONE, 0)
		t.put("put again", &pb.PutRequest{Key: t.key("k")})
	}},
	{name: "alarm-corrupt", on: "own", run: func(t *T) {
		me := t.member()
		lease := t.grant("grant", &pb.LeaseGrantRequest{TTL: 100})
		call(t, "activate", t.maintenance.Alarm, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_CORRUPT, MemberID: me})
		t.tryAll("corrupt", lease)
		call(t, "deactivate", t.maintenance.Alarm, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, Alarm: pb.AlarmType_CORRUPT, MemberID: me})
		t.put("put again", &pb.PutRequest{Key: t.key("k")})
	}},
	{name: "quota", on: "quota", run: func(t *T) {
		value, full := bytes.Repeat([]byte("x"), 100_000), ""
		for i := range 200 {
			ctx, cancel := context.WithTimeout(t.ctx, patience)
			_, err := t.kv.Put(ctx, &pb.PutRequest{Key: t.key(fmt.Sprint(i)), Value: value})
			cancel()
			if err != nil {
				full = t.failure(err)
				break
			}
		}
		t.note("in the end", full)
		alarms, err := t.maintenance.Alarm(t.ctx, &pb.AlarmRequest{})
		member := uint64(0) // over groups that of the brain that is full
		for _, alarm := range alarms.GetAlarms() {
			t.note("alarm", t.text(alarm))
			member = alarm.MemberID
		}
		t.notef("alarms", "%v", err)
		t.put("put", &pb.PutRequest{Key: t.key("k"), Value: []byte("small")})
		// How many keys there were room for is the server's matter.
		answer, err := t.kv.DeleteRange(t.ctx, &pb.DeleteRangeRequest{Key: []byte(t.prefix), RangeEnd: end([]byte(t.prefix))})
		t.notef("delete", "%t %v", answer.GetDeleted() > 10, err)
		_, err = t.kv.Compact(t.ctx, &pb.CompactionRequest{Revision: answer.GetHeader().GetRevision(), Physical: true})
		t.notef("compact", "%v", err)
		_, err = t.maintenance.Defragment(t.ctx, &pb.DefragmentRequest{})
		t.notef("defragment", "%v", err)
		_, err = t.kv.Put(t.ctx, &pb.PutRequest{Key: t.key("k"), Value: []byte("small")})
		t.notef("put before it is disarmed", "%v", err)
		status, err := t.maintenance.Status(t.ctx, &pb.StatusRequest{})
		t.notef("status", "errors %v, %v", status.GetErrors() != nil, err)
		t.notef("size of the quota", "%d", status.GetDbSizeQuota())
		_, err = t.maintenance.Alarm(t.ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, Alarm: pb.AlarmType_NOSPACE})
		t.notef("disarm all", "%v", err)
		_, err = t.maintenance.Alarm(t.ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, Alarm: pb.AlarmType_NOSPACE, MemberID: member})
		t.notef("disarm", "%v", err)
		_, err = t.kv.Put(t.ctx, &pb.PutRequest{Key: t.key("k"), Value: []byte("small")})
		t.notef("put after", "%v", err)
	}},
	{name: "hashkv", on: "own", run: func(t *T) {
		hash := func(name string, revision int64) uint32 {
			return call(t, name, t.maintenance.HashKV, &pb.HashKVRequest{Revision: revision}).GetHash()
		}
		hash("fresh", 0)
		hash("fresh at 1", 1)
		hash("fresh at 2", 2)
		for i := range 5 {
			t.set(t.key("k"), fmt.Sprint(i))
		}
		one, two := hash("now", 0), hash("now again", 0)
		t.notef("the same", "%t", one == two)
		old := hash("at 4", 4)
		t.notef("an old one differs", "%t", one != old)
		t.set(t.key("k"), "more")
		t.notef("the same later", "%t", hash("at 4 again", 4) == old)
		t.notef("differs after a write", "%t", hash("after a write", 0) != one)
		hash("future", 100)
		hash("negative", -1)
		t.compact("compact", 5)
		answer := call(t, "compacted", t.maintenance.HashKV, &pb.HashKVRequest{Revision: 0})
		t.notef("compacted at", "%d", answer.GetCompactRevision())
		hash("below", 4)
		hash("at", 5)
		call(t, "hash", t.maintenance.Hash, &pb.HashRequest{})
	}},
	{name: "defragment", on: "own", run: func(t *T) {
		t.set(t.key("k"), "v")
		call(t, "defragment", t.maintenance.Defragment, &pb.DefragmentRequest{})
		t.get("data is there", t.key("k"))
	}},
	{name: "snapshot", on: "own", run: func(t *T) {
		for i := range 20 {
			t.set(t.key(fmt.Sprint(i)), strings.Repeat("x", 10_000))
		}
		stream, err := t.maintenance.Snapshot(t.ctx, &pb.SnapshotRequest{})
		if err != nil {
			t.note("snapshot", t.failure(err))
			return
		}
		var all []byte
		chunks, largest, seenVersions := 0, 0, map[bool]int{}
		left, down := uint64(1<<62), true
		for {
			answer, err := stream.Recv()
			if err == io.EOF {
				t.note("end", "EOF")
				break
			}
			if err != nil {
				t.note("end", t.failure(err))
				return
			}
			chunks++
			largest = max(largest, len(answer.Blob))
			seenVersions[versions.MatchString(answer.Version)]++
			down = down && answer.RemainingBytes <= left
			left = answer.RemainingBytes
			all = append(all, answer.Blob...)
			if chunks == 1 {
				header := "none"
				if answer.Header != nil {
					header = t.text(answer.Header)
				}
				t.note("header", header)
			}
		}
		t.notef("shape", "several chunks: %t, none above 32 KiB: %t, remaining bytes go down: %t, to %d, each with a version: %t",
			chunks > 1, largest <= 32<<10, down, left, seenVersions[false] == 0)
		if len(all) > sha256.Size {
			body, sum := all[:len(all)-sha256.Size], all[len(all)-sha256.Size:]
			want := sha256.Sum256(body)
			t.notef("sum", "ends with its SHA-256: %t, body in whole 512s: %t", bytes.Equal(sum, want[:]), len(body)%512 == 0)
		}
	}},
	{name: "move-leader", run: func(t *T) {
		call(t, "to nobody", t.maintenance.MoveLeader, &pb.MoveLeaderRequest{})
		call(t, "to a stranger", t.maintenance.MoveLeader, &pb.MoveLeaderRequest{TargetID: 12345})
		call(t, "to itself", t.maintenance.MoveLeader, &pb.MoveLeaderRequest{TargetID: t.member()})
	}},
	{name: "downgrade", on: "own", run: func(t *T) {
		call(t, "validate nothing", t.maintenance.Downgrade, &pb.DowngradeRequest{})
		call(t, "validate nonsense", t.maintenance.Downgrade, &pb.DowngradeRequest{Version: "nonsense"})
		call(t, "validate a far one", t.maintenance.Downgrade, &pb.DowngradeRequest{Version: "3.2.0"})
		call(t, "cancel", t.maintenance.Downgrade, &pb.DowngradeRequest{Action: pb.DowngradeRequest_CANCEL})
		call(t, "strange action", t.maintenance.Downgrade, &pb.DowngradeRequest{Action: 9})
	}},
}

var clusterRows = []row{
	{name: "members", run: func(t *T) {
		call(t, "list", t.cluster.MemberList, &pb.MemberListRequest{})
		call(t, "list, linearizable", t.cluster.MemberList, &pb.MemberListRequest{Linearizable: true})
	}},
	{name: "member-changes", on: "own", run: func(t *T) {
		call(t, "add with no URL", t.cluster.MemberAdd, &pb.MemberAddRequest{})
		call(t, "add with a bad URL", t.cluster.MemberAdd, &pb.MemberAddRequest{PeerURLs: []string{"no url"}})
		call(t, "remove a stranger", t.cluster.MemberRemove, &pb.MemberRemoveRequest{ID: 42})
		call(t, "remove nobody", t.cluster.MemberRemove, &pb.MemberRemoveRequest{})
		call(t, "update a stranger", t.cluster.MemberUpdate, &pb.MemberUpdateRequest{ID: 42, PeerURLs: []string{"http://127.0.0.1:1"}})
		call(t, "update with a bad URL", t.cluster.MemberUpdate, &pb.MemberUpdateRequest{ID: 42, PeerURLs: []string{"no url"}})
		call(t, "promote a stranger", t.cluster.MemberPromote, &pb.MemberPromoteRequest{ID: 42})
		call(t, "promote no learner", t.cluster.MemberPromote, &pb.MemberPromoteRequest{ID: t.member()})
		call(t, "remove the only one", t.cluster.MemberRemove, &pb.MemberRemoveRequest{ID: t.member()})
		call(t, "list", t.cluster.MemberList, &pb.MemberListRequest{})
	}},
	{name: "auth", on: "own", run: func(t *T) {
		call(t, "status", t.auth.AuthStatus, &pb.AuthStatusRequest{})
		call(t, "enable", t.auth.AuthEnable, &pb.AuthEnableRequest{})
		call(t, "disable", t.auth.AuthDisable, &pb.AuthDisableRequest{})
		call(t, "authenticate", t.auth.Authenticate, &pb.AuthenticateRequest{Name: "u", Password: "p"})
		call(t, "users", t.auth.UserList, &pb.AuthUserListRequest{})
		call(t, "roles", t.auth.RoleList, &pb.AuthRoleListRequest{})
		call(t, "user get", t.auth.UserGet, &pb.AuthUserGetRequest{Name: "u"})
		call(t, "role get", t.auth.RoleGet, &pb.AuthRoleGetRequest{Role: "r"})
		call(t, "user without a name", t.auth.UserAdd, &pb.AuthUserAddRequest{})
		call(t, "role without a name", t.auth.RoleAdd, &pb.AuthRoleAddRequest{})
		call(t, "user add", t.auth.UserAdd, &pb.AuthUserAddRequest{Name: "u", Password: "p", Options: nil})
		call(t, "role add", t.auth.RoleAdd, &pb.AuthRoleAddRequest{Name: "r"})
		call(t, "grant", t.auth.RoleGrantPermission, &pb.AuthRoleGrantPermissionRequest{Name: "r"})
		call(t, "revoke", t.auth.RoleRevokePermission, &pb.AuthRoleRevokePermissionRequest{Role: "r", Key: []byte("k")})
		call(t, "user grant", t.auth.UserGrantRole, &pb.AuthUserGrantRoleRequest{User: "u", Role: "r"})
		call(t, "user revoke", t.auth.UserRevokeRole, &pb.AuthUserRevokeRoleRequest{Name: "u", Role: "r"})
		call(t, "user password", t.auth.UserChangePassword, &pb.AuthUserChangePasswordRequest{Name: "u", Password: "q"})
		call(t, "user delete", t.auth.UserDelete, &pb.AuthUserDeleteRequest{Name: "u"})
		call(t, "role delete", t.auth.RoleDelete, &pb.AuthRoleDeleteRequest{Role: "r"})
	}},
}
