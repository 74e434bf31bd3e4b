package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A target is what the rows run against.
type target string

const (
	etcd   target = "etcd"
	brain  target = "brain"
	groups target = "groups" // one process with three groups
	proxy  target = "proxy"  // three brains and a proxy
	// The same groups on TiKV, two of them of three brains that elect a master: runs only when it is named.
	elected target = "elected"
)

var targets = []target{etcd, brain, groups, proxy, elected}

// The three groups of all but `etcd` and `brain`: rows work below /registry/pods/ unless they mean to cross groups.
const placement = `prefix: /registry
home: core
default: core
groups: { core: {%s}, pods: {%s}, events: {%s} }
kinds:
  - { kind: pods, group: pods }
  - { kind: events, group: events }
`

// binaries that the rows need; pd is the address of the cluster that the brains of `elected` are on.
type binaries struct{ kubebrain, kit, pd string }

func (b binaries) tool(name string) string { return filepath.Join(b.kit, name) }

// server is a running target with an empty store.
type server struct {
	endpoint  string // HOST:PORT
	dir       string
	processes []*process
}

type process struct {
	command *exec.Cmd
	ended   chan struct{}
}

// start gives a fresh server; flags are etcd's and go to every process that has them.
func start(t target, bin binaries, dir string, flags []string) (*server, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	client, err := freePort()
	if err != nil {
		return nil, err
	}
	s := &server{endpoint: client, dir: dir}
	url := "http://" + client
	data := filepath.Join(dir, "data")
	listen := []string{"--listen-client-urls", url, "--advertise-client-urls", url}
	switch t {
	case etcd:
		peer, err := freePort()
		if err != nil {
			return nil, err
		}
		err = s.run("etcd", bin.tool("etcd"), append(append(listen, "--data-dir", data, "--unsafe-no-fsync",
			"--listen-peer-urls", "http://"+peer, "--initial-advertise-peer-urls", "http://"+peer,
			"--initial-cluster", "default=http://"+peer), flags...))
		if err != nil {
			return nil, err
		}
	case brain:
		peer, err := freePort()
		if err != nil {
			return nil, err
		}
		err = s.run("brain", bin.kubebrain, append(append([]string{"brain", "--data-dir", data,
			"--listen-peer-urls", "http://" + peer}, listen...), flags...))
		if err != nil {
			return nil, err
		}
	case groups:
		file, err := s.place("", "", "")
		if err != nil {
			return nil, err
		}
		err = s.run("standalone", bin.kubebrain,
			append(append([]string{"standalone", "--data-dir", data, "--placement", file}, listen...), flags...))
		if err != nil {
			return nil, err
		}
	case proxy:
		if err := s.startProxy(bin, listen, flags, 1); err != nil {
			s.stop()
			return nil, err
		}
	case elected:
		// The directory is new in every run, and so is the part of the cluster that has this prefix.
		more := []string{"--engine", "tikv", "--pd", bin.pd, "--store-prefix", dir + "/", "--election", "engine"}
		if err := s.startProxy(bin, listen, append(more, flags...), 3); err != nil {
			s.stop()
			return nil, err
		}
	}
	if err := s.ready(url); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// startProxy starts a proxy and its brains. The group events has one, the others have the number of them that is said.
func (s *server) startProxy(bin binaries, listen, flags []string, brains int) error {
	names := []string{"core", "pods", "events"}
	peers := make([][]string, len(names))
	lists := make([]string, len(names))
	for i, name := range names {
		for len(peers[i]) < brains && (name != "events" || len(peers[i]) < 1) {
			port, err := freePort()
			if err != nil {
				return err
			}
			peers[i] = append(peers[i], "http://"+port)
		}
		lists[i] = " brains: [" + strings.Join(peers[i], ", ") + "] "
	}
	file, err := s.place(lists[0], lists[1], lists[2])
	if err != nil {
		return err
	}
	for i, group := range names {
		for n, peer := range peers[i] {
			name := fmt.Sprintf("%s-%d", group, n)
			port, err := freePort()
			if err != nil {
				return err
			}
			err = s.run(name, bin.kubebrain, append([]string{"brain", "--group", group, "--name", name,
				"--data-dir", filepath.Join(s.dir, "data-"+name), "--placement", file,
				"--listen-client-urls", "http://" + port, "--listen-peer-urls", peer}, flags...))
			if err != nil {
				return err
			}
		}
	}
	own := append([]string{"proxy", "--placement", file}, listen...)
	for i := 0; i < len(flags); i++ {
		// A proxy has no store: the flags of stores are its brains' alone.
		if strings.HasPrefix(flags[i], "--watch-progress") || strings.HasPrefix(flags[i], "--max-request") {
			own = append(own, flags[i])
		}
	}
	return s.run("proxy", bin.kubebrain, own)
}

func (s *server) place(core, pods, events string) (string, error) {
	file := filepath.Join(s.dir, "placement.yaml")
	return file, os.WriteFile(file, fmt.Appendf(nil, placement, core, pods, events), 0o644)
}

func (s *server) run(name, binary string, arguments []string) error {
	log, err := os.Create(filepath.Join(s.dir, name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	command := exec.Command(binary, arguments...)
	command.Stdout, command.Stderr = log, log
	// It does not outlive us, whatever ends us.
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		return fmt.Errorf("%s cannot be started: %w", binary, err)
	}
	p := &process{command: command, ended: make(chan struct{})}
	go func() { _ = command.Wait(); close(p.ended) }()
	s.processes = append(s.processes, p)
	return nil
}

// ready returns when the server answers reads.
func (s *server) ready(url string) error {
	end := time.Now().Add(30 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		request, _ := http.NewRequestWithContext(ctx, http.MethodGet, url+"/health", nil)
		answer, err := http.DefaultClient.Do(request)
		var body []byte
		if err == nil {
			body, _ = io.ReadAll(answer.Body)
			answer.Body.Close()
		}
		cancel()
		if err == nil && strings.Contains(string(body), `"true"`) {
			return nil
		}
		for _, p := range s.processes {
			select {
			case <-p.ended:
				return fmt.Errorf("%v has ended by itself, see %s", p.command.Args[:2], s.dir)
			default:
			}
		}
		if time.Now().After(end) {
			return fmt.Errorf("not ready within 30 s, see %s: %v %s", s.dir, err, body)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// panics lists the logs in which a process says that it panicked.
func (s *server) panics() []string {
	var found []string
	logs, _ := filepath.Glob(filepath.Join(s.dir, "*.log"))
	for _, log := range logs {
		text, err := os.ReadFile(log)
		if err == nil && (strings.Contains(string(text), "panicked at") || strings.Contains(string(text), "\ngoroutine ")) {
			found = append(found, log)
		}
	}
	return found
}

// stop ends the processes and removes their stores; logs stay until the run ends.
func (s *server) stop() {
	for _, p := range s.processes {
		_ = p.command.Process.Kill()
		<-p.ended
	}
	stores, _ := filepath.Glob(filepath.Join(s.dir, "data*"))
	for _, store := range stores {
		_ = os.RemoveAll(store)
	}
}

// given are the addresses that freePort has given: a server may take its own only later.
var given sync.Map

// freePort gives an address below the ports that the system hands out itself, which could take it before the server.
// None is given twice.
func freePort() (string, error) {
	for {
		address := fmt.Sprintf("127.0.0.1:%d", 12000+rand.IntN(20000))
		if _, twice := given.LoadOrStore(address, true); twice {
			continue
		}
		listener, err := net.Listen("tcp", address)
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			return "", err
		}
		return address, listener.Close()
	}
}
