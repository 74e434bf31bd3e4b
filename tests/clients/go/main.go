// What a client written with etcd's Go client does. The last line is "N passed, N failed".
//
// It is built twice: go.mod is the newest clientv3, v350.mod the 3.5.0 of Kubernetes 1.22 and 1.23, which says
// "#initially=[...]" where HTTP/2 has the name of the server.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

const patience = 15 * time.Second

var (
	prefix   = "/clients/" + os.Getenv("CLIENT") + "/"
	endpoint = os.Getenv("ENDPOINT")
	secure   = os.Getenv("TLS_ENDPOINT")
	pki      = os.Getenv("PKI")
)

func main() {
	passed, failed := 0, 0
	for _, check := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"put-get-delete", putGetDelete}, {"txn", txn}, {"watch", watch}, {"progress", progress}, {"lease", lease},
		{"lock", lock}, {"election", election}, {"members", members}, {"tls", overTLS},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
		err := check.run(ctx)
		cancel()
		if err != nil {
			failed++
			fmt.Printf("FAILED %s: %v\n", check.name, err)
			continue
		}
		passed++
		fmt.Println("ok", check.name)
	}
	fmt.Printf("%d passed, %d failed\n", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}

func connect() (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: []string{"http://" + endpoint}, DialTimeout: patience})
}

// is is an error unless what was found is what was wanted.
func is(what string, found, wanted any) error {
	if fmt.Sprint(found) != fmt.Sprint(wanted) {
		return fmt.Errorf("%s: %v, not %v", what, found, wanted)
	}
	return nil
}

func value(ctx context.Context, client *clientv3.Client, key string) (string, error) {
	answer, err := client.Get(ctx, key)
	if err != nil || len(answer.Kvs) == 0 {
		return "", err
	}
	return string(answer.Kvs[0].Value), nil
}

func gone(ctx context.Context, client *clientv3.Client, key string) error {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		answer, err := client.Get(ctx, key)
		if err != nil {
			return err
		}
		if answer.Count == 0 {
			return nil
		}
	}
	return fmt.Errorf("%s is still there", key)
}

func putGetDelete(ctx context.Context) error {
	client, err := connect()
	if err != nil {
		return err
	}
	defer client.Close()
	for _, name := range []string{"a", "b"} {
		if _, err := client.Put(ctx, prefix+name, name); err != nil {
			return err
		}
	}
	answer, err := client.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend))
	if err != nil {
		return err
	}
	var keys []string
	for _, kv := range answer.Kvs {
		keys = append(keys, strings.TrimPrefix(string(kv.Key), prefix))
	}
	if err := is("keys", keys, []string{"b", "a"}); err != nil {
		return err
	}
	deleted, err := client.Delete(ctx, prefix, clientv3.WithPrefix(), clientv3.WithPrevKV())
	if err != nil {
		return err
	}
	return is("deleted", []int{int(deleted.Deleted), len(deleted.PrevKvs)}, []int{2, 2})
}

func txn(ctx context.Context) error {
	client, err := connect()
	if err != nil {
		return err
	}
	defer client.Close()
	key := prefix + "txn"
	if _, err := client.Put(ctx, key, "1"); err != nil {
		return err
	}
	for _, step := range []struct {
		old, next string
		done      bool
	}{{"1", "2", true}, {"1", "3", false}} {
		answer, err := client.Txn(ctx).If(clientv3.Compare(clientv3.Value(key), "=", step.old)).
			Then(clientv3.OpPut(key, step.next)).Else(clientv3.OpGet(key)).Commit()
		if err != nil {
			return err
		}
		if err := is("done", answer.Succeeded, step.done); err != nil {
			return err
		}
	}
	_, err = concurrency.NewSTM(client, func(stm concurrency.STM) error {
		stm.Put(key, stm.Get(key)+"!")
		return nil
	})
	if err != nil {
		return err
	}
	found, err := value(ctx, client, key)
	return errors.Join(err, is("value", found, "2!"))
}

