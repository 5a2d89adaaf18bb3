package cache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"signaldevice/cache"
	"signaldevice/device"
	"signaldevice/dispatch"
	"signaldevice/testserver"
)

var alice = device.MailboxOf("alice")

func reply(id device.RequestID) device.Reply {
	return device.Reply{
		Request: id, Device: "camera-1", Mailbox: alice, Command: "ping", Final: true,
		ReceivedAt: time.Date(2026, 11, 24, 8, 0, 0, 0, time.UTC), Body: []byte("body of " + id),
	}
}

// open opens a cache on the server and closes it with the test.
func open(t *testing.T, cfg cache.RedisConfig) *cache.Redis {
	t.Helper()
	c, err := cache.OpenRedis(t.Context(), cfg)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(c.Close)
	return c
}

// put stores one reply.
func put(t *testing.T, c *cache.Redis, r device.Reply) dispatch.PutResult {
	t.Helper()
	results, err := c.Put(t.Context(), []device.Reply{r})
	if err != nil {
		t.Fatalf("put: %v", err)
	}
	return results[0]
}

// tryTake takes all that is unread, or the requests, with a grace of a minute.
func tryTake(ctx context.Context, c *cache.Redis, ids ...device.RequestID) (dispatch.Taken, error) {
	return c.Take(ctx, dispatch.Take{Mailbox: alice, Device: "camera-1", IDs: ids, Grace: time.Minute})
}

func take(t *testing.T, c *cache.Redis, ids ...device.RequestID) dispatch.Taken {
	t.Helper()
	taken, err := tryTake(t.Context(), c, ids...)
	if err != nil {
		t.Fatalf("take: %v", err)
	}
	return taken
}

func wantKind(t *testing.T, err error, want device.Kind) {
	t.Helper()
	if got := device.KindOf(err); got != want {
		t.Fatalf("error %v is of kind %q, want %q", err, got, want)
	}
}

// eventually waits until the condition holds, at most ten seconds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("after ten seconds not yet: %s", what)
		}
	}
}

// within returns a context that ends after d.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestOpenRedis_RefusesAServerThatDropsReplies(t *testing.T) {
	server := testserver.Redis(t)
	admin := dial(t, server.URL)
	tests := map[string]struct {
		policy string
		want   device.Kind
	}{
		"noeviction":   {"noeviction", device.OK},
		"allkeys-lru":  {"allkeys-lru", device.CacheUnavailable},
		"volatile-ttl": {"volatile-ttl", device.CacheUnavailable},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			ask(t, admin, "CONFIG", "SET", "maxmemory-policy", test.policy)
			c, err := cache.OpenRedis(t.Context(), cache.RedisConfig{URL: server.URL})
			wantKind(t, err, test.want)
			if err == nil {
				c.Close()
			} else if !strings.Contains(err.Error(), "must be noeviction") {
				t.Errorf("the error does not say what to do: %v", err)
			}
		})
	}
}

func TestOpenRedis_BadURLIsRefusedWithoutItsPassword(t *testing.T) {
	for _, url := range []string{"http://:secret@127.0.0.1", "redis://:secret@127.0.0.1:x", "redis://:secret@127.0.0.1/x", "", "://secret"} {
		_, err := cache.OpenRedis(t.Context(), cache.RedisConfig{URL: url})
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: error %v", url, err)
		}
	}
}

func TestRedis_Durable(t *testing.T) {
	const warning = "append-only"
	tests := map[string]struct {
		appendonly string
		vouched    bool
		want       bool
		warnings   int
	}{
		"with an append-only file":       {"yes", false, true, 0},
		"without one":                    {"no", false, false, 1},
		"without one, but vouched for":   {"no", true, true, 0},
		"with one, and vouched for, too": {"yes", true, true, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			server := testserver.Redis(t, "--appendonly", test.appendonly)
			var log bytes.Buffer
			c := open(t, cache.RedisConfig{URL: server.URL, Vouched: test.vouched, Log: slog.New(slog.NewTextHandler(&log, nil))})
			if err := c.Ping(t.Context()); err != nil {
				t.Fatal(err)
			}
			if c.Durable() != test.want {
				t.Errorf("durable %t, want %t", c.Durable(), test.want)
			}
			if got := strings.Count(log.String(), warning); got != test.warnings {
				t.Errorf("%d warnings, want %d: %s", got, test.warnings, log.String())
			}
		})
	}
}

