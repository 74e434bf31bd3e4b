package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// b64 is a key or a value in JSON.
func b64(bytes []byte) string { return base64.StdEncoding.EncodeToString(bytes) }

func (t *T) request(ctx context.Context, method, path, body string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://"+t.server.endpoint+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	return http.DefaultClient.Do(request)
}

// post records the status and the JSON of an answer.
func (t *T) post(name, path, body string) string { return t.over(name, http.MethodPost, path, body) }

func (t *T) over(name, method, path, body string) string {
	ctx, cancel := context.WithTimeout(t.ctx, patience)
	defer cancel()
	answer, err := t.request(ctx, method, path, body)
	if err != nil {
		t.note(name, t.plain(err.Error()))
		return ""
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body)
	t.notef(name, "%d %s %s", answer.StatusCode, answer.Header.Get("Content-Type"), t.json(text))
	return string(text)
}

// jsonLines is a streaming call, read as its answers come.
type jsonLines struct {
	t      *T
	name   string
	answer *http.Response
	reader *bufio.Reader
	cancel context.CancelFunc
}

func (t *T) lines(name, path, body string) *jsonLines {
	ctx, cancel := context.WithCancel(t.ctx)
	timer := time.AfterFunc(patience, cancel)
	answer, err := t.request(ctx, http.MethodPost, path, body)
	timer.Stop()
	if err != nil {
		cancel()
		t.note(name, t.plain(err.Error()))
		return nil
	}
	t.notef(name+" begins", "%d %s", answer.StatusCode, answer.Header.Get("Content-Type"))
	return &jsonLines{t, name, answer, bufio.NewReader(answer.Body), cancel}
}

// next records so many lines.
func (l *jsonLines) next(count int) {
	for range count {
		if l == nil {
			return
		}
		timer := time.AfterFunc(patience, l.cancel)
		line, err := l.reader.ReadString('\n')
		timer.Stop()
		if err != nil {
			l.t.notef(l.name+" ends", "%v %q", err, line)
			return
		}
		l.t.note(l.name, l.t.json([]byte(line)))
	}
}

func (l *jsonLines) close() {
	if l != nil {
		l.cancel()
		_ = l.answer.Body.Close()
	}
}