func watch(ctx context.Context) error {
	client, err := connect()
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	key := prefix + "watch/a"
	heard := client.Watch(ctx, prefix+"watch/", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithCreatedNotify())
	if created := <-heard; !created.Created {
		return fmt.Errorf("not created: %v", created)
	}
	if _, err := client.Put(ctx, key, "1"); err != nil {
		return err
	}
	second, err := client.Put(ctx, key, "2")
	if err != nil {
		return err
	}
	if _, err := client.Delete(ctx, key); err != nil {
		return err
	}
	if err := events("live", heard, "PUT 1", "PUT 2 was 1", "DELETE was 2"); err != nil {
		return err
	}
	again := client.Watch(ctx, key, clientv3.WithRev(second.Header.Revision))
	return events("from a revision", again, "PUT 2", "DELETE")
}

func events(what string, heard clientv3.WatchChan, wanted ...string) error {
	var found []string
	timeout := time.After(patience)
	for len(found) < len(wanted) {
		select {
		case answer, open := <-heard:
			if !open || answer.Err() != nil {
				return fmt.Errorf("%s: ended: %v", what, answer.Err())
			}
			for _, event := range answer.Events {
				found = append(found, text(event))
			}
		case <-timeout:
			return fmt.Errorf("%s: only %v", what, found)
		}
	}
	return is(what, found, wanted)
}

func text(event *clientv3.Event) string {
	out := event.Type.String()
	if event.Type == mvccpb.PUT {
		out += " " + string(event.Kv.Value)
	}
	if event.PrevKv != nil {
		out += " was " + string(event.PrevKv.Value)
	}
	return out
}

// A watcher of what nobody writes is told how far it is when it asks.
func progress(ctx context.Context) error {
	client, err := connect()
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	heard := client.Watch(ctx, prefix+"quiet", clientv3.WithCreatedNotify())
	created := <-heard
	if err := client.RequestProgress(ctx); err != nil {
		return err
	}
	select {
	case answer := <-heard:
		if !answer.IsProgressNotify() || answer.Header.Revision < created.Header.Revision {
			return fmt.Errorf("no progress: %v", answer)
		}
		return nil
	case <-time.After(patience):
		return errors.New("no answer")
	}
}

func lease(ctx context.Context) error {
	client, err := connect()
	if err != nil {
		return err
	}
	defer client.Close()
	key := prefix + "leased"
	granted, err := client.Grant(ctx, 4)
	if err != nil {
		return err
	}
	if _, err := client.Put(ctx, key, "1", clientv3.WithLease(granted.ID)); err != nil {
		return err
	}
	alive, cancel := context.WithCancel(ctx)
	defer cancel()
	renewals, err := client.KeepAlive(alive, granted.ID)
	if err != nil {
		return err
	}
	for end := time.After(6 * time.Second); ; {
		select {
		case renewal, open := <-renewals:
			if !open || renewal.TTL != 4 {
				return fmt.Errorf("no renewal: %v", renewal)
			}
			continue
		case <-end:
		}
		break
	}
	found, err := value(ctx, client, key)
	if err := errors.Join(err, is("kept alive", found, "1")); err != nil {
		return err
	}
	left, err := client.TimeToLive(ctx, granted.ID, clientv3.WithAttachedKeys())
	if err != nil {
		return err
	}
	if err := is("keys", len(left.Keys), 1); err != nil {
		return err
	}
	cancel()
	if err := gone(ctx, client, key); err != nil {
		return err
	}
	other, err := client.Grant(ctx, 600)
	if err != nil {
		return err
	}
	if _, err := client.Put(ctx, key, "2", clientv3.WithLease(other.ID)); err != nil {
		return err
	}
	if _, err := client.Revoke(ctx, other.ID); err != nil {
		return err
	}
	found, err = value(ctx, client, key)
	return errors.Join(err, is("with its lease", found, ""))
}

