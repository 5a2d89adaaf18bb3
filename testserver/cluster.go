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

// Cluster is a running Redis Cluster of three masters without replicas.
type Cluster struct {
	URL   string // redis://127.0.0.1:port?addr=…&addr=…
	Nodes []*RedisServer
}

// RedisCluster starts a Redis Cluster and returns once every node serves. args are as for Redis.
func RedisCluster(t testing.TB, args ...string) *Cluster {
	t.Helper()
	c := &Cluster{}
	buses := make([]string, clusterNodes)
	for i := range clusterNodes {
		buses[i] = strconv.Itoa(freePort(t)) // the default, 10,000 above the port, may not exist
		node := Redis(t, append([]string{
			"--cluster-enabled", "yes", "--cluster-port", buses[i], "--cluster-node-timeout", "2000",
		}, args...)...)
		c.Nodes = append(c.Nodes, node)
	}
	for i, node := range c.Nodes {
		first, next := i*clusterSlots/clusterNodes, (i+1)*clusterSlots/clusterNodes
		node.do(fmt.Sprintf("CLUSTER ADDSLOTSRANGE %d %d", first, next-1))
		host, port, _ := net.SplitHostPort(c.Nodes[0].Addr)
		if i > 0 {
			node.do(fmt.Sprintf("CLUSTER MEET %s %s %s", host, port, buses[0]))
		}
	}
	for _, node := range c.Nodes {
		node.awaitCluster()
	}
	c.URL = c.Nodes[0].URL + "?addr=" + c.Nodes[1].Addr + "&addr=" + c.Nodes[2].Addr
	return c
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