var gatewayRows = []row{
	{name: "gateway-kv", on: "gateway", run: func(t *T) {
		k, v := b64(t.key("a")), b64([]byte("one"))
		key := func(more string) string { return fmt.Sprintf(`{"key":%q%s}`, k, more) }
		t.post("put", "/v3/kv/put", key(fmt.Sprintf(`,"value":%q`, v)))
		t.post("put with the old value", "/v3/kv/put", key(fmt.Sprintf(`,"value":%q,"prev_kv":true`, v)))
		t.post("range", "/v3/kv/range", key(""))
		t.post("range, old name", "/v3beta/kv/range", key(""))
		t.post("names of JSON", "/v3/kv/range", key(`,"keysOnly":true,"sortOrder":"DESCEND","sortTarget":"MOD"`))
		t.post("numbers for enums and 64 bits", "/v3/kv/range", key(`,"limit":1,"sort_order":2,"sort_target":3`))
		t.post("text for 64 bits", "/v3/kv/range", key(`,"limit":"1","min_mod_revision":"1"`))
		t.post("numbers with exponents", "/v3/kv/range", key(`,"limit":1e1`))
		t.post("null", "/v3/kv/range", key(`,"limit":null,"range_end":null`))
		t.post("unknown fields", "/v3/kv/range", key(`,"nope":{"key":[1,2]}`))
		t.post("an unknown name of an enum", "/v3/kv/range", key(`,"sort_order":"NOPE"`))
		t.post("an unknown number of an enum", "/v3/kv/range", key(`,"sort_order":77`))
		t.post("the first value counts", "/v3/kv/range", key("")+` and {`)
		t.post("base64 of URLs", "/v3/kv/range", `{"key":"_-8="}`)
		t.post("base64 without padding", "/v3/kv/range", `{"key":"_-8"}`)
		t.post("count", "/v3/kv/range", key(`,"count_only":true`))
		t.post("nothing found", "/v3/kv/range", fmt.Sprintf(`{"key":%q}`, b64(t.key("none"))))
		t.post("serializable", "/v3/kv/range", key(`,"serializable":true`))
		t.post("of the future", "/v3/kv/range", key(`,"revision":"99999"`))
		t.post("no key", "/v3/kv/range", `{}`)
		t.post("nothing", "/v3/kv/range", "")
		t.post("txn", "/v3/kv/txn", fmt.Sprintf(`{"compare":[{"key":%[1]q,"result":"EQUAL","target":"VERSION","version":"2"}],
			"success":[{"requestPut":{"key":%[1]q,"value":"dHdv"}},{"request_range":{"key":%[1]q}},{"request_txn":{"success":[{"request_range":{"key":%[1]q}}]}}],
			"failure":[{"requestDeleteRange":{"key":%[1]q}}]}`, k))
		t.post("txn that fails", "/v3/kv/txn", fmt.Sprintf(`{"compare":[{"key":%[1]q,"target":"CREATE","create_revision":"0"}],
			"failure":[{"request_delete_range":{"key":%[1]q,"prev_kv":true}}]}`, k))
		t.post("txn with a key twice", "/v3/kv/txn", fmt.Sprintf(`{"success":[{"request_put":{"key":%[1]q}},{"request_put":{"key":%[1]q}}]}`, k))
		t.post("empty txn", "/v3/kv/txn", `{}`)
		t.post("put for the delete", "/v3/kv/put", key(""))
		t.post("delete", "/v3/kv/deleterange", key(`,"prev_kv":true`))
		t.post("delete of nothing", "/v3/kv/deleterange", key(""))
		t.post("compaction of the future", "/v3/kv/compaction", `{"revision":"99999"}`)
		t.post("compaction", "/v3/kv/compaction", fmt.Sprintf(`{"revision":"%d","physical":true}`, t.base+1))
		t.post("compaction again", "/v3/kv/compaction", fmt.Sprintf(`{"revision":"%d"}`, t.base+1))
	}},
	{name: "gateway-errors", on: "gateway", run: func(t *T) {
		for _, body := range []string{"{", `{"key"`, `{"key":"YQ=="`, "[]", "null", "7", `"x"`, "nope", "{}}", `{"key":5}`, `{"key":"!!"}`,
			`{"limit":1.5}`, `{"limit":"x"}`, `{"limit":true}`, `{"key":"YQ==","key":"YQ=="}`, `{"keys_only":"true"}`, `{"key":{}}`} {
			t.post("range of "+body, "/v3/kv/range", body)
		}
		for _, path := range []string{"/v3/kv/nope", "/v3/kv/range/", "/v3/", "/v3/KV/range", "/v3/kv/rangestream", "/v3alpha/kv/range"} {
			t.post("POST "+path, path, "{}")
		}
		for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete, http.MethodHead} {
			t.over(method, method, "/v3/kv/range", "")
		}
		for _, size := range []int{1_600_000, 2_200_000} {
			t.post(fmt.Sprintf("put of %d", size), "/v3/kv/put", fmt.Sprintf(`{"key":"YQ==","value":%q}`, b64(make([]byte, size))))
		}
	}},
	{name: "gateway-headers", on: "gateway", run: func(t *T) {
		for _, path := range []string{"/v3/kv/range", "/v3/kv/put", "/v3/lease/keepalive", "/v3/nope"} {
			answer, err := t.request(t.ctx, http.MethodPost, path, fmt.Sprintf(`{"key":%q,"ID":"4"}`, b64(t.key("k"))))
			if err != nil {
				t.note(path, t.plain(err.Error()))
				continue
			}
			_ = answer.Body.Close()
			for _, name := range []string{"Content-Type", "Grpc-Metadata-Content-Type", "Access-Control-Allow-Origin",
				"Access-Control-Allow-Methods", "Access-Control-Allow-Headers", "Transfer-Encoding"} {
				t.notef(path+" "+name, "%q", answer.Header.Values(name))
			}
			t.notef(path+" coding", "%v", answer.TransferEncoding)
		}
		for _, limit := range []string{"x", "5", "10S"} {
			request, _ := http.NewRequestWithContext(t.ctx, http.MethodPost, "http://"+t.server.endpoint+"/v3/kv/range", strings.NewReader(`{"key":"YQ=="}`))
			request.Header.Set("Grpc-Timeout", limit)
			answer, err := http.DefaultClient.Do(request)
			if err != nil {
				t.note("timeout "+limit, t.plain(err.Error()))
				continue
			}
			text, _ := io.ReadAll(answer.Body)
			_ = answer.Body.Close()
			t.notef("timeout "+limit, "%d %s", answer.StatusCode, t.json(text))
		}
	}},
	{name: "gateway-lease", on: "gateway", run: func(t *T) {
		t.know(0, 100)
		t.post("grant", "/v3/lease/grant", `{"TTL":"100","ID":"51001"}`)
		t.post("the same again", "/v3/lease/grant", `{"TTL":100,"ID":51001}`)
		t.post("put", "/v3/kv/put", fmt.Sprintf(`{"key":%q,"lease":"51001"}`, b64(t.key("k"))))
		t.post("range", "/v3/kv/range", fmt.Sprintf(`{"key":%q}`, b64(t.key("k"))))
		for _, path := range []string{"/v3/lease/timetolive", "/v3/kv/lease/timetolive"} {
			t.post(path, path, `{"ID":"51001","keys":true}`)
			t.post(path+" of none", path, `{"ID":"51002"}`)
		}
		alive := t.lines("keepalive", "/v3/lease/keepalive", `{"ID":"51001"}{"ID":51002} {"ID":"51001"}`)
		alive.next(4)
		alive.close()
		nothing := t.lines("keepalive of nothing", "/v3/lease/keepalive", ``)
		nothing.next(1)
		nothing.close()
		t.post("leases", "/v3/lease/leases", `{}`)
		t.post("leases, other path", "/v3/kv/lease/leases", ``)
		t.post("revoke", "/v3/lease/revoke", `{"ID":"51001"}`)
		t.post("revoke again", "/v3/kv/lease/revoke", `{"ID":"51001"}`)
		t.post("no TTL", "/v3/lease/grant", `{}`)
	}},
	{name: "gateway-watch", on: "gateway", run: func(t *T) {
		k := b64(t.key("w"))
		w := t.lines("watch", "/v3/watch", fmt.Sprintf(`{"create_request":{"key":%q,"prev_kv":true}}`, k))
		w.next(1)
		t.set(t.key("w"), "one")
		w.next(1)
		t.set(t.key("w"), "two")
		w.next(1)
		t.remove(t.key("w"))
		w.next(1)
		w.close()
		w = t.lines("two on one stream", "/v3/watch", fmt.Sprintf(`{"createRequest":{"key":%[1]q,"startRevision":"%[2]d","watch_id":"7"}}
			{"create_request":{"key":%[1]q,"start_revision":%[2]d,"watch_id":7}} {"cancel_request":{"watch_id":"9"}}`, k, t.base+1))
		w.next(3)
		w.close()
		w = t.lines("filtered", "/v3/watch", fmt.Sprintf(`{"create_request":{"key":%q,"start_revision":"%d","filters":["NOPUT"]}}`, k, t.base+1))
		w.next(2)
		w.close()
		w = t.lines("progress", "/v3/watch", fmt.Sprintf(`{"create_request":{"key":%q,"start_revision":"%d"}}{"progress_request":{}}`, k, t.base+3))
		w.next(2)
		w.close()
		w = t.lines("compacted", "/v3/watch", fmt.Sprintf(`{"create_request":{"key":%q,"start_revision":"1"}}`, k))
		w.next(2)
		w.close()
	}},
	{name: "gateway-watch-unread", on: "gateway", run: func(t *T) {
		ctx, cancel := context.WithTimeout(t.ctx, time.Second)
		defer cancel()
		answer, err := t.request(ctx, http.MethodPost, "/v3/watch", `{"create_request":{"key":5}}`)
		if err != nil {
			t.note("no message", "no answer")
			return
		}
		defer answer.Body.Close()
		text, _ := io.ReadAll(answer.Body)
		t.notef("no message", "%d %s", answer.StatusCode, t.json(text))
	}},
	{name: "gateway-keepalive-unread", on: "gateway", run: func(t *T) {
		t.post("no message", "/v3/lease/keepalive", `{"ID":"x"}`)
	}},
	{name: "gateway-maintenance", on: "gateway", run: func(t *T) {
		t.post("status", "/v3/maintenance/status", `{}`)
		t.post("alarms", "/v3/maintenance/alarm", `{}`)
		t.post("alarm", "/v3/maintenance/alarm", `{"action":"ACTIVATE","alarm":"NOSPACE"}`)
		t.post("put under it", "/v3/kv/put", fmt.Sprintf(`{"key":%q,"value":"YQ=="}`, b64(t.key("k"))))
		t.post("alarms of all kinds", "/v3/maintenance/alarm", `{"action":0}`)
		t.post("no alarm", "/v3/maintenance/alarm", `{"action":2,"alarm":1}`)
		t.post("hash", "/v3/maintenance/hash", `{}`)
		t.post("hashkv", "/v3/maintenance/hashkv", `{}`)
		t.post("defragment", "/v3/maintenance/defragment", `{}`)
		t.post("move of the leader", "/v3/maintenance/transfer-leadership", `{"targetID":"1"}`)
		t.post("downgrade", "/v3/maintenance/downgrade", `{}`)
		snapshot := t.lines("snapshot", "/v3/maintenance/snapshot", `{}`)
		if snapshot != nil {
			line, _ := snapshot.reader.ReadString('\n')
			t.notef("snapshot has a blob", "%t", strings.HasPrefix(line, `{"result":{`) && strings.Contains(line, `"blob":"`))
		}
		snapshot.close()
	}},
	{name: "gateway-cluster", on: "gateway", run: func(t *T) {
		t.post("list", "/v3/cluster/member/list", `{}`)
		t.post("list, linearizable", "/v3/cluster/member/list", `{"linearizable":true}`)
		t.post("add", "/v3/cluster/member/add", `{}`)
		t.post("remove", "/v3/cluster/member/remove", `{"ID":"5"}`)
		t.post("update", "/v3/cluster/member/update", `{"ID":"5","peerURLs":["http://127.0.0.1:1"]}`)
		t.post("promote", "/v3/cluster/member/promote", `{"ID":"5"}`)
	}},
	{name: "gateway-auth", on: "gateway", run: func(t *T) {
		t.post("status", "/v3/auth/status", `{}`)
		t.post("authenticate", "/v3/auth/authenticate", `{"name":"root","password":"x"}`)
		for _, path := range []string{"user/list", "role/list", "user/get", "role/get"} {
			t.post(path, "/v3/auth/"+path, `{}`)
		}
		t.post("enable", "/v3/auth/enable", `{}`)
	}},
	{name: "gateway-locks", on: "gateway", run: func(t *T) {
		name := b64([]byte(t.prefix + "lock"))
		for _, id := range []string{"52001", "52002"} {
			t.post("lease "+id, "/v3/lease/grant", fmt.Sprintf(`{"TTL":"100","ID":%q}`, id))
		}
		t.know(0, 100)
		t.post("lock", "/v3/lock/lock", fmt.Sprintf(`{"name":%q,"lease":"52001"}`, name))
		t.post("lock again", "/v3/lock/lock", fmt.Sprintf(`{"name":%q,"lease":52001}`, name))
		t.post("lock with no such lease", "/v3/lock/lock", fmt.Sprintf(`{"name":%q,"lease":"99"}`, name))
		key := b64([]byte(t.prefix + "lock/cb21"))
		t.post("its key", "/v3/kv/range", fmt.Sprintf(`{"key":%q}`, key))
		t.post("unlock", "/v3/lock/unlock", fmt.Sprintf(`{"key":%q}`, key))
		t.post("unlock again", "/v3/lock/unlock", fmt.Sprintf(`{"key":%q}`, key))
		t.post("unlock of nothing", "/v3/lock/unlock", `{}`)
		t.post("no leader", "/v3/election/leader", fmt.Sprintf(`{"name":%q}`, name))
		t.post("campaign", "/v3/election/campaign", fmt.Sprintf(`{"name":%q,"lease":"52001","value":"YQ=="}`, name))
		t.post("leader", "/v3/election/leader", fmt.Sprintf(`{"name":%q}`, name))
		seen := t.lines("observe", "/v3/election/observe", fmt.Sprintf(`{"name":%q}`, name))
		seen.next(1)
		leader := func(rev int64) string {
			return fmt.Sprintf(`{"name":%q,"key":%q,"rev":"%d","lease":"52001"}`, name, key, rev)
		}
		rev := t.base + 3
		t.post("proclaim", "/v3/election/proclaim", fmt.Sprintf(`{"leader":%s,"value":"Yg=="}`, leader(rev)))
		seen.next(1)
		seen.close()
		t.post("proclaim by another", "/v3/election/proclaim", fmt.Sprintf(`{"leader":%s,"value":"Yg=="}`, leader(rev+7)))
		t.post("proclaim by nobody", "/v3/election/proclaim", `{}`)
		t.post("resign", "/v3/election/resign", fmt.Sprintf(`{"leader":%s}`, leader(rev)))
		t.post("resign again", "/v3/election/resign", fmt.Sprintf(`{"leader":%s}`, leader(rev)))
		t.post("resign of nobody", "/v3/election/resign", `{}`)
		for _, id := range []string{"52001", "52002"} {
			t.post("lease "+id+" ends", "/v3/lease/revoke", fmt.Sprintf(`{"ID":%q}`, id))
		}
	}},
}
