package e2e

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/rueidis"

	"signaldevice/testserver"
)

// F6: a cache that is full takes nothing more and loses nothing. What has no room stays in its queue (I2), every reply is
// readable, and once some were read the others move into the cache, without a restart.
func TestCacheFull(t *testing.T) {
	const early, late = 40, 10 // replies
	b := startBroker(t)
	redis := testserver.Redis(t)
	tok := newTokens(t, b.data)
	p := start(t, b.serve("--tokens", tok.file, "--redis", redis.URL, "--reply-grace", "0")...)
	admin, alice, bob := tok.admin.at(p), tok.alice.at(p), tok.bob.at(p)
	cam := admin.newDevice("cam").connect()
	var ids, results []string
	send := func(n int) {
		for range n {
			id := bob.ping(cam.ID).RequestID
			result := strconv.Quote(strconv.Itoa(100+len(ids)) + strings.Repeat("x", 16<<10))
			cam.answer(id, result)
			ids, results = append(ids, id), append(results, result)
		}
	}
	// aliceMoves polls for another client, which moves the queue into the cache.
	aliceMoves := func() answer { return alice.call("GET", pollPath(cam.ID, ""), nil) }
	cached := func() int { return int((&system{process: p}).metric("signal_device_cache_records")) }

	send(early)
	aliceMoves().degraded("")
	if n := cached(); n != early {
		t.Fatalf("%d replies are in the cache, want %d", n, early)
	}
	fillUp(t, redis)
	send(late)
	aliceMoves().degraded("cache")
	if ready := alice.call("GET", "/readyz", nil); !strings.Contains(string(ready.body), "the cache is full") {
		t.Errorf("/readyz does not tell why: %s", ready.body)
	}
	if n := cached(); n != early {
		t.Fatalf("%d replies are in a full cache, want the %d that were there", n, early)
	}

	got := bob.poll(cam.ID, "", append(slices.Clone(ids[:early-1]), ids[early])...)
	expectResults(t, got, append(slices.Clone(results[:early-1]), results[early]))

	waitFor(t, noticeWithin, "what had no room to move into the cache", func() bool {
		aliceMoves()
		return cached() == 1+late-1
	})
	expectDegraded(t, alice, "", recoverWithin)
	b.kill()
	left := append([]string{ids[early-1]}, ids[early+1:]...)
	expectResults(t, bob.poll(cam.ID, "", left...), append([]string{results[early-1]}, results[early+1:]...))
}

// fillUp lets Redis have no more memory than it uses now.
func fillUp(t *testing.T, redis *testserver.RedisServer) {
	t.Helper()
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{redis.Addr}, DisableCache: true})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	info, err := client.Do(t.Context(), client.B().Info().Section("memory").Build()).ToString()
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(info, "used_memory:")
	used, _, _ := strings.Cut(rest, "\r\n")
	bytes, err := strconv.ParseInt(used, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	limit := strconv.FormatInt(bytes-64<<10, 10) // less, since connections come and go
	if err := client.Do(t.Context(), client.B().ConfigSet().ParameterValue().ParameterValue("maxmemory", limit).Build()).Error(); err != nil {
		t.Fatal(err)
	}
}

func expectResults(t *testing.T, got replies, want []string) {
	t.Helper()
	if !slices.Equal(got.results(), want) {
		t.Fatalf("read %d replies, want %d, or others", len(got.Replies), len(want))
	}
}
