package cachetest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"signaldevice/device"
	"signaldevice/dispatch"
)

func comesBackWhole(f *fixture) {
	binary := make([]byte, 256)
	for i := range binary {
		binary[i] = byte(i)
	}
	replies := []device.Reply{
		reply("plain"),
		reply("progress", seq(7), func(r *device.Reply) { r.Final, r.Late = false, true }),
		reply("negative", seq(-1)),
		reply("great", seq(1<<53+1)),
		reply("binary", body(binary)),
		reply("zeros", body(make([]byte, 100))),
		reply("empty", body([]byte{})),
		reply("largest", body(bytes.Repeat([]byte{0xab}, device.MaxPayload))),
		reply("bare", func(r *device.Reply) { r.Command, r.Position, r.ReceivedAt = "", nil, time.Time{} }),
		reply("x", func(r *device.Reply) { r.Request = "r" }),
	}
	f.store(replies...)
	f.wantTaken(f.take(), replies...)
	for _, r := range replies {
		again := f.take(r.Request)
		f.wantTaken(again, r)
		if again.Again != 1 {
			f.Fatalf("%d replies had been read before, want 1", again.Again)
		}
	}
}

func emptyPut(f *fixture) {
	f.put(nil)
	f.wantRecords(0)
	f.wantTaken(f.take())
}

func resultsInOrder(f *fixture) {
	f.store(reply("a", to(bob)), reply("b"))
	f.takeAs(dispatch.Take{Mailbox: bob, Device: camera})
	f.put([]device.Reply{reply("c", to(bob)), reply("b"), reply("a", to(bob)), reply("c"), reply("c")},
		dispatch.Stored, dispatch.Duplicate, dispatch.Read, dispatch.Stored, dispatch.Duplicate)
}

func duplicateNeverOverwrites(f *fixture) {
	first := reply("r", body([]byte("first")))
	second := reply("r", body([]byte("second")))
	f.put([]device.Reply{first, second}, dispatch.Stored, dispatch.Duplicate)
	f.put([]device.Reply{second}, dispatch.Duplicate)
	f.wantRecords(1)
	f.wantTaken(f.take(first.Request), first)
	f.put([]device.Reply{second}, dispatch.Duplicate) // in its grace
	f.wantTaken(f.take(first.Request), first)
}

func otherMailboxReadsNothing(f *fixture) {
	r := reply("r")
	f.store(r)
	for _, ids := range [][]device.RequestID{nil, {r.Request}} {
		got := f.takeAs(dispatch.Take{Mailbox: bob, Device: camera, IDs: ids, Grace: grace})
		f.wantTaken(got)
		f.wantRead(got)
	}
	f.wantUnread(bob, camera, 0)
	f.wantTaken(f.take(r.Request), r)

	// Not even to say that it is there: a reply of bob's with the same key is his own.
	his := reply("r", to(bob), body([]byte("his")))
	f.store(his)
	f.wantTaken(f.takeAs(dispatch.Take{Mailbox: bob, Device: camera, Grace: grace}), his)
}

func otherDeviceStaysApart(f *fixture) {
	r := reply("r")
	f.store(r)
	for _, ids := range [][]device.RequestID{nil, {r.Request}} {
		f.wantTaken(f.takeAs(dispatch.Take{Mailbox: alice, Device: other, IDs: ids, Grace: grace}))
	}
	f.wantUnread(alice, other, 0)
	f.wantTaken(f.take(), r)
}

func unreadInOrder(f *fixture) {
	early := func(r *device.Reply) { r.ReceivedAt = r.ReceivedAt.Add(-time.Hour) }
	replies := []device.Reply{reply("c"), reply("a", seq(1)), reply("a"), reply("b", early)}
	f.store(replies[:2]...)
	f.store(replies[2])
	f.store(replies[3])
	f.store(reply("d", from(other)))
	got := f.take()
	f.wantTaken(got, replies...)
	f.wantRead(got)
	if got.Again != 0 {
		f.Fatalf("%d replies had been read before, want none", got.Again)
	}
	f.wantTaken(f.take())
}

