package dispatch_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"signaldevice/device"
	"signaldevice/dispatch"
)

// reader is somebody with an open stream.
type reader struct {
	*dispatch.Subscription
	t    *testing.T
	last string // id of the last event
}

func (s *system) read(t *testing.T, c dispatch.Caller, after string) *reader {
	t.Helper()
	sub, err := s.Subscribe(c, after)
	if err != nil {
		t.Fatalf("subscribe: %v", err)
	}
	t.Cleanup(sub.Close)
	return &reader{sub, t, after}
}

// got returns what has come, in plain words.
func (r *reader) got() (events []string) {
	synctest.Wait()
	for {
		select {
		case e, ok := <-r.Events:
			if !ok {
				return append(events, "end")
			}
			if r.last == e.ID && !e.IsResync() || e.ID == "" || len(e.ID) > 32 {
				r.t.Errorf("an event has the id %q, the one before %q", e.ID, r.last)
			}
			r.last = e.ID
			events = append(events, words(e))
		default:
			return events
		}
	}
}

func words(e dispatch.Event) string {
	switch {
	case e.Reply != nil:
		return fmt.Sprintf("reply %d %t", e.Reply.Seq, e.Reply.Final)
	case e.Request != nil:
		return string(e.Request.State)
	case e.Presence != nil:
		return fmt.Sprintf("%s %t", e.Presence.Device, e.Presence.Online)
	default:
		return "resync"
	}
}

func (r *reader) want(events ...string) {
	r.t.Helper()
	if got := r.got(); !slices.Equal(got, events) {
		r.t.Errorf("the stream gave %q, want %q", got, events)
	}
}

// tellState is the broker's hint that a request has come to a state.
func (s *system) tellState(c dispatch.Caller, state device.State) {
	s.broker.tell(dispatch.Hint{Request: &dispatch.RequestHint{Device: cam, Mailbox: device.MailboxOf(c.Client), State: state}})
}

func (s *system) tellPresence(id device.ID, labels device.Labels) {
	s.broker.tell(dispatch.Hint{Presence: &dispatch.PresenceHint{Device: id, Labels: labels, Online: true}})
}

// running starts a system whose hints flow.
func running(t *testing.T) *system {
	s := newSystem(true, nil)
	s.start(t)
	synctest.Wait()
	return s
}

func TestSubscribe_TellsEachWhatConcernsIt(t *testing.T) { // I3
	synctest.Test(t, func(t *testing.T) {
		s := running(t)
		labelled := func(c dispatch.Caller, labels device.Labels) dispatch.Caller { c.Labels = labels; return c }
		north, south := device.Labels{"fleet": "north"}, device.Labels{"fleet": "south"}
		all := s.read(t, alice, "")
		again := s.read(t, labelled(alice, north), "")
		other := s.read(t, labelled(bob, south), "")
		nothing := s.read(t, labelled(caller("mallory"), device.Labels{"!": "no role"}), "")
		boss := s.read(t, admin(), "")
		for _, r := range []*reader{all, again, other, nothing, boss} {
			r.want("resync")
		}

		id := s.send(t, alice, cam)
		s.tellState(alice, device.StateDelivered)
		s.broker.arrive(id, 0, false, `"half"`)
		s.broker.arrive(id, 1, true, `"all"`)
		s.tellState(bob, device.StateExpired)
		s.tellPresence("in-the-north", device.Labels{"fleet": "north", "city": "omsk"})
		s.tellPresence("in-the-south", south)
		s.tellPresence("deleted", nil)

		all.want("delivered", "reply 0 false", "reply 1 true", "answered", "in-the-north true", "in-the-south true", "deleted true")
		again.want("delivered", "reply 0 false", "reply 1 true", "answered", "in-the-north true")
		other.want("expired", "in-the-south true")
		nothing.want()
		boss.want("in-the-north true", "in-the-south true", "deleted true")
		got, err := s.poll(alice, id)
		wantReplies(t, got, err, `"half"`, `"all"`) // the streams have taken nothing
	})
}

func TestSubscribe_GoesOnWhereTheReaderWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := running(t)
		first := s.read(t, alice, "")
		first.want("resync")
		s.tellState(alice, device.StateSent)
		first.want("sent")
		first.Close()
		first.want("end")
		s.tellState(alice, device.StateDelivered)
		s.tellState(bob, device.StateDelivered)
		s.tellPresence(cam, nil)

		second := s.read(t, alice, first.last)
		second.want("delivered", "cam-1 true")
		s.tellState(alice, device.StateNoReply)
		second.want("no_reply")
		s.read(t, alice, second.last).want()
		s.read(t, bob, first.last).want("delivered", "cam-1 true") // an id says nothing of whose it was
	})
}

