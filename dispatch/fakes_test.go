package dispatch_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"signaldevice/device"
	"signaldevice/dispatch"
)

func TestMain(m *testing.M) {
	if err := flag.Set("rapid.checks", "400"); err != nil { // unless the command line says otherwise
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// fault is what becomes of one call to a fake.
type fault struct {
	before error  // the call fails and has done nothing
	after  error  // the call has its effect and its answer is lost
	hang   bool   // the call does nothing until its context ends
	then   func() // what happens right after the call had its effect
}

// faults decides over each call of a fake by its name. The zero value lets every call succeed.
type faults struct {
	mu    sync.Mutex
	next  func(op string) fault
	calls map[string]int
}

// set gives each call the fault that next chooses; nil: none. next runs before the call's effect and may block.
func (f *faults) set(next func(op string) fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next = next
}

// always gives every call, or those named, the same fault; a zero fault ends it.
func (f *faults) always(what fault, ops ...string) {
	f.set(func(op string) fault {
		if len(ops) == 0 || slices.Contains(ops, op) {
			return what
		}
		return fault{}
	})
}

// made tells how often a call was made.
func (f *faults) made(op string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

// run makes a call with whatever fault is due.
func (f *faults) run(ctx context.Context, op string, work func() error) error {
	f.mu.Lock()
	if f.calls == nil {
		f.calls = map[string]int{}
	}
	f.calls[op]++
	next := f.next
	f.mu.Unlock()
	var due fault
	if next != nil {
		due = next(op)
	}
	switch {
	case due.hang:
		<-ctx.Done()
		return ctx.Err()
	case due.before != nil:
		return due.before
	case ctx.Err() != nil:
		return ctx.Err()
	}
	err := work()
	if due.then != nil {
		due.then()
	}
	if due.after != nil {
		return due.after
	}
	return err
}

// fakeBroker keeps records and output queues as the broker does.
type fakeBroker struct {
	faults
	clock     func() time.Time
	retention time.Duration // of unread replies; 0: for ever
	keys      *device.KeyRing

	mu       sync.Mutex
	devices  map[device.ID]device.Device
	offline  map[device.ID]bool
	records  map[device.RequestID]*device.Request
	readOff  map[device.RequestID]int // replies read through the queue, their grace over
	byKey    map[string]device.RequestID
	queue    []*queued // of all devices, in order of arrival
	last     uint64
	streams  int
	watchers map[int]func(dispatch.Hint)
	cuts     map[int]func()
	arrived  func() // what happens right after a reply reached its queue
	sent     []dispatch.Send
	created  []dispatch.NewDevice
}

type queued struct {
	reply device.Reply
	due   time.Time // zero: unread
}

func newFakeBroker(clock func() time.Time, ids ...device.ID) *fakeBroker {
	keys, err := device.NewKeyRing(device.NewKey(1))
	if err != nil {
		panic(err)
	}
	b := &fakeBroker{
		clock: clock, keys: keys,
		devices: map[device.ID]device.Device{}, offline: map[device.ID]bool{},
		records: map[device.RequestID]*device.Request{}, readOff: map[device.RequestID]int{},
		byKey:    map[string]device.RequestID{},
		watchers: map[int]func(dispatch.Hint){}, cuts: map[int]func(){},
	}
	for _, id := range ids {
		b.devices[id] = device.Device{ID: id}
	}
	return b
}

func (b *fakeBroker) Send(ctx context.Context, s dispatch.Send) (req device.Request, repeated bool, err error) {
	err = b.run(ctx, "send", func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		dev, ok := b.devices[s.Device]
		if !ok || !dev.Labels.Match(s.Labels) {
			return device.Errorf(device.DeviceNotFound, "no such device")
		}
		if id, ok := b.byKey[s.IdempotencyKey]; ok && s.IdempotencyKey != "" {
			req, repeated = b.stated(id), true
			return nil
		}
		if b.offline[s.Device] && !s.Command.Hold {
			return device.Errorf(device.DeviceOffline, "the device is offline")
		}
		b.sent = append(b.sent, s)
		now := b.clock()
		id := b.keys.Mint(now, s.Mailbox, s.Device, now.Add(s.Command.ReplyWithin))
		state := device.StateDelivered
		if b.offline[s.Device] {
			state = device.StateHeld
		}
		b.records[id] = &device.Request{
			ID: id, Device: s.Device, Client: s.Client, Command: s.Command.Name, State: state, Hold: s.Command.Hold,
			CreatedAt: now, SentAt: now, DeliverBy: now.Add(s.Command.DeliverWithin), ReplyBy: now.Add(s.Command.ReplyWithin),
		}
		if s.IdempotencyKey != "" {
			b.byKey[s.IdempotencyKey] = id
		}
		req = b.stated(id)
		return nil
	})
	return req, repeated, err
}

// stated returns a record as it stands now.
func (b *fakeBroker) stated(id device.RequestID) device.Request {
	b.settle()
	req := *b.records[id]
	switch {
	case req.State == device.StateHeld && b.clock().After(req.DeliverBy):
		req.State = device.StateExpired
	case req.State != device.StateAnswered && req.State != device.StateCancelled && b.clock().After(req.ReplyBy):
		req.State = device.StateNoReply
	}
	req.Read = req.Replies > 0 && b.readOff[id] >= req.Replies
	req.Queued = slices.ContainsFunc(b.queue, func(q *queued) bool { return q.reply.Request == id })
	return req
}

// settle removes what is due.
func (b *fakeBroker) settle() {
	b.queue = slices.DeleteFunc(b.queue, func(q *queued) bool {
		over := !q.due.IsZero() && !b.clock().Before(q.due)
		if over {
			b.readOff[q.reply.Request]++
		}
		return over || b.retention > 0 && b.clock().Sub(q.reply.ReceivedAt) >= b.retention
	})
}

func (b *fakeBroker) Cancel(ctx context.Context, m device.Mailbox, id device.RequestID) (req device.Request, err error) {
	err = b.run(ctx, "cancel", func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		rec := b.records[id]
		if claims, err := id.Claims(); rec == nil || err != nil || claims.Mailbox != m {
			return device.Errorf(device.RequestNotFound, "no such request")
		}
		if rec.State != device.StateHeld {
			return device.Errorf(device.AlreadyDelivered, "it was delivered")
		}
		rec.State = device.StateCancelled
		req = *rec
		return nil
	})
	return req, err
}

func (b *fakeBroker) Requests(ctx context.Context, m device.Mailbox, ids []device.RequestID) (list []device.Request, err error) {
	err = b.run(ctx, "requests", func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, id := range ids {
			claims, _ := id.Claims()
			if b.records[id] == nil || m != (device.Mailbox{}) && claims.Mailbox != m {
				list = append(list, device.Request{ID: id, State: device.StateNotFound})
				continue
			}
			list = append(list, b.stated(id))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

func (b *fakeBroker) ListRequests(ctx context.Context, f dispatch.RequestFilter) (items []device.Request, next string, err error) {
	err = b.run(ctx, "list", func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, id := range slices.Sorted(maps.Keys(b.records)) {
			claims, _ := id.Claims()
			rec := b.stated(id)
			if (f.Mailbox == device.Mailbox{} || f.Mailbox == claims.Mailbox) && (f.Device == "" || f.Device == rec.Device) {
				items = append(items, rec)
			}
		}
		return nil
	})
	return items, "", err
}

func (b *fakeBroker) Drain(ctx context.Context, q dispatch.Drain) (page dispatch.DrainPage, err error) {
	err = b.run(ctx, "drain", func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		if _, ok := b.devices[q.Device]; !ok {
			return device.Errorf(device.DeviceNotFound, "no such device")
		}
		b.settle()
		for _, e := range b.queue {
			r := e.reply
			switch {
			case r.Device != q.Device,
				q.Mailbox != device.Mailbox{} && q.Mailbox != r.Mailbox,
				string(r.Position) <= string(q.After),
				!e.due.IsZero() && !slices.Contains(q.Requests, r.Request):
				continue
			}
			if len(page.Replies) == q.Limit {
				page.More = true
				return nil
			}
			page.Replies = append(page.Replies, dispatch.DrainedReply{Reply: r, Read: !e.due.IsZero()})
		}
		return nil
	})
	if err != nil {
		return dispatch.DrainPage{}, err
	}
	return page, nil
}

func (b *fakeBroker) Acknowledge(ctx context.Context, dev device.ID, positions [][]byte, after time.Duration) error {
	return b.run(ctx, "acknowledge", func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.settle()
		for _, p := range positions {
			i := slices.IndexFunc(b.queue, func(q *queued) bool { return string(q.reply.Position) == string(p) })
			switch {
			case i < 0:
			case b.queue[i].reply.Device != dev:
				return device.Errorf(device.Invalid, "a position of another device")
			case after == 0:
				b.queue = slices.Delete(b.queue, i, i+1)
			case b.queue[i].due.IsZero():
				b.queue[i].due = b.clock().Add(after)
			}
		}
		return nil
	})
}

func (b *fakeBroker) Watch(ctx context.Context, ready func(), fn func(dispatch.Hint)) error {
	return b.run(ctx, "watch", func() error {
		ctx, cut := context.WithCancel(ctx)
		defer cut()
		b.mu.Lock()
		b.streams++
		n := b.streams
		b.watchers[n], b.cuts[n] = fn, cut
		b.mu.Unlock()
		ready()
		<-ctx.Done()
		b.mu.Lock()
		delete(b.watchers, n)
		delete(b.cuts, n)
		b.mu.Unlock()
		return ctx.Err()
	})
}

// cutStreams breaks the streams of hints.
func (b *fakeBroker) cutStreams() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, cut := range b.cuts {
		cut()
	}
}

