package cache

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"signaldevice/device"
	"signaldevice/dispatch"
)

// RedisConfig configures a Redis cache. All instances that share one use the same TTL.
type RedisConfig struct {
	URL     string        // as rueidis.ParseURL takes it: one server, Sentinel (master_set) or Cluster (addr)
	TTL     time.Duration // life of a record from its write, in whole milliseconds; default DefaultTTL
	Vouched bool          // someone vouches that what Redis stores survives a crash, whatever its configuration says
	Log     *slog.Logger  // default: nowhere
}

// Redis is a cache in a Redis 7 or Valkey 8 of its own, which several instances share.
//
// Each Put of a mailbox and each Take is one Lua script in one cluster slot, so that record, index and mark agree.
// Redis's clock decides what has expired. A call is sent again only where Redis proved that it did not run, and one whose
// context had ended before Redis came to it does nothing, even where Redis stood still for long. The keys are described in
// docs/decisions/0003-cache-layout.md.
type Redis struct {
	link    *link
	ttl     time.Duration
	scripts scripts
}

// OpenRedis connects to Redis and checks it. It fails where the URL is wrong, or where Redis answers and must not be
// used: older than 7.0, or with a maxmemory-policy that drops records. A Redis that does not answer is no failure: the
// cache reports CacheUnavailable until a Ping finds it good. The caller closes the cache.
func OpenRedis(ctx context.Context, cfg RedisConfig) (*Redis, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	scripts := newScripts()
	link, err := newLink(cfg, scripts.probe)
	if err != nil {
		return nil, err
	}
	if err := link.open(ctx); err != nil {
		link.close()
		return nil, err
	}
	return &Redis{link: link, ttl: cmp.Or(cfg.TTL, DefaultTTL), scripts: scripts}, nil
}

// Close ends the connections. Calls that are under way fail.
func (r *Redis) Close() { r.link.close() }

// Ping checks Redis as OpenRedis does, and takes up one that was not there before. Someone pings now and then: Redis may
// come back changed. It implements dispatch.Cache.
func (r *Redis) Ping(ctx context.Context) error { return r.link.check(ctx) }

// Durable tells whether Redis keeps an append-only file, on every node, or someone vouches for it; false until a check
// has seen the present connections. With appendfsync everysec a power failure may cost the last two seconds of writes,
// and a failover those that the replica had not received. It implements dispatch.Cache.
func (r *Redis) Durable() bool { return r.link.durable() }

// Put stores replies, those of each mailbox by one script, all of them in one round trip. It implements
// dispatch.Cache.
func (r *Redis) Put(ctx context.Context, replies []device.Reply) ([]dispatch.PutResult, error) {
	if err := checkPut(ctx, replies); err != nil {
		return nil, err
	}
	s, err := r.link.session("put")
	if err != nil {
		return nil, err
	}
	groups := byMailbox(replies)
	calls := make([]call, len(groups))
	for g, group := range groups {
		calls[g] = r.putCall(replies, group)
	}
	results := make([]dispatch.PutResult, len(replies))
	for g, a := range s.run(ctx, r.scripts.put, calls) {
		if a.err != nil {
			return nil, failure("put", a.err)
		}
		codes, err := a.values[0].AsIntSlice()
		if err != nil || len(codes) != len(groups[g]) {
			return nil, failure("put", errAnswer)
		}
		for j, i := range groups[g] {
			results[i] = dispatch.PutResult(codes[j]) // put.lua numbers them alike
		}
	}
	return results, nil
}

func (r *Redis) putCall(replies []device.Reply, group []int) call {
	t := tagOf(replies[group[0]].Mailbox)
	c := call{
		tag:  t,
		keys: append(make([]string, 0, 1+3*len(group)), t.live()),
		args: append(make([]string, 0, 1+3*len(group)), millis(r.ttl)),
	}
	for _, i := range group {
		reply := replies[i]
		digest, seq := digestOf(reply.Mailbox, reply.Device, reply.Request), strconv.Itoa(reply.Seq)
		name := digest + ":" + seq
		c.keys = append(c.keys, t.unread(reply.Mailbox, reply.Device), t.requests()+digest, t.replies()+name)
		c.args = append(c.args, name, seq, rueidis.BinaryString(encodeRecord(reply)))
	}
	return c
}

// Take takes replies by one script. It implements dispatch.Cache.
func (r *Redis) Take(ctx context.Context, q dispatch.Take) (dispatch.Taken, error) {
	if err := checkTake(ctx, q); err != nil {
		return dispatch.Taken{}, err
	}
	s, err := r.link.session("take")
	if err != nil {
		return dispatch.Taken{}, err
	}
	ids := distinct(q.IDs)
	t := tagOf(q.Mailbox)
	keys := append(make([]string, 0, 2+len(ids)), t.live(), t.unread(q.Mailbox, q.Device))
	for _, id := range ids {
		keys = append(keys, t.requests()+digestOf(q.Mailbox, q.Device, id))
	}
	values, err := s.runOne(ctx, r.scripts.take, call{tag: t, keys: keys, args: []string{
		t.requests(), t.replies(), millis(max(0, q.Grace)), strconv.Itoa(maxTakeReplies), strconv.Itoa(maxTakeBytes),
	}})
	if err != nil {
		return dispatch.Taken{}, failure("take", err)
	}
	taken, err := readTaken(values, q, ids)
	if err != nil {
		return dispatch.Taken{}, failure("take", err)
	}
	return taken, nil
}

