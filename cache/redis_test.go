package cache_test

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"signaldevice/cache"
	"signaldevice/cache/cachetest"
	"signaldevice/testserver"
)

// redisSlack is more than the real time that a case of the suite takes.
const redisSlack = 2 * time.Minute

// openRedis returns an opener of empty caches, one at a time, at the URL.
func openRedis(url string) cachetest.Open {
	return func(t cachetest.T, cfg cachetest.Config) cachetest.Harness {
		t.Helper()
		c, err := cache.OpenRedis(context.Background(), cache.RedisConfig{URL: url, TTL: cfg.TTL})
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		t.Cleanup(c.Close)
		admin := dial(t, url)
		for _, node := range admin.Nodes() {
			ask(t, node, "FLUSHALL")
			limit := int64(0)
			if cfg.MaxBytes > 0 {
				limit = usedMemory(t, ask(t, node, "INFO", "memory")) + cfg.MaxBytes
			}
			ask(t, node, "CONFIG", "SET", "maxmemory", strconv.FormatInt(limit, 10))
		}
		return cachetest.Harness{Cache: c, Advance: c.Advance, Slack: redisSlack}
	}
}

// dial returns a client for what a cache does not do.
func dial(t cachetest.T, url string) rueidis.Client {
	t.Helper()
	return dialWith(t, url, false)
}

// dialNode returns a client for one node, even of a cluster.
func dialNode(t cachetest.T, url string) rueidis.Client {
	t.Helper()
	return dialWith(t, url, true)
}

func dialWith(t cachetest.T, url string, single bool) rueidis.Client {
	t.Helper()
	option, err := rueidis.ParseURL(url)
	if err != nil {
		t.Fatalf("%v", err)
	}
	option.DisableCache = true
	option.ForceSingleClient = single
	client, err := rueidis.NewClient(option)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(client.Close)
	return client
}

// ask runs a command and returns the answer as text.
func ask(t cachetest.T, client rueidis.Client, command ...string) string {
	t.Helper()
	answer, err := client.Do(context.Background(), client.B().Arbitrary(command...).Build()).ToString()
	if err != nil {
		t.Fatalf("%v: %v", command, err)
	}
	return answer
}

func usedMemory(t cachetest.T, info string) int64 {
	t.Helper()
	_, rest, _ := strings.Cut(info, "used_memory:")
	number, _, _ := strings.Cut(rest, "\r\n")
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return n
}

func TestRedis_KeepsTheContract(t *testing.T) {
	cachetest.Run(t, openRedis(testserver.Redis(t).URL))
}

func TestRedis_AgreesWithTheModel(t *testing.T) {
	cachetest.RunModel(t, openRedis(testserver.Redis(t).URL))
}

func TestRedis_KeepsTheContractInACluster(t *testing.T) {
	cachetest.Run(t, openRedis(testserver.RedisCluster(t).URL))
}

func TestRedis_KeepsTheContractBehindASentinel(t *testing.T) {
	cachetest.Run(t, openRedis(testserver.RedisSentinel(t, testserver.Redis(t)).URL))
}