func (b *fakeBroker) CreateDevice(ctx context.Context, d dispatch.NewDevice) (reg dispatch.Registration, err error) {
	err = b.run(ctx, "create", func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.created = append(b.created, d)
		reg.Device = device.Device{ID: device.ID(d.Name), Name: d.Name, Labels: d.Labels}
		b.devices[reg.Device.ID] = reg.Device
		return nil
	})
	return reg, err
}

func (b *fakeBroker) Enrol(ctx context.Context, e dispatch.Enrolment) (reg dispatch.Registration, err error) {
	err = b.run(ctx, "enrol", func() error { reg.Device.Name = e.Name; return nil })
	return reg, err
}

func (b *fakeBroker) CreateEnrolmentCode(ctx context.Context, _ dispatch.NewCode) (code dispatch.Code, err error) {
	err = b.run(ctx, "code", func() error { code.Code = "code"; return nil })
	return code, err
}

func (b *fakeBroker) Device(ctx context.Context, id device.ID) (dev device.Device, err error) {
	err = b.run(ctx, "device", func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		var ok bool
		if dev, ok = b.devices[id]; !ok {
			return device.Errorf(device.DeviceNotFound, "no such device")
		}
		return nil
	})
	return dev, err
}

func (b *fakeBroker) Devices(ctx context.Context, f dispatch.DeviceFilter) (items []device.Device, next string, err error) {
	err = b.run(ctx, "devices", func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, id := range slices.Sorted(maps.Keys(b.devices)) {
			if b.devices[id].Labels.Match(f.Labels) {
				items = append(items, b.devices[id])
			}
		}
		return nil
	})
	return items, "", err
}

