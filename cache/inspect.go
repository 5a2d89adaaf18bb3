package cache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// minVersion is the first major version of Redis that has what the scripts use. Valkey 8 says 7.
const minVersion = 7

// errUnsuitable says that Redis answers but must not be used as it is.
var errUnsuitable = errors.New("redis cannot be used as the cache")

// infoTimeout is how long the nodes of a cluster may take to tell of themselves. It leaves time for the probe, and is
// longer than a dial, so that a node that cannot be reached is told from one that is slow.
const infoTimeout = 250 * time.Millisecond

// nodes is what the nodes of a Redis have in common.
type nodes struct {
	logs     bool // every node that answers keeps an append-only file
	slow     bool // a node has not answered in time, and may yet take writes
	replicas int  // that the master with the fewest has
}

// askNodes asks every node that answers. errUnsuitable: one is too old or drops records. A node that refuses to tell is
// an error, one that does not answer is none where another does: where it is needed, the probe fails.
func askNodes(ctx context.Context, client rueidis.Client) (nodes, error) {
	asked := client.Nodes()
	if len(asked) > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, infoTimeout)
		defer cancel()
	}
	infos := make(chan nodeInfo, len(asked))
	for _, node := range asked {
		go func() {
			text, err := node.Do(ctx, node.B().Info().Build()).ToString()
			infos <- nodeInfo{fields: parseInfo(text), err: err}
		}()
	}
	found := nodes{logs: true, replicas: math.MaxInt}
	var err error
	failed := 0
	for range asked {
		info := <-infos
		if refused(info.err) {
			return nodes{}, info.err
		}
		if info.err != nil {
			failed++
			err = errors.Join(err, info.err)
			found.slow = found.slow || errors.Is(info.err, context.DeadlineExceeded)
			continue
		}
		if fault := info.fault(); fault != nil {
			return nodes{}, fault
		}
		found.logs = found.logs && info.fields["aof_enabled"] == "1"
		if info.fields["role"] == "master" {
			found.replicas = min(found.replicas, info.replicas())
		}
	}
	if failed == len(asked) {
		return nodes{}, err
	}
	return found, nil
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

// maxLag is how many seconds ago a replica that keeps up may have been heard of. It is heard of every second.
const maxLag = 2

// replicas counts the replicas of a master that keep up.
func (n nodeInfo) replicas() (count int) {
	for name, value := range n.fields {
		if !strings.HasPrefix(name, "slave") || !strings.Contains(value, "state=online") {
			continue
		}
		_, lag, _ := strings.Cut(value, "lag=")
		lag, _, _ = strings.Cut(lag, ",")
		if seconds, err := strconv.Atoi(lag); err == nil && seconds <= maxLag {
			count++
		}
	}
	return count
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
	for _, a := range s.run(ctx, probe, calls, 0) {
		if a.err != nil {
			return a.err
		}
	}
	return nil
}

// clock returns the skew of the Redis that has the tag.
func (s *session) clock(t tag) *atomic.Int64 { return &s.skew[int(t)%len(s.skew)] }
