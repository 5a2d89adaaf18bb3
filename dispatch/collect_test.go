package dispatch_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"signaldevice/device"
	"signaldevice/dispatch"
)

// bothCaches runs a test over a durable cache and over one that is not.
func bothCaches(t *testing.T, test func(t *testing.T, durable bool)) {
	t.Run("durable cache", func(t *testing.T) { test(t, true) })
	t.Run("cache that is not durable", func(t *testing.T) { test(t, false) })
}

func TestReplies_AreGivenToTheirOwnClient(t *testing.T) { // I3
	bothCaches(t, func(t *testing.T, durable bool) {
		s := newSystem(durable, nil)
		a, b := s.answered(t, alice, `"for alice"`), s.answered(t, bob, `"for bob"`)

		got, err := s.poll(alice)
		wantReplies(t, got, err, `"for alice"`)
		if got.Source != dispatch.SourceBroker || !got.Answered || got.Requests[0].ID != a {
			t.Errorf("answer = %+v", got)
		}
		drains := s.broker.made("drain")
		got, err = s.poll(bob)
		wantReplies(t, got, err, `"for bob"`)
		if got.Source != dispatch.SourceCache || got.Requests[0].ID != b {
			t.Errorf("answer = %+v", got)
		}
		if s.broker.made("drain") != drains {
			t.Error("the cache had the reply and the queue was drained all the same")
		}
	})
}

func TestReplies_LeaveTheQueueOnlyWhenTheyMay(t *testing.T) { // I2
	t.Run("a durable cache takes them over", func(t *testing.T) {
		s := newSystem(true, nil)
		s.answered(t, bob, `1`)
		if _, err := s.poll(alice); err != nil {
			t.Fatal(err)
		}
		if n := s.broker.unread(); n != 0 {
			t.Errorf("%d replies are still in the queue", n)
		}
	})
	t.Run("another cache only copies them until their client has read", func(t *testing.T) {
		s := newSystem(false, nil)
		s.answered(t, bob, `1`)
		if _, err := s.poll(alice); err != nil {
			t.Fatal(err)
		}
		if n := s.broker.unread(); n != 1 {
			t.Errorf("%d replies wait in the queue, want 1", n)
		}
		if _, err := s.poll(bob); err != nil {
			t.Fatal(err)
		}
		if n := s.broker.unread(); n != 0 {
			t.Errorf("%d replies wait in the queue after they were read", n)
		}
	})
	t.Run("a durable cache that is not sure of them gets a copy, until it is", func(t *testing.T) {
		s := newSystem(true, nil)
		s.answered(t, bob, `1`)
		for _, want := range []int{1, 0} {
			s.cache.unsafe = want > 0
			if _, err := s.poll(alice); err != nil {
				t.Fatal(err)
			}
			if n := s.broker.unread(); n != want {
				t.Errorf("%d replies wait in the queue, want %d", n, want)
			}
		}
		got, err := s.poll(bob)
		wantReplies(t, got, err, `1`)
	})
	t.Run("a lost copy is read from the queue again", func(t *testing.T) {
		s := newSystem(false, nil)
		s.answered(t, bob, `1`)
		if _, err := s.poll(alice); err != nil {
			t.Fatal(err)
		}
		s.cache.flush()
		got, err := s.poll(bob)
		wantReplies(t, got, err, `1`)
	})
}

func TestReplies_Grace(t *testing.T) {
	tests := map[string]struct {
		durable  bool
		cacheOut bool
		grace    time.Duration
	}{
		"durable cache":                         {durable: true, grace: 30 * time.Second},
		"cache that is not durable":             {grace: 30 * time.Second},
		"no cache":                              {cacheOut: true, grace: 30 * time.Second},
		"durable cache, read once only":         {durable: true},
		"cache not durable, read once only":     {},
		"no cache, read once only":              {cacheOut: true},
		"durable cache, the shortest of graces": {durable: true, grace: time.Second},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSystem(tt.durable, func(c *dispatch.Config) { c.ReplyGrace = tt.grace })
				if tt.cacheOut {
					s.cache.always(cacheDown)
				}
				id := s.answered(t, alice, `1`)
				got, err := s.poll(alice)
				wantReplies(t, got, err, `1`)
				wantStates(t, got, device.StateAnswered)

				if tt.grace > 0 {
					time.Sleep(tt.grace - time.Millisecond)
					got, err = s.poll(alice, id)
					wantReplies(t, got, err, `1`)
					wantStates(t, got, device.StateAnswered)
					got, err = s.poll(alice)
					wantReplies(t, got, err)
				}
				time.Sleep(2 * time.Millisecond) // re-reads do not extend the grace
				got, err = s.poll(alice, id)
				wantReplies(t, got, err)
				wantStates(t, got, device.StateAlreadyRead)
			})
		})
	}
}

