package cache

import (
	"context"
	"crypto/sha1"
	_ "embed" // the scripts
	"encoding/hex"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/redis/rueidis"
)

var (
	//go:embed clock.lua
	clockSource string
	//go:embed put.lua
	putSource string
	//go:embed take.lua
	takeSource string
	//go:embed unread.lua
	unreadSource string
	//go:embed count.lua
	countSource string
	//go:embed probe.lua
	probeSource string
)

// script is a Lua script that Redis runs as one step. Redis knows it by its hash.
type script struct{ text, sha string }

// newScript joins what a script needs. flags are Redis's own: without allow-oom or no-writes a full Redis refuses it
// before its first line.
func newScript(flags, source string) script {
	text := "#!lua flags=" + flags + "\n" + clockSource + source
	sum := sha1.Sum([]byte(text))
	return script{text: text, sha: hex.EncodeToString(sum[:])}
}

// scripts are the cache's scripts.
type scripts struct{ put, take, unread, count, probe script }

func newScripts() scripts {
	return scripts{
		put:    newScript("", putSource),
		take:   newScript("allow-oom", takeSource),
		unread: newScript("no-writes", unreadSource),
		count:  newScript("no-writes", countSource),
		probe:  newScript("allow-oom", probeSource),
	}
}

// call is one run of a script. All its keys carry the tag.
type call struct {
	tag  tag
	keys []string
	args []string
}

// answer is what a run returned, or why it did not.
type answer struct {
	values   []rueidis.RedisMessage
	replicas int // how many have what the run wrote, where that was asked
	err      error
}

// errLate says that Redis came to a script only after its caller's deadline, and so did not run it.
var errLate = errors.New("redis came to the call after its deadline")

// maxSends bounds how often one call is sent: as a hash, as a text, and once more with a better idea of Redis's clock.
const maxSends = 3

// replicaTimeout is how long replicas may take to confirm a write. All calls of this process wait as long.
const replicaTimeout = 50 * time.Millisecond

// run runs a script once for each call, in one round trip, and returns the answers in order. A call is sent again only
// where Redis proved that it did not run. With replicas, it waits a moment until so many have what the calls wrote, and
// the answers tell how many do.
func (s *session) run(ctx context.Context, sc script, calls []call, replicas int) []answer {
	answers := make([]answer, len(calls))
	pending := make([]int, len(calls))
	for i := range calls {
		pending[i] = i
	}
	text := false
	for range maxSends {
		results, confirmations := s.send(ctx, s.commands(ctx, sc, text, calls, pending), replicas)
		var refused []int
		for j, i := range pending {
			answers[i] = s.read(calls[i], results[j])
			if confirmations != nil && answers[i].err == nil {
				n, err := confirmations[j].AsInt64()
				answers[i].replicas, answers[i].err = int(n), err
			}
			if isNoScript(answers[i].err) {
				text = true
				refused = append(refused, i)
			} else if errors.Is(answers[i].err, errLate) {
				refused = append(refused, i)
			}
		}
		if pending = refused; len(pending) == 0 || ctx.Err() != nil {
			break
		}
	}
	return answers
}

// runOne runs a script once.
func (s *session) runOne(ctx context.Context, sc script, c call) ([]rueidis.RedisMessage, error) {
	a := s.run(ctx, sc, []call{c}, 0)[0]
	return a.values, a.err
}

func (s *session) commands(ctx context.Context, sc script, text bool, calls []call, pending []int) rueidis.Commands {
	commands := make(rueidis.Commands, 0, len(pending))
	for _, i := range pending {
		c := calls[i]
		args := append([]string{s.notAfter(ctx, c.tag), strconv.FormatInt(s.shift.Load(), 10)}, c.args...)
		numkeys := int64(len(c.keys))
		if text {
			commands = append(commands, s.client.B().Eval().Script(sc.text).Numkeys(numkeys).Key(c.keys...).Arg(args...).Build())
		} else {
			commands = append(commands, s.client.B().Evalsha().Sha1(sc.sha).Numkeys(numkeys).Key(c.keys...).Arg(args...).Build())
		}
	}
	return commands
}

// send sends commands and returns their results, and where replicas are asked for, what WAIT told after each. A WAIT
// speaks of its own connection: it must go with the commands, which in a cluster may go to several nodes.
func (s *session) send(ctx context.Context, commands rueidis.Commands, replicas int) (results, confirmations []rueidis.RedisResult) {
	if replicas == 0 {
		if len(commands) == 1 {
			return []rueidis.RedisResult{s.client.Do(ctx, commands[0])}, nil
		}
		return s.client.DoMulti(ctx, commands...), nil
	}
	together := len(commands)
	if s.client.Mode() == rueidis.ClientModeCluster {
		together = 1
	}
	for part := range slices.Chunk(commands, together) {
		// The builder's own Wait would take another connection each time.
		wait := s.client.B().Arbitrary("WAIT", strconv.Itoa(replicas), strconv.FormatInt(replicaTimeout.Milliseconds(), 10)).Build()
		all := s.client.DoMulti(ctx, append(slices.Clone(part), wait)...)
		results = append(results, all[:len(part)]...)
		confirmations = append(confirmations, slices.Repeat(all[len(part):], len(part))...)
	}
	return results, confirmations
}

// read takes Redis's time off the result of a script and remembers it.
func (s *session) read(c call, result rueidis.RedisResult) answer {
	values, err := result.ToArray()
	if err != nil {
		return answer{err: err}
	}
	now, err := values[0].AsInt64()
	if err != nil {
		return answer{err: err}
	}
	s.clock(c.tag).Store(now - s.elapsed(time.Now()))
	if len(values) == 1 {
		return answer{err: errLate}
	}
	return answer{values: values[1:]}
}

// notAfter returns the caller's deadline by the clock of the Redis that has the tag, "0" where there is none. It may be
// early by one round trip, never late but by what Redis's clock was set meanwhile.
func (s *session) notAfter(ctx context.Context, t tag) string {
	deadline, ok := ctx.Deadline()
	skew := s.clock(t).Load()
	if !ok || skew == 0 {
		return "0"
	}
	return strconv.FormatInt(s.elapsed(deadline)+skew, 10)
}

func (s *session) elapsed(t time.Time) int64 { return t.Sub(s.epoch).Milliseconds() }

func isNoScript(err error) bool {
	redisErr, ok := rueidis.IsRedisErr(err)
	return ok && redisErr.IsNoScript()
}
