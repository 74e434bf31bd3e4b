package main

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

type comparison struct {
	same, deviating, deviations, names, unexplained, differing, stale int
	problems                                                          []string
}

// compare judges a target's record. Deviations that were not seen count only if all rows were run.
// With literal, differences are printed as entries of deviations.go, for the ones that are meant.
func compare(t target, wanted []row, right, seen map[string][]step, complete, literal bool) comparison {
	var c comparison
	used := map[explanation]bool{}
	for _, r := range wanted {
		unexplained, named := 0, 0
		explained := func(name, want, got string) {
			if found, ok := explain(t, r.name, name, got); ok {
				used[found] = true
				named++
				return
			}
			unexplained++
			if literal {
				c.problems = append(c.problems, fmt.Sprintf("on %s: {%q, %q, %s},", t, r.name, name, goString(got)))
				return
			}
			c.problems = append(c.problems, shown(t, r.name, name, want, got))
		}
		a, b := answers(right[r.name]), answers(seen[r.name])
		for _, s := range right[r.name] {
			got, there := b[s.name]
			if !there {
				got = missing
			}
			if got != s.answer {
				explained(s.name, s.answer, got)
			}
		}
		for _, s := range seen[r.name] {
			if _, there := a[s.name]; !there {
				explained(s.name, missing, s.answer)
			}
		}
		c.unexplained += unexplained
		c.deviations += named
		switch {
		case unexplained > 0:
			c.differing++
		case named > 0:
			c.deviating++
		default:
			c.same++
		}
	}
	seenNames := map[string]bool{}
	for i, d := range deviations {
		for j, difference := range d.seen {
			switch {
			case used[explanation{i, j}]:
				seenNames[d.name] = true
			case complete && slices.Contains(d.on, t):
				c.stale++
				c.problems = append(c.problems, fmt.Sprintf("STALE on %s: %q (%s: %s) is no longer seen: remove it from deviations.go", t, d.name, difference.row, difference.step))
			}
		}
	}
	c.names = len(seenNames)
	return c
}

func goString(text string) string {
	if strings.ContainsAny(text, "`\n") || !strings.Contains(text, `"`) {
		return strconv.Quote(text)
	}
	return "`" + text + "`"
}

// missing stands for a step that was not recorded.
const missing = "(no such step)"

func answers(steps []step) map[string]string {
	found := map[string]string{}
	for _, s := range steps {
		found[s.name] = s.answer
	}
	return found
}

// An explanation is a place in the list of deviations.
type explanation struct{ deviation, difference int }

// explain gives the deviation that names exactly this difference.
func explain(t target, row, step, got string) (explanation, bool) {
	for i, d := range deviations {
		if !slices.Contains(d.on, t) {
			continue
		}
		for j, known := range d.seen {
			if like(known.row, row) && like(known.step, step) && known.got == got {
				return explanation{i, j}, true
			}
		}
	}
	return explanation{}, false
}

func like(pattern, name string) bool {
	plain := strings.NewReplacer("/", "|")
	ok, err := path.Match(plain.Replace(pattern), plain.Replace(name))
	return pattern == name || err == nil && ok
}

func shown(t target, row, step, want, got string) string {
	if strings.Contains(want, "\n") || strings.Contains(got, "\n") {
		return fmt.Sprintf("DIFFERENT on %s: %s: %s\n%s", t, row, step, lines(want, got))
	}
	return fmt.Sprintf("DIFFERENT on %s: %s: %s\n   etcd %s\n   here %s", t, row, step, want, got)
}

// lines shows what is only on one side, in order: enough for texts of some lines.
func lines(want, got string) string {
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	var out []string
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(a) > 0 && len(b) > 0 && a[0] == b[0]:
			out = append(out, "        "+a[0])
			a, b = a[1:], b[1:]
		case len(a) > 0 && !slices.Contains(b, a[0]):
			out = append(out, "   etcd "+a[0])
			a = a[1:]
		case len(b) > 0:
			out = append(out, "   here "+b[0])
			b = b[1:]
		default:
			out = append(out, "   etcd "+a[0])
			a = a[1:]
		}
	}
	return strings.Join(out, "\n")
}
