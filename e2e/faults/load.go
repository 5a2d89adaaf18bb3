package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxInFlight  = 4_000            // exchanges; one beyond is not begun
	sendFor      = 5 * time.Second  // how long a client tries to send one command
	retryPause   = time.Second      // before a call that failed is made again, as Retry-After asks
	giveUpAfter  = 16 * time.Second // since the acceptance: longer than any reply_by of the catalogue
	longestDelay = 150              // milliseconds until a camera answers

	longestAbsence = 8 * time.Second // of a client that does not poll at once; less than the read grace
)

// load makes exchanges in the open model: one begins when it is due, however many are under way.
type load struct {
	s       *system
	devices []string // of foreign cameras
	own     []string // of simulated ones
	rate    float64
	plain   bool // one reply each, asked for by its request id: what any such service has
	fewKeys bool // few requests have an idempotency key: the broker has to keep each for an hour

	seed     uint64
	inFlight atomic.Int64
	notBegun atomic.Int64
	finished atomic.Int64
	waiting  atomic.Int64 // slow exchanges whose client waits at the first API
	askings  sync.Map     // *asking by place
	running  sync.WaitGroup
}

// run begins exchanges until ctx ends. Those under way go on: wait waits for them.
func (l *load) run(ctx context.Context) {
	lives := context.WithoutCancel(ctx)
	start := time.Now()
	for n := 0; ; n++ {
		due := time.NewTimer(time.Until(start.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))))
		select {
		case <-ctx.Done():
			due.Stop()
			return
		case <-due.C:
		}
		l.begin(lives, n, rand.New(rand.NewPCG(l.seed, uint64(n))))
	}
}

func (l *load) begin(ctx context.Context, n int, rng *rand.Rand) {
	if l.inFlight.Add(1) > maxInFlight {
		l.inFlight.Add(-1)
		l.notBegun.Add(1)
		return
	}
	l.running.Go(func() {
		defer l.inFlight.Add(-1)
		l.exchange(ctx, n, rng)
		l.finished.Add(1)
	})
}

// wait returns when no exchange is under way.
func (l *load) wait() { l.running.Wait() }

// exchange is one client with one command: it sends, then polls until it knows how that ended.
func (l *load) exchange(ctx context.Context, n int, rng *rand.Rand) {
	x := exchange{load: l, rng: rng, who: l.s.clients[rng.IntN(len(l.s.clients))]}
	x.args = map[string]any{"nonce": fmt.Sprintf("%d-%d", l.seed, n)}
	if l.plain {
		x.device, x.command = l.devices[rng.IntN(len(l.devices))], "exchange"
		x.args["delay_ms"] = rng.IntN(longestDelay)
	} else if n%10 == 9 {
		x.device, x.command = l.own[rng.IntN(len(l.own))], "ping"
	} else {
		x.device, x.command = l.devices[rng.IntN(len(l.devices))], "exchange"
		x.args["delay_ms"], x.args["progress"] = rng.IntN(longestDelay), n%5 == 0
		if n%7 == 3 {
			x.command = "exchange_held"
		}
	}
	if n%3 != 0 && (!l.fewKeys || n%10 == 1) { // the others find out what happens to those who do not
		x.key = fmt.Sprintf("key-%d-%d", l.seed, n)
	}
	if !x.send(ctx) {
		return
	}
	if n%6 == 1 { // comes back later: meanwhile the reply waits in the queue, or in the cache, where others' polls bring it
		hold(ctx, time.Duration(rng.Int64N(int64(longestAbsence))))
	}
	if n%4 == 2 && !l.plain {
		x.readAny(ctx)
	}
	x.awaitFinal(ctx)
}

type exchange struct {
	load    *load
	rng     *rand.Rand
	who     client
	device  string
	command string
	args    map[string]any
	key     string
	id      string
}

// probe is an exchange beside the load, with its first device.
func (l *load) probe(who client) *exchange {
	now := uint64(time.Now().UnixNano())
	return &exchange{
		load: l, rng: rand.New(rand.NewPCG(l.seed, now)), who: who, device: l.devices[0],
		command: "exchange", args: map[string]any{"nonce": fmt.Sprintf("probe-%d", now)},
	}
}

func (x *exchange) anyAPI() int { return x.rng.IntN(apiCount) }

// send reports whether the service has accepted the command. A client without a key does not repeat what may have been
// accepted.
func (x *exchange) send(ctx context.Context) bool {
	x.attempt()
	for until := time.Now().Add(sendFor); time.Now().Before(until); x.pause(ctx) {
		r := x.load.s.http.do(ctx, x.anyAPI(), x.who, x.request(opSend))
		switch {
		case r.status/100 == 2:
			x.accept(r)
			return x.id != ""
		case r.status == http.StatusServiceUnavailable && r.code != "outcome_unknown":
			// nothing happened: again
		case r.code == tooManyUnread:
			x.readAny(ctx)
		case r.status == 0, r.status == http.StatusServiceUnavailable:
			if x.key == "" {
				return false
			}
		default:
			return false // refused for a reason
		}
	}
	return false
}

