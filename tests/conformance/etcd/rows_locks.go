package main

import (
	"context"
	"strconv"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	epb "go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	lpb "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
)

func (t *T) locks() lpb.LockClient         { return lpb.NewLockClient(t.conn) }
func (t *T) elections() epb.ElectionClient { return epb.NewElectionClient(t.conn) }

// waiting is a call in flight.
type waiting[A any] struct {
	cancel context.CancelFunc
	ended  chan struct{}
	answer A
	err    error
}

func waits[A any](t *T, f func(context.Context) (A, error)) *waiting[A] {
	ctx, cancel := context.WithTimeout(t.ctx, patience)
	w := &waiting[A]{cancel: cancel, ended: make(chan struct{})}
	go func() {
		w.answer, w.err = f(ctx)
		close(w.ended)
	}()
	return w
}

// end waits for the answer.
func (w *waiting[A]) end() (A, error) {
	<-w.ended
	w.cancel()
	return w.answer, w.err
}

// still says that it waits after a while.
func (w *waiting[A]) still(t *T, name string) {
	select {
	case <-w.ended:
		t.note(name, "has ended")
	case <-time.After(200 * time.Millisecond):
		t.note(name, "waits")
	}
}

// keysBelow waits until so many keys begin with a prefix.
func (t *T) keysBelow(prefix string, count int64) {
	eventually(5*time.Second, func() bool {
		answer, err := t.kv.Range(t.ctx, &pb.RangeRequest{Key: []byte(prefix), RangeEnd: end([]byte(prefix)), CountOnly: true})
		return err == nil && answer.Count == count
	})
}

// leaseOf reads the lease in a key's name.
func leaseOf(key []byte) int64 {
	_, name, _ := strings.Cut(string(key[strings.LastIndexByte(string(key), '/'):]), "/")
	id, _ := strconv.ParseInt(name, 16, 64)
	return id
}

