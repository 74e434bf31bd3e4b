// Conformance runs one table of rows against real etcd and against kubebrain, and compares every answer.
//
//	conformance [-rows REGEXP] [-v] [-kubebrain FILE] [-kit DIRECTORY] [-pd HOST:PORT] [etcd|brain|groups|proxy|elected ...]
//
// etcd is always run, as what is right; named as a target it is run twice, which shows that the table itself does not
// depend on chance. Answers are compared as text, with only what normalise.go names normalised. What differs must be
// named in deviations.go, with the answer that is given instead; a deviation that is no longer seen is a failure too.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"
)

func main() {
	var bin binaries
	pattern := flag.String("rows", "", "run the rows with a name that matches")
	literal := flag.Bool("literal", false, "print differences as entries of deviations.go")
	verbose := flag.Bool("v", false, "print every answer")
	flag.StringVar(&bin.kubebrain, "kubebrain", os.Getenv("KUBEBRAIN"), "the binary")
	flag.StringVar(&bin.kit, "kit", os.Getenv("KIT"), "where etcd, etcdctl and etcdutl are")
	flag.StringVar(&bin.pd, "pd", os.Getenv("PD"), "the cluster that elected runs on")
	flag.Parse()
	chosen := []target{brain, groups, proxy}
	if flag.NArg() > 0 {
		chosen = nil
		for _, name := range flag.Args() {
			if !slices.Contains(targets, target(name)) {
				fail(fmt.Errorf("%q is no target: take some of %v", name, targets))
			}
			if target(name) == elected && bin.pd == "" {
				fail(errors.New("elected needs -pd, or PD"))
			}
			chosen = append(chosen, target(name))
		}
	}
	matches, err := regexp.Compile(*pattern)
	if err != nil {
		fail(err)
	}
	var wanted []row
	names := map[string]bool{}
	for _, r := range rows() {
		if names[r.name] {
			fail(fmt.Errorf("two rows are named %q", r.name))
		}
		names[r.name] = true
		if r.on == "" {
			r.on = "main"
		}
		if _, known := stores[r.on]; !known {
			fail(fmt.Errorf("row %q wants the store %q, which is not listed", r.name, r.on))
		}
		if matches.MatchString(r.name) {
			wanted = append(wanted, r)
		}
	}
	scratch, err := os.MkdirTemp("", "kubebrain-conformance-")
	if err != nil {
		fail(err)
	}
	began := time.Now()
	right, err := runAll(etcd, bin, filepath.Join(scratch, "etcd"), wanted)
	if err != nil {
		fail(err)
	}
	answers := 0
	for _, r := range wanted {
		answers += len(right.steps[r.name])
		if *verbose {
			for _, s := range right.steps[r.name] {
				fmt.Printf("%s: %s: %s\n", r.name, s.name, s.answer)
			}
		}
	}
	fmt.Printf("%-7s %d rows, %d answers recorded in %.1f s\n", etcd, len(wanted), answers, time.Since(began).Seconds())
	bad := 0
	for i, t := range chosen {
		began := time.Now()
		seen, err := runAll(t, bin, filepath.Join(scratch, fmt.Sprintf("%d-%s", i, t)), wanted)
		if err != nil {
			fail(err)
		}
		result := compare(t, wanted, right.steps, seen.steps, *pattern == "", *literal)
		for _, line := range result.problems {
			fmt.Println(line)
		}
		for _, log := range seen.panics {
			fmt.Println("PANIC: see", log)
		}
		bad += result.unexplained + result.stale + len(seen.panics)
		fmt.Printf("%-7s %d rows, %d same, %d with named deviations (%d answers, %d names), %d unexplained differences in %d rows, %d stale deviations, %.1f s\n",
			t, len(wanted), result.same, result.deviating, result.deviations, result.names, result.unexplained, result.differing, result.stale,
			time.Since(began).Seconds())
	}
	if bad > 0 {
		fmt.Println("FAILED; logs in", scratch)
		os.Exit(1)
	}
	_ = os.RemoveAll(scratch)
	fmt.Println("ok")
}

// run is what one run of all rows on a target gave.
type record struct {
	steps  map[string][]step
	panics []string
}

// Stores that run at once: most rows wait for the server, not for the processor.
const abreast = 6

func runAll(t target, bin binaries, dir string, wanted []row) (record, error) {
	// One list per server, in the table's order.
	lists := map[string][]row{}
	var order []string
	for _, r := range wanted {
		on := r.on
		if on == "own" {
			on = "own-" + r.name
		}
		if lists[on] == nil {
			order = append(order, on)
		}
		lists[on] = append(lists[on], r)
	}
	// The slow ones begin first.
	slices.SortStableFunc(order, func(a, b string) int { return rank(a) - rank(b) })

	result := record{steps: map[string][]step{}}
	var mutex sync.Mutex
	var failed error
	var work sync.WaitGroup
	places := make(chan struct{}, abreast)
	if t == elected {
		places = make(chan struct{}, abreast/2) // each of its stores is eight processes
	}
	for _, on := range order {
		places <- struct{}{}
		work.Go(func() {
			defer func() { <-places }()
			steps, panics, err := runOn(t, bin, filepath.Join(dir, on), lists[on])
			mutex.Lock()
			defer mutex.Unlock()
			if err != nil {
				failed = err
			}
			for name, s := range steps {
				result.steps[name] = s
			}
			result.panics = append(result.panics, panics...)
		})
	}
	work.Wait()
	return result, failed
}

func rank(on string) int {
	if first := slices.Index([]string{"pings", "slow", "slow2", "ctl", "watch", "recipes"}, on); first >= 0 {
		return first
	}
	return 100
}

// runOn runs rows one after the other on one fresh server.
func runOn(t target, bin binaries, dir string, list []row) (map[string][]step, []string, error) {
	steps := map[string][]step{}
	s, err := start(t, bin, dir, stores[list[0].on])
	if err != nil && t == etcd {
		return nil, nil, err
	}
	if err != nil {
		// A flag that is not known, say: its rows differ, the others run.
		for _, r := range list {
			steps[r.name] = []step{{"start", err.Error()}}
		}
		return steps, nil, nil
	}
	defer s.stop()
	for _, r := range list {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		began := time.Now()
		row, err := newT(ctx, r.name, r.on == "own", t, bin, s)
		if err == nil {
			if !row.literal {
				err = row.begin()
			}
			if err == nil {
				r.run(row)
			}
			row.close()
		}
		cancel()
		if err != nil {
			row.note("the row's beginning", err.Error())
		}
		steps[r.name] = row.steps
		if took := time.Since(began); took > 8*time.Second {
			fmt.Printf("slow: %s took %.1f s on %s\n", r.name, took.Seconds(), t)
		}
	}
	return steps, s.panics(), nil
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "conformance:", err)
	os.Exit(2)
}

func rows() []row {
	return slices.Concat(rangeRows, streamRows, putRows, txnRows, leaseRows, compactRows, watchRows, maintenanceRows,
		clusterRows, limitRows, httpRows, edgeRows, ctlRows, recipeRows, groupRows, lockRows, gatewayRows, hashRows,
		progressRows, orderRows)
}