func TestReplies_States(t *testing.T) {
	tests := map[string]struct {
		prepare func(t *testing.T, s *system) device.RequestID
		want    device.State
	}{
		"delivered": {
			func(t *testing.T, s *system) device.RequestID { return s.send(t, alice, cam) }, device.StateDelivered,
		},
		"no reply by the deadline": {
			func(t *testing.T, s *system) device.RequestID {
				id := s.send(t, alice, cam)
				time.Sleep(31 * time.Second)
				return id
			}, device.StateNoReply,
		},
		"only progress by the deadline is not silence (I8)": {
			func(t *testing.T, s *system) device.RequestID {
				id := s.send(t, alice, cam)
				s.broker.arrive(id, 0, false, `1`)
				if _, err := s.poll(alice); err != nil {
					t.Fatal(err)
				}
				time.Sleep(61 * time.Second)
				return id
			}, device.StateProgress,
		},
		"held": {
			func(t *testing.T, s *system) device.RequestID { return s.hold(t) }, device.StateHeld,
		},
		"never delivered": {
			func(t *testing.T, s *system) device.RequestID {
				id := s.hold(t)
				time.Sleep(11 * time.Second)
				return id
			}, device.StateExpired,
		},
		"cancelled": {
			func(t *testing.T, s *system) device.RequestID {
				id := s.hold(t)
				if _, err := s.Cancel(t.Context(), alice, id); err != nil {
					t.Fatal(err)
				}
				return id
			}, device.StateCancelled,
		},
		"of another client": {
			func(t *testing.T, s *system) device.RequestID { return s.answered(t, bob, `1`) }, device.StateNotFound,
		},
		"of another device": {
			func(t *testing.T, s *system) device.RequestID {
				id := s.send(t, alice, cam2)
				s.broker.arrive(id, 0, true, `1`)
				return id
			}, device.StateNotFound,
		},
		"forged": {
			func(t *testing.T, s *system) device.RequestID {
				id := []byte(s.answered(t, alice, `1`))
				if i := len(id) - 2; id[i] == 'A' { // a character of the same alphabet
					id[i] = 'B'
				} else {
					id[i] = 'A'
				}
				if _, err := device.RequestID(id).Claims(); err != nil {
					t.Fatal("the forged id has to look like one")
				}
				return device.RequestID(id)
			}, device.StateNotFound,
		},
		"no request id at all": {
			func(*testing.T, *system) device.RequestID { return "sdr1_x" }, device.StateNotFound,
		},
		"aged out of the cache": {
			func(t *testing.T, s *system) device.RequestID {
				id := s.answered(t, alice, `1`)
				if _, err := s.poll(bob); err != nil {
					t.Fatal(err)
				}
				s.cache.flush()
				return id
			}, device.StateGone,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSystem(true, nil)
				id := tt.prepare(t, s)
				got, err := s.poll(alice, id)
				wantReplies(t, got, err)
				wantStates(t, got, tt.want)
				if got.Answered {
					t.Error("answered without a reply")
				}
			})
		})
	}
}

// hold sends a command to a device that is not connected.
func (s *system) hold(t *testing.T) device.RequestID {
	t.Helper()
	s.broker.offline[cam] = true
	out, err := s.Send(t.Context(), alice, dispatch.SendInput{Device: cam, Command: "reboot"})
	if err != nil {
		t.Fatal(err)
	}
	return out.Request.ID
}

func TestReplies_OneStateForEachIDInOrder(t *testing.T) {
	s := newSystem(true, nil)
	open, done := s.send(t, alice, cam), s.answered(t, alice, `1`)
	got, err := s.poll(alice, open, "nonsense", done, open)
	wantReplies(t, got, err, `1`)
	wantStates(t, got, device.StateDelivered, device.StateNotFound, device.StateAnswered, device.StateDelivered)
	if !got.Answered {
		t.Error("a final reply is there and answered is false")
	}
}

func TestReplies_LateReplyIsGiven(t *testing.T) { // I5
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(true, nil)
		id := s.send(t, alice, cam)
		time.Sleep(31 * time.Second)
		got, err := s.poll(alice, id)
		wantReplies(t, got, err)
		wantStates(t, got, device.StateNoReply)
		s.broker.arrive(id, 0, true, `1`)
		got, err = s.poll(alice, id)
		wantReplies(t, got, err, `1`)
		if !got.Replies[0].Late {
			t.Error("the reply is not marked late")
		}
	})
}

