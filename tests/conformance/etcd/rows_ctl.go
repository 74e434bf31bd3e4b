package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// ctl runs etcdctl and records its exit code and output.
func (t *T) ctl(name string, arguments ...string) string {
	return t.tool(name, "", "etcdctl", arguments...)
}

func (t *T) tool(name, input, tool string, arguments ...string) string {
	ctx, cancel := context.WithTimeout(t.ctx, 20*time.Second)
	defer cancel()
	command := exec.CommandContext(ctx, t.bin.tool(tool), arguments...)
	return t.command(name, input, command)
}

func (t *T) environment() []string {
	return append(os.Environ(), "ETCDCTL_ENDPOINTS=http://"+t.server.endpoint)
}

func (t *T) command(name, input string, command *exec.Cmd) string {
	var out, errs bytes.Buffer
	command.Env = t.environment()
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(input), &out, &errs
	_ = command.Run()
	t.note(name, t.printed(command.ProcessState.ExitCode(), out.String(), errs.String()))
	return out.String()
}

// ctlUntil runs etcdctl until it has printed that many lines, and interrupts it.
func (t *T) ctlUntil(name string, lines int, act func(), arguments ...string) {
	file := filepath.Join(t.server.dir, fmt.Sprintf("%d.out", time.Now().UnixNano()))
	out, err := os.Create(file)
	if err != nil {
		t.note(name, err.Error())
		return
	}
	defer out.Close()
	command := exec.CommandContext(t.ctx, t.bin.tool("etcdctl"), arguments...)
	command.Env, command.Stdout, command.Stderr = t.environment(), out, out
	if err := command.Start(); err != nil {
		t.note(name, err.Error())
		return
	}
	if act != nil {
		time.Sleep(500 * time.Millisecond)
		act()
	}
	eventually(5*time.Second, func() bool {
		text, _ := os.ReadFile(file)
		return strings.Count(string(text), "\n") >= lines
	})
	time.Sleep(quiet)
	_ = command.Process.Signal(syscall.SIGINT)
	_ = command.Wait()
	text, _ := os.ReadFile(file)
	t.note(name, t.printed(command.ProcessState.ExitCode(), string(text), ""))
}

// printed is etcdctl's output as it is compared.
func (t *T) printed(code int, out, errs string) string {
	var lines []string
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\n")
		var value any
		decoder := json.NewDecoder(strings.NewReader(line))
		decoder.UseNumber()
		if strings.HasPrefix(line, "{") || strings.HasPrefix(line, "[") {
			if err := decoder.Decode(&value); err == nil {
				lines = append(lines, t.printedJSON("", value))
				continue
			}
		}
		lines = append(lines, t.printedLine(line))
	}
	for line := range strings.Lines(errs) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "{") { // a log line: what it says without where and when
			var entry map[string]any
			if json.Unmarshal([]byte(line), &entry) == nil {
				line = fmt.Sprintf("log %v: %v: %v", entry["level"], entry["msg"], entry["error"])
			}
		}
		lines = append(lines, "stderr "+t.printedLine(line))
	}
	return fmt.Sprintf("exit %d\n%s", code, strings.Join(lines, "\n"))
}

// Fields of etcdctl's JSON as in normalise.go.
var (
	jsonPresent = []string{"cluster_id", "member_id", "raft_term", "raftTerm", "raftIndex", "raftAppliedIndex", "dbSize", "dbSizeInUse",
		"leader", "memberID", "hash", "name", "peerURLs", "clientURLs", "totalSize", "Endpoint", "endpoint", "took", "compact_revision", "ID", "totalKey"}
	jsonRevision = []string{"revision", "create_revision", "mod_revision", "hash_revision"}
	jsonLease    = []string{"id", "lease"}
	jsonVersion  = []string{"version", "storageVersion"}
)