var lockRows = []row{
	{name: "lock", on: "locks", run: func(t *T) {
		name := []byte(t.prefix + "l")
		t.grant("lease", &pb.LeaseGrantRequest{ID: 41001, TTL: 100})
		t.grant("another lease", &pb.LeaseGrantRequest{ID: 41002, TTL: 100})
		t.grant("a negative lease", &pb.LeaseGrantRequest{ID: -41003, TTL: 100})
		first := call(t, "lock", t.locks().Lock, &lpb.LockRequest{Name: name, Lease: 41001})
		call(t, "lock again", t.locks().Lock, &lpb.LockRequest{Name: name, Lease: 41001})
		t.list("its key")
		call(t, "no such lease", t.locks().Lock, &lpb.LockRequest{Name: name, Lease: 77})
		second := waits(t, func(ctx context.Context) (*lpb.LockResponse, error) {
			return t.locks().Lock(ctx, &lpb.LockRequest{Name: name, Lease: 41002})
		})
		t.keysBelow(string(name)+"/", 2)
		second.still(t, "the second")
		third := waits(t, func(ctx context.Context) (*lpb.LockResponse, error) {
			return t.locks().Lock(ctx, &lpb.LockRequest{Name: name, Lease: -41003})
		})
		t.keysBelow(string(name)+"/", 3)
		t.list("their keys")
		call(t, "unlock", t.locks().Unlock, &lpb.UnlockRequest{Key: first.GetKey()})
		answer, err := second.end()
		t.rec("the second's lock", answer, err)
		third.still(t, "the third")
		third.cancel()
		<-third.ended
		t.keysBelow(string(name)+"/", 1)
		t.list("the third has gone away")
		t.revoke("the second's lease ends", 41002)
		t.list("nobody")
		call(t, "unlock of what is not locked", t.locks().Unlock, &lpb.UnlockRequest{Key: first.GetKey()})
		call(t, "unlock of nothing", t.locks().Unlock, &lpb.UnlockRequest{})
		negative := call(t, "a negative lease's lock", t.locks().Lock, &lpb.LockRequest{Name: name, Lease: -41003})
		call(t, "its unlock", t.locks().Unlock, &lpb.UnlockRequest{Key: negative.GetKey()})
		for _, id := range []int64{41001, -41003} {
			t.revoke("the end of "+strconv.FormatInt(id, 10), id)
		}
	}},
	{name: "lock-session", on: "locks", run: func(t *T) {
		name := []byte(t.prefix + "l")
		ctx, cancel := context.WithTimeout(t.ctx, patience)
		defer cancel()
		answer, err := t.locks().Lock(ctx, &lpb.LockRequest{Name: name})
		if err != nil {
			t.note("without a lease", t.failure(err))
			return
		}
		lease := leaseOf(answer.Key)
		t.know(lease, 60)
		t.notef("the key", "%q", t.plain(string(answer.Key)))
		t.live("the lease that was made", lease, false)
		t.grant("lease", &pb.LeaseGrantRequest{ID: 41011, TTL: 100})
		lost := waits(t, func(ctx context.Context) (*lpb.LockResponse, error) {
			return t.locks().Lock(ctx, &lpb.LockRequest{Name: name, Lease: 41011})
		})
		t.keysBelow(string(name)+"/", 2)
		t.revoke("the lease of one who waits ends", 41011)
		lost.still(t, "it")
		t.revoke("the holder's lease ends", lease)
		held, err := lost.end()
		t.rec("it has lost its place", held, err)
	}},
	{name: "election", on: "locks", run: func(t *T) {
		name := []byte(t.prefix + "e")
		t.grant("lease", &pb.LeaseGrantRequest{ID: 41021, TTL: 100})
		t.grant("another lease", &pb.LeaseGrantRequest{ID: 41022, TTL: 100})
		call(t, "no leader", t.elections().Leader, &epb.LeaderRequest{Name: name})
		seen, err := t.elections().Observe(t.ctx, &epb.LeaderRequest{Name: name})
		if err != nil {
			t.note("observe", t.failure(err))
			return
		}
		observed := func() {
			answer, err := seen.Recv()
			t.rec("observed", answer, err)
		}
		time.Sleep(100 * time.Millisecond) // it looks before there is a leader
		ann := call(t, "campaign", t.elections().Campaign, &epb.CampaignRequest{Name: name, Lease: 41021, Value: []byte("ann")})
		observed()
		call(t, "leader", t.elections().Leader, &epb.LeaderRequest{Name: name})
		call(t, "campaign again", t.elections().Campaign, &epb.CampaignRequest{Name: name, Lease: 41021, Value: []byte("ann")})
		call(t, "campaign with another value", t.elections().Campaign, &epb.CampaignRequest{Name: name, Lease: 41021, Value: []byte("anna")})
		observed()
		bob := waits(t, func(ctx context.Context) (*epb.CampaignResponse, error) {
			return t.elections().Campaign(ctx, &epb.CampaignRequest{Name: name, Lease: 41022, Value: []byte("bob")})
		})
		t.keysBelow(string(name)+"/", 2)
		bob.still(t, "bob")
		call(t, "proclaim", t.elections().Proclaim, &epb.ProclaimRequest{Leader: ann.GetLeader(), Value: []byte("anne")})
		observed()
		call(t, "resign", t.elections().Resign, &epb.ResignRequest{Leader: ann.GetLeader()})
		answer, err := bob.end()
		t.rec("bob leads", answer, err)
		observed()
		call(t, "proclaim by the last one", t.elections().Proclaim, &epb.ProclaimRequest{Leader: ann.GetLeader(), Value: []byte("x")})
		call(t, "resign again", t.elections().Resign, &epb.ResignRequest{Leader: ann.GetLeader()})
		call(t, "bob still", t.elections().Leader, &epb.LeaderRequest{Name: name})
		t.revoke("bob's lease ends", 41022)
		call(t, "nobody", t.elections().Leader, &epb.LeaderRequest{Name: name})
		call(t, "resign of nobody", t.elections().Resign, &epb.ResignRequest{})
		call(t, "proclaim by nobody", t.elections().Proclaim, &epb.ProclaimRequest{Value: []byte("x")})
		call(t, "campaign with no such lease", t.elections().Campaign, &epb.CampaignRequest{Name: name, Lease: 77})
		t.revoke("ann's lease ends", 41021)
	}},
	{name: "election-gone", on: "locks", run: func(t *T) {
		name := []byte(t.prefix + "e")
		t.grant("lease", &pb.LeaseGrantRequest{ID: 41031, TTL: 100})
		call(t, "campaign", t.elections().Campaign, &epb.CampaignRequest{Name: name, Lease: 41031})
		ctx, cancel := context.WithTimeout(t.ctx, patience)
		defer cancel()
		gone := waits(t, func(context.Context) (*epb.CampaignResponse, error) {
			return t.elections().Campaign(ctx, &epb.CampaignRequest{Name: name})
		})
		t.keysBelow(string(name)+"/", 2)
		cancel()
		<-gone.ended
		t.keysBelow(string(name)+"/", 1)
		t.list("who waited has gone away")
		t.revoke("the end", 41031)
	}},
}
