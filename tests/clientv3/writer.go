package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Of three groups.
var kinds = [3]string{"/registry/pods/", "/registry/events/", "/registry/configmaps/"}

// Each writer has so many keys of each kind.
const keysOfKind = 3

type outcome int

const (
	outcomeUnknown outcome = iota
	outcomeAcked
	outcomeRefused
)

// attempt is one write. Its value is unique, so that it is known again wherever it turns up.
type attempt struct {
	keys     []string
	value    string
	compared int64 // the first key's mod revision, as a transaction asked for it; -1 for a plain put
	outcome  outcome
	revision int64 // of an acknowledged one
	seen     bool  // on a watch
}

// history is everything that was tried.
type history struct {
	sync.Mutex
	attempts              map[string]*attempt // by value
	problems              []string
	acked, refused, reads atomic.Int64
}

func newHistory() *history {
	return &history{attempts: map[string]*attempt{}}
}

func (h *history) wrong(format string, arguments ...any) {
	h.Lock()
	defer h.Unlock()
	h.problems = append(h.problems, fmt.Sprintf(format, arguments...))
}

// writer writes its own keys, one write after the other.
type writer struct {
	number  int
	client  *clientv3.Client
	history *history
	chance  *rand.Rand
	seq     int
	mod     map[string]int64 // what it knows of its keys
	newest  int64            // the highest revision that it was shown
}

func newWriter(number int, client *clientv3.Client, history *history, seed uint64) *writer {
	chance := rand.New(rand.NewPCG(seed, uint64(number)+1))
	return &writer{number: number, client: client, history: history, chance: chance, mod: map[string]int64{}}
}

func (w *writer) key(kind string) string {
	return fmt.Sprintf("%sw%03d/%d", kind, w.number, w.chance.IntN(keysOfKind))
}

func (w *writer) run(ctx context.Context) {
	for ctx.Err() == nil {
		w.seq++
		kind := kinds[w.chance.IntN(len(kinds))]
		attempt := &attempt{keys: []string{w.key(kind)}, compared: -1}
		attempt.value = fmt.Sprintf("w%03d/%08d/%s", w.number, w.seq, strings.Repeat("x", w.chance.IntN(200)))
		pick := w.chance.IntN(20)
		if pick < 10 {
			attempt.compared = w.mod[attempt.keys[0]]
			if other := w.key(kind); pick < 3 && other != attempt.keys[0] {
				attempt.keys = append(attempt.keys, other)
			}
			if pick == 9 { // a compare that must fail
				attempt.compared++
			}
		}
		w.history.Lock()
		w.history.attempts[attempt.value] = attempt
		w.history.Unlock()
		w.write(ctx, attempt, pick == 9)
	}
}

func (w *writer) write(ctx context.Context, attempt *attempt, mustFail bool) {
	// Not ctx: what was sent is waited for.
	limited, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	first := attempt.keys[0]
	var revision int64
	if attempt.compared < 0 {
		answer, err := w.client.Put(limited, first, attempt.value)
		if err != nil {
			w.lookUp(ctx, attempt)
			return
		}
		revision = answer.Header.Revision
	} else {
		var puts []clientv3.Op
		for _, key := range attempt.keys {
			puts = append(puts, clientv3.OpPut(key, attempt.value))
		}
		equal := clientv3.Compare(clientv3.ModRevision(first), "=", attempt.compared)
		answer, err := w.client.Txn(limited).If(equal).Then(puts...).Else(clientv3.OpGet(first)).Commit()
		if err != nil {
			w.lookUp(ctx, attempt)
			return
		}
		revision = answer.Header.Revision
		if answer.Succeeded == mustFail {
			w.history.wrong("the compare of %s with %d, known to be at %d, gave %v at %d", first, attempt.compared, w.mod[first], answer.Succeeded, revision)
		}
		if !answer.Succeeded {
			w.settle(attempt, outcomeRefused, 0)
			w.history.refused.Add(1)
			if revision < w.newest {
				w.history.wrong("a failed compare at revision %d after %d", revision, w.newest)
			}
			w.newest = max(w.newest, revision)
			w.compareWithRead(first, answer.Responses[0].GetResponseRange().Kvs)
			return
		}
	}
	if revision <= w.newest {
		w.history.wrong("writer %d got revision %d for %s after %d", w.number, revision, first, w.newest)
	}
	w.newest = revision
	w.settle(attempt, outcomeAcked, revision)
	w.history.acked.Add(1)
	for _, key := range attempt.keys {
		w.mod[key] = revision
	}
	if w.chance.IntN(10) == 0 {
		answer, err := w.client.Get(limited, first)
		if err != nil {
			return
		}
		w.history.reads.Add(1)
		if answer.Header.Revision < w.newest {
			w.history.wrong("a read of %s at revision %d after %d", first, answer.Header.Revision, w.newest)
		}
		w.newest = max(w.newest, answer.Header.Revision)
		w.compareWithRead(first, answer.Kvs)
		if len(answer.Kvs) == 1 && string(answer.Kvs[0].Value) != attempt.value {
			w.history.wrong("%s reads as %.14s after %.14s was acknowledged", first, answer.Kvs[0].Value, attempt.value)
		}
	}
}

// compareWithRead: nobody else writes this key, and nothing is unknown.
func (w *writer) compareWithRead(key string, kvs []*mvccpb.KeyValue) {
	var mod int64
	if len(kvs) == 1 {
		mod = kvs[0].ModRevision
	}
	if mod != w.mod[key] {
		w.history.wrong("%s reads as of revision %d, it was written at %d", key, mod, w.mod[key])
	}
}

func (w *writer) settle(attempt *attempt, outcome outcome, revision int64) {
	w.history.Lock()
	defer w.history.Unlock()
	attempt.outcome, attempt.revision = outcome, revision
}

// lookUp learns what an unknown outcome was. It stays unknown: what is read here is judged like everything else.
func (w *writer) lookUp(ctx context.Context, attempt *attempt) {
	for _, key := range attempt.keys {
		for {
			limited, cancel := context.WithTimeout(ctx, 2*time.Second)
			answer, err := w.client.Get(limited, key)
			cancel()
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				time.Sleep(20 * time.Millisecond)
				continue
			}
			if answer.Header.Revision < w.newest {
				w.history.wrong("a read of %s at revision %d after %d", key, answer.Header.Revision, w.newest)
			}
			w.newest = max(w.newest, answer.Header.Revision)
			if len(answer.Kvs) == 1 && string(answer.Kvs[0].Value) == attempt.value {
				w.mod[key] = answer.Kvs[0].ModRevision
			} else {
				w.compareWithRead(key, answer.Kvs)
			}
			break
		}
	}
}