func (t *T) printedJSON(name string, value any) string {
	switch value := value.(type) {
	case map[string]any:
		var fields []string
		for key, field := range value {
			if key == "dbSizeInUse" {
				continue // it may be 0, and is then left out
			}
			fields = append(fields, key+":"+t.printedJSON(key, field))
		}
		slices.Sort(fields)
		return "{" + strings.Join(fields, " ") + "}"
	case []any:
		if slices.Contains(jsonPresent, name) {
			return "[+]"
		}
		var items []string
		for _, item := range value {
			items = append(items, t.printedJSON(name, item))
		}
		return "[" + strings.Join(items, " ") + "]"
	case json.Number:
		number, err := value.Int64()
		switch {
		case slices.Contains(jsonRevision, name) && err == nil:
			return t.revision(number)
		case slices.Contains(jsonLease, name) && err == nil:
			return t.leaseName(number)
		case slices.Contains(jsonPresent, name) && value.String() != "0":
			return "+"
		case name == "ttl" && err == nil && slices.Contains(t.granted, number+1):
			return fmt.Sprint(number + 1)
		}
		return value.String()
	case string:
		if slices.Contains(jsonPresent, name) && value != "" {
			return "+"
		}
		if slices.Contains(jsonVersion, name) && versions.MatchString(value) {
			return "X.Y.Z"
		}
		return fmt.Sprintf("%q", t.plain(value))
	}
	return fmt.Sprint(value)
}

var (
	printedRevision = regexp.MustCompile(`("(?:Revision|CreateRevision|ModRevision|HashRevision)" : |\brevision )(\d+)`)
	printedRules    = []struct {
		pattern *regexp.Regexp
		becomes string
	}{
		{regexp.MustCompile(`"DBSizeInUse" : \d+`), `"DBSizeInUse" : <n>`},
		{regexp.MustCompile(`("(?:ClusterID|MemberID|RaftTerm|Leader|RaftIndex|RaftAppliedIndex|DBSize|Hash)" : )[1-9]\d*`), "${1}+"},
		{regexp.MustCompile(`/[0-9a-f]{13,16}\b`), "/<lease>"},
		{regexp.MustCompile(`\b[0-9a-f]{13,16}\b`), "<id>"},
		{regexp.MustCompile(`\b\d+\.\d+\.\d+\b`), "X.Y.Z"},
		{regexp.MustCompile(`\b[\d.]+ [kMG]?B\b|\b0 B\b`), "<size>"},
		{regexp.MustCompile(`\b\d+%`), "<part>"},
		{regexp.MustCompile(`remaining\(\d+s\)`), "remaining(<left>)"},
		{regexp.MustCompile(`, \d+, \d+, \d+,`), ", <n>, <n>, <n>,"},
		{regexp.MustCompile(`[\d.]+(ns|µs|ms)\b`), "<time>"},
	}
)

func (t *T) printedLine(line string) string {
	line = t.plain(line)
	line = printedRevision.ReplaceAllStringFunc(line, func(text string) string {
		parts := printedRevision.FindStringSubmatch(text)
		var number int64
		fmt.Sscan(parts[2], &number)
		return parts[1] + t.revision(number)
	})
	for _, rule := range printedRules {
		line = rule.pattern.ReplaceAllString(line, rule.becomes)
	}
	return line
}

