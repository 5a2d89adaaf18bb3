package cache_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"signaldevice/cache"
	"signaldevice/cache/cachetest"
	"signaldevice/device"
	"signaldevice/testserver"
)

// needed is what the user of the cache may do: docs/operations.md tells it.
const needed = "+eval +evalsha +info +ping +time +set +get +getrange +del +hget +hset +hgetall +zadd +zrem +zrange " +
	"+zcount +zremrangebyscore +pexpireat +wait"

// A user who may do only what is documented can use the whole cache.
func TestRedis_KeepsTheContractForAUserOfItsOwn(t *testing.T) {
	text, err := os.ReadFile("../docs/operations.md")
	if err != nil || !strings.Contains(string(text), "\nACL SETUSER cache on >PASSWORD ~* resetchannels -@all "+needed+"\n") {
		t.Errorf("the documented user is another one: %v", err)
	}
	server := testserver.Redis(t)
	ask(t, dial(t, server.URL), strings.Fields("ACL SETUSER cache on >secret ~* resetchannels -@all "+needed)...)
	everyone := openRedis(server.URL)
	cachetest.Run(t, func(ct cachetest.T, cfg cachetest.Config) cachetest.Harness {
		h := everyone(ct, cfg)
		c, err := cache.OpenRedis(t.Context(), cache.RedisConfig{URL: "redis://cache:secret@" + server.Addr, TTL: cfg.TTL})
		if err != nil {
			ct.Fatalf("%v", err)
		}
		ct.Cleanup(c.Close)
		h.Cache, h.Advance = c, c.Advance
		return h
	})
}

// In a Cluster and behind a Sentinel the user needs a little more.
func TestRedis_UserOfItsOwnOnSeveralNodes(t *testing.T) {
	user := func(t *testing.T, more string, servers ...*testserver.RedisServer) {
		for _, s := range servers {
			ask(t, dialNode(t, s.URL), strings.Fields("ACL SETUSER cache on >secret ~* resetchannels -@all "+needed+" "+more)...)
		}
	}
	use := func(t *testing.T, url string) {
		c := open(t, cache.RedisConfig{URL: strings.Replace(url, "//", "//cache:secret@", 1)})
		put(t, c, reply("r"))
		if got := take(t, c); len(got.Replies) != 1 {
			t.Errorf("took %d replies", len(got.Replies))
		}
	}
	t.Run("Cluster", func(t *testing.T) {
		const more = "+cluster|slots +cluster|shards"
		cluster := testserver.RedisCluster(t)
		user(t, more, cluster.Nodes...)
		use(t, cluster.URL)

		// I2: nothing is durable that nobody may look at, be it on one node only.
		for _, nodes := range [][]*testserver.RedisServer{cluster.Nodes[:1], cluster.Nodes} {
			user(t, more+" -info", nodes...)
			c, err := cache.OpenRedis(t.Context(), cache.RedisConfig{URL: strings.Replace(cluster.URL, "//", "//cache:secret@", 1)})
			if err == nil {
				c.Close()
				t.Fatalf("opened without +info on %d nodes", len(nodes))
			}
			if text := err.Error(); !strings.Contains(text, "redis refuses this service") {
				t.Errorf("without +info on %d nodes: the error is %q", len(nodes), text)
			}
		}
	})
	t.Run("Sentinel", func(t *testing.T) {
		master := testserver.Redis(t)
		sentinel := testserver.RedisSentinel(t, master)
		user(t, "+role", master)
		use(t, sentinel.URL)
	})
}

// A wrong user, password or permission is a wrong configuration: nobody waits for it to mend itself.
func TestOpenRedis_RefusedByRedis(t *testing.T) {
	server := testserver.Redis(t)
	admin := dial(t, server.URL)
	tests := map[string]struct{ user, url string }{
		"a wrong password":       {needed, "redis://cache:wrong@"},
		"an unknown user":        {needed, "redis://other:secret@"},
		"no password":            {needed, "redis://"},
		"a user who is disabled": {needed + " off", "redis://cache:secret@"},
		"keys out of reach":      {needed + " resetkeys ~other*", "redis://cache:secret@"},
	}
	for command := range strings.FieldsSeq(needed) {
		if command != "+ping" && command != "+hset" && command != "+wait" { // what no check uses
			tests["without "+command] = struct{ user, url string }{needed + " -" + command[1:], "redis://cache:secret@"}
		}
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			ask(t, admin, "SCRIPT", "FLUSH")
			ask(t, admin, strings.Fields("ACL SETUSER cache reset on >secret ~* resetchannels -@all "+test.user)...)
			ask(t, admin, "ACL", "SETUSER", "default", "resetpass", ">admin")
			defer ask(t, admin, "ACL", "SETUSER", "default", "nopass")
			c, err := cache.OpenRedis(t.Context(), cache.RedisConfig{URL: test.url + server.Addr})
			if err == nil {
				c.Close()
				t.Fatal("opened")
			}
			if text := err.Error(); !strings.Contains(text, "redis refuses this service") || strings.Contains(text, "secret") {
				t.Errorf("the error is %q", text)
			}
		})
	}
}

// A password that is changed under a running program is an outage that tells why, and ends when it is good again.
func TestRedis_RefusedLater(t *testing.T) {
	server := testserver.Redis(t)
	admin := dial(t, server.URL)
	ask(t, admin, strings.Fields("ACL SETUSER cache on >secret ~* resetchannels -@all "+needed)...)
	c := open(t, cache.RedisConfig{URL: "redis://cache:secret@" + server.Addr})
	put(t, c, reply("r"))
	ask(t, admin, "ACL", "SETUSER", "cache", "resetpass", ">other")
	askNumber(t, admin, "CLIENT", "KILL", "USER", "cache")
	eventually(t, "the cache tells why it is out", func() bool {
		err := c.Ping(within(t, 400*time.Millisecond))
		return device.Is(err, device.CacheUnavailable) && strings.Contains(err.Error(), "redis refuses this service")
	})
	ask(t, admin, "ACL", "SETUSER", "cache", ">secret")
	eventually(t, "the cache is back", func() bool { return c.Ping(within(t, 400*time.Millisecond)) == nil })
	if got := take(t, c); len(got.Replies) != 1 {
		t.Errorf("took %d replies", len(got.Replies))
	}
}

// Redis and its client know each other by certificates.
func TestRedis_ClientCertificates(t *testing.T) {
	dir := t.TempDir()
	cert, key := selfSigned(t, dir)
	port := freePort(t)
	testserver.Redis(t, "--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert,
		"--tls-auth-clients", "yes")
	url := "rediss://127.0.0.1:" + port
	c := open(t, cache.RedisConfig{URL: url, CA: cert, Cert: cert, Key: key})
	put(t, c, reply("r"))

	for name, cfg := range map[string]cache.RedisConfig{
		"no certificate": {URL: url, CA: cert},
		"no CA":          {URL: url, Cert: cert, Key: key},
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t, cfg)
			wantKind(t, c.Ping(t.Context()), device.CacheUnavailable)
		})
	}
	for name, cfg := range map[string]cache.RedisConfig{
		"a URL without TLS":    {URL: "redis://127.0.0.1:" + port, CA: cert},
		"a CA that is missing": {URL: url, CA: filepath.Join(dir, "none")},
		"a CA that is a key":   {URL: url, CA: key},
		"a key that is none":   {URL: url, CA: cert, Cert: cert, Key: cert},
		"a key that is left":   {URL: url, CA: cert, Cert: cert},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := cache.OpenRedis(t.Context(), cfg); err == nil {
				t.Error("opened")
			}
		})
	}
}
