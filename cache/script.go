package cache

import (
	"context"
	"crypto/sha1"
	_ "embed" // the scripts
	"encoding/hex"
	"errors"
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
	values []rueidis.RedisMessage
	err    error
}

// errLate says that Redis came to a script only after its caller's deadline, and so did not run it.
var errLate = errors.New("redis came to the call after its deadline")

// maxSends bounds how often one call is sent: as a hash, as a text, and once more with a better idea of Redis's clock.
const maxSends = 3

// run runs a script once for each call, in one round trip, and returns the answers in order. A call is sent again only
// where Redis proved that it did not run.
func (s *session) run(ctx context.Context, sc script, calls []call) []answer {
	answers := make([]answer, len(calls))
	pending := make([]int, len(calls))
	for i := range calls {
		pending[i] = i
	}
	text := false
	for range maxSends {
		results := s.send(ctx, sc, text, calls, pending)
		var refused []int
		for j, i := range pending {
			answers[i] = s.read(calls[i], results[j])
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
	a := s.run(ctx, sc, []call{c})[0]
	return a.values, a.err
}

func (s *session) send(ctx context.Context, sc script, text bool, calls []call, pending []int) []rueidis.RedisResult {
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
	if len(commands) == 1 {
		return []rueidis.RedisResult{s.client.Do(ctx, commands[0])}
	}
	return s.client.DoMulti(ctx, commands...)
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
