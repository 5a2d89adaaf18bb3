package testserver

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"signaldevice/testserver/child"
)

const (
	clusterNodes  = 3
	clusterSlots  = 16384
	readyTimeout  = 20 * time.Second // until all nodes know of all slots, or a replica keeps up
	answerTimeout = 10 * time.Second // of one command
	askEvery      = 50 * time.Millisecond
)

// Cluster is a running Redis Cluster of three masters, without replicas but those that are added.
type Cluster struct {
	URL   string // redis://127.0.0.1:port?addr=…&addr=…
	Nodes []*RedisServer

	t        testing.TB
	args     []string
	meet     string // the command by which a node joins
	replicas int
}

// RedisCluster starts a Redis Cluster and returns once every node serves. args are as for Redis.
func RedisCluster(t testing.TB, args ...string) *Cluster {
	t.Helper()
	c := &Cluster{t: t, args: args}
	for i := range clusterNodes {
		node := c.node()
		first, next := i*clusterSlots/clusterNodes, (i+1)*clusterSlots/clusterNodes
		node.do(fmt.Sprintf("CLUSTER ADDSLOTSRANGE %d %d", first, next-1))
		c.Nodes = append(c.Nodes, node)
	}
	for _, node := range c.Nodes {
		node.awaitCluster()
	}
	c.URL = c.Nodes[0].URL + "?addr=" + c.Nodes[1].Addr + "&addr=" + c.Nodes[2].Addr
	return c
}

// node starts a node that joins the first one.
func (c *Cluster) node() *RedisServer {
	c.t.Helper()
	bus := strconv.Itoa(freePort(c.t)) // the default, 10,000 above the port, may not exist
	node := Redis(c.t, append([]string{
		"--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-node-timeout", "2000",
	}, c.args...)...)
	if c.meet == "" {
		host, port, _ := net.SplitHostPort(node.Addr)
		c.meet = fmt.Sprintf("CLUSTER MEET %s %s %s", host, port, bus)
		return node
	}
	node.do(c.meet)
	return node
}

// Replica adds a replica of one of the nodes and returns once it keeps up and every node tells clients of it.
func (c *Cluster) Replica(master *RedisServer) *RedisServer {
	c.t.Helper()
	master.do("CONFIG SET repl-diskless-sync-delay 0")
	master.do("CONFIG SET repl-ping-replica-period 1") // a replica that was sent nothing yet is not told of
	replica := c.node()
	replica.awaitAnswer("CLUSTER REPLICATE "+master.ID(), replica.Addr, func(answer string) bool { return answer == "+OK" })
	c.t.Cleanup(replica.Kill) // as long as it writes its first append-only file it refuses SIGTERM
	replica.awaitAnswer("WAIT 1 100", master.Addr, func(answer string) bool { return answer == ":1" })
	c.replicas++
	const told = `EVAL "local n = 0 for _, range in ipairs(redis.call('CLUSTER', 'SLOTS')) do n = n + #range - 2 end return n" 0`
	all := fmt.Sprint(":", clusterNodes+c.replicas)
	for _, node := range c.Nodes {
		node.awaitAnswer(told, node.Addr, func(answer string) bool { return answer == all })
	}
	return replica
}

// ID returns the name of a node in its cluster.
func (s *RedisServer) ID() string {
	s.t.Helper()
	answer, err := child.RedisDo(s.Addr, answerTimeout, `EVAL "return {ok = redis.call('CLUSTER', 'MYID')}" 0`)
	id, ok := strings.CutPrefix(answer, "+")
	if err != nil || !ok {
		s.t.Fatalf("%s has no name: %q, %v", s.Addr, answer, err)
	}
	return id
}

// do runs a command that answers OK.
func (s *RedisServer) do(command string) {
	s.t.Helper()
	if answer, err := child.RedisDo(s.Addr, answerTimeout, command); err != nil || answer != "+OK" {
		s.t.Fatalf("%s: %s: %q, %v", s.Addr, command, answer, err)
	}
}

// awaitCluster waits until the node can reach every slot: then it answers a look for a key by the value or by the way
// to another node, and not by CLUSTERDOWN.
func (s *RedisServer) awaitCluster() {
	s.t.Helper()
	s.awaitAnswer("GET k", s.Addr, func(answer string) bool { return !strings.HasPrefix(answer, "-CLUSTERDOWN") })
}

// awaitAnswer repeats a command until it has a good answer.
func (s *RedisServer) awaitAnswer(command, addr string, good func(answer string) bool) {
	s.t.Helper()
	deadline := time.NewTimer(readyTimeout)
	defer deadline.Stop()
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		answer, err := child.RedisDo(addr, answerTimeout, command)
		if err == nil && good(answer) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			s.t.Fatalf("%s: %s has no good answer after %s: %q, %v", addr, command, readyTimeout, answer, err)
		}
	}
}