func TestReplies_ProgressThenFinal(t *testing.T) {
	bothCaches(t, func(t *testing.T, durable bool) {
		s := newSystem(durable, nil)
		id := s.send(t, alice, cam)
		s.broker.arrive(id, 0, false, `"half"`)
		got, err := s.poll(alice, id)
		wantReplies(t, got, err, `"half"`)
		wantStates(t, got, device.StateProgress)
		s.broker.arrive(id, 1, true, `"all"`)
		got, err = s.poll(alice)
		wantReplies(t, got, err, `"all"`)
		got, err = s.poll(alice, id)
		wantReplies(t, got, err, `"half"`, `"all"`)
		wantStates(t, got, device.StateAnswered)
	})
}

// The table of design section 9, "Fallbacks", for polls. Each case has one cached reply of alice, one queued, and one
// request without reply.
func TestReplies_Fallbacks(t *testing.T) {
	cached, waiting, open := 0, 1, 2
	full := func(s *system) { s.cache.setLimit(1) }
	type want struct {
		kind    device.Kind
		replies []string
		states  []device.State
		out     []string
	}
	answered, delivered, unverified := device.StateAnswered, device.StateDelivered, device.StateUnverified
	tests := map[string]struct {
		broker, cache fault
		prepare       func(*system)
		ids           []int // of the three requests; nil: a poll without ids
		want          want
	}{
		"both up, all asked for": {
			ids:  []int{cached, waiting, open},
			want: want{replies: []string{`"cached"`, `"waiting"`}, states: []device.State{answered, answered, delivered}},
		},
		"both up, the cached one": {
			ids:  []int{cached},
			want: want{replies: []string{`"cached"`}, states: []device.State{answered}},
		},
		"both up, whatever there is": {
			want: want{replies: []string{`"cached"`}, states: []device.State{answered}},
		},
		"broker down, all asked for": {
			broker: brokerDown, ids: []int{cached, waiting, open},
			want: want{replies: []string{`"cached"`}, states: []device.State{answered, unverified, unverified}, out: []string{"broker"}},
		},
		"broker down, whatever there is": {
			broker: brokerDown,
			want:   want{replies: []string{`"cached"`}, states: []device.State{answered}, out: nil},
		},
		"broker down, nothing cached": {
			broker: brokerDown, ids: []int{waiting, open},
			want: want{kind: device.BrokerUnavailable, out: []string{"broker"}},
		},
		"broker down, nothing cached, whatever there is": {
			broker: brokerDown, prepare: func(s *system) { s.cache.flush() },
			want: want{kind: device.BrokerUnavailable, out: []string{"broker"}},
		},
		"cache down, all asked for": {
			cache: cacheDown, ids: []int{cached, waiting, open},
			want: want{replies: []string{`"waiting"`}, states: []device.State{answered, answered, delivered}, out: []string{"cache"}},
		},
		"cache down, whatever there is": {
			cache: cacheDown,
			want:  want{replies: []string{`"waiting"`}, states: []device.State{answered}, out: []string{"cache"}},
		},
		"cache full, all asked for": {
			prepare: full, ids: []int{cached, waiting, open},
			want: want{replies: []string{`"cached"`, `"waiting"`}, states: []device.State{answered, answered, delivered}, out: []string{"cache"}},
		},
		"both down, all asked for": {
			broker: brokerDown, cache: cacheDown, ids: []int{cached, waiting, open},
			want: want{kind: device.Unavailable, out: []string{"broker", "cache"}},
		},
		"both down, whatever there is": {
			broker: brokerDown, cache: cacheDown,
			want: want{kind: device.Unavailable, out: []string{"broker", "cache"}},
		},
		"cache cut off, ids": {
			cache: cutOff, ids: []int{cached, waiting, open},
			want: want{replies: []string{`"waiting"`}, states: []device.State{answered, answered, delivered}, out: []string{"cache"}},
		},
		"cache cut off, whatever there is: replies may be lost on the way": {
			cache: cutOff,
			want:  want{kind: device.OutcomeUnknown, out: []string{"cache"}},
		},
		"cache cut off and broker down": {
			cache: cutOff, broker: brokerDown,
			want: want{kind: device.Unavailable, out: []string{"broker", "cache"}},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := newSystem(true, nil)
			ids := make([]device.RequestID, 3)
			ids[cached] = s.answered(t, alice, `"cached"`)
			if _, err := s.poll(bob); err != nil {
				t.Fatal(err)
			}
			ids[waiting], ids[open] = s.answered(t, alice, `"waiting"`), s.send(t, alice, cam)
			if tt.prepare != nil {
				tt.prepare(s)
			}
			s.broker.always(tt.broker)
			s.cache.always(tt.cache)

			var asked []device.RequestID
			for _, i := range tt.ids {
				asked = append(asked, ids[i])
			}
			began := time.Now()
			got, err := s.poll(alice, asked...)
			if tt.want.kind != device.OK {
				wantKind(t, err, tt.want.kind)
			} else {
				wantReplies(t, got, err, tt.want.replies...)
				wantStates(t, got, tt.want.states...)
			}
			var out []string
			for _, o := range s.Degraded(began) {
				out = append(out, o.Dependency)
			}
			if !slices.Equal(out, tt.want.out) {
				t.Errorf("degraded = %v, want %v", out, tt.want.out)
			}
			// Nothing is lost by any of it: once all is well, both replies are there for their client.
			s.broker.always(fault{})
			s.cache.always(fault{})
			if tt.prepare == nil {
				got, err = s.poll(alice, ids...)
				wantReplies(t, got, err, `"cached"`, `"waiting"`)
			}
		})
	}
}