func atMostHundred(f *fixture) {
	var replies []device.Reply
	for i := range 101 {
		replies = append(replies, reply(fmt.Sprint("r", i)))
	}
	f.store(replies...)
	f.wantTaken(f.take(), replies[:100]...)
	f.wantTaken(f.take(), replies[100])
}

func onlyTheIDs(f *fixture) {
	a, b, b1, c := reply("a"), reply("b"), reply("b", seq(1)), reply("c")
	f.store(a, b, c, b1)
	got := f.take(c.Request, b.Request, c.Request, requestID("unknown"))
	f.wantTaken(got, b, c, b1)
	f.wantRead(got)
	f.wantTaken(f.take(), a)
}

func bytesBounded(f *fixture) {
	const largest = 12 // 3 MiB
	var replies []device.Reply
	var ids []device.RequestID
	for i := range largest {
		r := reply(fmt.Sprint("r", i), body(bytes.Repeat([]byte{byte(i)}, device.MaxPayload)))
		replies = append(replies, r)
		ids = append(ids, r.Request)
		f.store(r)
	}
	slices.Reverse(ids) // their order must not matter
	first := f.take(ids...)
	n := len(first.Replies)
	if n == 0 || n >= largest {
		f.Fatalf("the first take returned %d of %d replies", n, largest)
	}
	f.wantTaken(first, replies[:n]...)
	// What was left comes before what was read, though that is older and asked for too.
	second := f.take(ids...)
	fresh := len(second.Replies) - second.Again
	if fresh != largest-n || second.Again == 0 {
		f.Fatalf("the second take returned %d fresh replies and %d again, want %d and some", fresh, second.Again, largest-n)
	}
	f.wantTaken(second, append(slices.Clone(replies[:second.Again]), replies[n:]...)...)
	f.wantTaken(f.take())
}

func readAgainInGrace(f *fixture) {
	r := reply("r")
	f.store(r)
	f.wantTaken(f.take(r.Request), r)
	f.toJustBefore(grace)
	again := f.take(r.Request)
	f.wantTaken(again, r)
	f.wantRead(again)
	f.wantTaken(f.take())
	f.wantUnread(alice, camera, 0)
	f.wantRecords(1)
	f.over()
	after := f.take(r.Request)
	f.wantTaken(after)
	f.wantRead(after, r.Request)
	f.wantRecords(0)
}

func graceNotExtended(f *fixture) {
	r := reply("r")
	f.store(r)
	f.take()
	f.Advance(grace / 2)
	again := f.takeAs(dispatch.Take{Mailbox: alice, Device: camera, IDs: []device.RequestID{r.Request}, Grace: ttl})
	f.wantTaken(again, r)
	f.toJustBefore(grace / 2)
	f.wantTaken(f.take(r.Request), r)
	f.over()
	f.wantTaken(f.take(r.Request))
}

func noGrace(f *fixture) {
	byID, without := reply("a"), reply("b")
	f.store(byID, without)
	f.wantTaken(f.takeAs(dispatch.Take{Mailbox: alice, Device: camera, IDs: []device.RequestID{byID.Request}}), byID)
	f.wantTaken(f.takeAs(dispatch.Take{Mailbox: alice, Device: camera}), without)
	f.wantRecords(0)
	after := f.take(byID.Request, without.Request)
	f.wantTaken(after)
	f.wantRead(after, byID.Request, without.Request)
}

func graceEndsWithRecord(f *fixture) {
	r := reply("r")
	f.store(r)
	f.Advance(ttl - grace/2)
	f.wantTaken(f.take(r.Request), r)
	f.toJustBefore(grace / 2)
	f.wantTaken(f.take(r.Request), r)
	f.wantRecords(1)
	f.over()
	after := f.take(r.Request)
	f.wantTaken(after)
	f.wantRead(after) // the mark has gone with the record
	f.wantRecords(0)
}

