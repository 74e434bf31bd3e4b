package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/ordering"
)

// What etcd's own client libraries make of the answers. All of a recipe's keys are in one group.
var recipeRows = []row{
	{name: "recipe-mutex", on: "recipes", run: func(t *T) {
		counter, held, most := 0, 0, 0
		var mutex sync.Mutex
		var work sync.WaitGroup
		for range 4 {
			client := t.client()
			work.Go(func() {
				session, err := concurrency.NewSession(client, concurrency.WithTTL(30), concurrency.WithContext(t.ctx))
				if err != nil {
					t.note("session", err.Error())
					return
				}
				defer session.Close()
				m := concurrency.NewMutex(session, t.prefix+"lock")
				for range 5 {
					if err := m.Lock(t.ctx); err != nil {
						return
					}
					mutex.Lock()
					counter++
					held++
					most = max(most, held)
					mutex.Unlock()
					mutex.Lock()
					held--
					mutex.Unlock()
					if err := m.Unlock(t.ctx); err != nil {
						return
					}
				}
			})
		}
		work.Wait()
		t.notef("locked", "%d times, by %d at once", counter, most)
		one, err := concurrency.NewSession(t.client(), concurrency.WithTTL(30))
		if err != nil {
			t.note("session", err.Error())
			return
		}
		two, err := concurrency.NewSession(t.client(), concurrency.WithTTL(30))
		if err != nil {
			t.note("session", err.Error())
			return
		}
		a, b := concurrency.NewMutex(one, t.prefix+"try"), concurrency.NewMutex(two, t.prefix+"try")
		t.notef("try", "%v, %v", a.TryLock(t.ctx), b.TryLock(t.ctx))
		one.Close() // revokes the lease
		t.notef("try after the holder's session has ended", "%v", b.TryLock(t.ctx))
		two.Close()
		answer, err := t.client().Get(t.ctx, t.prefix, clientv3.WithPrefix())
		t.notef("left over", "%d %v", len(answer.Kvs), err)
	}},
	{name: "recipe-election", on: "recipes", run: func(t *T) {
		candidates := make([]*concurrency.Election, 3)
		for i := range candidates {
			session, err := concurrency.NewSession(t.client(), concurrency.WithTTL(30))
			if err != nil {
				t.note("session", err.Error())
				return
			}
			defer session.Close()
			candidates[i] = concurrency.NewElection(session, t.prefix+"e")
		}
		_, err := candidates[0].Leader(t.ctx)
		t.notef("no leader yet", "%v", err)
		seen := candidates[2].Observe(t.ctx)
		for i := range 3 {
			if err := candidates[i].Campaign(t.ctx, fmt.Sprint("candidate ", i)); err != nil {
				t.note("campaign", err.Error())
				return
			}
			leader, err := candidates[0].Leader(t.ctx)
			t.notef("leader", "%q %v", leader.Kvs[0].Value, err)
			answer := <-seen
			t.notef("observed", "%q", answer.Kvs[0].Value)
			t.notef("proclaim", "%v", candidates[i].Proclaim(t.ctx, fmt.Sprint("again ", i)))
			answer = <-seen
			t.notef("observed", "%q", answer.Kvs[0].Value)
			t.notef("resign", "%v", candidates[i].Resign(t.ctx))
		}
		t.notef("proclaim without being leader", "%v", candidates[1].Proclaim(t.ctx, "x"))
	}},
	{name: "recipe-stm", on: "recipes", run: func(t *T) {
		for _, level := range []struct {
			name  string
			level concurrency.Isolation
		}{{"serializable snapshot", concurrency.SerializableSnapshot}, {"serializable", concurrency.Serializable},
			{"repeatable reads", concurrency.RepeatableReads}, {"read committed", concurrency.ReadCommitted}} {
			client := t.client()
			keys := make([]string, 4)
			for i := range keys {
				keys[i] = fmt.Sprint(t.prefix, level.name, i)
				t.set([]byte(keys[i]), "100")
			}
			var work sync.WaitGroup
			for w := range 4 {
				work.Go(func() {
					for n := range 10 {
						from, to := keys[(w+n)%4], keys[(w+n+1)%4]
						_, err := concurrency.NewSTM(client, func(stm concurrency.STM) error {
							a, _ := strconv.Atoi(stm.Get(from))
							b, _ := strconv.Atoi(stm.Get(to))
							stm.Put(from, fmt.Sprint(a-1))
							stm.Put(to, fmt.Sprint(b+1))
							return nil
						}, concurrency.WithIsolation(level.level), concurrency.WithPrefetch(from, to))
						if err != nil {
							return
						}
					}
				})
			}
			work.Wait()
			sum, done := 0, int64(0)
			answer, err := client.Get(t.ctx, t.prefix+level.name, clientv3.WithPrefix())
			for _, kv := range answer.Kvs {
				value, _ := strconv.Atoi(string(kv.Value))
				sum += value
				done += kv.Version - 1
			}
			if level.level == concurrency.ReadCommitted {
				sum = 0 // it may lose an update
			}
			t.notef(level.name, "sum %d, %d writes, %v", sum, done, err)
		}
		answer, err := concurrency.NewSTM(t.client(), func(stm concurrency.STM) error {
			stm.Put(t.prefix+"new", "v")
			stm.Del(t.prefix + "serializable0")
			t.notef("inside", "%q rev %d", stm.Get(t.prefix+"new"), stm.Rev(t.prefix+"none"))
			return nil
		})
		t.notef("put and delete", "%t %v", answer.Succeeded, err)
		_, err = concurrency.NewSTM(t.client(), func(concurrency.STM) error { return errors.New("given up") })
		t.notef("given up", "%v", err)
	}},
	{name: "recipe-namespace", on: "recipes", run: func(t *T) {
		client := t.client()
		kv := namespace.NewKV(client.KV, t.prefix)
		watcher := namespace.NewWatcher(client.Watcher, t.prefix)
		events := watcher.Watch(t.ctx, "", clientv3.WithPrefix(), clientv3.WithRev(t.base+1))
		_, err := kv.Put(t.ctx, "a", "1")
		t.notef("put", "%v", err)
		answer, err := kv.Get(t.ctx, "", clientv3.WithFromKey())
		t.notef("from key", "%d %q %v", len(answer.Kvs), answer.Kvs[0].Key, err)
		txn, err := kv.Txn(t.ctx).If(clientv3.Compare(clientv3.Value("a"), "=", "1")).Then(clientv3.OpGet("a"), clientv3.OpPut("b", "1"), clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpGet("a")}, nil)).Commit()
		t.notef("txn", "%t %q %v", txn.Succeeded, txn.Responses[0].GetResponseRange().Kvs[0].Key, err)
		count := 0
		for count < 2 {
			for _, e := range (<-events).Events {
				t.notef("event", "%q", e.Kv.Key)
				count++
			}
		}
		deleted, err := kv.Delete(t.ctx, "", clientv3.WithFromKey())
		t.notef("delete", "%d %v", deleted.Deleted, err)
	}},
	{name: "recipe-ordering", on: "recipes", run: func(t *T) {
		client := t.client()
		violations := 0
		kv := ordering.NewKV(client.KV, func(op clientv3.Op, resp clientv3.OpResponse, prevRev int64) error { violations++; return nil })
		for i := range 10 {
			if _, err := client.Put(t.ctx, t.prefix+"a", fmt.Sprint(i)); err != nil {
				t.note("put", err.Error())
			}
			if _, err := kv.Get(t.ctx, t.prefix+"a"); err != nil {
				t.note("get", err.Error())
			}
			if _, err := kv.Get(t.ctx, t.prefix+"a", clientv3.WithSerializable()); err != nil {
				t.note("serializable get", err.Error())
			}
		}
		t.notef("violations", "%d", violations)
	}},
	{name: "recipe-leasing", on: "recipes", run: func(t *T) {
		one, closeOne, err := leasing.NewKV(t.client(), t.prefix+"leasing/")
		if err != nil {
			t.note("leasing", err.Error())
			return
		}
		defer closeOne()
		two, closeTwo, err := leasing.NewKV(t.client(), t.prefix+"leasing/")
		if err != nil {
			t.note("leasing", err.Error())
			return
		}
		defer closeTwo()
		k := t.prefix + "k"
		_, err = one.Put(t.ctx, k, "1")
		t.notef("put", "%v", err)
		for name, kv := range map[string]clientv3.KV{"one": one, "two": two} {
			answer, err := kv.Get(t.ctx, k)
			t.notef("get "+name, "%q %v", answer.Kvs[0].Value, err)
		}
		_, err = two.Put(t.ctx, k, "2")
		t.notef("put of the other", "%v", err)
		answer, err := one.Get(t.ctx, k)
		t.notef("get", "%q %v", answer.Kvs[0].Value, err)
		txn, err := one.Txn(t.ctx).If(clientv3.Compare(clientv3.Value(k), "=", "2")).Then(clientv3.OpPut(k, "3")).Commit()
		t.notef("txn", "%t %v", txn.Succeeded, err)
		answer, err = two.Get(t.ctx, k)
		t.notef("get after", "%q %v", answer.Kvs[0].Value, err)
	}},
	{name: "recipe-mirror", on: "recipes", run: func(t *T) {
		for i := range 5 {
			t.set(t.key(fmt.Sprint(i)), fmt.Sprint(i))
		}
		syncer := mirror.NewSyncer(t.client(), t.prefix, 0)
		answers, errs := syncer.SyncBase(t.ctx)
		for answer := range answers {
			for _, kv := range answer.Kvs {
				t.notef("base", "%s=%s", strings.TrimPrefix(string(kv.Key), t.prefix), kv.Value)
			}
		}
		t.notef("errors", "%v", <-errs)
		updates := syncer.SyncUpdates(t.ctx)
		t.set(t.key("5"), "5")
		t.remove(t.key("0"))
		for count := 0; count < 2; {
			for _, e := range (<-updates).Events {
				t.notef("update", "%s %s", e.Type, strings.TrimPrefix(string(e.Kv.Key), t.prefix))
				count++
			}
		}
	}},
	{name: "recipe-kubernetes", on: "recipes", run: func(t *T) {
		client, err := kubernetes.New(clientv3.Config{Endpoints: []string{"http://" + t.server.endpoint}})
		if err != nil {
			t.note("client", err.Error())
			return
		}
		defer client.Close()
		k := t.prefix + "k"
		put, err := client.Kubernetes.OptimisticPut(t.ctx, k, []byte("1"), 0, kubernetes.PutOptions{})
		t.notef("create", "%t %s %v", put.Succeeded, t.revision(put.Revision), err)
		again, err := client.Kubernetes.OptimisticPut(t.ctx, k, []byte("2"), 0, kubernetes.PutOptions{GetOnFailure: true})
		t.notef("create again", "%t %s %s %v", again.Succeeded, t.text(again.KV), t.revision(again.Revision), err)
		get, err := client.Kubernetes.Get(t.ctx, k, kubernetes.GetOptions{})
		t.notef("get", "%s %s %v", t.text(get.KV), t.revision(get.Revision), err)
		list, err := client.Kubernetes.List(t.ctx, t.prefix, kubernetes.ListOptions{Limit: 1})
		t.notef("list", "%d of %d %s %v", len(list.Kvs), list.Count, t.revision(list.Revision), err)
		count, err := client.Kubernetes.Count(t.ctx, t.prefix, kubernetes.CountOptions{})
		t.notef("count", "%d %v", count, err)
		del, err := client.Kubernetes.OptimisticDelete(t.ctx, k, put.Revision, kubernetes.DeleteOptions{})
		t.notef("delete", "%t %s %v", del.Succeeded, t.revision(del.Revision), err)
	}},
	// Errors as the client library makes them of texts.
	{name: "client-errors", on: "recipes", run: func(t *T) {
		client := t.client()
		is := func(name string, err, want error) { t.notef(name, "%t", errors.Is(err, want) || err == want) }
		_, err := client.Get(t.ctx, "")
		is("empty key", err, rpctypes.ErrEmptyKey)
		_, err = client.Get(t.ctx, "k", clientv3.WithRev(1<<40))
		is("future", err, rpctypes.ErrFutureRev)
		_, err = client.Put(t.ctx, t.prefix+"k", "v", clientv3.WithLease(12345))
		is("lease not found", err, rpctypes.ErrLeaseNotFound)
		_, err = client.Put(t.ctx, t.prefix+"k", "", clientv3.WithIgnoreValue())
		is("key not found", err, rpctypes.ErrKeyNotFound)
		_, err = client.Txn(t.ctx).Then(clientv3.OpPut(t.prefix+"k", "1"), clientv3.OpPut(t.prefix+"k", "2")).Commit()
		is("duplicate", err, rpctypes.ErrDuplicateKey)
		_, err = client.Put(t.ctx, t.prefix+"k", strings.Repeat("x", 1_600_000))
		is("too large", err, rpctypes.ErrRequestTooLarge)
		_, err = client.KeepAliveOnce(t.ctx, 12345)
		is("keep alive", err, rpctypes.ErrLeaseNotFound)
		_, err = client.Revoke(t.ctx, 12345)
		is("revoke", err, rpctypes.ErrLeaseNotFound)
		_, err = client.Grant(t.ctx, 1<<62)
		is("TTL", err, rpctypes.ErrLeaseTTLTooLarge)
		_, err = client.Compact(t.ctx, 1<<40)
		is("compact", err, rpctypes.ErrFutureRev)
		ctx, cancel := context.WithTimeout(t.ctx, 20*time.Second)
		defer cancel()
		lease, err := client.Grant(ctx, 30)
		if err != nil {
			t.note("grant", err.Error())
			return
		}
		alive, err := client.KeepAlive(ctx, lease.ID)
		answer := <-alive
		t.notef("kept alive", "%d %v", answer.TTL, err)
		_, err = client.Revoke(ctx, lease.ID)
		t.notef("revoked", "%v", err)
	}},
}
