package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// event is what is kept of one.
type event struct {
	mod, create, version int64
	key, value           string
}

// watch is one watcher from revision 1 on, through every restart.
type watch struct {
	prefix   string
	ended    chan struct{}
	progress int

	sync.Mutex
	events   []event
	problems []string
}

func follow(ctx context.Context, client *clientv3.Client, prefix string, prevKV bool) *watch {
	w := &watch{prefix: prefix, ended: make(chan struct{})}
	options := []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithRev(1), clientv3.WithProgressNotify()}
	if prevKV {
		options = append(options, clientv3.WithPrevKV())
	}
	responses := client.Watch(ctx, prefix, options...)
	go func() {
		defer close(w.ended)
		last := map[string]event{}
		var closed, newest int64
		for response := range responses {
			if ctx.Err() != nil {
				return
			}
			w.take(&response, prevKV, last, &closed, &newest)
		}
		if ctx.Err() == nil {
			w.wrong("it has ended by itself")
		}
	}()
	return w
}

// take notes a response and judges what can be judged at once: its order, and that no revision is in two responses.
func (w *watch) take(response *clientv3.WatchResponse, prevKV bool, last map[string]event, closed, newest *int64) {
	w.Lock()
	defer w.Unlock()
	if err := response.Err(); err != nil {
		w.wrongLocked("it was cancelled: %v", err)
		return
	}
	if response.IsProgressNotify() {
		w.progress++
		if response.Header.Revision < *closed || response.Header.Revision < *newest {
			w.wrongLocked("a progress at %d after %d and events at %d", response.Header.Revision, *closed, *newest)
		}
		*closed = response.Header.Revision
		return
	}
	before := *newest
	for _, e := range response.Events {
		mod := e.Kv.ModRevision
		switch {
		case mod <= *closed:
			w.wrongLocked("an event at %d after a progress at %d", mod, *closed)
		case mod < *newest:
			w.wrongLocked("an event at %d after one at %d", mod, *newest)
		case mod == before:
			w.wrongLocked("revision %d is in two responses", mod)
		case mod > response.Header.Revision:
			w.wrongLocked("an event at %d under a header at %d", mod, response.Header.Revision)
		}
		*newest = max(*newest, mod)
		seen := event{mod: mod, create: e.Kv.CreateRevision, version: e.Kv.Version, key: string(e.Kv.Key), value: string(e.Kv.Value)}
		if e.Type != mvccpb.PUT {
			w.wrongLocked("%s was deleted at %d, nobody did", seen.key, mod)
		}
		if prevKV {
			w.judgePrevious(last[seen.key], e)
		}
		last[seen.key] = seen
		w.events = append(w.events, seen)
	}
}

func (w *watch) judgePrevious(known event, e *clientv3.Event) {
	switch {
	case known.mod == 0 && e.PrevKv == nil:
	case known.mod == 0 || e.PrevKv == nil:
		w.wrongLocked("%s at %d: the entry before is %v, the event before was at %d", e.Kv.Key, e.Kv.ModRevision, e.PrevKv, known.mod)
	case known.mod != e.PrevKv.ModRevision || known.value != string(e.PrevKv.Value):
		w.wrongLocked("%s at %d: the entry before is of %d, the event before was at %d", e.Kv.Key, e.Kv.ModRevision, e.PrevKv.ModRevision, known.mod)
	}
}

func (w *watch) wrong(format string, arguments ...any) {
	w.Lock()
	defer w.Unlock()
	w.wrongLocked(format, arguments...)
}

func (w *watch) wrongLocked(format string, arguments ...any) {
	w.problems = append(w.problems, fmt.Sprintf("watch on %s: ", w.prefix)+fmt.Sprintf(format, arguments...))
}

// waitFor returns when an event at this revision is there, or has not come in time; then check says what is missing.
func (w *watch) waitFor(revision int64, patience time.Duration) {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		w.Lock()
		there := len(w.events) > 0 && w.events[len(w.events)-1].mod >= revision
		w.Unlock()
		if there {
			return
		}
	}
}

func newest(kvs []*mvccpb.KeyValue, prefix string) (newest int64) {
	for _, kv := range kvs {
		if strings.HasPrefix(string(kv.Key), prefix) {
			newest = max(newest, kv.ModRevision)
		}
	}
	return newest
}

func progressed(watches []*watch) (count int) {
	for _, watch := range watches {
		count += watch.progress
	}
	return count
}