func readStaysRead(f *fixture) {
	r := reply("r")
	f.store(r)
	f.take()
	f.put([]device.Reply{r}, dispatch.Duplicate)
	f.Advance(grace + f.edge())
	f.put([]device.Reply{r}, dispatch.Read)
	f.wantTaken(f.take())
	f.wantRead(f.take(r.Request), r.Request)
	f.wantRecords(0)
}

func readAndUnread(f *fixture) {
	read, inGrace, unread := reply("r"), reply("r", seq(1)), reply("r", seq(2))
	f.store(read)
	f.takeAs(dispatch.Take{Mailbox: alice, Device: camera})
	f.store(inGrace)
	f.take()
	f.store(unread)
	got := f.take(read.Request)
	f.wantTaken(got, inGrace, unread)
	f.wantRead(got, read.Request)
	if got.Again != 1 {
		f.Fatalf("%d replies had been read before, want 1", got.Again)
	}
}

func ttlOfUnread(f *fixture) {
	kept, gone := reply("kept"), reply("gone")
	f.store(kept, gone)
	f.toJustBefore(ttl)
	f.put([]device.Reply{gone}, dispatch.Duplicate) // and does not renew it
	f.wantRecords(2)
	f.wantTaken(f.take(kept.Request), kept)
	f.over()
	got := f.take(kept.Request, gone.Request)
	f.wantTaken(got)
	f.wantRead(got)
	f.wantTaken(f.take())
	f.wantUnread(alice, camera, 0)
	f.wantRecords(0)
	f.store(gone)
}

func ttlOfMark(f *fixture) {
	r := reply("r")
	f.store(r)
	f.Advance(ttl / 2)
	f.takeAs(dispatch.Take{Mailbox: alice, Device: camera})
	f.toJustBefore(ttl / 2)
	f.wantRead(f.take(r.Request), r.Request)
	f.put([]device.Reply{r}, dispatch.Read)
	f.over()
	f.wantRead(f.take(r.Request))
	f.store(r)
	f.wantTaken(f.take(), r)
}

func ttlOfEach(f *fixture) {
	first, second := reply("r"), reply("r", seq(1))
	f.store(first)
	f.Advance(ttl / 2)
	f.store(second)
	f.Advance(ttl/2 + f.edge())
	f.wantRecords(1)
	f.wantUnread(alice, camera, int64(len(second.Body)), second.Request)
	f.wantTaken(f.take(first.Request), second)
	f.store(first)
}

func unreadTells(f *fixture) {
	a, b, b1 := reply("a"), reply("b", body([]byte("12345"))), reply("b", seq(1), body([]byte("123")))
	elsewhere, his := reply("c", from(other)), reply("d", to(bob))
	f.wantUnread(alice, camera, 0)
	f.store(b, a, b1, elsewhere, his)
	f.wantUnread(alice, camera, 5+3+int64(len(a.Body)), b.Request, a.Request)
	f.wantUnread(alice, other, int64(len(elsewhere.Body)), elsewhere.Request)
	f.wantUnread(bob, camera, int64(len(his.Body)), his.Request)
	f.take(a.Request)
	f.wantUnread(alice, camera, 5+3, b.Request)
	f.take()
	f.wantUnread(alice, camera, 0)
}

func recordsCounts(f *fixture) {
	f.wantRecords(0)
	const mailboxes, each = 50, 3
	for i := range mailboxes {
		for j := range each {
			f.store(reply("r", seq(j), to(device.MailboxOf(device.ClientID(fmt.Sprint("client-", i))))))
		}
	}
	f.wantRecords(mailboxes * each)
	f.store(reply("r"))
	f.put([]device.Reply{reply("r")}, dispatch.Duplicate)
	f.wantRecords(mailboxes*each + 1)
	f.take()
	f.wantRecords(mailboxes*each + 1) // in its grace
	f.Advance(grace + f.edge())
	f.wantRecords(mailboxes * each)
	f.Advance(ttl)
	f.wantRecords(0)
}

