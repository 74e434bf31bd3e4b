package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	health "google.golang.org/grpc/health/grpc_health_v1"
)

// brief records an error, or that there was none.
func (t *T) brief(name string, err error) {
	if err != nil {
		t.note(name, t.failure(err))
		return
	}
	t.note(name, "ok")
}

var limitRows = []row{
	{name: "limit-request", run: func(t *T) {
		const limit = 1_572_864
		for _, size := range []int{1_000_000, limit - 1000, limit, limit + 100_000, 2_000_000, 2_097_152, 3_000_000, 20_000_000} {
			value := strings.Repeat("x", size)
			_, err := t.kv.Put(t.ctx, &pb.PutRequest{Key: t.key("k"), Value: []byte(value)})
			t.brief(fmt.Sprintf("put of %d", size), err)
			_, err = t.kv.Txn(t.ctx, &pb.TxnRequest{Success: ops(opPut(t.key("k"), value))})
			t.brief(fmt.Sprintf("txn of %d", size), err)
		}
		half := strings.Repeat("x", 900_000)
		_, err := t.kv.Txn(t.ctx, &pb.TxnRequest{Success: ops(opPut(t.key("a"), half), opPut(t.key("b"), half))})
		t.brief("txn of two halves", err)
		_, err = t.kv.Txn(t.ctx, &pb.TxnRequest{Compare: []*pb.Compare{valueIs(t.key("a"), equal, half)}, Success: ops(opPut(t.key("b"), half))})
		t.brief("txn with a large compare", err)
		_, err = t.kv.Txn(t.ctx, &pb.TxnRequest{Success: ops(opPut(t.key("a"), half)), Failure: ops(opPut(t.key("b"), half))})
		t.brief("txn with two branches", err)
		large := []byte(strings.Repeat("k", 1_600_000))
		_, err = t.kv.DeleteRange(t.ctx, &pb.DeleteRangeRequest{Key: append(t.key(""), large...)})
		t.brief("delete of a large key", err)
		_, err = t.kv.Range(t.ctx, &pb.RangeRequest{Key: append(t.key(""), large...)})
		t.brief("get of a large key", err)
		_, err = t.kv.Txn(t.ctx, &pb.TxnRequest{Success: ops(opGet(append(t.key(""), large...)))})
		t.brief("txn that gets a large key", err)
		for i := range 10 {
			t.set(t.key(fmt.Sprintf("big%d", i)), strings.Repeat("x", 1_000_000))
		}
		answer, err := t.kv.Range(t.ctx, &pb.RangeRequest{Key: t.key("big"), RangeEnd: t.key("bih")})
		t.notef("answer of 10 MB", "%d keys %v", len(answer.GetKvs()), err)
	}},
	{name: "limit-flags", on: "small", run: func(t *T) {
		put := func(i int) *pb.RequestOp { return opPut(t.key(fmt.Sprint(i)), "v") }
		t.txn("4 operations", &pb.TxnRequest{Success: many(4, put)})
		t.txn("5 operations", &pb.TxnRequest{Success: many(5, put)})
		t.txn("nested", &pb.TxnRequest{Success: ops(op(&pb.TxnRequest{Success: many(3, put)}))})
		t.txn("nested too many", &pb.TxnRequest{Success: ops(op(&pb.TxnRequest{Success: many(4, put)}))})
		for _, size := range []int{3000, 4096, 500_000, 600_000} {
			_, err := t.kv.Put(t.ctx, &pb.PutRequest{Key: t.key("k"), Value: []byte(strings.Repeat("x", size))})
			t.brief(fmt.Sprintf("put of %d", size), err)
		}
	}},
	{name: "unknown-method", run: func(t *T) {
		for _, method := range []string{"/etcdserverpb.KV/Nope", "/etcdserverpb.Nope/Range", "/nope.Nope/Nope", "/v3electionpb.Election/Nope", "/v3lockpb.Lock/Nope"} {
			t.brief(method, t.conn.Invoke(t.ctx, method, &pb.RangeRequest{}, &pb.RangeResponse{}))
		}
	}},
	{name: "malformed", run: func(t *T) {
		t.brief("a body that is no message", t.conn.Invoke(t.ctx, "/etcdserverpb.KV/Range", []byte{0x0a, 0xff, 0x01}, &pb.RangeResponse{}, grpc.ForceCodec(rawCodec{})))
	}},
	{name: "grpc-health", run: func(t *T) {
		client := health.NewHealthClient(t.conn)
		call(t, "all", client.Check, &health.HealthCheckRequest{})
		call(t, "of KV", client.Check, &health.HealthCheckRequest{Service: "etcdserverpb.KV"})
		call(t, "of nobody", client.Check, &health.HealthCheckRequest{Service: "nope"})
		for _, service := range []string{"", "nope"} {
			ctx, cancel := context.WithTimeout(t.ctx, 5*time.Second)
			stream, err := client.Watch(ctx, &health.HealthCheckRequest{Service: service})
			if err == nil {
				var answer *health.HealthCheckResponse
				answer, err = stream.Recv()
				t.rec("watch of '"+service+"'", answer, err)
			} else {
				t.brief("watch of '"+service+"'", err)
			}
			cancel()
		}
	}},
	{name: "deadline", run: func(t *T) {
		ctx, cancel := context.WithTimeout(t.ctx, time.Nanosecond)
		defer cancel()
		_, err := t.kv.Range(ctx, &pb.RangeRequest{Key: t.key("k")})
		t.brief("already over", err)
	}},
	// A client pings when it was idle: etcd allows it every 5 seconds while a stream is open.
	{name: "pings", on: "pings", run: func(t *T) {
		err := ping(t.server.endpoint, 4, 5500*time.Millisecond)
		t.notef("one in 5.5 s with a stream open", "%v", err)
	}},
}

