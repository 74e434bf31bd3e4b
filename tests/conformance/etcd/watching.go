package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// watching is one watch stream and what came on it.
//
// How events are batched into responses is the server's matter. What is recorded is each watcher's events in their
// order; that no revision is spread over two responses (except fragments) and that headers are not behind events
// is checked here and leaves a trace in the record when it does not hold.
type watching struct {
	t      *T
	stream pb.Watch_WatchClient
	cancel context.CancelFunc
	ended  chan struct{}

	mutex     sync.Mutex
	responses []*pb.WatchResponse
	err       error
}

func (t *T) watch() *watching {
	ctx, cancel := context.WithCancel(t.ctx)
	stream, err := t.watcher.Watch(ctx)
	if err != nil {
		t.note("watch stream", t.failure(err))
	}
	w := &watching{t: t, stream: stream, cancel: cancel, ended: make(chan struct{})}
	if err != nil {
		close(w.ended)
		return w
	}
	go func() {
		defer close(w.ended)
		for {
			response, err := stream.Recv()
			w.mutex.Lock()
			if err != nil {
				w.err = err
				w.mutex.Unlock()
				return
			}
			w.responses = append(w.responses, response)
			w.mutex.Unlock()
		}
	}()
	return w
}

func (w *watching) send(q *pb.WatchRequest) {
	if w.stream == nil {
		return
	}
	if err := w.stream.Send(q); err != nil && err != io.EOF {
		w.t.note("watch send", w.t.failure(err))
	}
}

func (w *watching) create(q *pb.WatchCreateRequest) {
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: q}})
}

func (w *watching) drop(id int64) {
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}})
}

func (w *watching) askProgress() {
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
}

// created waits for that many answers to creates.
func (w *watching) created(count int) {
	w.await(fmt.Sprintf("%d created", count), func(r *pb.WatchResponse) int {
		if r.Created {
			return 1
		}
		return 0
	}, count)
}

// events waits for that many events, over all watchers.
func (w *watching) events(count int) {
	w.await(fmt.Sprintf("%d events", count), func(r *pb.WatchResponse) int { return len(r.Events) }, count)
}

func (w *watching) canceled(count int) {
	w.await(fmt.Sprintf("%d canceled", count), func(r *pb.WatchResponse) int {
		if r.Canceled {
			return 1
		}
		return 0
	}, count)
}

// progress waits for that many progress notifications.
func (w *watching) progress(count int) bool {
	return w.await(fmt.Sprintf("%d progress", count), func(r *pb.WatchResponse) int {
		if isProgress(r) {
			return 1
		}
		return 0
	}, count)
}

func isProgress(r *pb.WatchResponse) bool {
	return len(r.Events) == 0 && !r.Created && !r.Canceled && !r.Fragment
}

func (w *watching) await(what string, weight func(*pb.WatchResponse) int, count int) bool {
	ok := eventually(5*time.Second, func() bool {
		w.mutex.Lock()
		defer w.mutex.Unlock()
		sum := 0
		for _, r := range w.responses {
			sum += weight(r)
		}
		return sum >= count
	})
	if !ok {
		w.t.note("waited in vain", what)
	}
	return ok
}

// Long enough for what should not come.
const quiet = 150 * time.Millisecond

// record waits a little for what should not come, and records all that came since the stream began.
func (w *watching) record(name string) {
	time.Sleep(quiet)
	w.mutex.Lock()
	defer w.mutex.Unlock()
	lines := map[int64][]string{}
	last := map[int64]int64{}
	fragment := map[int64]bool{}
	var creates []string
	for _, r := range w.responses {
		id := r.WatchId
		switch {
		case r.Created:
			creates = append(creates, fmt.Sprint(id))
			lines[id] = append(lines[id], w.t.text(r))
		case isProgress(r):
			lines[id] = append(lines[id], "progress "+w.t.text(r))
		case len(r.Events) == 0:
			lines[id] = append(lines[id], w.t.text(r))
		default:
			if r.Events[0].Kv.ModRevision == last[id] && !fragment[id] {
				lines[id] = append(lines[id], "ONE REVISION IN TWO RESPONSES")
			}
			for _, event := range r.Events {
				lines[id] = append(lines[id], w.t.event(event))
				last[id] = event.Kv.ModRevision
			}
			fragment[id] = r.Fragment
			if h := r.Header; h == nil || h.Revision < last[id] || h.ClusterId == 0 || h.MemberId == 0 {
				lines[id] = append(lines[id], "STRANGE HEADER "+w.t.text(r.GetHeader()))
			}
			if r.Canceled || r.CompactRevision != 0 || r.CancelReason != "" {
				lines[id] = append(lines[id], "EVENTS WITH MORE "+w.t.text(r))
			}
		}
	}
	w.t.note(name+" creates", strings.Join(creates, " "))
	for _, id := range slices.Sorted(maps.Keys(lines)) {
		w.t.note(fmt.Sprintf("%s watcher %d", name, id), strings.Join(lines[id], "\n"))
	}
	if w.err != nil {
		w.t.note(name+" ended", w.t.failure(w.err))
	}
}

func (t *T) event(e *mvccpb.Event) string {
	text := e.Type.String() + " " + t.text(e.Kv)
	if e.PrevKv != nil {
		text += " before " + t.text(e.PrevKv)
	}
	return text
}

func (w *watching) close() {
	w.cancel()
	<-w.ended
}

// once is a watch of one watcher: creates it, does something, waits for events and records.
func (t *T) once(name string, q *pb.WatchCreateRequest, act func(), events int) {
	w := t.watch()
	defer w.close()
	w.create(q)
	w.created(1)
	if act != nil {
		act()
	}
	if events > 0 {
		w.events(events)
	}
	w.record(name)
}