func fullCache(f *fixture) {
	large := bytes.Repeat([]byte("x"), 64<<10)
	var stored []device.Reply
	var err error
	for i := 0; err == nil && i < 100; i++ {
		pair := []device.Reply{
			reply(fmt.Sprint("r", i), body(large), to(mailboxNumber(i))),
			reply(fmt.Sprint("r", i), body(large), to(mailboxNumber(i)), seq(1)),
		}
		if _, err = f.Cache.Put(f.Context(), pair); err == nil {
			stored = append(stored, pair...)
		} else {
			f.wantKind(err, device.CacheFull)
			f.wantUnread(mailboxNumber(i), camera, 0) // all or none
		}
	}
	if err == nil || len(stored) == 0 {
		f.Fatalf("the cache took %d replies of 64 KiB within 1 MiB, error %v", len(stored), err)
	}
	f.wantRecords(int64(len(stored)))
	if err := f.Cache.Ping(f.Context()); err != nil {
		f.Fatalf("a full cache can be read, yet ping says %v", err)
	}
	for i := 0; i < len(stored); i += 2 {
		q := dispatch.Take{Mailbox: stored[i].Mailbox, Device: camera, Grace: grace}
		f.wantTaken(f.takeAs(q), stored[i], stored[i+1])
		q.IDs = []device.RequestID{stored[i].Request}
		f.wantTaken(f.takeAs(q), stored[i], stored[i+1])
	}
}

func roomAgain(f *fixture) {
	large := bytes.Repeat([]byte("x"), 64<<10)
	var last device.Reply
	var err error
	for i := 0; err == nil && i < 100; i++ {
		last = reply(fmt.Sprint("r", i), body(large))
		_, err = f.Cache.Put(f.Context(), []device.Reply{last})
	}
	f.wantKind(err, device.CacheFull)
	taken := f.takeAs(dispatch.Take{Mailbox: alice, Device: camera})
	f.store(last)
	f.wantRead(f.take(taken.Replies[0].Request), taken.Replies[0].Request)
}

func mailboxNumber(i int) device.Mailbox {
	return device.MailboxOf(device.ClientID(fmt.Sprint("client-", i)))
}

func manyReplies(f *fixture) {
	var replies []device.Reply
	for i := range device.MaxRepliesPerRequest {
		replies = append(replies, reply("r", seq(i), body(bytes.Repeat([]byte{byte(i)}, 16<<10))))
	}
	f.store(replies...)
	f.wantUnread(alice, camera, device.MaxRepliesPerRequest*16<<10, replies[0].Request)
	f.wantTaken(f.take(replies[0].Request), replies...)
	f.wantTaken(f.take(replies[0].Request), replies...)
	f.put(replies, slices.Repeat([]dispatch.PutResult{dispatch.Duplicate}, len(replies))...)
}

func badInput(f *fixture) {
	r := reply("r")
	noID := reply("r", func(r *device.Reply) { r.Request = "" })
	atLimit := reply("r", func(r *device.Reply) { r.Request = device.RequestID(strings.Repeat("x", 255)) })
	over := reply("r", func(r *device.Reply) { r.Request = device.RequestID(strings.Repeat("x", 256)) })
	for _, bad := range []device.Reply{noID, over} {
		_, err := f.Cache.Put(f.Context(), []device.Reply{r, bad})
		f.wantKind(err, device.Invalid)
	}
	f.wantRecords(0)

	f.store(r, atLimit)
	f.wantUnread(alice, camera, int64(len(r.Body)+len(atLimit.Body)), r.Request, atLimit.Request)
	ids := slices.Repeat([]device.RequestID{r.Request}, 101)
	_, err := f.Cache.Take(f.Context(), dispatch.Take{Mailbox: alice, Device: camera, IDs: ids})
	f.wantKind(err, device.Invalid)
	f.wantTaken(f.take(ids[:100]...), r)
}

