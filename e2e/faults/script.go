package faults

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"signaldevice/testserver/child"
)

// Fault is one thing that goes wrong.
type Fault struct {
	ID   string // F1 …
	Name string
	Must string // what the system owes meanwhile, for people

	// make lets the fault happen, keeps it up for the time and ends it. What it returns as text goes into the report.
	make func(ctx context.Context, r *run, d time.Duration) (string, error)

	// allows says what is wrong with an answer that began and ended while the fault was in full force; "": nothing. nil:
	// every answer that is allowed at any time.
	allows func(answer) string
}

// Faults returns all faults, in their order.
func Faults() []*Fault {
	return []*Fault{
		{"F1", "broker refuses connections", "503 at once for what needs it, cached replies still given", refuse(toBroker), needsBroker},
		{"F2", "broker frozen (SIGSTOP)", "the same, within 2 s a call", freeze(func(s *system) *child.Process { return s.broker }), needsBroker},
		{"F3", "Redis refuses connections", "every call goes to the broker; no 5xx", refuse(toRedis), needsNothing},
		{"F4", "Redis frozen (SIGSTOP)", "250 ms for the cache, then without it", freeze(func(s *system) *child.Process { return s.redis }), needsNothing},
		{"F5", "both refuse connections", "503, never an empty 200", refuseBoth, needsBoth},
		{"F6", "Redis full (noeviction)", "nothing leaves the queue; all is readable", fillRedis, needsNothing},
		{"F7", "Redis restarted empty, READONLY in between", "taken as down; no false \"no reply\"", emptyRedis, nil},
		{"F8", "Redis slow: 5, 50, 500 ms, 10 KB/s, 1-byte pieces", "deadlines kept", slowRedis, nil},
		{"F9", "FLUSHALL", "only those records lost", flushRedis, nil},
		{"F10", "broker killed (-9) and restarted", "every acknowledged reply is read; commands flow again", killBroker, nil},
		{"F11", "APIs killed (-9) in turn, again and again", "nothing lost, duplicates absorbed", killAPIs, nil},
		{"F12", "API killed (-9) under 100 long polls", "clients go on at the other one", killUnderWaits, nil},
		{"F13", "SIGTERM of one API", "no failed call in flight, ended within 10 s", stopAPI, nil},
		{"F15", "certificate revoked while connected", "cut within 1 s", revoke, nil},
		{"F19", "one API cut off from Redis, then from the broker", "no reply to two clients, none lost", cutOff, nil},
	}
}

// Find returns the fault with this id.
func Find(id string) (*Fault, error) {
	for _, f := range Faults() {
		if strings.EqualFold(f.ID, id) {
			return f, nil
		}
	}
	return nil, fmt.Errorf("there is no fault %q", id)
}

// needsBroker: nothing is sent while the broker is away; polls give what is cached, or say that they cannot tell.
func needsBroker(a answer) string {
	switch {
	case a.op == opSend && a.status/100 == 2:
		return "a command was accepted"
	case a.op == opSend && a.status != http.StatusServiceUnavailable:
		return fmt.Sprintf("%d %s", a.status, a.code)
	case !strings.Contains(a.degraded, "broker"):
		return "it does not say that the broker is missing"
	}
	return ""
}

// needsNothing: no call fails for want of the cache.
func needsNothing(a answer) string {
	if a.status >= http.StatusInternalServerError {
		return fmt.Sprintf("%d %s", a.status, a.code)
	}
	return ""
}

// needsBoth: nothing but 503, where a call is more than a sign of life.
func needsBoth(a answer) string {
	switch {
	case a.op == opMe:
		return ""
	case a.status != http.StatusServiceUnavailable:
		return fmt.Sprintf("%d %s", a.status, a.code)
	}
	return ""
}