type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error)      { return v.([]byte), nil }
func (rawCodec) Unmarshal(data []byte, v any) error { return nil }
func (rawCodec) Name() string                       { return "proto" }

// ping opens a watch stream and pings so often, as HTTP/2 frames of its own: grpc-go does not ping so soon.
func ping(address string, count int, every time.Duration) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return err
	}
	framer := http2.NewFramer(conn, conn)
	if err := framer.WriteSettings(); err != nil {
		return err
	}
	var block strings.Builder
	encoder := hpack.NewEncoder(&block)
	for _, field := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", "/etcdserverpb.Watch/Watch"}, {":authority", address},
		{"content-type", "application/grpc"}, {"te", "trailers"}} {
		if err := encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}); err != nil {
			return err
		}
	}
	if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(block.String()), EndHeaders: true}); err != nil {
		return err
	}
	for range count {
		time.Sleep(every)
		if err := framer.WritePing(false, [8]byte{1}); err != nil {
			return err
		}
		_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
		for answered := false; !answered; {
			frame, err := framer.ReadFrame()
			if err != nil {
				return fmt.Errorf("no answer to a ping")
			}
			switch frame := frame.(type) {
			case *http2.SettingsFrame:
				if !frame.IsAck() {
					_ = framer.WriteSettingsAck()
				}
			case *http2.PingFrame:
				if frame.IsAck() {
					answered = true
				} else {
					_ = framer.WritePing(true, frame.Data)
				}
			case *http2.GoAwayFrame:
				return fmt.Errorf("go away: %s %s", frame.ErrCode, frame.DebugData())
			}
		}
	}
	return nil
}

// http records what a GET answers.
func (t *T) http(name, path string) { t.ask(name, http.MethodGet, path, "") }

func (t *T) ask(name, method, path, body string) {
	ctx, cancel := context.WithTimeout(t.ctx, patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, "http://"+t.server.endpoint+path, strings.NewReader(body))
	if err != nil {
		t.note(name, err.Error())
		return
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.note(name, t.plain(err.Error()))
		return
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body)
	parts := strings.SplitAfter(string(text), "\n")
	if strings.HasPrefix(string(text), "[") {
		slices.Sort(parts) // checks come in any order
	}
	t.notef(name, "%d %s %q", answer.StatusCode, answer.Header.Get("Content-Type"), t.plain(strings.Join(parts, "")))
}

var httpRows = []row{
	{name: "http", run: func(t *T) {
		for _, path := range []string{"/health", "/health?serializable=true", "/health?exclude=NOSPACE", "/health?exclude=nope", "/version",
			"/livez", "/livez/serializable_read", "/livez?verbose", "/livez?exclude=serializable_read&verbose",
			"/readyz", "/readyz/linearizable_read", "/readyz?verbose", "/readyz/nope", "/nope", "/"} {
			t.http("GET "+path, path)
		}
		for _, path := range []string{"/health", "/version", "/livez", "/readyz"} {
			t.ask("POST "+path, http.MethodPost, path, "")
			t.ask("DELETE "+path, http.MethodDelete, path, "")
		}
		t.ask("HEAD /health", http.MethodHead, "/health", "")
	}},
	{name: "http-metrics", run: func(t *T) {
		answer, err := http.Get("http://" + t.server.endpoint + "/metrics")
		if err != nil {
			t.note("metrics", t.plain(err.Error()))
			return
		}
		defer answer.Body.Close()
		kind, _, _ := strings.Cut(answer.Header.Get("Content-Type"), ";")
		t.notef("metrics", "%d %s", answer.StatusCode, kind)
	}},
}
