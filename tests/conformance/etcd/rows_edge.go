package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// What is decided at a listener's door, before a request is one: compression, names of hosts, methods of HTTP.
var edgeRows = []row{
	{name: "gzip", run: func(t *T) {
		packed := grpc.UseCompressor("gzip")
		var head metadata.MD
		compressed := func(name string, do func(options ...grpc.CallOption) (proto.Message, error)) {
			head = nil
			answer, err := do(packed, grpc.Header(&head))
			t.rec(name, answer, err)
			t.notef(name+": encoding", "%v", head.Get("grpc-encoding"))
		}
		compressed("put", func(options ...grpc.CallOption) (proto.Message, error) {
			return t.kv.Put(t.ctx, &pb.PutRequest{Key: t.key("a"), Value: []byte(strings.Repeat("v", 1000))}, options...)
		})
		compressed("put of 1 MB", func(options ...grpc.CallOption) (proto.Message, error) {
			return t.kv.Put(t.ctx, &pb.PutRequest{Key: t.key("b"), Value: []byte(strings.Repeat("v", 1_000_000))}, options...)
		})
		compressed("get", func(options ...grpc.CallOption) (proto.Message, error) {
			return t.kv.Range(t.ctx, &pb.RangeRequest{Key: t.key("a")}, options...)
		})
		compressed("txn", func(options ...grpc.CallOption) (proto.Message, error) {
			return t.kv.Txn(t.ctx, &pb.TxnRequest{Success: ops(opPut(t.key("c"), "c"), opGet(t.key("a")))}, options...)
		})
		compressed("refused", func(options ...grpc.CallOption) (proto.Message, error) {
			return t.kv.Range(t.ctx, &pb.RangeRequest{}, options...)
		})
		ctx, cancel := context.WithTimeout(t.ctx, patience)
		defer cancel()
		watch, err := t.watcher.Watch(ctx, packed)
		if err == nil {
			err = watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
				CreateRequest: &pb.WatchCreateRequest{Key: t.key("a"), StartRevision: t.base + 1}}})
		}
		for _, name := range []string{"a watch begins", "and goes on"} {
			var answer *pb.WatchResponse
			if err == nil {
				answer, err = watch.Recv()
			}
			t.rec(name, answer, err)
		}
		if err == nil {
			head, err = watch.Header()
			t.notef("a watch: encoding", "%v %v", head.Get("grpc-encoding"), err)
		}
	}},
	{name: "gzip-refused", run: func(t *T) {
		zeros := squeezed(make([]byte, 3<<20))
		bomb := squeezed(make([]byte, 20<<20))
		request, err := proto.Marshal(&pb.RangeRequest{Key: t.key("a")})
		if err != nil {
			t.note("request", err.Error())
			return
		}
		good := squeezed(request)
		damaged := bytes.Clone(good)
		damaged[len(damaged)-6] ^= 1
		for _, q := range []struct {
			name, encoding string
			flag           byte
			message        []byte
		}{
			{"good", "gzip", 1, good},
			{"not compressed after all", "gzip", 0, request},
			{"3 MiB of nothing", "gzip", 1, zeros},
			{"20 MiB of nothing", "gzip", 1, bomb},
			{"no gzip", "gzip", 1, []byte(strings.Repeat("x", 100))},
			{"empty", "gzip", 1, nil},
			{"cut", "gzip", 1, good[:len(good)-9]},
			{"another checksum", "gzip", 1, damaged},
			{"snappy", "snappy", 1, request},
			{"snappy, not compressed after all", "snappy", 0, request},
			{"identity", "identity", 0, request},
			{"identity, compressed after all", "identity", 1, good},
			{"nothing said", "", 1, good},
		} {
			t.note(q.name, t.plain(framed(t.server.endpoint, q.encoding, q.flag, q.message)))
		}
	}},
	{name: "authority", run: func(t *T) {
		for _, authority := range []string{"#initially=[http://127.0.0.1:2379]", "%2Frun%2Fx.sock", "/run/x.sock", "http://a:1", "a:1,b:2",
			"[fe80::1%25eth0]:2379", "[fe80::1%eth0]", "", "a b", "localhost", "localhost:2379", "user@host"} {
			t.note(authority, called(t.server.endpoint, authority))
		}
	}},
	{name: "http-methods", run: func(t *T) {
		for _, path := range []string{"/", "/health", "/livez", "/readyz", "/version", "/metrics", "/nope", "*"} {
			for _, method := range []string{"OPTIONS", "HEAD", "PUT"} {
				t.note(method+" "+path, byHand(t.server.endpoint, method+" "+path+" HTTP/1.1", path == "/metrics"))
			}
		}
		t.note("HAProxy's option httpchk", byHand(t.server.endpoint, "OPTIONS / HTTP/1.0", false))
		t.note("GET with headers for browsers", byHand(t.server.endpoint, "GET /version HTTP/1.1", true))
	}},
	{name: "http-metrics-gzip", run: func(t *T) {
		for _, accepts := range []string{"", "gzip", "gzip;q=0", "deflate, gzip;q=0.5", "identity", "*"} {
			request, err := http.NewRequestWithContext(t.ctx, http.MethodGet, "http://"+t.server.endpoint+"/metrics", nil)
			if err != nil {
				t.note(accepts, err.Error())
				continue
			}
			request.Header.Set("Accept-Encoding", accepts)
			answer, err := (&http.Transport{DisableCompression: true, DisableKeepAlives: true}).RoundTrip(request)
			if err != nil {
				t.note(accepts, t.plain(err.Error()))
				continue
			}
			var body io.Reader = answer.Body
			if answer.Header.Get("Content-Encoding") == "gzip" {
				if body, err = gzip.NewReader(answer.Body); err != nil {
					t.note(accepts, err.Error())
					continue
				}
			}
			text, err := io.ReadAll(body)
			answer.Body.Close()
			t.notef(accepts, "%d %q %v %v", answer.StatusCode, answer.Header.Get("Content-Encoding"),
				bytes.Contains(text, []byte("\nprocess_start_time_seconds ")), err)
		}
	}},
}

