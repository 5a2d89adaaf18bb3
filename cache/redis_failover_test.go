package cache_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"signaldevice/cache"
	"signaldevice/device"
	"signaldevice/dispatch"
	"signaldevice/testserver"
)

// I2: where a replica is asked for, a reply that may leave its queue is on the replica, too.
func TestRedis_FailoverLosesNothingThatAReplicaHas(t *testing.T) {
	for range 2 {
		lost, safe := failOver(t, 1, 300)
		if safe == 0 {
			t.Fatal("nothing was put")
		}
		if lost > 0 {
			t.Errorf("%d of %d replies are lost, which might have left their queue", lost, safe)
		}
	}
}

// Without it, a failover loses some: each kill takes what was on its way to the replica.
func BenchmarkFailover(b *testing.B) {
	for _, replicas := range []int{0, 1} {
		b.Run(fmt.Sprint("replicas=", replicas), func(b *testing.B) {
			var lost, safe, kills int
			for b.Loop() {
				l, s := failOver(b, replicas, 1000)
				lost, safe = lost+l, safe+s
				if l > 0 {
					kills++
				}
			}
			b.ReportMetric(float64(safe)/float64(b.N), "safe/kill")
			b.ReportMetric(float64(lost)/float64(b.N), "lost/kill")
			b.ReportMetric(float64(kills), "kills-with-loss")
		})
	}
}

