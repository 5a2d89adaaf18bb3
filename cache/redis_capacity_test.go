package cache_test

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strconv"
	"testing"
	"time"

	"signaldevice/cache"
	"signaldevice/device"
	"signaldevice/dispatch"
	"signaldevice/testserver"
)

// What 100 MB of Redis must hold: unread replies of 1 KB, or marks.
const (
	wantReplies   = 70_000
	wantMarkBytes = 220 // for a mark at most
)

// 100 MB of Redis hold 70,000 replies whose bodies no compression makes smaller, however they are spread over clients.
// F6: what has no room is refused, what was there stays, and reading makes room.
func TestRedis_Capacity(t *testing.T) {
	tests := map[string]struct{ each int }{
		"each of another client and device": {1},
		"fifty of each client at a device":  {50},
	}
	const sample = 8_000 // replies read
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			server := testserver.Redis(t, "--maxmemory", "100mb", "--appendonly", "no")
			admin := dial(t, server.URL)
			c := open(t, cache.RedisConfig{URL: server.URL})
			used := func() int64 { return usedMemory(t, ask(t, admin, "INFO", "memory")) }
			replies := kilobytes(test.each)
			empty := used()
			fill(t, c, replies)
			stored, err := c.Records(t.Context())
			if err != nil || stored < wantReplies {
				t.Errorf("100 MB hold %d replies of 1 KB, %v; want %d", stored, err, wantReplies)
			}
			full := used()
			t.Logf("100 MB hold %d replies of 1 KB, %d bytes each", stored, (full-empty)/stored)

			if got := takeAll(t, c, replies[:sample]); got != sample {
				t.Errorf("of the first %d replies %d are there", sample, got)
			}
			reply := (full - empty) / stored
			mark := reply - (full-used())/sample
			if mark > wantMarkBytes {
				t.Errorf("a mark takes %d bytes, want at most %d", mark, wantMarkBytes)
			}
			t.Logf("a mark takes %d bytes", mark)
			if more := fill(t, c, replies[stored:]); more < sample*3/4 {
				t.Errorf("after %d reads %d more were stored", sample, more)
			}
		})
	}
}

// kilobytes returns 80,000 replies with bodies of 1,024 bytes, so many for each pair of client and device.
func kilobytes(each int) []device.Reply {
	noise := make([]byte, 1024)
	replies := make([]device.Reply, 80_000)
	for i := range replies {
		pair := i / each
		r := &replies[i]
		r.Mailbox = device.MailboxOf(device.ClientID("client-" + strconv.Itoa(pair)))
		r.Device = device.ID("d" + strconv.Itoa(pair%1000))
		r.Request = device.RequestID(fmt.Sprintf("%s%0*d", device.RequestIDPrefix, device.RequestIDLen-len(device.RequestIDPrefix), i))
		r.Command, r.Final, r.ReceivedAt = "run_diagnostics", true, time.Now()
		r.Position = make([]byte, 44)
		rand.Read(noise)
		r.Body = fmt.Appendf(nil, `{"request_id":"%s","status":"ok","result":"`, r.Request)
		r.Body = base64.StdEncoding.AppendEncode(r.Body, noise)[:1022]
		r.Body = append(r.Body, `"}`...)
	}
	return replies
}

// fill stores replies in order until one is refused, and returns how many came before it.
func fill(t testing.TB, c *cache.Redis, replies []device.Reply) int {
	t.Helper()
	stored := 0
	size := 500
	for stored < len(replies) {
		part := replies[stored:min(stored+size, len(replies))]
		switch _, err := c.Put(t.Context(), part); {
		case err == nil:
			stored += len(part)
		case !device.Is(err, device.CacheFull):
			t.Fatal(err)
		case size == 1:
			return stored
		default:
			size = 1 // some of the part may be there, and are duplicates then
		}
	}
	return stored
}

// takeAll reads replies, a hundred of a pair at once, and returns how many were there.
func takeAll(t testing.TB, c *cache.Redis, replies []device.Reply) (taken int) {
	t.Helper()
	for len(replies) > 0 {
		first := replies[0]
		q := dispatch.Take{Mailbox: first.Mailbox, Device: first.Device}
		for len(replies) > 0 && len(q.IDs) < 100 && replies[0].Mailbox == q.Mailbox && replies[0].Device == q.Device {
			q.IDs = append(q.IDs, replies[0].Request)
			replies = replies[1:]
		}
		got, err := c.Take(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		taken += len(got.Replies)
	}
	return taken
}