func (b *fakeBroker) DeleteDevice(ctx context.Context, id device.ID) error {
	return b.run(ctx, "delete", func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.devices, id)
		return nil
	})
}

func (b *fakeBroker) AddCertificate(ctx context.Context, _ device.ID, _ dispatch.Credential) (cert device.Certificate, err error) {
	err = b.run(ctx, "certificate", func() error { cert.Fingerprint = "f"; return nil })
	return cert, err
}

func (b *fakeBroker) RevokeCertificate(ctx context.Context, _ device.ID, _ string) error {
	return b.run(ctx, "revoke", func() error { return nil })
}

func (b *fakeBroker) Ping(ctx context.Context) error {
	return b.run(ctx, "ping", func() error { return nil })
}

// arrive is a device's reply reaching its queue. It reports false for what the broker drops: a reply after the final one.
func (b *fakeBroker) arrive(id device.RequestID, seq int, final bool, body string) bool {
	b.mu.Lock()
	rec := b.records[id]
	claims, _ := id.Claims()
	if rec.State == device.StateAnswered {
		b.mu.Unlock()
		return false
	}
	late := b.clock().After(rec.ReplyBy)
	b.last++
	r := device.Reply{
		Request: id, Device: rec.Device, Mailbox: claims.Mailbox, Command: rec.Command, Seq: seq, Final: final, Late: late,
		ReceivedAt: b.clock(), Body: []byte(body), Position: binary.BigEndian.AppendUint64(nil, b.last),
	}
	b.queue = append(b.queue, &queued{reply: r})
	rec.Replies++
	rec.State, rec.Late = device.StateProgress, late
	if final {
		rec.State = device.StateAnswered
	}
	b.mu.Unlock()
	if b.arrived != nil {
		b.arrived()
	}
	b.tell(dispatch.Hint{Reply: &dispatch.ReplyHint{Device: r.Device, Mailbox: r.Mailbox, Request: id, Seq: seq, Final: final}})
	return true
}