// failOver kills a master under load after so many puts, whose replica is two milliseconds away, and looks on the replica
// for the replies that might have left their queue.
func failOver(t testing.TB, replicas, before int) (lost, safe int) {
	t.Helper()
	master := testserver.Redis(t)
	line := newLine(t, master.Addr, 2*time.Millisecond)
	replica := testserver.RedisReplica(t, master, line.addr)
	c, err := cache.OpenRedis(t.Context(), cache.RedisConfig{URL: master.URL, Replicas: replicas})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()

	const writers = 8
	var puts atomic.Int64
	kept := make([][]device.RequestID, writers)
	var all sync.WaitGroup
	enough := make(chan struct{})
	for w := range writers {
		all.Go(func() {
			for i := 0; ; i++ {
				id := device.RequestID(fmt.Sprint(w, "-", i))
				durable := c.Durable()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				results, err := c.Put(ctx, []device.Reply{reply(id)})
				cancel()
				if err != nil {
					return // the master is dead
				}
				if durable && results[0] == dispatch.Stored {
					kept[w] = append(kept[w], id)
				}
				if puts.Add(1) == int64(before) {
					close(enough)
				}
			}
		})
	}
	<-enough
	line.cut()
	master.Kill()
	all.Wait()

	admin := dial(t, replica.URL)
	ask(t, admin, "REPLICAOF", "NO", "ONE")
	after, err := cache.OpenRedis(t.Context(), cache.RedisConfig{URL: replica.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer after.Close()
	ids := slices.Concat(kept...)
	found := 0
	for part := range slices.Chunk(ids, 100) {
		taken, err := tryTake(t.Context(), after, part...)
		if err != nil {
			t.Fatal(err)
		}
		found += len(taken.Replies)
	}
	return len(ids) - found, len(ids)
}

// line passes bytes on to a server, later. What is on it when it is cut is lost, as with a machine that loses its power.
type line struct {
	addr     string
	delay    time.Duration
	listener net.Listener
	done     chan struct{}
	all      sync.WaitGroup
	once     sync.Once
}

func newLine(t testing.TB, server string, delay time.Duration) *line {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &line{addr: listener.Addr().String(), delay: delay, listener: listener, done: make(chan struct{})}
	l.all.Go(func() {
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
			l.carry(near, far)
			l.carry(far, near)
		}
	})
	t.Cleanup(l.cut)
	return l
}

func (l *line) cut() {
	l.once.Do(func() {
		close(l.done)
		l.listener.Close()
	})
	l.all.Wait()
}

// carry moves bytes in one direction until either end or the line is closed.
func (l *line) carry(from, to net.Conn) {
	type piece struct {
		due  time.Time
		data []byte
	}
	pieces := make(chan piece, 1<<16)
	l.all.Go(func() {
		defer close(pieces)
		for {
			data := make([]byte, 32<<10)
			n, err := from.Read(data)
			if err != nil {
				return
			}
			pieces <- piece{time.Now().Add(l.delay), data[:n]}
		}
	})
	l.all.Go(func() {
		defer from.Close()
		defer to.Close()
		for {
			select {
			case <-l.done:
				return
			case p, open := <-pieces:
				if !open {
					return
				}
				timer := time.NewTimer(time.Until(p.due))
				select {
				case <-timer.C:
				case <-l.done:
					timer.Stop()
					return
				}
				if _, err := to.Write(p.data); err != nil {
					return
				}
			}
		}
	})
}

// A put that no replica confirms stays in its queue, and only the first one waits. The next check finds the replica again.
func TestRedis_ReplicaThatIsGone(t *testing.T) {
	master := testserver.Redis(t)
	replica := testserver.RedisReplica(t, master, master.Addr)
	c := open(t, cache.RedisConfig{URL: master.URL, Replicas: 1})
	putSafe(t, c, reply("safe"))
	eventually(t, "the replica is trusted", func() bool { return c.Ping(t.Context()) == nil && c.Durable() })
	replica.Stop()
	if got := put(t, c, reply("r")); got != dispatch.Unsafe || c.Durable() {
		t.Errorf("put that no replica has: %v, durable %t", got, c.Durable())
	}
	start := time.Now()
	for range 20 {
		if got := put(t, c, reply("r")); got != dispatch.Unsafe {
			t.Errorf("put again: %v", got)
		}
	}
	if took := time.Since(start); took > 20*50*time.Millisecond {
		t.Errorf("twenty puts after it took %s: each waited for the replica", took)
	}
	replica.Continue()
	eventually(t, "the replica is trusted again", func() bool {
		return c.Ping(t.Context()) == nil && put(t, c, reply("r")) == dispatch.Duplicate && c.Durable()
	})
}

// putSafe stores a reply on the replica, too.
func putSafe(t *testing.T, c *cache.Redis, r device.Reply) {
	t.Helper()
	eventually(t, "the replica has the reply", func() bool {
		if put(t, c, r) != dispatch.Unsafe {
			return true
		}
		_ = c.Ping(t.Context()) // only a check ends the doubt
		return false
	})
}

func TestRedis_FewerReplicasThanAskedForIsNotDurable(t *testing.T) {
	c := open(t, cache.RedisConfig{URL: testserver.Redis(t).URL, Replicas: 1})
	if c.Durable() {
		t.Error("durable without the replica that was asked for")
	}
	if got := put(t, c, reply("r")); got != dispatch.Unsafe {
		t.Errorf("put: %v", got)
	}
}

// I2, F7: a Sentinel makes the replica the master, and the cache goes on with all that was safe.
func TestRedis_SentinelFailsOver(t *testing.T) {
	master := testserver.Redis(t)
	testserver.RedisReplica(t, master, master.Addr)
	sentinel := testserver.RedisSentinel(t, master)
	eventually(t, "the Sentinel knows the replica", func() bool {
		found := dialNode(t, "redis://"+sentinel.Addr)
		defer found.Close()
		list, err := found.Do(t.Context(), found.B().Arbitrary("SENTINEL", "REPLICAS", "main").Build()).ToArray()
		return err == nil && len(list) == 1
	})
	c := open(t, cache.RedisConfig{URL: sentinel.URL, Replicas: 1})
	var safe []device.RequestID
	for i := range 100 {
		id := device.RequestID(fmt.Sprint("r", i))
		putSafe(t, c, reply(id))
		safe = append(safe, id)
	}
	master.Kill()
	eventually(t, "the new master is used", func() bool {
		return c.Ping(within(t, 400*time.Millisecond)) == nil
	})
	if got := take(t, c, safe...); len(got.Replies) != len(safe) {
		t.Errorf("%d of %d replies are there", len(got.Replies), len(safe))
	}
	if got := put(t, c, reply("unsafe")); got != dispatch.Unsafe {
		t.Errorf("put without a replica: %v", got)
	}
}

// I2: what a put is told of another node's replicas says nothing of it.
func TestRedis_ClusterSendsAPutToAnotherNode(t *testing.T) {
	cluster := testserver.RedisCluster(t)
	replicas := make([]*testserver.RedisServer, len(cluster.Nodes))
	for i, node := range cluster.Nodes {
		replicas[i] = cluster.Replica(node)
	}
	c := open(t, cache.RedisConfig{URL: cluster.URL, Replicas: 1})
	putSafe(t, c, reply("first"))
	eventually(t, "the replicas are trusted", func() bool { return c.Ping(t.Context()) == nil && c.Durable() })
	from, slot := 0, int64(0)
	for i, node := range cluster.Nodes {
		admin := dialNode(t, node.URL)
		if found := keys(t, admin, "r{*"); len(found) > 0 {
			from, slot = i, askNumber(t, admin, "CLUSTER", "KEYSLOT", found[0])
		}
	}
	to := (from + 1) % len(cluster.Nodes)
	old, next := cluster.Nodes[from], cluster.Nodes[to]
	a, b := dialNode(t, old.URL), dialNode(t, next.URL)
	ask(t, a, "FLUSHALL")
	replicas[to].Stop()
	number := fmt.Sprint(slot)
	ask(t, b, "CLUSTER", "SETSLOT", number, "NODE", next.ID())
	ask(t, a, "CLUSTER", "SETSLOT", number, "NODE", next.ID())
	if got := put(t, c, reply("moved")); got != dispatch.Unsafe {
		t.Errorf("put by way of MOVED, which no replica has: %v", got)
	}
}
