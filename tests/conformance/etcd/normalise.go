package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Everything that is not compared as it came stands in this file.

// A normaliser turns a field's value into what is compared. Fields that are zero are not printed at all.
type normaliser func(t *T, value protoreflect.Value) string

// normalised names the fields of answers that may differ between two right servers, and what of them is compared.
var normalised = map[protoreflect.FullName]normaliser{
	// Who answered: only that it is said.
	"etcdserverpb.ResponseHeader.cluster_id": present,
	"etcdserverpb.ResponseHeader.member_id":  present,
	"etcdserverpb.ResponseHeader.raft_term":  present,
	"etcdserverpb.Member.ID":                 present,
	"etcdserverpb.Member.name":               present,
	"etcdserverpb.Member.peerURLs":           present,
	"etcdserverpb.Member.clientURLs":         present,
	"etcdserverpb.AlarmMember.memberID":      present,
	"etcdserverpb.StatusResponse.leader":     present,

	// Revisions: counted from the row's beginning, so that rows need no store of their own.
	"etcdserverpb.ResponseHeader.revision":        revision,
	"mvccpb.KeyValue.create_revision":             revision,
	"mvccpb.KeyValue.mod_revision":                revision,
	"etcdserverpb.WatchResponse.compact_revision": revision,
	"etcdserverpb.HashKVResponse.hash_revision":   revision,

	// Leases: an id that the server picked is named in the order of the grants.
	"mvccpb.KeyValue.lease":                    leaseName,
	"etcdserverpb.LeaseGrantResponse.ID":       leaseName,
	"etcdserverpb.LeaseKeepAliveResponse.ID":   leaseName,
	"etcdserverpb.LeaseTimeToLiveResponse.ID":  leaseName,
	"etcdserverpb.LeaseStatus.ID":              leaseName,
	"etcdserverpb.LeaseTimeToLiveResponse.TTL": remaining,
	"v3electionpb.LeaderKey.rev":               revision,
	"v3electionpb.LeaderKey.lease":             leaseName,

	// Numbers of the storage below.
	"etcdserverpb.StatusResponse.dbSize":           present,
	"etcdserverpb.StatusResponse.raftIndex":        present,
	"etcdserverpb.StatusResponse.raftAppliedIndex": present,
	"etcdserverpb.StatusResponse.raftTerm":         present,
	"etcdserverpb.StatusResponse.version":          versionLike,
	"etcdserverpb.HashResponse.hash":               present,
	"etcdserverpb.HashKVResponse.hash":             present,
	// How far the last compaction of another row got: rows that mean it look for themselves.
	"etcdserverpb.HashKVResponse.compact_revision": present,
}

func present(*T, protoreflect.Value) string { return "+" }

func revision(t *T, value protoreflect.Value) string { return t.revision(value.Int()) }

func leaseName(t *T, value protoreflect.Value) string { return t.leaseName(value.Int()) }

// remaining hides that a second has passed.
func remaining(t *T, value protoreflect.Value) string {
	for _, granted := range t.granted {
		if left := value.Int(); left > 0 && (left == granted || left == granted-1) {
			return fmt.Sprintf("~%d", granted)
		}
	}
	return strconv.FormatInt(value.Int(), 10)
}

var versions = regexp.MustCompile(`^\d+\.\d+\.\d+$`)

func versionLike(_ *T, value protoreflect.Value) string {
	if versions.MatchString(value.String()) {
		return "X.Y.Z"
	}
	return strconv.Quote(value.String())
}

// text prints a message in the order of its fields, with the fields above normalised.
func (t *T) text(m proto.Message) string {
	var out strings.Builder
	t.message(&out, m.ProtoReflect())
	return out.String()
}