func (x *exchange) request(op string) request {
	body := map[string]any{"command": x.command, "args": x.args}
	q := request{op: op, method: http.MethodPost, path: "/v1/devices/" + x.device + "/commands", body: body, header: http.Header{}}
	if x.key != "" {
		q.header.Set("Idempotency-Key", x.key)
	}
	return q
}

func (x *exchange) accept(r result) replies {
	var got replies
	err := r.into(&got)
	if r.op == opWait {
		x.load.s.journal.history.saw(x.who, x.device, nil, r, &got)
	}
	if err != nil || got.RequestID == "" {
		return got
	}
	x.id = got.RequestID
	ahead := x.load.s.brokerClock.isAhead()
	x.load.s.journal.note(func(j *journal) {
		j.accepted[x.id] = acceptance{x.who.name, x.device, r.began}
		if ahead {
			j.later[x.id] = true
		}
	})
	x.load.s.http.noteReplies(x.who, r.began, &got)
	return got
}

// attempt notes that the command is about to be sent.
func (x *exchange) attempt() {
	nonce := x.args["nonce"].(string) // every exchange has one
	x.load.s.journal.note(func(j *journal) { j.attempts[nonce] = attempt{x.who.name, x.device, time.Now()} })
}

// awaitFinal polls by request id, at any API, until the final reply or another end is known. A poll without a clear answer
// may have taken the reply: then it goes on while the reply's grace lasts.
func (x *exchange) awaitFinal(ctx context.Context) {
	for until := time.Now().Add(giveUpAfter); time.Now().Before(until); {
		got, ok := x.load.s.http.poll(ctx, x.anyAPI(), x.who, x.device, []string{x.id}, pollWait)
		if got.final(x.id) {
			return
		}
		if !ok || got.mayFindMore() {
			until = later(until, time.Now().Add(readGrace))
			x.pause(ctx)
			continue
		}
		switch got.state(x.id) {
		case "no_reply", "expired", "cancelled", "already_read", "gone", "not_found":
			return
		}
	}
}

// readAny polls for whatever is there, as an old panel does, and as somebody has to whose commands are refused because too
// many replies are unread: who gave up in an outage has left some.
func (x *exchange) readAny(ctx context.Context) (replies, bool) {
	got, ok := x.load.s.http.poll(ctx, x.anyAPI(), x.who, x.device, nil, 0)
	if !ok {
		x.askAgain(ctx)
	}
	return got, ok
}

// asking is a client's search, at one device, for what a cut answer may have taken. One search serves all answers that were
// cut before it began.
type asking struct {
	sync.Mutex
	began time.Time // of the last one that came to its end
}

// askAgain is what a client does whose poll without ids was cut: it looks which of its requests have a reply that it does
// not know, for what was taken may be old, and asks for those by id while their grace lasts, until no answer says that there
// is more.
func (x *exchange) askAgain(ctx context.Context) {
	cut := time.Now()
	shared, _ := x.load.askings.LoadOrStore(place{x.who.name, x.device}, &asking{})
	search := shared.(*asking) // nothing else is in there
	search.Lock()
	defer search.Unlock()
	if search.began.After(cut) {
		return
	}
	for until := cut.Add(readGrace); time.Now().Before(until); x.pause(ctx) {
		began := time.Now()
		ids, ok := x.load.s.http.unread(ctx, x.anyAPI(), x.who, x.device)
		for some := range slices.Chunk(ids, maxPollIDs) {
			var got replies
			if ok {
				got, ok = x.load.s.http.poll(ctx, x.anyAPI(), x.who, x.device, some, 0)
			}
			ok = ok && !got.mayFindMore()
		}
		if ok {
			search.began = began
			return
		}
	}
}

func (x *exchange) pause(ctx context.Context) {
	hold(ctx, retryPause/2+time.Duration(x.rng.Int64N(int64(retryPause))))
}

// slowExchange is one whose camera takes its time, and whose client waits at the first API as long as that is there.
func (l *load) slowExchange(ctx context.Context, n int) {
	const delay = 4000 // milliseconds
	name := fmt.Sprintf("%d-slow-%d-%d", l.seed, n, time.Now().UnixNano())
	x := exchange{
		load: l, rng: rand.New(rand.NewPCG(l.seed, uint64(n))), who: l.s.clients[n%len(l.s.clients)],
		device: l.devices[n%len(l.devices)], command: "exchange", key: name,
		args: map[string]any{"nonce": name, "delay_ms": delay},
	}
	if !x.send(ctx) {
		return
	}
	l.waiting.Add(1)
	got, ok := l.s.http.poll(ctx, 0, x.who, x.device, []string{x.id}, pollWait)
	l.waiting.Add(-1)
	if ok && got.final(x.id) {
		return
	}
	x.awaitFinal(ctx)
}
