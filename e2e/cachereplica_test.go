package e2e

import (
	"net/http"
	"testing"

	"signaldevice/testserver"
)

// I2: a reply that the cache's replica does not have is still in its queue when the cache is lost.
func TestCacheReplica(t *testing.T) {
	b := startBroker(t)
	redis := testserver.Redis(t)
	replica := testserver.RedisReplica(t, redis, redis.Addr)
	tok := newTokens(t, b.data)
	p := start(t, b.serve("--tokens", tok.file, "--redis", redis.URL, "--cache-replicas", "1")...)
	admin, alice, bob := tok.admin.at(p), tok.alice.at(p), tok.bob.at(p)
	cam := admin.newDevice("cam").connect()
	cached := func() int { return int((&system{process: p}).metric("signal_device_cache_records")) }

	replica.Stop()
	sent := bob.ping(cam.ID).RequestID
	cam.answer(sent, `"kept"`)
	waitFor(t, noticeWithin, "a poll that moves the queue into the cache", func() bool {
		return alice.call("GET", pollPath(cam.ID, ""), nil).status == http.StatusOK && cached() == 1
	})
	redis.Kill()
	expectDegraded(t, alice, "cache", noticeWithin)
	expectOneReply(t, bob.poll(cam.ID, "", sent), sent, `"kept"`)
}
