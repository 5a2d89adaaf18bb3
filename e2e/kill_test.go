package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"signaldevice/testserver"
)

// Processes are killed in the middle of their work. The journal of the test is outside of them: what a camera got a
// PUBACK for must be read by its client (I1, I2, I9), and by nobody else (I3).

// journal is what was acknowledged and what was read: request and seq → result.
type journal struct {
	mu          sync.Mutex
	acked, seen map[string]string
}

func newJournal() *journal { return &journal{acked: map[string]string{}, seen: map[string]string{}} }

func slot(request string, seq int) string { return fmt.Sprintf("%s/%d", request, seq) }

func (j *journal) ack(request string, seq int, result string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.acked[slot(request, seq)] = result
}

func (j *journal) hasAck(request string, seq int) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	_, ok := j.acked[slot(request, seq)]
	return ok
}

// read notes replies that a client got. One slot read with two bodies is a fault.
func (j *journal) read(t *testing.T, got []reply) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range got {
		at := slot(r.RequestID, r.Seq)
		if before, ok := j.seen[at]; ok && before != string(r.Result) {
			t.Errorf("%s was read with two bodies, %s and %s", at, before, r.Result)
		}
		j.seen[at] = string(r.Result)
	}
}

// missing are the acknowledged replies that nobody has read.
func (j *journal) missing() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []string
	for at, result := range j.acked {
		if j.seen[at] != result {
			out = append(out, at)
		}
	}
	return out
}

func TestBrokerKilled_EveryAcknowledgedReplyIsRead(t *testing.T) {
	const (
		cameras  = 20
		requests = 10 // of one camera
		replies  = 50 // to one request
		total    = cameras * requests * replies
	)
	b := startBroker(t)
	tok := newTokens(t, b.data)
	p := start(t, b.serve("--tokens", tok.file)...)
	admin, alice := tok.admin.at(p), tok.alice.at(p)
	asked := map[*device][]string{}
	var live []*connection
	for i := range cameras {
		dev := admin.newDevice(fmt.Sprintf("cam-%d", i))
		live = append(live, dev.connect())
		for range requests {
			asked[dev] = append(asked[dev], alice.ping(dev.ID).RequestID)
		}
	}
	j := newJournal()

	// Half-way through the replies the broker dies.
	var acks atomic.Int64
	half := make(chan struct{})
	var publishers sync.WaitGroup
	for _, c := range live {
		publishers.Go(func() {
			c.publishAll(asked[c.device], replies, j, func() {
				if acks.Add(1) == total/2 {
					close(half)
				}
			})
		})
	}
	select {
	case <-half:
	case <-time.After(time.Minute):
		t.Fatalf("only %d replies were acknowledged in a minute", acks.Load())
	}
	b.kill()
	publishers.Wait()
	before := acks.Load()
	if before >= total {
		t.Fatalf("all %d replies were acknowledged before the kill: it proves nothing", before)
	}

	// It comes back; the cameras publish again what they have no PUBACK for.
	b.restart()
	for dev := range asked {
		c := dev.connect()
		publishers.Go(func() { c.publishAll(asked[dev], replies, j, func() { acks.Add(1) }) })
	}
	publishers.Wait()
	if n := acks.Load(); n != total {
		t.Fatalf("%d replies are acknowledged, want all %d", n, total)
	}
	for dev, ids := range asked {
		readAll(t, alice, dev.ID, ids, j, replies*requests)
	}
	if missing := j.missing(); len(missing) > 0 {
		t.Errorf("%d of %d acknowledged replies are lost, such as %s", len(missing), total, missing[0])
	}
	t.Logf("killed after %d of %d PUBACKs", before, total)
}

// publishAll publishes the replies to the requests that have no PUBACK yet, some at a time, until all are acknowledged
// or the connection is gone.
func (c *connection) publishAll(requests []string, replies int, j *journal, acked func()) {
	inFlight := make(chan struct{}, 20)
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, id := range requests {
		for seq := range replies {
			if j.hasAck(id, seq) {
				continue
			}
			result := fmt.Sprintf(`"%s %d"`, c.ID, seq)
			inFlight <- struct{}{}
			if !c.client.IsConnected() {
				return
			}
			token := c.client.Publish(c.Topics.Events, 1, false, replyTo(id, seq, seq == replies-1, result))
			wg.Go(func() {
				defer func() { <-inFlight }()
				if token.WaitTimeout(startTimeout) && token.Error() == nil {
					j.ack(id, seq, result)
					acked()
				}
			})
		}
	}
}