// sessions are two clients with a lease each.
func sessions(run func(one, other *concurrency.Session) error) error {
	var made []*concurrency.Session
	for range 2 {
		client, err := connect()
		if err != nil {
			return err
		}
		defer client.Close()
		session, err := concurrency.NewSession(client, concurrency.WithTTL(10))
		if err != nil {
			return err
		}
		defer session.Close()
		made = append(made, session)
	}
	return run(made[0], made[1])
}

func lock(ctx context.Context) error {
	return sessions(func(one, other *concurrency.Session) error {
		first, second := concurrency.NewMutex(one, prefix+"lock"), concurrency.NewMutex(other, prefix+"lock")
		if err := first.Lock(ctx); err != nil {
			return err
		}
		if err := second.TryLock(ctx); !errors.Is(err, concurrency.ErrLocked) {
			return fmt.Errorf("it is taken: %v", err)
		}
		locked := make(chan error, 1)
		go func() { locked <- second.Lock(ctx) }()
		select {
		case err := <-locked:
			return fmt.Errorf("two have it: %v", err)
		case <-time.After(500 * time.Millisecond):
		}
		if err := first.Unlock(ctx); err != nil {
			return err
		}
		if err := <-locked; err != nil {
			return err
		}
		return second.Unlock(ctx)
	})
}

func election(ctx context.Context) error {
	return sessions(func(one, other *concurrency.Session) error {
		first, second := concurrency.NewElection(one, prefix+"election"), concurrency.NewElection(other, prefix+"election")
		if err := first.Campaign(ctx, "one"); err != nil {
			return err
		}
		observed := second.Observe(ctx)
		if seen := <-observed; string(seen.Kvs[0].Value) != "one" {
			return fmt.Errorf("the leader is %q", seen.Kvs[0].Value)
		}
		elected := make(chan error, 1)
		go func() { elected <- second.Campaign(ctx, "other") }()
		select {
		case err := <-elected:
			return fmt.Errorf("two leaders: %v", err)
		case <-time.After(500 * time.Millisecond):
		}
		if err := first.Proclaim(ctx, "one again"); err != nil {
			return err
		}
		if seen := <-observed; string(seen.Kvs[0].Value) != "one again" {
			return fmt.Errorf("the leader is %q", seen.Kvs[0].Value)
		}
		if err := first.Resign(ctx); err != nil {
			return err
		}
		if err := <-elected; err != nil {
			return err
		}
		leader, err := first.Leader(ctx)
		if err != nil {
			return err
		}
		return errors.Join(is("leader", string(leader.Kvs[0].Value), "other"), second.Resign(ctx))
	})
}

func members(ctx context.Context) error {
	client, err := connect()
	if err != nil {
		return err
	}
	defer client.Close()
	list, err := client.MemberList(ctx)
	if err != nil {
		return err
	}
	status, err := client.Status(ctx, endpoint)
	if err != nil {
		return err
	}
	return errors.Join(is("members", len(list.Members), 1), is("version", strings.HasPrefix(status.Version, "3."), true))
}

func overTLS(ctx context.Context) error {
	authority, err := os.ReadFile(filepath.Join(pki, "ca.crt"))
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(pki, "client.crt"), filepath.Join(pki, "client.key"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	ask := func(certificates ...tls.Certificate) error {
		client, err := clientv3.New(clientv3.Config{
			Endpoints: []string{"https://" + secure}, DialTimeout: patience,
			TLS: &tls.Config{RootCAs: roots, Certificates: certificates},
		})
		if err != nil {
			return err
		}
		defer client.Close()
		if _, err := client.Put(ctx, prefix+"tls", "1"); err != nil {
			return err
		}
		found, err := value(ctx, client, prefix+"tls")
		return errors.Join(err, is("value", found, "1"))
	}
	if err := ask(pair); err != nil {
		return err
	}
	short, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	ctx = short
	if err := ask(); err == nil {
		return errors.New("served without a certificate")
	}
	return nil
}
