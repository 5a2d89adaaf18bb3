package cache

import (
	"context"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"signaldevice/device"
	"signaldevice/testserver"
)

func openSession(t *testing.T) *session {
	t.Helper()
	c, err := OpenRedis(t.Context(), RedisConfig{URL: testserver.Redis(t).URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	s, err := c.link.session("test")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// F6, F7: what Redis says tells whether anything happened.
func TestFailure_TellsWhatHappened(t *testing.T) {
	s := openSession(t)
	refusal := func(text string) string { return `return redis.error_reply("` + text + `")` }
	tests := map[string]struct {
		script string
		want   device.Kind
	}{
		"loading":                 {refusal("LOADING Redis is loading the dataset in memory"), device.CacheUnavailable},
		"replica":                 {refusal("READONLY You can't write against a read only replica."), device.CacheUnavailable},
		"cluster down":            {refusal("CLUSTERDOWN The cluster is down"), device.CacheUnavailable},
		"master down":             {refusal("MASTERDOWN Link with MASTER is down"), device.CacheUnavailable},
		"disk full":               {refusal("MISCONF Errors writing to the AOF file"), device.CacheUnavailable},
		"no password given":       {refusal("NOAUTH Authentication required."), device.CacheUnavailable},
		"out of memory":           {refusal("OOM allow-oom flag is not set on the script"), device.CacheFull},
		"failed before any write": {`return nosuchfunction()`, device.OutcomeUnknown},
		"failed after a write":    {`call('SET', KEYS[1], 'x') return call('HGET', KEYS[1], 'x')`, device.OutcomeUnknown},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := s.runOne(t.Context(), newScript("", test.script), call{keys: []string{"k{00}"}})
			if err == nil {
				t.Fatal("no error")
			}
			if got := device.KindOf(failure("test", err)); got != test.want {
				t.Errorf("%v is %q, want %q", err, got, test.want)
			}
		})
	}
}

func TestScript_AfterItsCallersDeadlineDoesNothing(t *testing.T) {
	s := openSession(t)
	write := newScript("", `return {real, call('INCR', KEYS[1])}`)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	run := func() (int64, error) {
		values, err := s.runOne(ctx, write, call{keys: []string{"k{00}"}})
		if err != nil {
			return 0, err
		}
		return values[0].AsInt64()
	}
	// Redis's clock was set forward by an hour: the first answer says so, and the call is made again.
	s.clock(0).Add(-time.Hour.Milliseconds())
	if n, err := run(); err != nil || n != 1 {
		t.Fatalf("ran to %d, %v", n, err)
	}
	// And back by an hour: nothing is refused wrongly.
	s.clock(0).Add(time.Hour.Milliseconds())
	if n, err := run(); err != nil || n != 2 {
		t.Fatalf("ran to %d, %v", n, err)
	}
	// A deadline that has passed by Redis's clock, though not by ours.
	s.epoch = s.epoch.Add(time.Hour)
	if n, err := run(); err != nil || n != 3 {
		t.Fatalf("ran to %d, %v", n, err)
	}
}

// I8: what may have happened is never taken for what did not.
func TestNeverRan_OnlyWithProof(t *testing.T) {
	tests := map[string]struct {
		err  error
		want bool
	}{
		"no connection":          {&notSentError{io.EOF}, true},
		"after its deadline":     {errLate, true},
		"client closed":          {rueidis.ErrClosing, true},
		"no node for the slot":   {rueidis.ErrNoSlot, true},
		"connection reset":       {&net.OpError{Op: "read", Err: syscall.ECONNRESET}, false},
		"end of stream":          {io.EOF, false},
		"deadline while waiting": {context.DeadlineExceeded, false},
		"strange answer":         {errAnswer, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := neverRan(test.err); got != test.want {
				t.Errorf("never ran: %t", got)
			}
		})
	}
}

// In a cluster each node tells for itself how many replicas have what was written to it; here there are none.
func TestRun_AsksEachNodeForItsReplicas(t *testing.T) {
	c, err := OpenRedis(t.Context(), RedisConfig{URL: testserver.RedisCluster(t).URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	s, err := c.link.session("test")
	if err != nil {
		t.Fatal(err)
	}
	var calls []call
	for _, tag := range []tag{0x00, 0x55, 0xaa} {
		calls = append(calls, call{tag: tag, keys: []string{"k" + tag.String()}})
	}
	write := newScript("", `return {real, call('INCR', KEYS[1])}`)
	for i, a := range s.run(t.Context(), write, calls, 1) {
		if n, err := a.values[0].AsInt64(); a.err != nil || err != nil || n != 1 || a.replicas != 0 {
			t.Errorf("call %d ran to %d on %d replicas, %v, %v", i, n, a.replicas, a.err, err)
		}
	}
}
