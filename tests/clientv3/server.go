package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// server is a process that is started with the same command each time.
type server struct {
	command  []string
	endpoint string
	log      *os.File
	process  *exec.Cmd
	ended    chan error
}

func (s *server) start() {
	s.process = exec.Command(s.command[0], s.command[1:]...)
	s.process.Stdout, s.process.Stderr = s.log, s.log
	// It does not outlive us, whatever ends us.
	s.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.process.Start(); err != nil {
		fatal(err)
	}
	process, ended := s.process, make(chan error, 1)
	go func() { ended <- process.Wait() }()
	s.ended = ended
}

// kill is kill -9; it returns when the process is gone.
func (s *server) kill() {
	_ = s.process.Process.Kill()
	<-s.ended
	s.ended <- nil
}

// waitUntilWritable returns when a write is acknowledged.
func (s *server) waitUntilWritable(round int) {
	client := s.client()
	defer client.Close()
	end := time.Now().Add(time.Minute)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_, err := client.Put(ctx, "/probe", fmt.Sprint(round))
		cancel()
		switch {
		case err == nil:
			return
		case time.Now().After(end):
			fatal(fmt.Errorf("no write within a minute of a restart: %w", err))
		}
		select {
		case ended := <-s.ended:
			fatal(fmt.Errorf("the server has ended by itself (%v), see %s", ended, s.log.Name()))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// client has a connection of its own.
func (s *server) client() *clientv3.Client {
	connect := grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 300 * time.Millisecond},
		MinConnectTimeout: 2 * time.Second,
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   []string{"http://" + s.endpoint},
		Logger:      zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(connect)},
	})
	if err != nil {
		fatal(err)
	}
	return client
}

func (s *server) panics() []string {
	log, err := os.ReadFile(s.log.Name())
	if err != nil || !bytes.Contains(log, []byte("panicked")) {
		return nil
	}
	return []string{"the server has panicked, see " + s.log.Name()}
}