func TestReplies_NoReplyIsNeverSaidUnasked(t *testing.T) { // I8
	tests := map[string]struct {
		broker, cache fault
		want          device.State // "": an error
	}{
		"both up":                             {want: device.StateNoReply},
		"cache down: the record still tells":  {cache: cacheDown, want: device.StateNoReply},
		"cache cut off":                       {cache: cutOff},
		"broker down":                         {broker: brokerDown},
		"both down":                           {broker: brokerDown, cache: cacheDown},
		"broker up, but the records are cut":  {broker: fault{after: device.Errorf(device.OutcomeUnknown, "cut")}},
		"cache cut off and the broker silent": {broker: fault{before: context.DeadlineExceeded}, cache: cutOff},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSystem(true, nil)
				id := s.send(t, alice, cam)
				time.Sleep(31 * time.Second)
				s.broker.always(tt.broker)
				s.cache.always(tt.cache)
				got, err := s.poll(alice, id)
				if tt.want == "" {
					if err == nil {
						t.Fatalf("states = %v, want an error", states(got))
					}
					return
				}
				wantReplies(t, got, err)
				wantStates(t, got, tt.want)
			})
		})
	}
}

func TestReplies_ForeignRepliesDoNotHideOwnOnes(t *testing.T) {
	const others = 250 // more than two pages
	tests := map[string]struct {
		durable bool
		prepare func(*system)
	}{
		"durable cache":             {durable: true},
		"cache that is not durable": {},
		"cache down":                {durable: true, prepare: func(s *system) { s.cache.always(cacheDown) }},
		"cache full after a page":   {durable: true, prepare: func(s *system) { s.cache.setLimit(120) }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := newSystem(tt.durable, nil)
			for range others {
				s.answered(t, bob, `"foreign"`)
			}
			id := s.answered(t, alice, `"own"`)
			if tt.prepare != nil {
				tt.prepare(s)
			}
			got, err := s.poll(alice, id)
			wantReplies(t, got, err, `"own"`)

			s.cache.setLimit(0)
			s.cache.always(fault{})
			seen := 0
			for range 4 {
				got, err = s.poll(bob)
				if err != nil {
					t.Fatal(err)
				}
				seen += len(got.Replies)
			}
			if seen != others {
				t.Errorf("the other client read %d replies, want %d", seen, others)
			}
		})
	}
}

func TestReplies_FullCacheIsNotFilledInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(true, nil)
		s.answered(t, bob, `1`)
		_, _ = s.poll(alice)
		s.cache.setLimit(1)
		s.answered(t, bob, `2`)
		for range 3 {
			if _, err := s.poll(alice); err != nil {
				t.Fatal(err)
			}
		}
		if n := s.cache.made("put"); n != 2 {
			t.Errorf("%d puts, want 2: one that worked and one that was refused", n)
		}
		if n := s.broker.unread(); n != 1 {
			t.Errorf("%d replies in the queue, want the one that did not fit", n)
		}
		time.Sleep(time.Second)
		s.cache.setLimit(0)
		_, _ = s.poll(alice)
		if n := s.broker.unread(); n != 0 {
			t.Errorf("%d replies in the queue after the cache had room again", n)
		}
		if got := s.Degraded(time.Now()); len(got) != 0 {
			t.Errorf("still degraded: %v", got)
		}
	})
}

// I2: a cache that turns out not to be durable while it stores may not have the only copy.
func TestReplies_CacheThatIsDurableNoMoreKeepsThemInTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(true, nil)
		id := s.answered(t, alice, `1`)
		s.cache.set(func(op string) fault {
			if op == "put" {
				s.cache.durable = false // its connection was lost, and this one leads to another server
			}
			return fault{}
		})
		if _, err := s.poll(bob); err != nil {
			t.Fatal(err)
		}
		if n := s.broker.unread(); n != 1 {
			t.Errorf("%d replies in the queue, want the one that was put", n)
		}
		s.cache.flush()
		got, err := s.poll(alice, id)
		wantReplies(t, got, err, `1`)
	})
}