// I2: what a new connection leads to is not trusted before it was checked.
func TestRedis_IsDurableAgainOnlyOnceChecked(t *testing.T) {
	server := testserver.Redis(t)
	c := open(t, cache.RedisConfig{URL: server.URL})
	admin := dial(t, server.URL)
	if !c.Durable() {
		t.Fatal("not durable at first")
	}
	askNumber(t, admin, "CLIENT", "KILL", "TYPE", "normal")
	eventually(t, "a call goes through a new connection", func() bool {
		_, err := tryTake(t.Context(), c)
		return err == nil
	})
	if c.Durable() {
		t.Fatal("durable on a connection that nobody checked")
	}
	if err := c.Ping(t.Context()); err != nil || !c.Durable() {
		t.Fatalf("after a check: durable %t, %v", c.Durable(), err)
	}
	ask(t, admin, "CONFIG", "SET", "appendonly", "no")
	if err := c.Ping(t.Context()); err != nil || c.Durable() {
		t.Fatalf("after the append-only file was turned off: durable %t, %v", c.Durable(), err)
	}
}

func TestRedis_DownAtStartIsTakenUpLater(t *testing.T) {
	server := testserver.Redis(t)
	server.Kill()
	c := open(t, cache.RedisConfig{URL: server.URL})
	_, err := c.Put(t.Context(), []device.Reply{reply("r")})
	wantKind(t, err, device.CacheUnavailable)
	_, err = tryTake(t.Context(), c)
	wantKind(t, err, device.CacheUnavailable)
	wantKind(t, c.Ping(t.Context()), device.CacheUnavailable)
	if c.Durable() {
		t.Error("durable without Redis")
	}
	server.Restart()
	if err := c.Ping(t.Context()); err != nil {
		t.Fatalf("ping after Redis came: %v", err)
	}
	put(t, c, reply("r"))
	if !c.Durable() {
		t.Error("not durable with Redis")
	}
}

func TestRedis_UnsuitableLaterIsNotUsed(t *testing.T) {
	server := testserver.Redis(t)
	c := open(t, cache.RedisConfig{URL: server.URL})
	admin := dial(t, server.URL)
	put(t, c, reply("r"))
	ask(t, admin, "CONFIG", "SET", "maxmemory-policy", "allkeys-random")
	wantKind(t, c.Ping(t.Context()), device.CacheUnavailable)
	_, err := tryTake(t.Context(), c)
	wantKind(t, err, device.CacheUnavailable)
	ask(t, admin, "CONFIG", "SET", "maxmemory-policy", "noeviction")
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := take(t, c); len(got.Replies) != 1 {
		t.Fatalf("took %d replies", len(got.Replies))
	}
}

// I2, I9: what a durable cache has confirmed survives kill -9 of Redis.
func TestRedis_KeepsRecordsAndMarksOverAKill(t *testing.T) {
	server := testserver.Redis(t, "--appendfsync", "always")
	c := open(t, cache.RedisConfig{URL: server.URL})
	put(t, c, reply("unread"))
	put(t, c, reply("in grace"))
	take(t, c, "in grace")
	put(t, c, reply("read"))
	if _, err := c.Take(t.Context(), dispatch.Take{Mailbox: alice, Device: "camera-1", IDs: []device.RequestID{"read"}}); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	eventually(t, "calls fail as not sent", func() bool {
		_, err := tryTake(t.Context(), c)
		return device.Is(err, device.CacheUnavailable)
	})
	server.Restart()
	eventually(t, "the cache is back", func() bool { return c.Ping(t.Context()) == nil })

	if n, err := c.Records(t.Context()); err != nil || n != 2 {
		t.Errorf("%d records, %v; want 2", n, err)
	}
	got := take(t, c, "unread", "in grace", "read")
	if len(got.Replies) != 2 || got.Again != 1 || len(got.Read) != 1 || got.Read[0] != "read" {
		t.Errorf("took %d replies, %d again, read %v", len(got.Replies), got.Again, got.Read)
	}
	if result := put(t, c, reply("read")); result != dispatch.Read {
		t.Errorf("put of the read reply: %v", result)
	}
}

