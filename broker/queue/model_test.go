package queue_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"signaldevice/broker/queue"
	"signaldevice/device"
)

// model is what a queue ought to be: a list.
type model struct {
	now      time.Time
	requests []*modelRequest
	replies  []*modelReply // in the order of arrival
}

type modelRequest struct {
	id       device.RequestID
	dev      device.ID
	mailbox  device.Mailbox
	seqs     map[int]bool
	answered bool
}

type modelReply struct {
	of   *modelRequest
	seq  int
	body string
	due  time.Time // zero: unread
	gone bool
}

func (m *model) put(r *modelRequest, seq int, final bool, body string) {
	if r.seqs[seq] || r.answered {
		return
	}
	r.seqs[seq], r.answered = true, final
	m.replies = append(m.replies, &modelReply{of: r, seq: seq, body: body})
}

func (m *model) drain(dev device.ID, mailbox device.Mailbox, ids map[device.RequestID]bool) (bodies []string) {
	for _, r := range m.replies {
		switch {
		case r.gone, r.of.dev != dev, mailbox != device.Mailbox{} && r.of.mailbox != mailbox:
		case r.due.IsZero(), ids[r.of.id] && m.now.Before(r.due):
			bodies = append(bodies, r.body)
		}
	}
	return bodies
}

func (m *model) acknowledge(body string, after time.Duration) {
	for _, r := range m.replies {
		switch {
		case r.body != body:
		case after == 0:
			r.gone = true
		case r.due.IsZero():
			r.due = m.now.Add(after)
		}
	}
}

// Whatever clients, devices, time and restarts do, the queue shows what a list would show.
func TestQueue_IsAList(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &model{now: time.UnixMilli(1_795_000_000_000)}
		s := &shed{t: t, dir: t.TempDir(), arrived: make(chan queue.Reply, 10_000), frozen: m.now}
		s.open()
		defer s.close()
		seen := map[string]queue.Drained{} // by body
		devices, mailboxes := []device.ID{cam, "cam-2"}, []device.Mailbox{alice, bob}
		some := func(rt *rapid.T) *modelRequest {
			if len(m.requests) == 0 {
				rt.Skip()
			}
			return rapid.SampledFrom(m.requests).Draw(rt, "request")
		}
		rt.Repeat(map[string]func(*rapid.T){
			"send": func(rt *rapid.T) {
				r := &modelRequest{dev: rapid.SampledFrom(devices).Draw(rt, "device"), mailbox: rapid.SampledFrom(mailboxes).Draw(rt, "client"), seqs: map[int]bool{}}
				r.id = s.request(r.dev, r.mailbox)
				m.requests = append(m.requests, r)
			},
			"publish": func(rt *rapid.T) {
				r := some(rt)
				seq, final := rapid.IntRange(0, 5).Draw(rt, "seq"), rapid.IntRange(0, 3).Draw(rt, "final") == 0
				body := fmt.Sprint(len(m.requests), "/", len(m.replies), "/", seq, "/", rapid.Uint16().Draw(rt, "body"))
				s.wait(s.offer(reply(r.dev, r.id, seq, final, body)))
				m.put(r, seq, final, body)
			},
			"drain": func(rt *rapid.T) {
				in := queue.Drain{Device: rapid.SampledFrom(devices).Draw(rt, "device"), Limit: rapid.SampledFrom([]int{1, 3, 1000}).Draw(rt, "limit")}
				if rapid.Bool().Draw(rt, "of one client") {
					in.Mailbox = rapid.SampledFrom(mailboxes).Draw(rt, "client")
				}
				ids := map[device.RequestID]bool{}
				if rapid.Bool().Draw(rt, "with ids") {
					ids[some(rt).id] = true
				}
				in.Requests = uuids(slices.Collect(maps.Keys(ids))...)
				var got []string
				for {
					page, err := s.queue.Drain(t.Context(), in)
					if err != nil {
						rt.Fatal(err)
					}
					for _, r := range page.Replies {
						got = append(got, string(r.Body))
						seen[string(r.Body)] = r
						in.After = r.Position
					}
					if !page.More || len(page.Replies) == 0 {
						break
					}
				}
				if want := m.drain(in.Device, in.Mailbox, ids); !slices.Equal(got, want) {
					rt.Fatalf("drained %v, want %v", got, want)
				}
			},
			"acknowledge": func(rt *rapid.T) {
				if len(seen) == 0 {
					rt.Skip()
				}
				body := rapid.SampledFrom(slices.Sorted(maps.Keys(seen))).Draw(rt, "reply")
				after := rapid.SampledFrom([]time.Duration{0, time.Second, time.Minute}).Draw(rt, "grace")
				r := seen[body]
				dev := cam
				if _, err := ring.Verify(r.ID, cam); err != nil {
					dev = "cam-2"
				}
				s.acknowledge(dev, after, r)
				m.acknowledge(body, after)
			},
			"wait": func(rt *rapid.T) {
				d := time.Duration(rapid.IntRange(1, 90).Draw(rt, "seconds")) * time.Second
				m.now = m.now.Add(d)
				s.advance(d)
			},
			"restart": func(*rapid.T) { s.reopen() },
			"": func(rt *rapid.T) {
				unread := 0
				for _, r := range m.replies {
					if !r.gone && r.due.IsZero() {
						unread++
					}
				}
				if n := s.queue.Stats().Waiting; n != unread {
					rt.Fatalf("%d unread, want %d", n, unread)
				}
				for _, r := range m.requests {
					if rec := s.record(r.id); !r.answered && rec.Answered != 0 {
						rt.Fatalf("answered by nothing")
					} else if s.queue.Complete(&rec); r.answered != (rec.Answered != 0) || len(rec.Seqs) != len(r.seqs) {
						rt.Fatalf("answered %v with seqs %v, want %v with %v", rec.Answered != 0, rec.Seqs, r.answered, r.seqs)
					}
				}
			},
		})
	})
}