// hold waits, unless the run ends before.
func hold(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

func refuse(way func(*api) *proxy) func(context.Context, *run, time.Duration) (string, error) {
	return func(ctx context.Context, r *run, d time.Duration) (string, error) {
		return "", refuseFor(ctx, d, r.ways(way)...)
	}
}

func refuseBoth(ctx context.Context, r *run, d time.Duration) (string, error) {
	return "", refuseFor(ctx, d, append(r.ways(toBroker), r.ways(toRedis)...)...)
}

func refuseFor(ctx context.Context, d time.Duration, ways ...*proxy) error {
	for _, p := range ways {
		p.refuse()
	}
	hold(ctx, d)
	return mendAll(ctx, ways)
}

func mendAll(ctx context.Context, ways []*proxy) error {
	var errs []error
	for _, p := range ways {
		errs = append(errs, p.mend(context.WithoutCancel(ctx)))
	}
	return errors.Join(errs...)
}

func freeze(of func(*system) *child.Process) func(context.Context, *run, time.Duration) (string, error) {
	return func(ctx context.Context, r *run, d time.Duration) (string, error) {
		p := of(r.system)
		if err := p.Signal(syscall.SIGSTOP); err != nil {
			return "", err
		}
		hold(ctx, d)
		return "", p.Signal(syscall.SIGCONT)
	}
}

// redis sends a command to Redis, past the proxies.
func (r *run) redisDo(command string) error {
	answer, err := child.RedisDo(r.redis.Addr(), 5*time.Second, command)
	if err == nil && strings.HasPrefix(answer, "-") {
		err = errors.New(answer)
	}
	if err != nil {
		return fmt.Errorf("redis: %s: %w", command, err)
	}
	return nil
}

func fillRedis(ctx context.Context, r *run, d time.Duration) (string, error) {
	if err := r.redisDo("CONFIG SET maxmemory 1"); err != nil {
		return "", err
	}
	hold(ctx, d)
	return "", r.redisDo("CONFIG SET maxmemory 0")
}

// emptied notes that what the cache held up to now may be lost.
func (r *run) emptied() {
	r.journal.note(func(j *journal) { j.emptied = append(j.emptied, time.Now()) })
}

func emptyRedis(ctx context.Context, r *run, d time.Duration) (string, error) {
	// A replica without a master answers reads and refuses writes.
	if err := r.redisDo("REPLICAOF 127.0.0.1 1"); err != nil {
		return "", err
	}
	hold(ctx, d/3)
	if err := r.redisDo("REPLICAOF NO ONE"); err != nil {
		return "", err
	}
	r.redis.Kill()
	if err := os.RemoveAll(filepath.Join(r.redis.Dir(), "appendonlydir")); err != nil {
		return "", err
	}
	r.emptied()
	hold(ctx, d/3)
	err := r.redis.Restart()
	hold(ctx, d/3)
	return "", err
}

func flushRedis(ctx context.Context, r *run, d time.Duration) (string, error) {
	const times = 3
	for range times {
		if err := r.redisDo("FLUSHALL"); err != nil {
			return "", err
		}
		r.emptied()
		hold(ctx, d/times)
	}
	return "", nil
}

func slowRedis(ctx context.Context, r *run, d time.Duration) (string, error) {
	ways := r.ways(toRedis)
	steps := []struct{ kind, attributes string }{
		{"latency", `{"latency":5}`},
		{"latency", `{"latency":50}`},
		{"latency", `{"latency":500}`},
		{"bandwidth", `{"rate":10}`},
		{"slicer", `{"average_size":1,"size_variation":0,"delay":100}`},
	}
	for _, step := range steps {
		for _, p := range ways {
			if err := p.slow(step.kind, step.attributes); err != nil {
				return "", err
			}
		}
		hold(ctx, d/time.Duration(len(steps)))
		if err := mendAll(ctx, ways); err != nil {
			return "", err
		}
	}
	return "", nil
}

func killBroker(ctx context.Context, r *run, d time.Duration) (string, error) {
	r.broker.Kill()
	hold(ctx, d)
	began := time.Now()
	err := r.broker.Restart()
	return fmt.Sprintf("the broker started in %s", time.Since(began).Round(time.Millisecond)), err
}

// kill kills one API and starts it again after some time.
func (r *run) kill(ctx context.Context, i int, for_ time.Duration) error {
	back := r.away(i, false)
	defer back()
	r.apis[i].Kill()
	hold(ctx, for_)
	return r.apis[i].Restart()
}

func killAPIs(ctx context.Context, r *run, d time.Duration) (string, error) {
	const pause = 300 * time.Millisecond
	kills := 0
	for until := time.Now().Add(d); time.Now().Before(until) && ctx.Err() == nil; kills++ {
		if err := r.kill(ctx, kills%apiCount, pause); err != nil {
			return "", err
		}
		hold(ctx, pause)
	}
	return fmt.Sprintf("%d kills", kills), nil
}

func killUnderWaits(ctx context.Context, r *run, d time.Duration) (string, error) {
	const waits = 100
	var all sync.WaitGroup
	for n := range waits {
		all.Go(func() { r.load.slowExchange(ctx, n) })
	}
	hold(ctx, time.Second)
	err := r.kill(ctx, 0, d)
	all.Wait()
	return fmt.Sprintf("%d long polls", waits), err
}

func stopAPI(ctx context.Context, r *run, d time.Duration) (string, error) {
	back := r.away(0, true)
	defer back()
	began := time.Now()
	if err := r.apis[0].Signal(syscall.SIGTERM); err != nil {
		return "", err
	}
	const within = 10 * time.Second
	select {
	case <-r.apis[0].Done():
	case <-time.After(within):
		r.violation(noRecovery, "the API runs on %s after SIGTERM", within)
	}
	took := time.Since(began).Round(time.Millisecond)
	hold(ctx, d-time.Since(began))
	return fmt.Sprintf("ended in %s", took), r.apis[0].Restart()
}

func revoke(ctx context.Context, r *run, d time.Duration) (string, error) {
	registered, err := r.register(ctx, fmt.Sprintf("revoked-%d", time.Now().UnixNano()), oneDay)
	if err != nil {
		return "", err
	}
	cam, err := r.newForeignCamera(registered, r.cfg.Seed)
	if err != nil {
		return "", err
	}
	cut, err := cam.connect()
	if err != nil {
		return "", err
	}
	defer cam.disconnect()
	path := "/v1/devices/" + registered.ID + "/certificates/" + registered.Certificates[0].Fingerprint
	began := time.Now()
	if got := r.http.do(ctx, 0, r.admin, request{op: opStaff, method: http.MethodDelete, path: path}); got.status != http.StatusNoContent {
		return "", fmt.Errorf("revoke: %d %s %s", got.status, got.code, got.err)
	}
	const within = time.Second
	select {
	case <-cut:
	case <-time.After(within):
		r.violation(lingering, "still connected %s after its certificate was revoked", within)
	}
	took := time.Since(began).Round(time.Millisecond)
	if _, err := cam.connect(); err == nil {
		r.violation(lingering, "connected again with a revoked certificate")
	}
	hold(ctx, d-time.Since(began))
	return fmt.Sprintf("cut after %s", took), nil
}

func cutOff(ctx context.Context, r *run, d time.Duration) (string, error) {
	return "", errors.Join(
		refuseFor(ctx, d/2, r.apis[0].toRedis),
		refuseFor(ctx, d/2, r.apis[0].toBroker),
	)
}
