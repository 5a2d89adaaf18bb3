package cache

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/redis/rueidis"
)

// minVersion is the first major version of Redis that has what the scripts use. Valkey 8 says 7.
const minVersion = 7

// errUnsuitable says that Redis answers but must not be used as it is.
var errUnsuitable = errors.New("redis cannot be used as the cache")

// askNodes reports whether every node that answers keeps an append-only file. errUnsuitable: one is too old or drops
// records. A node that does not answer is no error: where it is needed, the probe fails.
func askNodes(ctx context.Context, client rueidis.Client) (logs bool, err error) {
	nodes := client.Nodes()
	infos := make(chan nodeInfo, len(nodes))
	for _, node := range nodes {
		go func() {
			text, err := node.Do(ctx, node.B().Info().Build()).ToString()
			infos <- nodeInfo{fields: parseInfo(text), err: err}
		}()
	}
	logs = true
	for range nodes {
		info := <-infos
		if info.err != nil {
			err = errors.Join(err, info.err)
			continue
		}
		if fault := info.fault(); fault != nil {
			return false, fault
		}
		logs = logs && info.fields["aof_enabled"] == "1"
	}
	if err != nil && len(nodes) == 1 {
		return false, err
	}
	return logs, nil
}

// nodeInfo is what a node says of itself.
type nodeInfo struct {
	fields map[string]string
	err    error
}

// parseInfo reads the answer to INFO: lines of "name:value".
func parseInfo(text string) map[string]string {
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			fields[name] = value
		}
	}
	return fields
}

// fault tells why a node cannot be used.
func (n nodeInfo) fault() error {
	version, policy := n.fields["redis_version"], n.fields["maxmemory_policy"]
	major, _, _ := strings.Cut(version, ".")
	if v, err := strconv.Atoi(major); err != nil || v < minVersion {
		return fmt.Errorf("%w: version %q, at least Redis %d.0 or Valkey 8 is needed", errUnsuitable, version, minVersion)
	}
	if policy != "noeviction" {
		return fmt.Errorf("%w: maxmemory-policy is %q and would silently drop replies, it must be noeviction",
			errUnsuitable, policy)
	}
	return nil
}

// probe shows that every part of the cache takes writes, and learns the clocks.
func (s *session) probe(ctx context.Context, probe script) error {
	tags := allTags()
	if s.client.Mode() != rueidis.ClientModeCluster {
		tags = tags[:1]
	}
	s.skew = make([]atomic.Int64, len(tags))
	calls := make([]call, len(tags))
	for i, t := range tags {
		calls[i] = call{tag: t, keys: []string{"probe" + t.String()}}
	}
	for _, a := range s.run(ctx, probe, calls) {
		if a.err != nil {
			return a.err
		}
	}
	return nil
}

// clock returns the skew of the Redis that has the tag.
func (s *session) clock(t tag) *atomic.Int64 { return &s.skew[int(t)%len(s.skew)] }
