package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
)

// A row is one piece of the contract: it does its steps and records every answer.
type row struct {
	name string
	// on is the store that the row shares with the others of that name: a key of `stores`. Empty: "main".
	// "own" is a store for this row alone, with revisions compared as they are.
	on  string
	run func(*T)
}

// stores are the servers that rows run on, by name, with the flags they are started with.
var stores = map[string][]string{
	"main":     nil,
	"txn":      nil,
	"watch":    nil,
	"slow":     nil, // rows that wait
	"slow2":    nil,
	"ctl":      nil,
	"recipes":  nil,
	"locks":    nil,
	"gateway":  nil,
	"progress": {"--watch-progress-notify-interval=300ms"},
	"pings":    nil,
	"small":    {"--max-txn-ops=4", "--max-request-bytes=4096"},
	"quota":    {"--quota-backend-bytes=4194304"},
	"own":      nil,
	"hash":     nil,
}

// A step is one recorded answer.
type step struct{ name, answer string }

// T is what a row has: clients of one connection, keys of its own, and the record of what it saw.
type T struct {
	ctx    context.Context
	target target
	bin    binaries
	server *server

	conn        *grpc.ClientConn
	kv          pb.KVClient
	watcher     pb.WatchClient
	lease       pb.LeaseClient
	cluster     pb.ClusterClient
	maintenance pb.MaintenanceClient
	auth        pb.AuthClient

	prefix  string
	base    int64 // the revision at the row's beginning
	literal bool
	leases  map[int64]string
	granted []int64
	steps   []step
	clients []io.Closer
}

func newT(ctx context.Context, name string, literal bool, t target, bin binaries, s *server) (*T, error) {
	conn, err := grpc.NewClient(s.endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30), grpc.MaxCallSendMsgSize(1<<30)))
	if err != nil {
		return nil, err
	}
	return &T{
		ctx: ctx, target: t, bin: bin, server: s,
		conn: conn, kv: pb.NewKVClient(conn), watcher: pb.NewWatchClient(conn), lease: pb.NewLeaseClient(conn),
		cluster: pb.NewClusterClient(conn), maintenance: pb.NewMaintenanceClient(conn), auth: pb.NewAuthClient(conn),
		prefix: "/registry/pods/" + name + "/", literal: literal, leases: map[int64]string{},
	}, nil
}

func (t *T) close() {
	for _, client := range t.clients {
		_ = client.Close()
	}
	_ = t.conn.Close()
}

// begin learns the revision that the row's revisions are counted from.
func (t *T) begin() error {
	answer, err := t.kv.Range(t.ctx, &pb.RangeRequest{Key: []byte(t.prefix)}, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	t.base = answer.Header.Revision
	return nil
}

// === recording ===

// note records a text as an answer. Steps of one row have different names.
func (t *T) note(name, answer string) {
	count := 1
	for _, s := range t.steps {
		if s.name == name || (len(s.name) > len(name) && s.name[:len(name)+1] == name+"#") {
			count++
		}
	}
	if count > 1 {
		name = fmt.Sprintf("%s#%d", name, count)
	}
	t.steps = append(t.steps, step{name, answer})
}

func (t *T) notef(name, format string, arguments ...any) {
	t.note(name, fmt.Sprintf(format, arguments...))
}

func (t *T) rec(name string, m proto.Message, err error) { t.note(name, t.outcome(m, err)) }

// === keys ===

// key is a key of this row alone.
func (t *T) key(name string) []byte { return []byte(t.prefix + name) }

// end is the end of the range of all keys that begin so.
func end(prefix []byte) []byte { return []byte(clientv3.GetPrefixRangeEnd(string(prefix))) }

// === calls that record ===

const patience = 10 * time.Second

func call[Q any, A proto.Message](t *T, name string, f func(context.Context, Q, ...grpc.CallOption) (A, error), q Q) A {
	ctx, cancel := context.WithTimeout(t.ctx, patience)
	defer cancel()
	answer, err := f(ctx, q)
	t.rec(name, answer, err)
	return answer
}

func (t *T) rangeOf(name string, q *pb.RangeRequest) *pb.RangeResponse {
	return call(t, name, t.kv.Range, q)
}
func (t *T) get(name string, key []byte) *pb.RangeResponse {
	return call(t, name, t.kv.Range, &pb.RangeRequest{Key: key})
}
func (t *T) list(name string) *pb.RangeResponse {
	return call(t, name, t.kv.Range, &pb.RangeRequest{Key: []byte(t.prefix), RangeEnd: end([]byte(t.prefix))})
}
func (t *T) put(name string, q *pb.PutRequest) *pb.PutResponse { return call(t, name, t.kv.Put, q) }
func (t *T) del(name string, q *pb.DeleteRangeRequest) *pb.DeleteRangeResponse {
	return call(t, name, t.kv.DeleteRange, q)
}
func (t *T) txn(name string, q *pb.TxnRequest) *pb.TxnResponse { return call(t, name, t.kv.Txn, q) }
func (t *T) compact(name string, rev int64) *pb.CompactionResponse {
	return call(t, name, t.kv.Compact, &pb.CompactionRequest{Revision: rev})
}

// grant asks for a lease and names it.
func (t *T) grant(name string, q *pb.LeaseGrantRequest) int64 {
	ctx, cancel := context.WithTimeout(t.ctx, patience)
	defer cancel()
	answer, err := t.lease.LeaseGrant(ctx, q)
	if err == nil {
		t.know(answer.ID, answer.TTL)
	}
	t.rec(name, answer, err)
	return answer.GetID()
}

func (t *T) know(id, ttl int64) {
	if id > 1<<32 {
		if _, known := t.leases[id]; !known {
			t.leases[id] = fmt.Sprintf("L%d", len(t.leases)+1)
		}
	}
	if !slices.Contains(t.granted, ttl) {
		t.granted = append(t.granted, ttl)
	}
}

// === calls that must succeed and are not of interest ===

func (t *T) set(key []byte, value string) int64 {
	ctx, cancel := context.WithTimeout(t.ctx, patience)
	defer cancel()
	answer, err := t.kv.Put(ctx, &pb.PutRequest{Key: key, Value: []byte(value)})
	if err != nil {
		t.note("set "+string(key), t.failure(err))
		return 0
	}
	return answer.Header.Revision
}

func (t *T) remove(key []byte) int64 {
	ctx, cancel := context.WithTimeout(t.ctx, patience)
	defer cancel()
	answer, err := t.kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: key})
	if err != nil {
		t.note("remove "+string(key), t.failure(err))
		return 0
	}
	return answer.Header.Revision
}

// client is etcd's own.
func (t *T) client() *clientv3.Client {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"http://" + t.server.endpoint}, Logger: zap.NewNop()})
	if err != nil {
		panic(err)
	}
	t.clients = append(t.clients, client)
	return client
}

// eventually tries until the condition holds; false if it never does.
func eventually(limit time.Duration, holds func() bool) bool {
	for end := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		if holds() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}