func readTaken(values []rueidis.RedisMessage, q dispatch.Take, ids []device.RequestID) (dispatch.Taken, error) {
	if len(values) != 3 {
		return dispatch.Taken{}, errAnswer
	}
	pairs, err := values[0].ToArray()
	if err != nil {
		return dispatch.Taken{}, err
	}
	type found struct {
		expiry int64
		reply  device.Reply
	}
	var all []found
	for i := 0; i+1 < len(pairs); i += 2 {
		expiry, err := pairs[i].AsInt64()
		if err != nil {
			return dispatch.Taken{}, err
		}
		record, err := pairs[i+1].AsBytes()
		if err != nil {
			return dispatch.Taken{}, err
		}
		reply, err := decodeRecord(record)
		if err != nil {
			return dispatch.Taken{}, err
		}
		reply.Mailbox, reply.Device = q.Mailbox, q.Device
		all = append(all, found{expiry, reply})
	}
	// The script gives unread ones first; all have the same TTL, so that their expiry tells their order of arrival.
	slices.SortStableFunc(all, func(x, y found) int { return cmp.Compare(x.expiry, y.expiry) })
	var taken dispatch.Taken
	for _, f := range all {
		taken.Replies = append(taken.Replies, f.reply)
	}
	places, err := values[1].AsIntSlice()
	if err != nil {
		return dispatch.Taken{}, err
	}
	for _, p := range places {
		taken.Read = append(taken.Read, ids[p])
	}
	again, err := values[2].AsInt64()
	if err != nil {
		return dispatch.Taken{}, err
	}
	taken.Again = int(again)
	return taken, nil
}

// Unread lists requests in the order of their first unread reply. It implements dispatch.Cache.
func (r *Redis) Unread(ctx context.Context, m device.Mailbox, dev device.ID) ([]device.RequestID, int64, error) {
	if err := checkContext(ctx, "unread"); err != nil {
		return nil, 0, err
	}
	s, err := r.link.session("unread")
	if err != nil {
		return nil, 0, err
	}
	t := tagOf(m)
	values, err := s.runOne(ctx, r.scripts.unread, call{
		tag: t, keys: []string{t.unread(m, dev)}, args: []string{t.replies(), strconv.Itoa(maxHead)},
	})
	if err != nil {
		return nil, 0, unavailable("unread", err)
	}
	heads, err := values[0].AsStrSlice()
	if err != nil {
		return nil, 0, unavailable("unread", err)
	}
	var ids []device.RequestID
	var total int64
	for _, head := range heads {
		id, length, err := decodeHead([]byte(head))
		if err != nil {
			return nil, 0, unavailable("unread", err)
		}
		ids = append(ids, id)
		total += int64(length)
	}
	return distinct(ids), total, nil
}

// Records adds up one sorted set for each tag: 256 scripts in one round trip, each logarithmic. It implements
// dispatch.Cache.
func (r *Redis) Records(ctx context.Context) (int64, error) {
	if err := checkContext(ctx, "records"); err != nil {
		return 0, err
	}
	s, err := r.link.session("records")
	if err != nil {
		return 0, err
	}
	var calls []call
	for _, t := range allTags() {
		calls = append(calls, call{tag: t, keys: []string{t.live()}})
	}
	var total int64
	for _, a := range s.run(ctx, r.scripts.count, calls) {
		if a.err != nil {
			return 0, unavailable("records", a.err)
		}
		n, err := a.values[0].AsInt64()
		if err != nil {
			return 0, unavailable("records", err)
		}
		total += n
	}
	return total, nil
}

// tag is the part of a key that decides its cluster slot: the first byte of the mailbox. All keys of a mailbox are in
// one slot, and 256 tags are few enough to add up and enough to spread over a cluster.
type tag byte

func tagOf(m device.Mailbox) tag { return tag(m[0]) }

func allTags() []tag {
	tags := make([]tag, 256)
	for i := range tags {
		tags[i] = tag(i)
	}
	return tags
}

func (t tag) String() string { return "{" + hex.EncodeToString([]byte{byte(t)}) + "}" }

// live is a sorted set: the name of each reply that has its body, scored by when the body goes, in ms.
func (t tag) live() string { return "live" + t.String() }

// unread is a sorted set: the name of each unread reply of the device to the mailbox, scored by its expiry in µs.
func (t tag) unread(m device.Mailbox, dev device.ID) string {
	return "unread" + t.String() + ":" + base64.RawURLEncoding.EncodeToString(m[:]) + ":" + string(dev)
}

// requests begins the keys of requests, each a hash that goes on with the digest: for each seq "<expiry in µs>" while
// unread, "<expiry in µs> <end of grace in ms>" once read. Its fields are the marks.
func (t tag) requests() string { return "request" + t.String() + ":" }

// replies begins the keys of replies, each a record that goes on with its name, "<digest>:<seq>".
func (t tag) replies() string { return "reply" + t.String() + ":" }

// digestOf names a request of a mailbox at a device in 22 characters. It keeps keys short, and no caller reaches the
// records of another mailbox or device by any request id (I3).
func digestOf(m device.Mailbox, dev device.ID, id device.RequestID) string {
	h := sha256.New()
	h.Write(m[:])
	h.Write([]byte(dev))
	h.Write([]byte{0}) // no device id holds it
	h.Write([]byte(id))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:16])
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