func squeezed(message []byte) []byte {
	var packed bytes.Buffer
	writer := gzip.NewWriter(&packed)
	_, _ = writer.Write(message)
	_ = writer.Close()
	return packed.Bytes()
}

// framed sends one message of a Range as it is given, and says what status came back.
func framed(address, encoding string, flag byte, message []byte) string {
	body := append([]byte{flag}, binary.BigEndian.AppendUint32(nil, uint32(len(message)))...)
	request, err := http.NewRequest(http.MethodPost, "http://"+address+"/etcdserverpb.KV/Range", bytes.NewReader(append(body, message...)))
	if err != nil {
		return err.Error()
	}
	request.Header.Set("Content-Type", "application/grpc")
	request.Header.Set("Te", "trailers")
	if encoding != "" {
		request.Header.Set("Grpc-Encoding", encoding)
	}
	transport := &http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, network, address string, _ *tls.Config) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}}
	defer transport.CloseIdleConnections()
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return err.Error()
	}
	defer answer.Body.Close()
	got, err := io.ReadAll(answer.Body)
	if err != nil {
		return err.Error()
	}
	status := answer.Trailer
	if answer.Header.Get("Grpc-Status") != "" {
		status = answer.Header
	}
	said, err := url.PathUnescape(status.Get("Grpc-Message"))
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s %q, a message: %v, compressed: %q", status.Get("Grpc-Status"), said, len(got) > 0,
		answer.Header.Get("Grpc-Encoding"))
}

// called says how a Range with this :authority ends, by frames of its own.
func called(address, authority string) string {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return err.Error()
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", "/etcdserverpb.KV/Range"}, {":authority", authority},
		{"content-type", "application/grpc"}, {"te", "trailers"}} {
		if err := encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}); err != nil {
			return err.Error()
		}
	}
	if err := framer.WriteSettings(); err != nil {
		return err.Error()
	}
	if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}); err != nil {
		return err.Error()
	}
	if err := framer.WriteData(1, true, []byte("\x00\x00\x00\x00\x03\x0a\x01a")); err != nil {
		return err.Error()
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return err.Error()
		}
		switch frame := frame.(type) {
		case *http2.RSTStreamFrame:
			return "reset: " + frame.ErrCode.String()
		case *http2.GoAwayFrame:
			return "go away: " + frame.ErrCode.String()
		case *http2.MetaHeadersFrame:
			for _, field := range frame.RegularFields() {
				if field.Name == "grpc-status" {
					return "answered: " + field.Value
				}
			}
		}
	}
}

// byHand sends a request line and gives what of the answer is compared: who asks for a page of numbers does not compare them.
func byHand(address, line string, headOnly bool) string {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, line+"\r\nHost: conformance\r\nConnection: close\r\n\r\n"); err != nil {
		return err.Error()
	}
	all, err := io.ReadAll(conn)
	if err != nil {
		return err.Error()
	}
	head, body, _ := strings.Cut(string(all), "\r\n\r\n")
	lines := strings.Split(head, "\r\n")
	said := []string{lines[0]}
	for _, wanted := range []string{"Allow", "Access-Control-Allow-Headers", "Access-Control-Allow-Methods", "Access-Control-Allow-Origin"} {
		for _, line := range lines[1:] {
			if name, value, _ := strings.Cut(line, ": "); strings.EqualFold(name, wanted) {
				said = append(said, wanted+": "+value)
			}
		}
	}
	if !headOnly {
		said = append(said, fmt.Sprintf("%q", body))
	}
	return strings.Join(said, "; ")
}
