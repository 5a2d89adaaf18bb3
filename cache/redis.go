package cache

import (
	"cmp"
	"context"
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
	CA      string        // file: PEM of what signed Redis's certificate; "": the system's. It needs rediss://
	Cert    string        // file: PEM of this client's certificate, or ""; read again at each connection
	Key     string        // file: PEM of its key
	Vouched bool          // someone vouches that what Redis stores survives a crash, whatever its configuration says
	// Replicas is how many replicas must have a reply before it may leave its output queue: what a failover loses
	// otherwise. 0: none.
	Replicas int
	Log      *slog.Logger // default: nowhere
}

// Redis is a cache in a Redis 7 or Valkey 8 of its own, which several instances share.
//
// Each Put of a mailbox and each Take is one Lua script in one cluster slot, so that record, index and mark agree.
// Redis's clock decides what has expired. A call is sent again only where Redis proved that it did not run, and one whose
// context had ended before Redis came to it does nothing, even where Redis stood still for long. The keys are described in
// docs/decisions/0003-cache-layout.md.
type Redis struct {
	link     *link
	ttl      time.Duration
	replicas int
	scripts  scripts
}

// OpenRedis connects to Redis and checks it. It fails where the configuration is wrong: the URL, a file, or where Redis
// answers and refuses this user, is older than 7.0, or has a maxmemory-policy that drops records. A Redis that does not
// answer is no failure: the cache reports CacheUnavailable until a Ping finds it good. The caller closes the cache.
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
	return &Redis{link: link, ttl: cmp.Or(cfg.TTL, DefaultTTL), replicas: cfg.Replicas, scripts: scripts}, nil
}

// Close ends the connections. Calls that are under way fail.
func (r *Redis) Close() { r.link.close() }

// Ping checks Redis as OpenRedis does, and takes up one that was not there before. Someone pings now and then: Redis may
// come back changed. It implements dispatch.Cache.
func (r *Redis) Ping(ctx context.Context) error { return r.link.check(ctx) }

// Durable tells whether Redis keeps an append-only file, on every node, or someone vouches for it, and has the replicas
// that were asked for; false until a check has seen the present connections, and after a put that the replicas did not
// confirm until the next. With appendfsync everysec a power failure may cost the last two seconds of writes, and without
// Replicas a failover those that the replica had not received. It implements dispatch.Cache.
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
	ask := 0
	if r.link.durable() {
		ask = r.replicas // else they have just not confirmed a put: nobody waits for them again before the next check
	}
	results := make([]dispatch.PutResult, len(replies))
	short := false
	redirects := r.link.redirects.Load()
	answers := s.run(ctx, r.scripts.put, calls, ask)
	// The WAIT of a put that was sent on to another node stayed with the first one, and speaks of its replicas.
	unsure := r.link.redirects.Load() != redirects
	for g, a := range answers {
		if a.err != nil {
			return nil, failure("put", a.err)
		}
		codes, err := a.values[0].AsIntSlice()
		if err != nil || len(codes) != len(groups[g]) {
			return nil, failure("put", errAnswer)
		}
		for j, i := range groups[g] {
			results[i] = dispatch.PutResult(codes[j]) // put.lua numbers them alike
			if (unsure || a.replicas < r.replicas) && (results[i] == dispatch.Stored || results[i] == dispatch.Duplicate) {
				results[i] = dispatch.Unsafe
			}
		}
		short = short || a.replicas < ask
	}
	if short {
		r.link.doubt()
	}
	return results, nil
}

func (r *Redis) putCall(replies []device.Reply, group []int) call {
	t := tagOf(replies[group[0]].Mailbox)
	c := call{
		tag:  t,
		keys: make([]string, 0, 3*len(group)),
		args: append(make([]string, 0, 1+2*len(group)), millis(r.ttl)),
	}
	for _, i := range group {
		reply := replies[i]
		o := ownerOf(reply.Mailbox, reply.Device)
		d := o.digest(reply.Request)
		name := d.name(reply.Seq)
		c.keys = append(c.keys, t.unread(o.part()), t.seqs()+string(d[:]), t.replies()+name)
		c.args = append(c.args, o.pair()+name, rueidis.BinaryString(encodeRecord(o, d, reply)))
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
	t, o := tagOf(q.Mailbox), ownerOf(q.Mailbox, q.Device)
	keys := append(make([]string, 0, 2+len(ids)), t.unread(o.part()), t.grace())
	for _, id := range ids {
		d := o.digest(id)
		keys = append(keys, t.seqs()+string(d[:]))
	}
	values, err := s.runOne(ctx, r.scripts.take, call{tag: t, keys: keys, args: []string{
		t.replies(), t.seqs(), o.pair(), string(o[:]),
		millis(max(0, q.Grace)), strconv.Itoa(maxTakeReplies), strconv.Itoa(maxTakeBytes),
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
	if len(values) != 4 {
		return dispatch.Taken{}, errAnswer
	}
	records, err := values[0].ToArray()
	if err != nil {
		return dispatch.Taken{}, err
	}
	type found struct {
		expiry int64
		reply  device.Reply
	}
	var all []found
	for _, value := range records {
		record, err := value.AsBytes()
		if err != nil {
			return dispatch.Taken{}, err
		}
		expiry, reply, err := decodeRecord(record)
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
	more, err := values[3].AsInt64()
	if err != nil {
		return dispatch.Taken{}, err
	}
	taken.Again, taken.More = int(again), more != 0
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
	t, o := tagOf(m), ownerOf(m, dev)
	values, err := s.runOne(ctx, r.scripts.unread, call{
		tag: t, keys: []string{t.unread(o.part())},
		args: []string{t.replies(), o.pair(), string(o[:]), strconv.Itoa(maxHead)},
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

// Records adds up the sorted sets of each tag: 256 scripts in one round trip. It implements dispatch.Cache.
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
		keys := []string{t.grace()}
		for part := range byte(unreadParts) {
			keys = append(keys, t.unread(part))
		}
		calls = append(calls, call{tag: t, keys: keys})
	}
	var total int64
	for _, a := range s.run(ctx, r.scripts.count, calls, 0) {
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

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