// tell gives a hint to everyone who watches.
func (b *fakeBroker) tell(h dispatch.Hint) {
	b.mu.Lock()
	watchers := slices.Collect(maps.Values(b.watchers))
	b.mu.Unlock()
	for _, fn := range watchers {
		fn(h)
	}
}

// holds reports whether the reply is in the queue, one in its grace included.
func (b *fakeBroker) holds(key device.ReplyKey) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settle()
	return slices.ContainsFunc(b.queue, func(q *queued) bool { return q.reply.Key() == key })
}

// unread tells how many replies wait in the queue and were not read.
func (b *fakeBroker) unread() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settle()
	for _, q := range b.queue {
		if q.due.IsZero() {
			n++
		}
	}
	return n
}

// fakeCache keeps replies as its contract says.
type fakeCache struct {
	faults
	clock   func() time.Time
	durable bool
	ttl     time.Duration // of a record from its write; 0: for ever

	mu      sync.Mutex
	limit   int // replies with a body; 0: none
	most    int // replies that one Take returns; 0: all
	unsafe  bool
	records []*cached
}

type cached struct {
	reply device.Reply
	since time.Time
	grace time.Time // zero: unread
}

func newFakeCache(clock func() time.Time, durable bool) *fakeCache {
	return &fakeCache{clock: clock, durable: durable}
}

// over reports whether the record is a mark only.
func (c *fakeCache) over(r *cached) bool { return !r.grace.IsZero() && !c.clock().Before(r.grace) }

func (c *fakeCache) find(key device.ReplyKey) *cached {
	for _, r := range c.records {
		if r.reply.Key() == key {
			return r
		}
	}
	return nil
}

// expire drops the records whose time is up, marks included.
func (c *fakeCache) expire() {
	c.records = slices.DeleteFunc(c.records, func(r *cached) bool { return c.ttl > 0 && c.clock().Sub(r.since) >= c.ttl })
}

func (c *fakeCache) Put(ctx context.Context, replies []device.Reply) (results []dispatch.PutResult, err error) {
	err = c.run(ctx, "put", func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.expire()
		before := len(c.records)
		for _, r := range replies {
			old := c.find(r.Key())
			switch {
			case old == nil:
				c.records = append(c.records, &cached{reply: r, since: c.clock()})
				results = append(results, dispatch.Stored)
			case c.over(old):
				results = append(results, dispatch.Read)
			default:
				results = append(results, dispatch.Duplicate)
			}
		}
		for i := range results {
			if c.unsafe && results[i] != dispatch.Read {
				results[i] = dispatch.Unsafe
			}
		}
		if c.limit > 0 && c.count() > c.limit && len(c.records) > before {
			c.records = c.records[:before]
			return device.Errorf(device.CacheFull, "full")
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return results, nil
}

func (c *fakeCache) count() (n int) {
	for _, r := range c.records {
		if !c.over(r) {
			n++
		}
	}
	return n
}

func (c *fakeCache) Take(ctx context.Context, q dispatch.Take) (taken dispatch.Taken, err error) {
	err = c.run(ctx, "take", func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.expire()
		var again []device.Reply
		for _, r := range c.records {
			if r.reply.Mailbox != q.Mailbox || r.reply.Device != q.Device {
				continue
			}
			if len(q.IDs) > 0 && !slices.Contains(q.IDs, r.reply.Request) || len(q.IDs) == 0 && (!r.grace.IsZero() || len(taken.Replies) == 100) {
				continue
			}
			switch {
			case c.over(r):
				if !slices.Contains(taken.Read, r.reply.Request) {
					taken.Read = append(taken.Read, r.reply.Request)
				}
				continue
			case !r.grace.IsZero():
				again = append(again, r.reply)
				continue
			case c.most > 0 && len(taken.Replies) == c.most:
				taken.More = true
				continue
			}
			r.grace = c.clock().Add(q.Grace)
			taken.Replies = append(taken.Replies, r.reply)
		}
		if room := c.most - len(taken.Replies); c.most > 0 && len(again) > room {
			again, taken.More = again[:room], true
		}
		taken.Replies, taken.Again = append(taken.Replies, again...), len(again)
		return nil
	})
	if err != nil {
		return dispatch.Taken{}, err
	}
	return taken, nil
}

func (c *fakeCache) Unread(ctx context.Context, m device.Mailbox, dev device.ID) (ids []device.RequestID, size int64, err error) {
	err = c.run(ctx, "unread", func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.expire()
		for _, r := range c.records {
			if r.reply.Mailbox == m && r.reply.Device == dev && r.grace.IsZero() {
				ids = append(ids, r.reply.Request)
				size += int64(len(r.reply.Body))
			}
		}
		return nil
	})
	return ids, size, err
}

