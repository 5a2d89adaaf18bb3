package cache_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"signaldevice/cache"
	"signaldevice/device"
	"signaldevice/dispatch"
	"signaldevice/testserver"
)

func redisTime(t *testing.T, admin rueidis.Client) int64 {
	t.Helper()
	now, err := admin.Do(t.Context(), admin.B().Time().Build()).AsIntSlice()
	if err != nil {
		t.Fatal(err)
	}
	return now[0]*1000 + now[1]/1000
}

func askNumber(t *testing.T, admin rueidis.Client, command ...string) int64 {
	t.Helper()
	n, err := admin.Do(t.Context(), admin.B().Arbitrary(command...).Build()).AsInt64()
	if err != nil {
		t.Fatalf("%v: %v", command, err)
	}
	return n
}

func keys(t *testing.T, admin rueidis.Client, pattern string) []string {
	t.Helper()
	found, err := admin.Do(t.Context(), admin.B().Keys().Pattern(pattern).Build()).AsStrSlice()
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// Redis itself forgets a body to the millisecond, without anyone's help.
func TestRedis_BodiesExpireByRedisItself(t *testing.T) {
	server := testserver.Redis(t)
	admin := dial(t, server.URL)
	const ttl = time.Hour
	c := open(t, cache.RedisConfig{URL: server.URL, TTL: ttl})

	before := redisTime(t, admin)
	put(t, c, reply("r"))
	after := redisTime(t, admin)
	body := keys(t, admin, "r{*")[0]
	at := askNumber(t, admin, "PEXPIRETIME", body) - ttl.Milliseconds()
	if at < before || at > after {
		t.Errorf("expires %d ms after its write's beginning, which took %d ms", at-before, after-before)
	}

	before = redisTime(t, admin)
	take(t, c)
	after = redisTime(t, admin)
	at = askNumber(t, admin, "PEXPIRETIME", body) - time.Minute.Milliseconds()
	if at < before || at > after {
		t.Errorf("once read, expires %d ms after its read's beginning, which took %d ms", at-before, after-before)
	}
}

func TestRedis_NothingStaysForEver(t *testing.T) {
	server := testserver.Redis(t)
	admin := dial(t, server.URL)
	const ttl = 300 * time.Millisecond
	c := open(t, cache.RedisConfig{URL: server.URL, TTL: ttl})
	start := redisTime(t, admin)
	for i := range 20 {
		put(t, c, reply(device.RequestID("r"+strconv.Itoa(i))))
	}
	take(t, c, "r1", "r2")
	all := keys(t, admin, "*")
	if len(all) < 3 {
		t.Fatalf("keys %v", all)
	}
	for _, key := range all {
		if !strings.Contains(key, "{") {
			t.Errorf("key %q has no hash tag", key)
		}
		if left := askNumber(t, admin, "PTTL", key); left == -1 || left > ttl.Milliseconds() {
			t.Errorf("key %q lives for %d ms", key, left)
		}
	}
	eventually(t, "no record counts", func() bool {
		n, err := c.Records(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return n == 0
	})
	if now := redisTime(t, admin); now-start < ttl.Milliseconds() {
		t.Errorf("no record after %d ms", now-start)
	}
	eventually(t, "no key is left", func() bool { return askNumber(t, admin, "DBSIZE") == 0 })
}

// A client that is never idle does not make the indexes grow for ever.
func TestRedis_IndexesAreSwept(t *testing.T) {
	server := testserver.Redis(t)
	admin := dial(t, server.URL)
	c := open(t, cache.RedisConfig{URL: server.URL, TTL: 20 * time.Millisecond})
	stored := int64(0)
	eventually(t, "most entries are swept", func() bool {
		for _, read := range []bool{false, true} {
			stored++
			r := reply(device.RequestID(strconv.FormatInt(stored, 10)))
			put(t, c, r)
			if read {
				take(t, c, r.Request)
			}
		}
		for _, pattern := range []string{"grace*", "unread*"} {
			index := keys(t, admin, pattern)
			if stored < 20 || len(index) != 1 || askNumber(t, admin, "ZCARD", index[0]) > stored/4 {
				return false
			}
		}
		return true
	})
}

// An instance that was started with a shorter TTL, or a clock that was set back, must not cut other records short.
func TestRedis_ShorterTTLCutsNoOtherRecord(t *testing.T) {
	server := testserver.Redis(t)
	admin := dial(t, server.URL)
	long := open(t, cache.RedisConfig{URL: server.URL, TTL: time.Hour})
	short := open(t, cache.RedisConfig{URL: server.URL, TTL: 50 * time.Millisecond})
	put(t, long, reply("r"))
	second := reply("r")
	second.Seq = 1
	put(t, short, second)
	eventually(t, "the second has expired", func() bool { return len(keys(t, admin, "r{*")) == 1 })
	if got := take(t, long); len(got.Replies) != 1 || got.Replies[0].Seq != 0 {
		t.Fatalf("took %d replies", len(got.Replies))
	}
	if got := take(t, long, "r"); len(got.Replies) != 1 || got.Again != 1 {
		t.Fatalf("took %d replies again", len(got.Replies))
	}
}

// I2: a reply whose body someone deleted in Redis is not taken for a duplicate, or it would leave its queue for nothing.
func TestRedis_DeletedBodyIsStoredAgain(t *testing.T) {
	server := testserver.Redis(t)
	admin := dial(t, server.URL)
	c := open(t, cache.RedisConfig{URL: server.URL})
	put(t, c, reply("r"))
	askNumber(t, admin, "DEL", keys(t, admin, "r{*")[0])
	if got := take(t, c, "r"); len(got.Replies) != 0 || len(got.Read) != 0 {
		t.Fatalf("took %d replies, read %v", len(got.Replies), got.Read)
	}
	if got := put(t, c, reply("r")); got != dispatch.Stored {
		t.Fatalf("put: %v", got)
	}
	if got := take(t, c); len(got.Replies) != 1 {
		t.Fatalf("took %d replies", len(got.Replies))
	}
}

// I2, I3: where two replies have one name by accident, the second is neither stored nor taken for a duplicate, and nobody
// reads the other's.
func TestRedis_RecordOfAnotherIsLeftAlone(t *testing.T) {
	tests := map[string]func(*device.Reply){
		"of another mailbox": func(r *device.Reply) { r.Mailbox[15]++ },
		"of another device":  func(r *device.Reply) { r.Device = "camera-2" },
		"of another request": func(r *device.Reply) { r.Request = "other" },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			server := testserver.Redis(t)
			admin := dial(t, server.URL)
			c := open(t, cache.RedisConfig{URL: server.URL})
			put(t, c, reply("r"))
			key := keys(t, admin, "r{*")[0]
			other := reply("r")
			change(&other)
			askNumber(t, admin, "DEL", key)
			put(t, c, other)
			ask(t, admin, "RENAME", keys(t, admin, "r{*")[0], key)

			if got := take(t, c, "r"); len(got.Replies) != 0 || len(got.Read) != 0 {
				t.Errorf("took %d replies of another, read %v", len(got.Replies), got.Read)
			}
			if got := put(t, c, reply("r")); got != 0 {
				t.Errorf("put: %v, want neither stored nor duplicate", got)
			}
		})
	}
}
