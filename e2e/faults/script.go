package faults

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
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

	// under is what the system needs from its start; such a fault is in no random schedule, but for one that needs
	// clocks alone.
	under conditions

	missing []string      // the dependencies that every API misses meanwhile: /readyz has to say so
	mayEnd  bool          // the broker may end by itself, and is then started again
	within  time.Duration // until all has to be well again; 0: recoverWithin
}

// Faults returns all faults, in their order.
func Faults() []*Fault {
	frozenRedis := freeze(func(s *system) *child.Process { return s.redis })
	return []*Fault{
		{ID: "F1", Name: "broker refuses connections", Must: "503 at once for what needs it, cached replies still given", make: refuse(toBroker), allows: needsBroker, missing: []string{theBroker}},
		{ID: "F2", Name: "broker frozen (SIGSTOP)", Must: "the same, within 2 s a call; no goroutine growth", make: freezeBroker, allows: needsBroker, missing: []string{theBroker}},
		{ID: "F3", Name: "Redis refuses connections", Must: "every call goes to the broker; no 5xx", make: refuse(toRedis), allows: needsNothing, missing: []string{theCache}},
		{ID: "F4", Name: "Redis frozen (SIGSTOP)", Must: "250 ms for the cache, then without it", make: frozenRedis, allows: needsNothing},
		{ID: "F5", Name: "both refuse connections", Must: "503, never an empty 200", make: refuseBoth, allows: needsBoth, missing: []string{theBroker, theCache}},
		{ID: "F6", Name: "Redis full (noeviction)", Must: "nothing leaves the queue; all is readable", make: fillRedis, allows: needsNothing},
		{ID: "F7", Name: "Redis READONLY, killed (-9) and restarted, with its file and then empty", Must: "taken as down; nothing lost with the file, without it only what it held", make: restartRedis},
		{ID: "F8", Name: "Redis slow: 5, 50, 500 ms, 10 KB/s, 1-byte pieces", Must: "deadlines kept; 503 where a slow Redis may have taken a reply", make: slowRedis},
		{ID: "F9", Name: "FLUSHALL", Must: "only the records lost that were there", make: flushRedis, allows: needsNothing},
		{ID: "F10", Name: "broker killed (-9) and restarted", Must: "every acknowledged reply is read; commands flow again", make: killBroker},
		{ID: "F10b", Name: "all cameras cut off from the broker", Must: "held commands wait, and none comes after its deadline", make: cutCameras, allows: needsNothing},
		{ID: "F11", Name: "APIs killed (-9) in turn, again and again", Must: "nothing lost, duplicates absorbed", make: killAPIs},
		{ID: "F12", Name: "API killed (-9) under 100 long polls", Must: "clients go on at the other one", make: killUnderWaits, allows: ofTheOther},
		{ID: "F13", Name: "SIGTERM of one API", Must: "no failed call in flight, ended within 10 s", make: stopAPI, allows: ofTheOther},
		{ID: "F14", Name: "clocks of the APIs set 2 h ahead and back", Must: "nobody notices", make: moveAPIs, allows: needsNothing, under: conditions{clocks: true}},
		{ID: "F14b", Name: "clock of the broker set 2 h ahead, then 2 h back", Must: "deadlines by its clock, nothing lost", make: moveBroker, allows: needsNothing, under: conditions{clocks: true}},
		{ID: "F14c", Name: "clock of Redis 2 h ahead from the start, then set 4 h back", Must: "TTL by its clock, no reply expires early", make: moveRedis, allows: needsNothing, under: conditions{clocks: true, redisAhead: clockError}},
		{ID: "F15", Name: "certificate revoked, another one expires, while connected", Must: "cut within 1 s, and within 60 s", make: endCertificates, allows: needsNothing},
		{ID: "F16", Name: "many devices connect at once", Must: "admitted at a bounded rate; the API serves on", make: manyConnect, allows: needsNothing},
		{ID: "F17", Name: "no file descriptors left at the broker", Must: "no connection accepted, no PUBACK without I1, recovers alone, or when it is started again", make: exhaustFiles, mayEnd: true, within: reopenWithin},
		{ID: "F17b", Name: "disk of the broker full, and full again when it is killed (-9)", Must: "no PUBACK without I1, recovers alone, or when it is started again", make: fillDisk, under: conditions{disk: diskSize}, mayEnd: true, within: reopenWithin},
		{ID: "F17c", Name: "GOMEMLIMIT=128MiB, and nothing else", Must: "nobody notices", make: calm, allows: needsNothing, under: conditions{memory: "128MiB"}},
		{ID: "F18", Name: "readers that never read", Must: "dropped; others unaffected", make: neverRead, allows: needsNothing},
		{ID: "F19", Name: "one API cut off from Redis, then from the broker", Must: "no reply to two clients, none lost", make: cutOff, allows: ofTheOther},
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

// brokerBudget is nearly all the time that one call has for the broker (I7).
const brokerBudget = 1400 * time.Millisecond

// needsNothing: no call fails for want of the cache. One that says, after all its time, that it does not know is none of
// the fault's: the machine stood still (I7).
func needsNothing(a answer) string {
	if a.status < http.StatusInternalServerError || a.code == "outcome_unknown" && a.took >= brokerBudget {
		return ""
	}
	return fmt.Sprintf("%d %s after %s", a.status, a.code, a.took.Round(time.Millisecond))
}

// ofTheOther: what happens to the first API is nothing to the second.
func ofTheOther(a answer) string {
	if a.api == 0 {
		return ""
	}
	return needsNothing(a)
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

// cutCameras lasts longer than any command may be held.
func cutCameras(ctx context.Context, r *run, d time.Duration) (string, error) {
	const longerThanHeld = 7 * time.Second
	return "", refuseFor(ctx, max(d, longerThanHeld), r.toCameras)
}

func mendAll(ctx context.Context, ways []*proxy) error {
	var errs []error
	for _, p := range ways {
		errs = append(errs, p.mend(context.WithoutCancel(ctx)))
	}
	return errors.Join(errs...)
}

// calm is no fault.
func calm(ctx context.Context, _ *run, d time.Duration) (string, error) {
	hold(ctx, d)
	return "", nil
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

// freezeBroker also looks at what piles up in the APIs meanwhile: after the first third, as much as there ever will be.
func freezeBroker(ctx context.Context, r *run, d time.Duration) (string, error) {
	if err := r.broker.Signal(syscall.SIGSTOP); err != nil {
		return "", err
	}
	hold(ctx, d/3)
	early := r.resources(ctx)
	hold(ctx, d-d/3)
	late := r.resources(ctx)
	if err := r.broker.Signal(syscall.SIGCONT); err != nil {
		return "", err
	}
	var notes []string
	for name, now := range late {
		if name == brokerName {
			continue
		}
		then := early[name]
		notes = append(notes, fmt.Sprintf("%s: %d goroutines, then %d", name, then.goroutines, now.goroutines))
		if now.goroutines > then.goroutines+then.goroutines/2+slackGoroutines {
			r.violation(grown, "%s had %d goroutines after a third of F2, and %d at its end", name, then.goroutines, now.goroutines)
		}
	}
	slices.Sort(notes)
	return strings.Join(notes, "; "), nil
}

// redisDo sends a command to Redis, past the proxies.
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
	r.killed()
	r.broker.Kill()
	hold(ctx, d)
	began := time.Now()
	err := r.broker.Restart()
	return fmt.Sprintf("the broker started in %s", time.Since(began).Round(time.Millisecond)), err
}

// killed notes the moment of a kill, for the plots.
func (r *run) killed() {
	r.journal.note(func(j *journal) { j.kills = append(j.kills, time.Now()) })
}

// kill kills one API and starts it again after some time.
func (r *run) kill(ctx context.Context, i int, for_ time.Duration) error {
	back := r.away(i, false)
	defer back()
	r.killed()
	r.apis[i].Kill()
	hold(ctx, for_)
	return r.apis[i].Restart()
}

func killAPIs(ctx context.Context, r *run, d time.Duration) (string, error) {
	const pause = 300 * time.Millisecond
	kills := 0
	for until := time.Now().Add(d); time.Now().Before(until) && ctx.Err() == nil; kills++ {
		i := kills % apiCount
		if i > 0 && r.apis[i] == r.apis[0] { // there is one only: it is killed as often as each of two
			hold(ctx, pause)
		} else if err := r.kill(ctx, i, pause); err != nil {
			return "", err
		}
		hold(ctx, pause)
	}
	return fmt.Sprintf("%d kills", kills), nil
}

// killUnderWaits kills the first API while it has many polls that wait.
func killUnderWaits(ctx context.Context, r *run, d time.Duration) (string, error) {
	const (
		waits     = 100
		underWay  = waits * 3 / 4
		gatherFor = 5 * time.Second
	)
	var all sync.WaitGroup
	for n := range waits {
		all.Go(func() { r.load.slowExchange(ctx, n) })
	}
	gathered := r.await(ctx, gatherFor, "long polls", func() bool { return r.load.waiting.Load() >= underWay })
	cut := r.load.waiting.Load()
	err := r.kill(ctx, 0, d)
	all.Wait()
	if gathered != nil && ctx.Err() == nil {
		r.violation(strange, "only %d long polls were under way when the API was killed", cut)
	}
	return fmt.Sprintf("%d long polls were cut", cut), err
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

func cutOff(ctx context.Context, r *run, d time.Duration) (string, error) {
	return "", errors.Join(
		refuseFor(ctx, d/2, r.apis[0].toRedis),
		refuseFor(ctx, d/2, r.apis[0].toBroker),
	)
}