func (c *fakeCache) Records(context.Context) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int64(c.count()), nil
}

func (c *fakeCache) Durable() bool { return c.durable }

func (c *fakeCache) Ping(ctx context.Context) error {
	return c.run(ctx, "ping", func() error { return nil })
}

// holds reports whether the reply can be read here, for the first time or again.
func (c *fakeCache) holds(key device.ReplyKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expire()
	r := c.find(key)
	return r != nil && !c.over(r)
}

// flush is a restart of a cache that keeps nothing.
func (c *fakeCache) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.records = nil
}

func (c *fakeCache) setLimit(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = n
}

// fakeCatalogue knows "ping"; "reboot", which waits for offline devices; and "zoom", which only devices with the label
// model=zoom have.
type fakeCatalogue struct{}

func (fakeCatalogue) Commands() []device.Command {
	return []device.Command{
		{Name: "ping", Permission: "commands.ping", DeliverWithin: 10 * time.Second, ReplyWithin: 30 * time.Second},
		{Name: "reboot", Permission: "commands.reboot", Hold: true, DeliverWithin: 10 * time.Second, ReplyWithin: 30 * time.Second},
		{Name: "zoom", Permission: "commands.zoom", DeliverWithin: 10 * time.Second, ReplyWithin: 30 * time.Second},
	}
}

func (c fakeCatalogue) CommandsOf(labels device.Labels) []device.Command {
	if labels["model"] == "zoom" {
		return c.Commands()
	}
	return c.Commands()[:2]
}

func (c fakeCatalogue) Command(name string) (device.Command, error) {
	for _, cmd := range c.Commands() {
		if cmd.Name == name {
			return cmd, nil
		}
	}
	return device.Command{}, device.Errorf(device.UnknownCommand, "no such command")
}

func (c fakeCatalogue) Prepare(name string, args json.RawMessage, labels func() (device.Labels, error)) (device.Payload, error) {
	if _, err := c.Command(name); err != nil {
		return device.Payload{}, err
	}
	if string(args) == `{"bad":1}` {
		return device.Payload{}, &device.Error{Kind: device.InvalidArguments, Faults: []device.Fault{{Location: "args.bad"}}}
	}
	if name == "zoom" {
		switch have, err := labels(); {
		case err != nil:
			return device.Payload{}, err
		case have["model"] != "zoom":
			return device.Payload{}, device.Errorf(device.UnknownCommand, "the device does not have it")
		}
	}
	return device.Payload{JSON: args}, nil
}

func (fakeCatalogue) Answer(_ string, _ device.RequestID, body []byte) device.Answer {
	return device.Answer{Status: device.StatusOK, Result: body}
}

// counters is an Observer that adds up.
type counters struct {
	mu      sync.Mutex
	sent    map[string]int
	drained map[dispatch.Whose]int
	up      map[string]bool
	unknown map[string]int
}

func newCounters() *counters {
	return &counters{sent: map[string]int{}, drained: map[dispatch.Whose]int{}, up: map[string]bool{}, unknown: map[string]int{}}
}