func (t *T) message(out *strings.Builder, m protoreflect.Message) {
	out.WriteByte('{')
	first := true
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if !m.Has(field) {
			continue
		}
		if !first {
			out.WriteByte(' ')
		}
		first = false
		out.WriteString(string(field.Name()))
		out.WriteByte(':')
		value := m.Get(field)
		known := normalised[field.FullName()]
		switch {
		case known != nil && !field.IsList():
			out.WriteString(known(t, value))
		case known != nil:
			out.WriteString("[+]")
		case field.IsList():
			out.WriteByte('[')
			for j := range value.List().Len() {
				if j > 0 {
					out.WriteByte(' ')
				}
				t.value(out, field, value.List().Get(j))
			}
			out.WriteByte(']')
		default:
			t.value(out, field, value)
		}
	}
	out.WriteByte('}')
}

func (t *T) value(out *strings.Builder, field protoreflect.FieldDescriptor, value protoreflect.Value) {
	switch field.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		t.message(out, value.Message())
	case protoreflect.BytesKind:
		out.WriteString(quote(value.Bytes()))
	case protoreflect.StringKind:
		out.WriteString(strconv.Quote(t.plain(value.String())))
	case protoreflect.EnumKind:
		name := field.Enum().Values().ByNumber(value.Enum())
		if name == nil {
			fmt.Fprint(out, value.Enum())
			return
		}
		out.WriteString(string(name.Name()))
	default:
		fmt.Fprint(out, value.Interface())
	}
}

// quote prints bytes; many of them by their number and ends.
func quote(bytes []byte) string {
	if len(bytes) > 200 {
		return fmt.Sprintf("%q..%d bytes..%q", bytes[:8], len(bytes), bytes[len(bytes)-8:])
	}
	return strconv.QuoteToASCII(string(bytes))
}

// revision counts from the row's beginning.
func (t *T) revision(number int64) string {
	switch {
	case number < 0:
		return strconv.FormatInt(number, 10)
	case t.literal:
		return fmt.Sprintf("r%d", number)
	case number == t.base:
		return "b"
	default:
		return fmt.Sprintf("b%+d", number-t.base)
	}
}

func (t *T) leaseName(id int64) string {
	if name, known := t.leases[id]; known {
		return name
	}
	if id < 0 || id < 1<<32 { // ids that a row chose
		return strconv.FormatInt(id, 10)
	}
	return "UNKNOWN LEASE"
}

// outcome is an answer or its error, as it is compared.
func (t *T) outcome(m proto.Message, err error) string {
	if err != nil {
		return t.failure(err)
	}
	return t.text(m)
}

func (t *T) failure(err error) string {
	s, ok := status.FromError(err)
	if !ok {
		return "error: " + t.plain(err.Error())
	}
	return fmt.Sprintf("%s %q", s.Code(), t.plain(s.Message()))
}

// What stands in texts: addresses, ids and times.
var plainRules = []struct {
	pattern *regexp.Regexp
	becomes string
}{
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "<address>"},
	{regexp.MustCompile(`/\S*kubebrain-conformance-\S*`), "<file>"},
	{regexp.MustCompile(`\bmemberID:\d+ *`), "memberID:<id> "},
	{regexp.MustCompile(`\btook = [0-9.]+(ns|µs|ms|s)\b`), "took = <time>"},
	{regexp.MustCompile(`\bin [0-9.]+(ns|µs|ms|s)\b`), "in <time>"},
	{regexp.MustCompile(`\b(took|Took) [0-9.]+ ?(ns|µs|ms|s|m)\b`), "$1 <time>"},
	{regexp.MustCompile(`"(etcdserver|etcdcluster|storage)":"\d+\.\d+\.\d+"`), `"$1":"X.Y.Z"`},
	{regexp.MustCompile(`\d\d\d\d-\d\d-\d\dT[0-9:.]+Z`), "<when>"},
}

func (t *T) plain(text string) string {
	for id, name := range t.leases {
		if id > 1<<32 {
			text = strings.ReplaceAll(text, fmt.Sprintf("%016x", id), name)
			text = strings.ReplaceAll(text, strconv.FormatInt(id, 16), name)
			text = strings.ReplaceAll(text, strconv.FormatInt(id, 10), name)
		}
	}
	for _, rule := range plainRules {
		text = rule.pattern.ReplaceAllString(text, rule.becomes)
	}
	return text
}
