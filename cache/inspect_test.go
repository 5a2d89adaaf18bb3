package cache

import (
	"errors"
	"testing"
)

func TestNodeInfo_Replicas(t *testing.T) {
	const good = "role:master\r\nconnected_slaves:1\r\nslave_expires_tracked_keys:0\r\n" +
		"slave0:ip=127.0.0.1,port=6380,state=online,offset=42,lag=1\r\n"
	tests := map[string]struct {
		info string
		want int
	}{
		"none":               {"role:master\r\nconnected_slaves:0\r\n", 0},
		"one":                {good, 1},
		"two":                {good + "slave1:ip=127.0.0.1,port=6381,state=online,offset=42,lag=0\r\n", 2},
		"one of Valkey's":    {"slave0:ip=127.0.0.1,port=6380,state=online,offset=42,lag=0,type=replica\r\n", 1},
		"one that is silent": {"slave0:ip=127.0.0.1,port=6380,state=online,offset=42,lag=3\r\n", 0},
		"one that loads":     {"slave0:ip=127.0.0.1,port=6380,state=send_bulk,offset=0,lag=0\r\n", 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := (nodeInfo{fields: parseInfo(test.info)}).replicas(); got != test.want {
				t.Errorf("%d replicas, want %d", got, test.want)
			}
		})
	}
}

func TestNodeInfo_Fault(t *testing.T) {
	const good = "# Server\r\nredis_version:7.0.15\r\n# Memory\r\nmaxmemory_policy:noeviction\r\n"
	tests := map[string]struct {
		info string
		ok   bool
	}{
		"Redis 7.0":                {good, true},
		"Redis 8":                  {"redis_version:8.2.1\r\nmaxmemory_policy:noeviction\r\n", true},
		"Valkey 8 by Redis's name": {"redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.0\r\nmaxmemory_policy:noeviction", true},
		"Redis 10":                 {"redis_version:10.0.0\r\nmaxmemory_policy:noeviction", true},
		"Redis 6.2":                {"redis_version:6.2.14\r\nmaxmemory_policy:noeviction\r\n", false},
		"no version":               {"maxmemory_policy:noeviction\r\n", false},
		"an eviction policy":       {"redis_version:7.0.15\r\nmaxmemory_policy:allkeys-lfu\r\n", false},
		"no policy":                {"redis_version:7.0.15\r\n", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := nodeInfo{fields: parseInfo(test.info)}.fault()
			if (err == nil) != test.ok || err != nil && !errors.Is(err, errUnsuitable) {
				t.Errorf("fault: %v", err)
			}
		})
	}
}