func (c *counters) Sent(command, outcome string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent[command+" "+outcome]++
}

func (c *counters) Drained(whose dispatch.Whose, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drained[whose] += n
}

func (c *counters) DependencyUp(dependency string, up bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up[dependency] = up
}

func (c *counters) OutcomeUnknown(dependency string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unknown[dependency]++
}

func (c *counters) isUp(dependency string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.up[dependency]
}

// system is a Dispatcher over fakes.
type system struct {
	*dispatch.Dispatcher
	broker  *fakeBroker
	cache   *fakeCache
	counted *counters
	cfg     dispatch.Config
}

const cam, cam2 = device.ID("cam-1"), device.ID("cam-2")

// newSystem changes the configuration, if edit is set, and does not start Run.
func newSystem(durable bool, edit func(*dispatch.Config)) *system {
	return newSystemAt(time.Now, durable, edit)
}

func newSystemAt(clock func() time.Time, durable bool, edit func(*dispatch.Config)) *system {
	s := &system{broker: newFakeBroker(clock, cam, cam2), cache: newFakeCache(clock, durable), counted: newCounters()}
	s.cfg = dispatch.Config{
		ReplyGrace: dispatch.DefaultReplyGrace,
		Broker:     s.broker, Cache: s.cache, Catalogue: fakeCatalogue{}, Observer: s.counted, Clock: clock,
	}
	if edit != nil {
		edit(&s.cfg)
	}
	s.Dispatcher = dispatch.New(s.cfg)
	return s
}

// start runs the Dispatcher until the test ends.
func (s *system) start(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}

func caller(name string) dispatch.Caller {
	return dispatch.Caller{Client: device.ClientID(name), May: func(p string) bool { return p == "commands.ping" || p == "commands.reboot" }}
}

func admin() dispatch.Caller {
	return dispatch.Caller{Client: "admin", May: func(string) bool { return true }}
}

var alice, bob = caller("alice"), caller("bob")

// send sends a ping and returns its request id.
func (s *system) send(t testing.TB, c dispatch.Caller, dev device.ID) device.RequestID {
	t.Helper()
	out, err := s.Send(context.Background(), c, dispatch.SendInput{Device: dev, Command: "ping"})
	if err != nil {
		t.Fatalf("send: %v", err)
	}
	return out.Request.ID
}

// answered sends a ping that is answered at once, and returns its request id.
func (s *system) answered(t testing.TB, c dispatch.Caller, body string) device.RequestID {
	t.Helper()
	id := s.send(t, c, cam)
	s.broker.arrive(id, 0, true, body)
	return id
}

func (s *system) poll(c dispatch.Caller, ids ...device.RequestID) (dispatch.Replies, error) {
	return s.Replies(context.Background(), c, dispatch.RepliesInput{Device: cam, IDs: ids})
}

func bodies(replies []dispatch.Reply) []string {
	out := []string{}
	for _, r := range replies {
		out = append(out, string(r.Body))
	}
	return out
}

func states(r dispatch.Replies) []device.State {
	out := []device.State{}
	for _, s := range r.Requests {
		out = append(out, s.State)
	}
	return out
}

func wantReplies(t testing.TB, got dispatch.Replies, err error, want ...string) {
	t.Helper()
	if err != nil {
		t.Fatalf("poll: %v", err)
	}
	if have := bodies(got.Replies); !slices.Equal(have, append([]string{}, want...)) {
		t.Fatalf("replies = %q, want %q", have, want)
	}
}

func wantStates(t testing.TB, got dispatch.Replies, want ...device.State) {
	t.Helper()
	if have := states(got); !slices.Equal(have, want) {
		t.Fatalf("states = %v, want %v", have, want)
	}
}

func wantKind(t testing.TB, err error, want device.Kind) {
	t.Helper()
	if got := device.KindOf(err); got != want {
		t.Fatalf("error kind = %q (%v), want %q", got, err, want)
	}
}

func outage(k device.Kind) fault { return fault{before: device.Errorf(k, "down")} }

var (
	brokerDown = outage(device.BrokerUnavailable)
	cacheDown  = outage(device.CacheUnavailable)
	cutOff     = fault{after: fmt.Errorf("fake: %w", device.Errorf(device.OutcomeUnknown, "cut off"))}
)
