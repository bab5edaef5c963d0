package mqtest

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/cluster/memcluster"
	"github.com/typedmq/typedmq/sidecar/internal/server"
)

// run is the sidecar's process from a start to a crash, or to the end of the test.
type run struct {
	engine  *tap
	member  *memcluster.Member
	broker  *broker.Broker
	http    *http.Server
	wire    *listener
	serving sync.WaitGroup
	joined  map[subscription]int // consumers that were told so; guarded by Sidecar.mu
}

// startRun starts a process on what is durable.
func (s *Sidecar) startRun(ctx context.Context) (*run, error) {
	r := &run{joined: make(map[subscription]int), engine: &tap{Engine: s.store, journal: s.journal}, member: s.members.Join(time.Minute, s.clock.Now)}
	var err error
	r.broker, err = broker.New(ctx, broker.Options{
		Engine: r.engine, Cluster: r.member, Clock: s.clock, Logger: s.log, Limits: broker.DefaultLimits(), Parse: parseOnce, OnActivity: s.changes.note,
	})
	if err != nil {
		return nil, err
	}
	r.http = server.HTTPServer(server.Handler(r.broker, s.log, func() error { return nil }, &calls{s, r}), s.log)
	r.wire = s.wire.listen()
	r.serving.Go(func() { _ = r.http.Serve(r.wire) })
	return r, nil
}

// close ends the process in good order.
func (r *run) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := r.broker.Close(ctx)
	r.hangUp()
	return errors.Join(err, r.member.Close(ctx))
}

// hangUp breaks all connections.
func (r *run) hangUp() {
	_ = r.wire.Close()
	_ = r.http.Close()
	r.serving.Wait()
}

// kill ends the process as kill -9 does: nothing is written any more, all connections break. What it left is cleared away.
func (r *run) kill(ctx context.Context) {
	r.engine.die()
	r.hangUp()
	_ = r.member.Close(ctx)
	_ = r.broker.Close(ctx) // which cannot save anything
}

// crash kills a run and starts the next one on what is durable. It returns at once.
func (s *Sidecar) crash(r *run) {
	r.engine.die()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.run != r {
		return
	}
	s.mu.run = nil
	s.mu.crashing++
	s.mu.crashes.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), 10*time.Second)
		defer cancel()
		r.kill(ctx)
		next, err := s.startRun(ctx)
		s.mu.Lock()
		s.mu.run = next
		s.mu.crashing--
		s.mu.Unlock()
		if err != nil {
			s.t.Errorf("mqtest: start after a crash: %v", err)
		}
		s.changes.note()
	})
}

// Crash kills the sidecar as kill -9 does and starts it again on what it had stored. Clients reconnect by themselves.
func (s *Sidecar) Crash() {
	s.t.Helper()
	s.must()
	s.mu.Lock()
	r := s.mu.run
	s.mu.Unlock()
	s.crash(r)
	s.must()
}