// readAll polls by request until so many replies were read, or nothing more comes.
func readAll(t *testing.T, a api, device string, ids []string, j *journal, want int) {
	t.Helper()
	read := map[string]bool{}
	for _, id := range ids {
		waitFor(t, startTimeout, "the replies to "+id, func() bool {
			got := a.poll(device, "", id)
			j.read(t, got.Replies)
			for _, r := range got.Replies {
				read[slot(r.RequestID, r.Seq)] = true
			}
			return got.Answered
		})
	}
	if len(read) < want {
		t.Errorf("%s: read %d replies, want %d", device, len(read), want)
	}
}

// A crash point is a place between two steps of a poll, reached by holding the step after it.
type crashPoint struct {
	name string
	// arm makes the next poll stop there. A poll that has come so far closes reached.
	arm func(p *brokerProxy, redis *tcpGate, reached chan struct{})
}

func crashPoints(withRedis bool) []crashPoint {
	points := []crashPoint{
		{"drained at the broker, not yet at the API", func(p *brokerProxy, _ *tcpGate, reached chan struct{}) {
			p.hook("Drain", nil, holdFirst(reached))
		}},
		{"not yet acknowledged", func(p *brokerProxy, _ *tcpGate, reached chan struct{}) {
			p.hook("Acknowledge", holdFirst(reached), nil)
		}},
		{"acknowledged, and the API does not know", func(p *brokerProxy, _ *tcpGate, reached chan struct{}) {
			p.hook("Acknowledge", nil, holdFirst(reached))
		}},
	}
	if withRedis {
		points = append(points, crashPoint{"drained, not yet in the cache", func(p *brokerProxy, redis *tcpGate, reached chan struct{}) {
			var once sync.Once
			p.hook("Drain", nil, func(<-chan struct{}) {
				once.Do(func() { redis.arm("sdr1_", reached) }) // the next request id on the way to Redis is the write
			})
		}})
	}
	return points
}

func TestAPIKilled_NothingIsLost(t *testing.T) {
	b := startBroker(t)
	tok := newTokens(t, b.data)
	redis := startTCPGate(t, testserver.Redis(t).Addr)
	caches := map[string][]string{"in memory": nil, "Redis": {"--redis", "redis://" + redis.addr}}
	for _, kind := range slices.Sorted(maps.Keys(caches)) {
		for i, point := range crashPoints(caches[kind] != nil) {
			t.Run(kind+"/"+point.name, func(t *testing.T) {
				proxy := startBrokerProxy(t, b)
				args := b.serveThrough(proxy.addr, proxy.ca, append([]string{"--tokens", tok.file}, caches[kind]...)...)
				name := fmt.Sprintf("crash-%d-%d", len(caches[kind]), i)
				killAtCrashPoint(t, tok, name, args, func(reached chan struct{}) { point.arm(proxy, redis, reached) })
			})
		}
	}
}

func killAtCrashPoint(t *testing.T, tok tokens, name string, args []string, arm func(chan struct{})) {
	first := start(t, args...)
	cam := tok.admin.on(t, first).newDevice(name).connect()
	clients := map[string]api{"alice": tok.alice, "bob": tok.bob}
	asked := map[string][]string{}
	j := newJournal()
	for client, a := range clients {
		for i := range 3 {
			id := a.on(t, first).ping(cam.ID).RequestID
			result := fmt.Sprintf(`"%s %d"`, client, i)
			cam.answer(id, result)
			j.ack(id, 0, result)
			asked[client] = append(asked[client], id)
		}
	}

	reached := make(chan struct{})
	arm(reached)
	dying := tok.alice.on(t, first)
	var poll sync.WaitGroup
	poll.Go(func() {
		if ans, err := dying.try("GET", pollPath(cam.ID, "", asked["alice"]...), nil); err == nil {
			var got replies
			ans.into(http.StatusOK, &got)
			j.read(t, got.Replies)
		}
	})
	select {
	case <-reached:
	case <-time.After(startTimeout):
		t.Fatal("no poll came to the crash point")
	}
	first.kill()
	poll.Wait()

	second := start(t, args...)
	for client, a := range clients {
		got := a.on(t, second).poll(cam.ID, "5", asked[client]...)
		j.read(t, got.Replies)
		for _, r := range got.Replies {
			if !slices.Contains(asked[client], r.RequestID) {
				t.Errorf("%s read the reply to somebody else's %s", client, r.RequestID)
			}
		}
	}
	if missing := j.missing(); len(missing) > 0 {
		t.Errorf("%d of %d acknowledged replies are lost", len(missing), len(j.acked))
	}
}

// on is this client at another process, in another test.
func (a api) on(t *testing.T, p *process) api {
	a.t = t
	return a.at(p)
}