// I8: replies for which one answer of the cache has no room are neither gone nor out of reach.
func TestReplies_MoreThanOneTakeReturns(t *testing.T) {
	for name, tt := range map[string]struct{ asked, most, given int }{
		"they fit":                     {4, 4, 4},
		"they fit into two":            {4, 3, 4},
		"one more than all takes give": {4, 1, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSystem(true, nil)
				var ids []device.RequestID
				for range tt.asked {
					ids = append(ids, s.answered(t, alice, `1`))
				}
				if _, err := s.poll(alice, ids...); err != nil { // its answer is lost
					t.Fatal(err)
				}
				s.cache.most = tt.most
				got, err := s.poll(alice, ids...)
				if err != nil || len(got.Replies) != tt.given {
					t.Errorf("given %d replies (%v), want %d", len(got.Replies), err, tt.given)
				}
				for _, r := range got.Requests {
					if r.State != device.StateAnswered {
						t.Errorf("a request within its grace is %s", r.State)
					}
				}
			})
		})
	}
}

func TestReplies_LostAcknowledgementMakesADuplicateThatIsAbsorbed(t *testing.T) { // I2, F11
	bothCaches(t, func(t *testing.T, durable bool) {
		synctest.Test(t, func(t *testing.T) {
			s := newSystem(durable, nil)
			id := s.answered(t, alice, `1`)
			s.broker.always(brokerDown, "acknowledge")
			got, err := s.poll(alice)
			wantReplies(t, got, err, `1`)
			s.broker.always(fault{})
			if n := s.broker.unread(); n != 1 {
				t.Fatalf("%d replies in the queue, want the one that was not acknowledged", n)
			}
			got, err = s.poll(alice) // within the grace
			wantReplies(t, got, err)
			time.Sleep(31 * time.Second)
			got, err = s.poll(alice, id)
			wantReplies(t, got, err)
			wantStates(t, got, device.StateAlreadyRead)
			if n := s.broker.unread(); n != 0 {
				t.Errorf("%d replies are still in the queue", n)
			}
			if s.counted.drained[dispatch.DuplicateCopy] == 0 {
				t.Error("the duplicate was not counted")
			}
		})
	})
}

func TestReplies_FromTwoInstances(t *testing.T) { // I6
	t.Run("what one moves the other finds", func(t *testing.T) {
		s := newSystem(true, nil)
		other := dispatch.New(s.cfg)
		id := s.answered(t, alice, `1`)
		if _, err := s.poll(bob); err != nil {
			t.Fatal(err)
		}
		got, err := other.Replies(t.Context(), alice, dispatch.RepliesInput{Device: cam, IDs: []device.RequestID{id}})
		wantReplies(t, got, err, `1`)
	})
	t.Run("moved between the reads of one poll", func(t *testing.T) { // I8
		s := newSystem(true, nil)
		id := s.answered(t, alice, `1`)
		// Another instance drains and acknowledges after this poll looked into the cache, and before it drains.
		s.broker.set(func(op string) fault {
			if op == "drain" {
				s.broker.set(nil)
				if _, err := dispatch.New(s.cfg).Replies(context.Background(), bob, dispatch.RepliesInput{Device: cam}); err != nil {
					t.Error(err)
				}
			}
			return fault{}
		})
		got, err := s.poll(alice, id)
		wantReplies(t, got, err, `1`)
	})
	t.Run("arrived between the drain and the states", func(t *testing.T) { // I8
		s := newSystem(true, nil)
		id := s.send(t, alice, cam)
		s.cache.set(func(op string) fault {
			if op == "take" && s.cache.made("take") == 2 {
				s.broker.arrive(id, 0, true, `1`)
			}
			return fault{}
		})
		got, err := s.poll(alice, id)
		wantReplies(t, got, err, `1`)
		wantStates(t, got, device.StateAnswered)
	})
	t.Run("a copy in one's own memory is not given again after it was read at the other", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newSystem(false, nil)
			cfg := s.cfg
			cfg.Cache = newFakeCache(time.Now, false)
			other := dispatch.New(cfg)
			s.answered(t, alice, `1`)
			if _, err := s.poll(bob); err != nil { // leaves a copy in the first instance
				t.Fatal(err)
			}
			got, err := other.Replies(t.Context(), alice, dispatch.RepliesInput{Device: cam})
			wantReplies(t, got, err, `1`)
			time.Sleep(31 * time.Second)
			got, err = s.poll(alice)
			wantReplies(t, got, err)
		})
	})
	t.Run("read straight from the queue, then again by id once the cache is back", func(t *testing.T) {
		s := newSystem(true, nil)
		id := s.answered(t, alice, `1`)
		s.cache.always(cacheDown)
		got, err := s.poll(alice)
		wantReplies(t, got, err, `1`)
		s.cache.always(fault{})
		got, err = s.poll(alice)
		wantReplies(t, got, err)
		got, err = s.poll(alice, id)
		wantReplies(t, got, err, `1`)
		wantStates(t, got, device.StateAnswered)
	})
}