func endedContext(f *fixture) {
	r := reply("r")
	_, err := f.Cache.Put(f.ended(), []device.Reply{r})
	f.wantKind(err, device.CacheUnavailable)
	f.wantRecords(0)
	f.store(r)
	_, err = f.Cache.Take(f.ended(), dispatch.Take{Mailbox: alice, Device: camera})
	f.wantKind(err, device.CacheUnavailable)
	_, _, err = f.Cache.Unread(f.ended(), alice, camera)
	f.wantKind(err, device.CacheUnavailable)
	_, err = f.Cache.Records(f.ended())
	f.wantKind(err, device.CacheUnavailable)
	f.wantKind(f.Cache.Ping(f.ended()), device.CacheUnavailable)
	f.wantTaken(f.take(), r)
}

const atOnce = 16 // goroutines

func takesAtOnce(f *fixture) {
	var replies []device.Reply
	for i := range 20 {
		replies = append(replies, reply(fmt.Sprint("r", i)))
	}
	f.store(replies...)
	var first atomic.Int64
	together(atOnce, func(i int) {
		for _, r := range replies {
			q := dispatch.Take{Mailbox: alice, Device: camera, IDs: []device.RequestID{r.Request}}
			if i%2 == 0 {
				q.IDs = nil
			}
			taken, err := f.Cache.Take(f.Context(), q)
			if err != nil {
				f.Errorf("take: %v", err)
			}
			first.Add(int64(len(taken.Replies)))
		}
	})
	if got := first.Load(); got != int64(len(replies)) {
		f.Fatalf("%d replies were read %d times", len(replies), got)
	}
}

func putsAtOnce(f *fixture) {
	var stored atomic.Int64
	together(atOnce, func(i int) {
		results, err := f.Cache.Put(f.Context(), []device.Reply{reply("r", body([]byte{byte(i)}))})
		if err != nil {
			f.Errorf("put: %v", err)
			return
		}
		if results[0] == dispatch.Stored {
			stored.Add(1)
		}
	})
	if got := stored.Load(); got != 1 {
		f.Fatalf("%d puts stored the reply", got)
	}
	f.wantRecords(1)
}

func putsAndTakesAtOnce(f *fixture) {
	const each = 20
	var mu sync.Mutex
	seen := map[device.RequestID]int{}
	together(atOnce, func(i int) {
		for j := range each {
			if _, err := f.Cache.Put(f.Context(), []device.Reply{reply(fmt.Sprint("r", i, "-", j))}); err != nil {
				f.Errorf("put: %v", err)
			}
			taken, err := f.Cache.Take(f.Context(), dispatch.Take{Mailbox: alice, Device: camera, Grace: grace})
			if err != nil {
				f.Errorf("take: %v", err)
			}
			mu.Lock()
			for _, r := range taken.Replies {
				seen[r.Request]++
			}
			mu.Unlock()
		}
	})
	for _, r := range f.take().Replies {
		seen[r.Request]++
	}
	if len(seen) != atOnce*each {
		f.Errorf("%d of %d replies were read", len(seen), atOnce*each)
	}
	for id, n := range seen {
		if n != 1 {
			f.Errorf("%s was read %d times", id, n)
		}
	}
}

func pingHasNoEffect(f *fixture) {
	f.store(reply("r"))
	if err := f.Cache.Ping(f.Context()); err != nil {
		f.Fatalf("ping: %v", err)
	}
	f.wantRecords(1)
	f.wantTaken(f.take(), reply("r"))
}

// together runs fn in n goroutines that start at the same time.
func together(n int, fn func(i int)) {
	start := make(chan struct{})
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			<-start
			fn(i)
		})
	}
	close(start)
	all.Wait()
}