// F4: a call on a Redis that stands still ends in time, and does nothing later.
func TestRedis_StandingStillTakesNothingFromACallThatWasGivenUp(t *testing.T) {
	server := testserver.Redis(t)
	c := open(t, cache.RedisConfig{URL: server.URL})
	put(t, c, reply("r"))
	server.Stop()
	start := time.Now()
	_, err := tryTake(within(t, 100*time.Millisecond), c)
	wantKind(t, err, device.OutcomeUnknown)
	_, err = c.Put(within(t, 100*time.Millisecond), []device.Reply{reply("late")})
	wantKind(t, err, device.OutcomeUnknown)
	wantKind(t, c.Ping(within(t, 100*time.Millisecond)), device.CacheUnavailable)
	if took := time.Since(start); took > time.Second {
		t.Errorf("three calls with 100 ms each took %s", took)
	}
	server.Continue()
	eventually(t, "Redis answers", func() bool { return c.Ping(t.Context()) == nil })
	got := take(t, c)
	if len(got.Replies) != 1 || got.Replies[0].Request != "r" || got.Again != 0 {
		t.Fatalf("took %d replies, %d again, want the first read of one", len(got.Replies), got.Again)
	}
}

// F4: once the connections are known to be lost, a call says truly that it did nothing.
func TestRedis_StandingStillForLongIsUnavailable(t *testing.T) {
	server := testserver.Redis(t)
	c := open(t, cache.RedisConfig{URL: server.URL})
	server.Stop()
	eventually(t, "a call fails as not sent", func() bool {
		_, err := tryTake(within(t, 400*time.Millisecond), c)
		return device.Is(err, device.CacheUnavailable)
	})
	wantKind(t, c.Ping(within(t, 400*time.Millisecond)), device.CacheUnavailable)
	late := open(t, cache.RedisConfig{URL: server.URL})
	_, err := tryTake(t.Context(), late)
	wantKind(t, err, device.CacheUnavailable)
	server.Continue()
	eventually(t, "both are back", func() bool { return c.Ping(t.Context()) == nil && late.Ping(t.Context()) == nil })
}

// I8: a take whose answer is lost is never reported as nothing, and its reply can be read again.
func TestRedis_LostAnswerIsAnUnknownOutcome(t *testing.T) {
	server := testserver.Redis(t)
	link := cutter(t, server.Addr)
	c := open(t, cache.RedisConfig{URL: "redis://" + link.addr})
	take(t, c) // Redis knows the scripts from here on
	put(t, c, reply("r"))

	link.cut.Store(true)
	_, err := tryTake(t.Context(), c)
	wantKind(t, err, device.OutcomeUnknown)
	eventually(t, "a new connection", func() bool { return c.Ping(t.Context()) == nil })
	if got := take(t, c); len(got.Replies) != 0 {
		t.Errorf("the take did not happen: %d replies are unread", len(got.Replies))
	}
	if got := take(t, c, "r"); len(got.Replies) != 1 || got.Again != 1 {
		t.Errorf("took %d replies, %d again", len(got.Replies), got.Again)
	}

	link.cut.Store(true)
	_, err = c.Put(t.Context(), []device.Reply{reply("s")})
	wantKind(t, err, device.OutcomeUnknown)
	eventually(t, "a new connection", func() bool { return c.Ping(t.Context()) == nil })
	if got := put(t, c, reply("s")); got != dispatch.Duplicate {
		t.Errorf("put again: %v, want a duplicate", got)
	}
}

// cutLink passes bytes on to a server. Told to cut, it swallows the next answer and ends the connection.
type cutLink struct {
	addr string
	cut  atomic.Bool
}

func cutter(t *testing.T, server string) *cutLink {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &cutLink{addr: listener.Addr().String()}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", server)
			if err != nil {
				near.Close()
				continue
			}
			all.Go(func() { _, _ = io.Copy(far, near); far.Close() })
			all.Go(func() { _ = l.back(near, far); near.Close(); far.Close() })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		all.Wait() // the cache was closed before, so that its connections have ended
	})
	return l
}

func (l *cutLink) back(near, far net.Conn) error {
	buffer := make([]byte, 64<<10)
	for {
		n, err := far.Read(buffer)
		if err != nil {
			return err
		}
		if l.cut.CompareAndSwap(true, false) {
			return errors.New("cut")
		}
		if _, err := near.Write(buffer[:n]); err != nil {
			return err
		}
	}
}