var ctlRows = []row{
	{name: "ctl-kv", on: "ctl", run: func(t *T) {
		p := t.prefix
		t.ctl("put", "put", p+"a", "1")
		t.ctl("put, previous", "put", p+"a", "2", "--prev-kv")
		t.ctl("put, JSON", "put", p+"b", "1", "-w", "json")
		t.ctl("put, ignoring the value", "put", p+"c", "--ignore-value")
		t.ctl("put, unknown lease", "put", p+"c", "v", "--lease=1234")
		t.tool("put, standard input", "from input", "etcdctl", "put", p+"d")
		for _, format := range []string{"simple", "json", "fields", "table"} {
			t.ctl("get, "+format, "get", p+"a", "-w", format)
		}
		t.ctl("get prefix", "get", "--prefix", p)
		t.ctl("get prefix, JSON", "get", "--prefix", p, "-w", "json")
		t.ctl("get keys", "get", "--prefix", p, "--keys-only")
		t.ctl("get count", "get", "--prefix", p, "--count-only", "-w", "fields")
		t.ctl("get values", "get", "--prefix", p, "--print-value-only")
		t.ctl("get hex", "get", p+"a", "--hex")
		t.ctl("get limit", "get", "--prefix", p, "--limit=2", "-w", "json")
		t.ctl("get order", "get", "--prefix", p, "--order=DESCEND", "--sort-by=MODIFY", "--limit=2")
		t.ctl("get range", "get", p+"b", p+"d")
		t.ctl("get at a revision", "get", p+"a", fmt.Sprintf("--rev=%d", t.base+1))
		t.ctl("get in the future", "get", p+"a", fmt.Sprintf("--rev=%d", t.base+100))
		t.ctl("get serializable", "get", p+"a", "--consistency=s")
		t.ctl("get nothing", "get", "")
		t.ctl("get missing", "get", p+"missing")
		t.ctl("del", "del", p+"a")
		t.ctl("del missing", "del", p+"a")
		t.ctl("del, previous", "del", p+"b", "--prev-kv")
		t.ctl("del prefix, JSON", "del", "--prefix", p, "-w", "json")
	}},
	{name: "ctl-txn", on: "ctl", run: func(t *T) {
		p := t.prefix
		t.set(t.key("a"), "1")
		t.tool("succeeds", fmt.Sprintf("value(%q) = \"1\"\n\nput %sb 2\nget %sa\n\nget %sc\n\n", p+"a", p, p, p), "etcdctl", "txn")
		t.tool("fails, JSON", fmt.Sprintf("mod(%q) > \"99999999\"\n\nput %sb 2\n\nget %sb\n\n", p+"a", p, p), "etcdctl", "txn", "-w", "json")
		t.tool("create and version", fmt.Sprintf("ver(%q) = \"1\"\ncreate(%q) > \"0\"\n\ndel %sa\n\n\n", p+"a", p+"a", p), "etcdctl", "txn")
		t.tool("duplicate", fmt.Sprintf("\nput %sb 2\nput %sb 3\n\n\n", p, p), "etcdctl", "txn")
	}},
	{name: "ctl-watch", on: "ctl", run: func(t *T) {
		p := t.prefix
		at := t.set(t.key("a"), "1")
		t.set(t.key("a"), "2")
		t.remove(t.key("a"))
		t.ctlUntil("from a revision", 9, nil, "watch", "--prefix", p, fmt.Sprintf("--rev=%d", at))
		t.ctlUntil("previous", 4, nil, "watch", p+"a", fmt.Sprintf("--rev=%d", at+1), "--prev-kv")
		t.ctlUntil("live", 3, func() { t.set(t.key("b"), "live") }, "watch", "--prefix", p)
		t.ctlUntil("fields", 12, nil, "watch", p+"b", fmt.Sprintf("--rev=%d", at), "-w", "fields")
		compacted := t.set(t.key("a"), "3")
		t.compact("compact", compacted)
		t.ctl("compacted", "watch", p+"a", fmt.Sprintf("--rev=%d", at))
	}},
	{name: "ctl-lease", on: "ctl", run: func(t *T) {
		out := t.ctlLease("grant")
		t.ctl("timetolive", "lease", "timetolive", out, "--keys")
		t.ctl("put", "put", t.prefix+"a", "v", "--lease="+out)
		t.ctl("timetolive, JSON", "lease", "timetolive", out, "--keys", "-w", "json")
		t.ctl("keep-alive once", "lease", "keep-alive", "--once", out)
		t.ctl("list", "lease", "list")
		t.ctl("revoke", "lease", "revoke", out)
		t.ctl("revoke again", "lease", "revoke", out)
		t.ctl("timetolive of none", "lease", "timetolive", "123456")
		t.ctl("keep-alive of none", "lease", "keep-alive", "--once", "123456")
		t.ctl("get", "get", t.prefix+"a")
	}},
	{name: "ctl-compaction", on: "ctl", run: func(t *T) {
		at := t.set(t.key("a"), "1")
		t.set(t.key("a"), "2")
		t.ctl("compaction", "compaction", fmt.Sprint(at))
		t.ctl("again", "compaction", fmt.Sprint(at))
		t.ctl("future", "compaction", fmt.Sprint(at+100))
		t.ctl("physical", "compaction", "--physical", fmt.Sprint(at+1))
		t.ctl("get below", "get", t.prefix+"a", fmt.Sprintf("--rev=%d", at))
	}},
	{name: "ctl-endpoint", on: "ctl", run: func(t *T) {
		t.set(t.key("a"), "v")
		t.ctl("health", "endpoint", "health")
		t.ctl("health, JSON", "endpoint", "health", "-w", "json")
		t.ctl("health of the cluster", "endpoint", "health", "--cluster")
		t.ctl("status", "endpoint", "status")
		t.ctl("status, JSON", "endpoint", "status", "-w", "json")
		t.ctl("status, fields", "endpoint", "status", "-w", "fields")
		t.ctl("status of the cluster", "endpoint", "status", "--cluster")
		t.ctl("hashkv, JSON", "endpoint", "hashkv", "-w", "json")
		t.ctl("hashkv of the future", "endpoint", "hashkv", "--rev=99999999")
		t.ctl("members", "member", "list")
		t.ctl("members, JSON", "member", "list", "-w", "json")
		t.ctl("remove a stranger", "member", "remove", "2a")
		t.ctl("version", "version")
	}},
	{name: "ctl-maintenance", on: "own", run: func(t *T) {
		t.set(t.key("a"), "v")
		t.ctl("defrag", "defrag")
		t.ctl("alarms", "alarm", "list")
		call(t, "activate", t.maintenance.Alarm, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_NOSPACE, MemberID: t.member()})
		t.ctl("alarms now", "alarm", "list")
		t.ctl("put", "put", t.prefix+"a", "v")
		t.ctl("health", "endpoint", "health")
		t.ctl("status", "endpoint", "status")
		t.ctl("disarm", "alarm", "disarm")
		t.ctl("disarm again", "alarm", "disarm")
		t.ctl("put again", "put", t.prefix+"a", "v")
		file := filepath.Join(t.server.dir, "snapshot.db")
		t.ctl("snapshot", "snapshot", "save", file)
		t.tool("snapshot status", "", "etcdutl", "snapshot", "status", file, "-w", "json")
		restored := filepath.Join(t.server.dir, "data-restored")
		// Its log is etcdutl's own matter.
		err := exec.CommandContext(t.ctx, t.bin.tool("etcdutl"), "snapshot", "restore", file, "--data-dir", restored).Run()
		t.notef("restore", "%v", err)
		_ = os.Remove(file)
		t.ctl("move leader", "move-leader", "2a")
		t.ctl("downgrade", "downgrade", "validate", "2.0")
	}},
	{name: "ctl-auth", on: "own", run: func(t *T) {
		t.ctl("status", "auth", "status")
		t.ctl("enable", "auth", "enable")
		t.ctl("users", "user", "list")
		t.ctl("roles", "role", "list")
	}},
	{name: "ctl-locks", on: "recipes", run: func(t *T) {
		t.ctl("lock", "lock", t.prefix+"lock", "echo", "held")
		t.ctl("lock whose command fails", "lock", t.prefix+"lock", "false")
		t.ctlUntil("elect", 2, nil, "elect", t.prefix+"election", "proposal")
		t.list("nothing stays")
	}},
	{name: "ctl-mirror", on: "recipes", run: func(t *T) {
		for i := range 5 {
			t.set(t.key(fmt.Sprintf("from/%d", i)), fmt.Sprint(i))
		}
		copied := func(count int64) bool {
			return eventually(5*time.Second, func() bool {
				answer, err := t.kv.Range(t.ctx, &pb.RangeRequest{Key: t.key("to/"), RangeEnd: end(t.key("to/")), CountOnly: true})
				return err == nil && answer.Count == count
			})
		}
		ctx, cancel := context.WithCancel(t.ctx)
		command := exec.CommandContext(ctx, t.bin.tool("etcdctl"), "make-mirror", "--prefix", t.prefix+"from/", "--dest-prefix", t.prefix+"to/", "http://"+t.server.endpoint)
		command.Env = t.environment()
		if err := command.Start(); err != nil {
			t.note("start", err.Error())
		}
		t.notef("copied", "%t", copied(5))
		t.set(t.key("from/9"), "live")
		t.remove(t.key("from/0"))
		t.set(t.key("from/8"), "live")
		t.notef("followed", "%t", eventually(5*time.Second, func() bool {
			answer, err := t.kv.Range(t.ctx, &pb.RangeRequest{Key: t.key("to/8")})
			return err == nil && answer.Count == 1
		}))
		cancel()
		_ = command.Wait()
		answer, err := t.kv.Range(t.ctx, &pb.RangeRequest{Key: t.key("to/"), RangeEnd: end(t.key("to/"))})
		var kvs []string
		for _, kv := range answer.GetKvs() {
			kvs = append(kvs, fmt.Sprintf("%s=%s", kv.Key, kv.Value))
		}
		t.notef("mirror", "%v %v", kvs, err)
	}},
}

// ctlLease grants by etcdctl and gives the id as it is typed.
func (t *T) ctlLease(name string) string {
	ctx, cancel := context.WithTimeout(t.ctx, patience)
	defer cancel()
	command := exec.CommandContext(ctx, t.bin.tool("etcdctl"), "lease", "grant", "100")
	command.Env = t.environment()
	out, _ := command.CombinedOutput()
	var id string
	if words := strings.Fields(string(out)); len(words) > 1 {
		id = words[1]
		var number int64
		fmt.Sscanf(id, "%x", &number)
		t.know(number, 100)
	}
	t.note(name, t.printed(command.ProcessState.ExitCode(), string(out), ""))
	return id
}
