package main

import (
	"fmt"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// check compares what was acknowledged, what every watch has seen, and what is there in the end.
func check(history *history, watches []*watch, state *clientv3.GetResponse) []string {
	problems := slices.Clone(history.problems)
	wrong := func(format string, arguments ...any) { problems = append(problems, fmt.Sprintf(format, arguments...)) }
	for _, watch := range watches {
		problems = append(problems, watch.problems...)
	}

	// The first watch is on everything: it is the history, if it passes what follows.
	all := watches[0].events
	byKey := map[string][]event{}
	written := map[string][]event{} // by value
	content := map[string]string{}  // what a kind's revision was used for
	for _, e := range all {
		if e.key == "/probe" {
			continue
		}
		byKey[e.key] = append(byKey[e.key], e)
		written[e.value] = append(written[e.value], e)
		at := fmt.Sprintf("%s at %d", kindOf(e.key), e.mod)
		if before, used := content[at]; used && before != e.value {
			wrong("%s is %.14s and %.14s: a revision was used twice", at, before, e.value)
		}
		content[at] = e.value
	}
	for key, events := range byKey {
		for i, e := range events {
			if e.version != int64(i)+1 || e.create != events[0].mod {
				wrong("event %d of %s is version %d at %d, created at %d", i+1, key, e.version, e.mod, e.create)
				break
			}
			attempt := history.attempts[e.value]
			switch {
			case attempt == nil:
				wrong("%s at %d has a value that nobody wrote: %.20q", key, e.mod, e.value)
			case attempt.outcome == outcomeRefused:
				wrong("%s at %d is of a transaction whose compare had failed: %.14s", key, e.mod, e.value)
			case attempt.outcome == outcomeAcked && attempt.revision != e.mod:
				wrong("%s was acknowledged at %d and is seen at %d: %.14s", key, attempt.revision, e.mod, e.value)
			case attempt.compared >= 0 && attempt.keys[0] == key && before(events, i) != attempt.compared:
				wrong("%s at %d follows %d, its compare was with %d", key, e.mod, before(events, i), attempt.compared)
			default:
				attempt.seen = true
			}
			if i > 0 && e.value <= events[i-1].value { // values of a writer grow
				wrong("%s at %d: %.14s comes after %.14s", key, e.mod, e.value, events[i-1].value)
			}
		}
	}
	for value, attempt := range history.attempts {
		events := written[value]
		if len(events) == 0 && attempt.outcome != outcomeAcked {
			continue
		}
		if len(events) != len(attempt.keys) {
			wrong("%.14s, a write of %d keys, acknowledged at %d, is seen %d times", value, len(attempt.keys), attempt.revision, len(events))
			continue
		}
		for _, e := range events {
			if e.mod != events[0].mod || !slices.Contains(attempt.keys, e.key) {
				wrong("%.14s was written to %v at once and is seen on %s at %d and %d", value, attempt.keys, e.key, e.mod, events[0].mod)
			}
		}
	}

	found := map[string]bool{}
	for _, kv := range state.Kvs {
		key := string(kv.Key)
		found[key] = true
		if kv.ModRevision > state.Header.Revision {
			wrong("%s is of revision %d, the list of %d", key, kv.ModRevision, state.Header.Revision)
		}
		if key == "/probe" {
			continue
		}
		events := byKey[key]
		if len(events) == 0 {
			wrong("%s is there and no watch has seen it", key)
			continue
		}
		last := events[len(events)-1]
		if last.mod != kv.ModRevision || last.value != string(kv.Value) || last.version != kv.Version {
			wrong("%s is version %d of %d, its last event version %d of %d", key, kv.Version, kv.ModRevision, last.version, last.mod)
		}
	}
	for key := range byKey {
		if !found[key] {
			wrong("%s was written and is gone", key)
		}
	}

	for i, watch := range watches[1:] {
		expected := within(all, watch.prefix)
		if got := within(watch.events, watch.prefix); !slices.Equal(got, expected) {
			wrong("watch %d on %s has %d events, the one on everything %d: %s", i+1, watch.prefix, len(got), len(expected), difference(got, expected))
		}
	}
	return problems
}

func kindOf(key string) string {
	for _, kind := range kinds {
		if strings.HasPrefix(key, kind) {
			return kind
		}
	}
	return "/"
}

// before is the revision of the event before the i-th, 0 if there is none.
func before(events []event, i int) int64 {
	if i == 0 {
		return 0
	}
	return events[i-1].mod
}

// within gives the events under a prefix, in one order: two groups may use the same revision for different kinds.
func within(events []event, prefix string) []event {
	var within []event
	for _, e := range events {
		if strings.HasPrefix(e.key, prefix) {
			within = append(within, e)
		}
	}
	slices.SortStableFunc(within, func(a, b event) int {
		if a.mod != b.mod {
			return int(a.mod - b.mod)
		}
		return strings.Compare(a.key, b.key)
	})
	return within
}

func difference(got, expected []event) string {
	for i := range max(len(got), len(expected)) {
		switch {
		case i >= len(got):
			return fmt.Sprintf("%s at %d is missing", expected[i].key, expected[i].mod)
		case i >= len(expected) || got[i] != expected[i]:
			return fmt.Sprintf("the first that differs is %s at %d", got[i].key, got[i].mod)
		}
	}
	return "nothing differs"
}