func TestSubscribe_BeginsWithAResyncWhereItCannotGoOn(t *testing.T) {
	tests := map[string]func(t *testing.T, s *system, last string) string{
		"no id": func(*testing.T, *system, string) string { return "" },
		"another instance's id": func(t *testing.T, _ *system, _ string) string {
			r := running(t).read(t, alice, "")
			r.got()
			return r.last
		},
		"not an id":                    func(*testing.T, *system, string) string { return "\x00\r\nid: 1" },
		"a number that is none":        func(_ *testing.T, _ *system, last string) string { return last + "!" },
		"a number that is yet to come": func(_ *testing.T, _ *system, last string) string { return last + "0" },
		"a number before the first": func(_ *testing.T, _ *system, last string) string {
			boot, _, _ := strings.Cut(last, "-")
			return boot + "-0"
		},
		"more has come than is kept": func(_ *testing.T, s *system, last string) string {
			for range 8193 {
				s.tellState(bob, device.StateSent)
			}
			return last
		},
		"more has come than a reader is given": func(_ *testing.T, s *system, last string) string {
			for range 600 {
				s.tellState(alice, device.StateSent)
			}
			return last
		},
		"hints broke off meanwhile": func(_ *testing.T, s *system, last string) string {
			s.broker.cutStreams()
			time.Sleep(2 * time.Second)
			return last
		},
	}
	for name, idOf := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := running(t)
				r := s.read(t, alice, "")
				r.want("resync")
				s.tellState(alice, device.StateSent)
				r.want("sent")
				r.Close()
				s.read(t, alice, idOf(t, s, r.last)).want("resync")
			})
		})
	}
}

func TestSubscribe_GoesOnAsLongAsAllIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := running(t)
		r := s.read(t, alice, "")
		r.want("resync")
		s.tellState(alice, device.StateSent)
		for range 8191 {
			s.tellState(bob, device.StateSent)
		}
		s.read(t, alice, r.last).want("sent")
	})
}

func TestSubscribe_AResyncComesAfterAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := running(t)
		r := s.read(t, alice, "")
		r.want("resync")
		s.broker.always(brokerDown)
		s.broker.cutStreams()
		time.Sleep(20 * time.Second)
		r.want()
		s.broker.always(fault{})
		time.Sleep(3 * time.Second)
		if got := slices.Compact(r.got()); !slices.Equal(got, []string{"resync"}) {
			t.Errorf("after the outage the stream gave %q, want a resync", got)
		}
		s.tellState(alice, device.StateSent)
		r.want("sent")
		s.read(t, alice, r.last).want()
	})
}

// A reader that never reads is dropped, and the others do not notice: F18.
func TestSubscribe_DropsWhoDoesNotKeepUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := running(t)
		slow, good := s.read(t, alice, ""), s.read(t, alice, "")
		good.want("resync")
		for i := range 1024 {
			s.tellState(alice, device.StateSent)
			if i%500 == 0 {
				good.got()
			}
		}
		<-slow.Ended
		if !slow.Behind() || good.Behind() {
			t.Errorf("behind: %t and %t, want only the one that does not read", slow.Behind(), good.Behind())
		}
		events := slow.got()
		if len(events) != 1025 || events[1024] != "end" {
			t.Errorf("the slow one was given %d events, the last %s; want 1024 and the end", len(events), events[len(events)-1])
		}
		good.got()
		s.tellState(alice, device.StateDelivered)
		good.want("delivered")
	})
}

func TestSubscribe_IsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := running(t)
		var all []*reader
		for client := range 10 {
			for range 100 {
				all = append(all, s.read(t, caller(strconv.Itoa(client)), ""))
			}
		}
		full := func(c dispatch.Caller) {
			t.Helper()
			_, err := s.Subscribe(c, "")
			wantKind(t, err, device.RateLimited)
		}
		full(alice)
		full(caller("0"))
		all[0].Close()
		all[0].Close()
		all[999].Close()
		s.read(t, alice, "")
		s.read(t, caller("0"), "")
		full(caller("0"))
		for _, r := range all {
			r.Close()
		}
		s.read(t, alice, "").want("resync")
	})
}

func TestSubscribe_CloseEndsIt(t *testing.T) { // F13
	synctest.Test(t, func(t *testing.T) {
		s := running(t)
		before := s.read(t, alice, "")
		before.want("resync")
		s.Close()
		before.want("end")
		if before.Behind() {
			t.Error("it is said to be behind")
		}
		s.read(t, alice, before.last).want("end")
	})
}