func TestReplies_RepliesThatACacheMixesUpAreKeptBack(t *testing.T) { // I3
	s := newSystem(true, nil)
	s.answered(t, bob, `"secret"`)
	if _, err := s.poll(bob); err != nil {
		t.Fatal(err)
	}
	s.cache.records[0].grace = time.Time{}
	cfg := s.cfg
	cfg.Cache = mixedUp{s.cache}
	got, err := dispatch.New(cfg).Replies(t.Context(), alice, dispatch.RepliesInput{Device: cam})
	wantReplies(t, got, err)
}

// mixedUp is a cache that gives everybody everything.
type mixedUp struct{ *fakeCache }

func (m mixedUp) Take(context.Context, dispatch.Take) (dispatch.Taken, error) {
	return dispatch.Taken{Replies: []device.Reply{m.records[0].reply}}, nil
}

func TestReplies_RefusesBadInput(t *testing.T) { // I10
	ids := func(n int) []device.RequestID {
		out := make([]device.RequestID, n)
		for i := range out {
			out[i] = device.RequestID("x" + strconv.Itoa(i))
		}
		return out
	}
	tests := map[string]struct {
		in   dispatch.RepliesInput
		want device.Kind
	}{
		"as many ids as allowed": {dispatch.RepliesInput{Device: cam, IDs: ids(100)}, device.OK},
		"one id too many":        {dispatch.RepliesInput{Device: cam, IDs: ids(101)}, device.Invalid},
		"the longest wait":       {dispatch.RepliesInput{Device: cam, IDs: ids(1), Wait: time.Minute}, device.OK},
		"a longer wait":          {dispatch.RepliesInput{Device: cam, Wait: time.Minute + 1}, device.Invalid},
		"a negative wait":        {dispatch.RepliesInput{Device: cam, Wait: -1}, device.Invalid},
		"no device":              {dispatch.RepliesInput{}, device.DeviceNotFound},
		"an unknown device":      {dispatch.RepliesInput{Device: "nobody"}, device.DeviceNotFound},
		"what is no device id":   {dispatch.RepliesInput{Device: "a/b"}, device.DeviceNotFound},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := newSystem(true, nil).Replies(t.Context(), alice, tt.in)
			wantKind(t, err, tt.want)
		})
	}
}

func TestReplies_DeviceOutsideTheLabelsDoesNotExist(t *testing.T) {
	s := newSystem(true, nil)
	s.broker.devices[cam] = device.Device{ID: cam, Labels: device.Labels{"fleet": "a"}}
	inside, outside := alice, bob
	inside.Labels, outside.Labels = device.Labels{"fleet": "a"}, device.Labels{"fleet": "b"}
	_, err := s.poll(inside)
	wantKind(t, err, device.OK)
	_, err = s.poll(outside)
	wantKind(t, err, device.DeviceNotFound)

	// A reply of one's own is given whatever the labels have become since.
	id := s.answered(t, inside, `1`)
	inside.Labels = outside.Labels
	got, err := s.poll(inside, id)
	wantReplies(t, got, err, `1`)
}

func TestReplies_HangingDependencies(t *testing.T) { // I7, F2, F4
	tests := map[string]struct {
		broker, cache fault
		within        time.Duration
		want          device.Kind
	}{
		"cache hangs":  {cache: fault{hang: true}, within: 250 * time.Millisecond},
		"broker hangs": {broker: fault{hang: true}, within: 1500 * time.Millisecond, want: device.BrokerUnavailable},
		"both hang":    {broker: fault{hang: true}, cache: fault{hang: true}, within: 1750 * time.Millisecond, want: device.Unavailable},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSystem(true, nil)
				id := s.answered(t, alice, `1`)
				s.broker.always(tt.broker)
				s.cache.always(tt.cache)
				start := time.Now()
				_, err := s.poll(alice, id)
				if took := time.Since(start); took > tt.within {
					t.Errorf("took %v, want at most %v", took, tt.within)
				}
				wantKind(t, err, tt.want)
			})
		})
	}
}

// Waiting for the work of others does not come on top of one's own: alice asks for the record of what the cache has, and
// just as her time ends bob reads the queue.
func TestReplies_HangingBrokerUnderTwoPolls(t *testing.T) { // I7, F2
	bothCaches(t, func(t *testing.T, durable bool) {
		synctest.Test(t, func(t *testing.T) {
			s := newSystem(durable, nil)
			bobs := s.send(t, bob, cam)
			ids := []device.RequestID{s.answered(t, alice, `1`), s.send(t, alice, cam)}
			got, err := s.poll(alice, ids...) // the first is in the cache now
			wantReplies(t, got, err, `1`)
			s.broker.always(fault{hang: true})
			done := make(chan time.Duration)
			poll := func(c dispatch.Caller, ids ...device.RequestID) {
				start := time.Now()
				_, _ = s.poll(c, ids...)
				done <- time.Since(start)
			}
			go poll(alice, ids...)
			time.Sleep(1400 * time.Millisecond)
			go poll(bob, bobs)
			for range 2 {
				if took := <-done; took > 1750*time.Millisecond {
					t.Errorf("a poll took %v", took)
				}
			}
		})
	})
}

