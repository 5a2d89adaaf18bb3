package queue_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"signaldevice/broker/queue"
	"signaldevice/broker/requests"
	"signaldevice/broker/stream"
	"signaldevice/device"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		fmt.Fprintln(os.Stderr, runChild(dir))
		os.Exit(1) // it only ends by itself when it fails
	}
	flag.Parse()
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		_ = f.Value.Set("20") // each opens a store and closes it several times
	}
	goleak.VerifyTestMain(m)
}

func testContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), time.Minute)
}

const (
	patience = 5 * time.Second
	cam      = device.ID("cam-1")
)

var (
	alice = device.MailboxOf("alice")
	bob   = device.MailboxOf("bob")
	ring  = mustRing()
)

func mustRing() *device.KeyRing {
	r, err := device.NewKeyRing(device.Key{ID: 1, Secret: make([]byte, 32)})
	if err != nil {
		panic(err)
	}
	return r
}

// shed is a queue with its engine and its records, and a clock that a test can move.
type shed struct {
	t       testing.TB
	dir     string
	edit    func(*queue.Config)
	engine  *stream.Engine
	records *requests.Store
	queue   *queue.Queue
	arrived chan queue.Reply

	mu     sync.Mutex
	frozen time.Time // zero: the clock runs
	ahead  time.Duration
}

func (s *shed) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.frozen.IsZero() {
		return s.frozen.Add(s.ahead)
	}
	return time.Now().Add(s.ahead)
}

func (s *shed) advance(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ahead += d
}

func newShed(t testing.TB, edit func(*queue.Config)) *shed {
	t.Helper()
	s := &shed{t: t, dir: t.TempDir(), edit: edit, arrived: make(chan queue.Reply, 100_000)}
	s.open()
	t.Cleanup(s.close)
	return s
}

func (s *shed) open() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	var err error
	if s.engine, err = stream.Open(ctx, stream.Config{Dir: s.dir}); err != nil {
		s.t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	if s.records, err = requests.Open(ctx, requests.Config{Engine: s.engine, Clock: s.now, Log: log}); err != nil {
		s.t.Fatal(err)
	}
	cfg := queue.Config{Engine: s.engine, Records: s.records, Clock: s.now, Log: log, Arrived: func(r queue.Reply) { s.arrived <- r }}
	if s.edit != nil {
		s.edit(&cfg)
	}
	if s.queue, err = queue.Open(ctx, cfg); err != nil {
		s.t.Fatal(err)
	}
}

func (s *shed) close() {
	s.queue.Close()
	s.records.Close()
	s.engine.Close()
}

func (s *shed) reopen() {
	s.t.Helper()
	s.close()
	s.open()
}

// request records a command of a client to a device, as Send does.
func (s *shed) request(dev device.ID, m device.Mailbox) device.RequestID {
	s.t.Helper()
	now := s.now()
	rec := requests.Record{
		ID: ring.Mint(now, m, dev, now.Add(30*time.Second)), Device: dev, Client: "someone", Command: "ping",
		Created: requests.At(now), Sent: requests.At(now), DeliverBy: requests.At(now.Add(10 * time.Second)), ReplyBy: requests.At(now.Add(30 * time.Second)),
	}
	if err := s.records.Create(s.t.Context(), rec); err != nil {
		s.t.Fatal(err)
	}
	return rec.ID
}

func reply(dev device.ID, id device.RequestID, seq int, final bool, body string) *queue.Reply {
	claims, err := ring.Verify(id, dev)
	if err != nil {
		panic(err)
	}
	return &queue.Reply{Device: dev, ID: id, Claims: claims, Seq: seq, Final: final, Body: []byte(body)}
}

// holdStream stores one reply and gives the stream nothing from then on, until it is let go.
func (s *shed) holdStream() (letGo func()) {
	gate, told := make(chan struct{}), make(chan struct{})
	letGo = sync.OnceFunc(func() { close(gate) })
	s.t.Cleanup(letGo)
	first := reply(cam, s.request(cam, alice), 0, true, "first")
	first.Done = func(error) { close(told); <-gate }
	s.queue.Put(first)
	<-told
	return letGo
}

// offer puts a reply in and returns what Done will be called with.
func (s *shed) offer(r *queue.Reply) <-chan error {
	done := make(chan error, 1)
	r.Done = func(err error) {
		select {
		case done <- err:
		default:
			s.t.Error("Done was called twice")
		}
	}
	s.queue.Put(r)
	return done
}

func (s *shed) wait(done <-chan error) {
	s.t.Helper()
	select {
	case err := <-done:
		if err != nil {
			s.t.Fatal(err)
		}
	case <-time.After(patience):
		s.t.Fatal("the reply was not acknowledged")
	}
}

// put puts a final reply in and waits until it may be acknowledged.
func (s *shed) put(dev device.ID, id device.RequestID, body string) {
	s.t.Helper()
	s.wait(s.offer(reply(dev, id, 0, true, body)))
}

func (s *shed) drain(in queue.Drain) []queue.Drained {
	s.t.Helper()
	if in.Device == "" {
		in.Device = cam
	}
	if in.Limit == 0 {
		in.Limit = 1000
	}
	page, err := s.queue.Drain(s.t.Context(), in)
	if err != nil {
		s.t.Fatal(err)
	}
	return page.Replies
}

func (s *shed) all(dev device.ID) []queue.Drained {
	s.t.Helper()
	return s.drain(queue.Drain{Device: dev})
}

func (s *shed) acknowledge(dev device.ID, after time.Duration, rs ...queue.Drained) {
	s.t.Helper()
	positions := make([][]byte, len(rs))
	for i, r := range rs {
		positions[i] = r.Position
	}
	if err := s.queue.Acknowledge(s.t.Context(), dev, positions, after); err != nil {
		s.t.Fatal(err)
	}
}

func (s *shed) record(id device.RequestID) requests.Record {
	s.t.Helper()
	claims, err := id.Claims()
	if err != nil {
		s.t.Fatal(err)
	}
	rec, ok, err := s.records.Get(s.t.Context(), claims)
	if err != nil || !ok {
		s.t.Fatalf("record: %v, %v", ok, err)
	}
	return rec
}

func (s *shed) until(what string, is func() bool) {
	s.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !is(); <-tick.C {
		if time.Now().After(deadline) {
			s.t.Fatalf("it did not come true that %s", what)
		}
	}
}

// bodies lists what was drained, for comparing.
func bodies(rs []queue.Drained) string {
	var out []string
	for _, r := range rs {
		out = append(out, string(r.Body))
	}
	return fmt.Sprint(out)
}

func uuids(ids ...device.RequestID) map[device.UUID]bool {
	out := map[device.UUID]bool{}
	for _, id := range ids {
		claims, err := id.Claims()
		if err != nil {
			panic(err)
		}
		out[claims.UUID] = true
	}
	return out
}

// forgetful are records that lose every note, as those of a process that dies do.
type forgetful struct{ *requests.Store }

func (*forgetful) UpdateCached(device.UUID, func(*requests.Record) bool) bool { return true }

func (*forgetful) Update(context.Context, device.Claims, func(*requests.Record) bool) error {
	return nil
}

// reopenQueue opens the queue anew over the same engine and records.
func (s *shed) reopenQueue() {
	s.t.Helper()
	cfg := queue.Config{Engine: s.engine, Records: s.records, Clock: s.now, Log: slog.New(slog.DiscardHandler)}
	s.edit(&cfg)
	var err error
	if s.queue, err = queue.Open(s.t.Context(), cfg); err != nil {
		s.t.Fatal(err)
	}
}
