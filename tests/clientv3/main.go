// Crash kills a server again and again under etcd's own client, and checks that nothing acknowledged is lost, no
// revision is used twice, and watches that stay open over all of it miss and repeat nothing.
//
//	crash [-rounds 20] [-writers 64] [-seed N] [-log FILE] -endpoint HOST:PORT -- COMMAND [ARGUMENT...]
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Each client has one connection.
const clients = 8

func main() {
	rounds := flag.Int("rounds", 20, "how often the server is killed")
	writers := flag.Int("writers", 64, "how many write at once")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "of all chance in here")
	endpoint := flag.String("endpoint", "", "HOST:PORT of the server")
	logFile := flag.String("log", os.DevNull, "where the server's output goes")
	flag.Parse()
	if *endpoint == "" || flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	fmt.Printf("seed %d, %d rounds, %d writers\n", *seed, *rounds, *writers)
	log, err := os.Create(*logFile)
	if err != nil {
		fatal(err)
	}
	problems := run(&server{command: flag.Args(), endpoint: *endpoint, log: log}, *rounds, *writers, *seed)
	if len(problems) > 0 {
		for _, problem := range problems[:min(len(problems), 30)] {
			fmt.Println("WRONG:", problem)
		}
		fmt.Printf("%d problems, seed %d\n", len(problems), *seed)
		os.Exit(1)
	}
	fmt.Println("ok")
}

func run(server *server, rounds, count int, seed uint64) []string {
	chance := rand.New(rand.NewPCG(seed, 0))
	began := time.Now()
	server.start()
	defer server.kill()

	history := newHistory()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var watches []*watch
	for _, prefix := range append([]string{"/"}, kinds[:]...) {
		// One stream for "/" alone, as an API server's kinds have theirs.
		for _, prevKV := range []bool{false, true} {
			watches = append(watches, follow(ctx, server.client(), prefix, prevKV))
		}
	}
	var work sync.WaitGroup
	writing, halt := context.WithCancel(ctx)
	shared := make([]*clientv3.Client, clients)
	for i := range shared {
		shared[i] = server.client()
	}
	writers := make([]*writer, count)
	for i := range writers {
		writers[i] = newWriter(i, shared[i%clients], history, seed)
		work.Go(func() { writers[i].run(writing) })
	}

	for round := range rounds {
		before := history.acked.Load()
		time.Sleep(time.Duration(300+chance.IntN(1500)) * time.Millisecond)
		server.kill()
		if chance.IntN(3) == 0 {
			time.Sleep(time.Duration(chance.IntN(500)) * time.Millisecond)
		}
		killed := time.Now()
		server.start()
		server.waitUntilWritable(round)
		fmt.Printf("round %d: %d writes acknowledged, writable again after %d ms\n",
			round+1, history.acked.Load()-before, time.Since(killed).Milliseconds())
	}
	time.Sleep(time.Second)
	halt()
	work.Wait()

	final := server.client()
	state, err := final.Get(ctx, "/", clientv3.WithPrefix())
	if err != nil {
		fatal(fmt.Errorf("the final list: %w", err))
	}
	// What a new client is told of all that was.
	for _, prefix := range append([]string{"/"}, kinds[:]...) {
		watches = append(watches, follow(ctx, server.client(), prefix, false))
	}
	for _, watch := range watches {
		watch.waitFor(newest(state.Kvs, watch.prefix), time.Minute)
	}
	// A repeated event would come now.
	time.Sleep(200 * time.Millisecond)
	stop()
	for _, watch := range watches {
		<-watch.ended
	}
	problems := check(history, watches, state)
	problems = append(problems, server.panics()...)
	var unknown, applied int
	for _, attempt := range history.attempts {
		if attempt.outcome == outcomeUnknown {
			unknown++
			if attempt.seen {
				applied++
			}
		}
	}
	events, live := 0, 0
	for i, watch := range watches {
		events += len(watch.events)
		if i < 2*(len(kinds)+1) {
			live += len(watch.events)
		}
	}
	fmt.Printf("%d kills in %d s: %d writes acknowledged, %d unknown of which %d happened, %d compares failed as they should, %d reads of own writes; "+
		"%d events on %d watches that stayed open, %d more on %d from history; %d progress notifications; last revision %d\n",
		rounds, int(time.Since(began).Seconds()), history.acked.Load(), unknown, applied, history.refused.Load(), history.reads.Load(),
		live, 2*(len(kinds)+1), events-live, len(kinds)+1, progressed(watches), state.Header.Revision)
	return problems
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "crash:", err)
	os.Exit(1)
}