func TestReplies_SlowCache(t *testing.T) { // I7, F8
	for _, latency := range []time.Duration{5, 50, 80, 100, 125, 160, 200, 245} {
		latency *= time.Millisecond
		t.Run(latency.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSystem(true, nil)
				s.cache.set(func(string) fault { time.Sleep(latency); return fault{} })
				foreign := s.answered(t, bob, `"foreign"`)
				own := s.answered(t, alice, `"own"`)
				start := time.Now()
				got, err := s.poll(alice)
				wantReplies(t, got, err, `"own"`)
				wantTook(t, time.Since(start), 0, 250*time.Millisecond)
				start = time.Now()
				got, err = s.poll(bob, foreign)
				wantReplies(t, got, err, `"foreign"`)
				wantTook(t, time.Since(start), 0, 250*time.Millisecond)
				got, err = s.poll(alice, own)
				wantReplies(t, got, err, `"own"`)
			})
		})
	}
	t.Run("too slow for its use, it is left out", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newSystem(true, nil)
			s.start(t)
			s.cache.set(func(string) fault { time.Sleep(450 * time.Millisecond); return fault{} })
			time.Sleep(10 * time.Second)
			s.answered(t, alice, `1`)
			start := time.Now()
			got, err := s.poll(alice)
			wantReplies(t, got, err, `1`)
			wantTook(t, time.Since(start), 0, 0)
		})
	})
}

// Replies that have just been moved into the cache are not passed over in silence when it fails right then.
func TestReplies_CacheLostAfterTheMove(t *testing.T) { // I8
	s := newSystem(true, nil)
	id := s.answered(t, alice, `1`)
	s.cache.set(nth("take", 2, cacheDown))
	_, err := s.poll(alice)
	wantKind(t, err, device.Unavailable)
	got, err := s.poll(alice, id)
	wantReplies(t, got, err, `1`)
}

func TestReplies_ConcurrentPollsShareDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(true, nil)
		const clients = 50
		ids := make([]device.RequestID, clients)
		for i := range ids {
			ids[i] = s.answered(t, caller(strconv.Itoa(i)), strconv.Itoa(i))
		}
		release := make(chan struct{})
		s.broker.set(func(op string) fault {
			if op == "drain" {
				<-release
			}
			return fault{}
		})
		got := make(chan string, clients)
		for i := range clients {
			go func() {
				r, err := s.poll(caller(strconv.Itoa(i)), ids[i])
				if err != nil || len(r.Replies) != 1 || string(r.Replies[0].Body) != strconv.Itoa(i) {
					got <- "client " + strconv.Itoa(i) + " got something else"
					return
				}
				got <- ""
			}()
		}
		synctest.Wait()
		if n := s.broker.made("drain"); n != 1 {
			t.Errorf("%d drains at the same time, want 1", n)
		}
		close(release)
		for range clients {
			if complaint := <-got; complaint != "" {
				t.Error(complaint)
			}
		}
		if n := s.broker.made("drain"); n > 2 {
			t.Errorf("%d drains for polls at the same time, want at most 2", n)
		}
	})
}

// once gives the first call of this name the fault, and no other.
func once(name string, what fault) func(string) fault { return nth(name, 1, what) }

// nth gives the n-th call of this name the fault, counted from now.
func nth(name string, n int, what fault) func(string) fault {
	return func(op string) fault {
		if op == name {
			n--
			if n == 0 {
				return what
			}
		}
		return fault{}
	}
}

func TestReplies_AnErrorTakesNothingFromTheQueue(t *testing.T) { // I2
	t.Run("the cache is full, and cut off when it is asked again", func(t *testing.T) {
		s := newSystem(true, nil)
		s.answered(t, bob, `1`)
		_, _ = s.poll(alice)
		s.cache.setLimit(1)
		s.answered(t, alice, `2`)
		s.cache.set(nth("take", 2, cutOff))
		_, err := s.poll(alice)
		wantKind(t, err, device.OutcomeUnknown)
		if n := s.broker.unread(); n != 1 {
			t.Errorf("%d unread replies in the queue, want 1", n)
		}
	})
	t.Run("the caller leaves", func(t *testing.T) {
		s := newSystem(true, nil)
		s.cache.always(cacheDown)
		s.answered(t, alice, `1`)
		ctx, leave := context.WithCancel(t.Context())
		s.broker.set(once("drain", fault{then: leave}))
		if _, err := s.Replies(ctx, alice, dispatch.RepliesInput{Device: cam}); err == nil {
			t.Error("no error")
		}
		if n := s.broker.unread(); n != 1 {
			t.Errorf("%d unread replies in the queue, want 1", n)
		}
	})
}