// F7: a replica is as good as down.
func TestRedis_ReplicaIsUnavailable(t *testing.T) {
	server := testserver.Redis(t)
	c := open(t, cache.RedisConfig{URL: server.URL})
	admin := dial(t, server.URL)
	put(t, c, reply("r"))
	ask(t, admin, "REPLICAOF", "127.0.0.1", "1")
	_, err := c.Put(t.Context(), []device.Reply{reply("s")})
	wantKind(t, err, device.CacheUnavailable)
	_, err = tryTake(t.Context(), c)
	wantKind(t, err, device.CacheUnavailable)
	wantKind(t, c.Ping(t.Context()), device.CacheUnavailable)
	ask(t, admin, "REPLICAOF", "NO", "ONE")
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := take(t, c); len(got.Replies) != 1 {
		t.Errorf("took %d replies", len(got.Replies))
	}
}

func TestRedis_ForgottenScriptsAreSentAgain(t *testing.T) {
	server := testserver.Redis(t)
	c := open(t, cache.RedisConfig{URL: server.URL})
	admin := dial(t, server.URL)
	ask(t, admin, "SCRIPT", "FLUSH")
	put(t, c, reply("r"))
	ask(t, admin, "SCRIPT", "FLUSH")
	if got := take(t, c); len(got.Replies) != 1 {
		t.Errorf("took %d replies", len(got.Replies))
	}
}

// F7: a node of a cluster that comes back brings its records back, without a restart of ours.
func TestRedis_ClusterNodeComesBack(t *testing.T) {
	cluster := testserver.RedisCluster(t, "--appendfsync", "always")
	c := open(t, cache.RedisConfig{URL: cluster.URL})
	put(t, c, reply("r"))
	var home *testserver.RedisServer
	for _, node := range cluster.Nodes {
		if len(keys(t, dialNode(t, node.URL), "r{*")) > 0 {
			home = node
		}
	}
	home.Kill()
	eventually(t, "a take is refused as not sent", func() bool {
		_, err := tryTake(within(t, 250*time.Millisecond), c)
		return device.Is(err, device.CacheUnavailable)
	})
	wantKind(t, c.Ping(within(t, 400*time.Millisecond)), device.CacheUnavailable)
	home.Restart()
	eventually(t, "the cache is back", func() bool { return c.Ping(within(t, 400*time.Millisecond)) == nil })
	if got := take(t, c); len(got.Replies) != 1 {
		t.Errorf("took %d replies", len(got.Replies))
	}
}

// I7: a replica of a cluster that hangs takes nothing with it: nothing is asked of it.
func TestRedis_ClusterReplicaThatHangs(t *testing.T) {
	cluster := testserver.RedisCluster(t)
	replica := cluster.Replica(cluster.Nodes[0])
	for _, node := range cluster.Nodes { // the cluster itself must not give the replica up
		ask(t, dialNode(t, node.URL), "CONFIG", "SET", "cluster-node-timeout", "60000")
	}
	c := open(t, cache.RedisConfig{URL: cluster.URL})
	if list := ask(t, dialNode(t, replica.URL), "CLIENT", "LIST"); !strings.Contains(list, "name=signal-device") {
		t.Fatalf("the replica was not asked: %s", list)
	}
	ping := func() {
		t.Helper()
		if err := c.Ping(within(t, 400*time.Millisecond)); err != nil {
			t.Fatal(err)
		}
	}
	replica.Stop()
	ping()
	if c.Durable() {
		t.Error("durable although a node that is connected has not told how it is set up")
	}
	put(t, c, reply("r"))
	eventually(t, "the connection to the replica is given up", func() bool {
		ping()
		return c.Durable()
	})
	ping()
	if !c.Durable() {
		t.Error("each try to reach the replica casts doubt on the others")
	}
	for _, node := range cluster.Nodes {
		askNumber(t, dialNode(t, node.URL), "CLIENT", "KILL", "TYPE", "normal")
	}
	ping() // though the replica leaves it no time to inspect the new connections as well
	eventually(t, "the new connections are trusted", func() bool {
		ping()
		return c.Durable()
	})
	if got := take(t, c); len(got.Replies) != 1 {
		t.Errorf("took %d replies", len(got.Replies))
	}
}