func TestReplies_WhatWasReadStraightNeverBecomesUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(true, nil)
		s.cache.always(cacheDown)
		id := s.answered(t, alice, `1`)
		got, err := s.poll(alice)
		wantReplies(t, got, err, `1`)
		s.cache.always(fault{})
		time.Sleep(29 * time.Second)
		got, err = s.poll(alice, id)
		wantReplies(t, got, err, `1`)
		got, err = s.poll(alice)
		wantReplies(t, got, err)
		time.Sleep(2 * time.Second)
		got, err = s.poll(alice, id)
		wantReplies(t, got, err)
		wantStates(t, got, device.StateAlreadyRead)
	})
}

// A mark tells that one reply of the request was read. It must not stand for the final one, which may have been taken
// and lost on the way.
func TestReplies_AMarkOfProgressIsNotTheEnd(t *testing.T) { // I8
	tests := map[string]struct {
		broker func(string) fault
		want   device.State
		kind   device.Kind
	}{
		"the record tells of the final reply": {nil, device.StateAnswered, device.OK},
		"the record is cut off too":           {once("requests", cutOff), "", device.Unavailable},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSystem(true, nil)
				id := s.send(t, alice, cam)
				s.broker.arrive(id, 0, false, `"half"`)
				_, _ = s.poll(alice)
				time.Sleep(31 * time.Second)
				s.broker.arrive(id, 1, true, `"all"`)
				s.cache.set(nth("take", 2, cutOff))
				s.broker.set(tt.broker)
				got, err := s.poll(alice, id)
				wantKind(t, err, tt.kind)
				if err == nil {
					wantReplies(t, got, err)
					wantStates(t, got, tt.want)
				}
				got, err = s.poll(alice, id)
				wantReplies(t, got, err, `"all"`)
			})
		})
	}
}

func TestReplies_ADrainUnderWayIsNotEnoughForALaterPoll(t *testing.T) { // I8
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(true, nil)
		held := make(chan struct{})
		s.broker.set(once("drain", fault{then: func() { <-held }}))
		first := s.wait(bob, 0)
		synctest.Wait() // it has read an empty queue
		s.answered(t, alice, `1`)
		second := s.wait(alice, 0)
		synctest.Wait()
		close(held)
		wantReplies(t, (<-first).got, nil)
		out := <-second
		wantReplies(t, out.got, out.err, `1`)
	})
}

func TestReplies_ADrainGoesOnWhenItsCallerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(true, nil)
		s.answered(t, alice, `1`)
		held := make(chan struct{})
		s.broker.set(nth("drain", 1, fault{then: func() { <-held }}))
		ctx, leave := context.WithCancel(t.Context())
		first := inBackground(func() (dispatch.Replies, error) {
			return s.Replies(ctx, bob, dispatch.RepliesInput{Device: cam})
		})
		synctest.Wait()
		second := s.wait(alice, 0)
		synctest.Wait()
		leave()
		close(held)
		<-first
		out := <-second
		wantReplies(t, out.got, out.err, `1`)
		if n := s.broker.unread(); n != 0 {
			t.Errorf("%d replies in the queue", n)
		}
	})
}

func TestReplies_APutThatGoesWrongLosesNothing(t *testing.T) { // I2
	big := `"` + strings.Repeat("x", 700_000) + `"`
	tests := map[string]func(string) fault{
		"the cache fails within":            once("put", fault{before: errors.New("a fault of its own")}),
		"the second part is cut off":        nth("put", 2, cutOff),
		"the second part finds no room":     nth("put", 2, outage(device.CacheFull)),
		"the first acknowledgement is lost": nil,
	}
	for name, faulty := range tests {
		t.Run(name, func(t *testing.T) {
			s := newSystem(true, nil)
			var ids []device.RequestID
			for range 3 { // more than one Put may carry
				ids = append(ids, s.answered(t, alice, big))
			}
			s.cache.set(faulty)
			if strings.HasPrefix(name, "the first acknowledgement") {
				s.broker.set(once("acknowledge", brokerDown))
			}
			got, err := s.poll(alice, ids...)
			wantKind(t, err, device.OK)
			s.cache.set(nil)
			if len(got.Replies) != 3 { // what one answer lacks, the next has
				got, err = s.poll(alice, ids...)
			}
			wantReplies(t, got, err, big, big, big)
		})
	}
}
