package dispatch_test

import (
	"context"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"signaldevice/device"
	"signaldevice/dispatch"
)

// answer is what came of a call that was made in the background.
type answer[T any] struct {
	got  T
	err  error
	took time.Duration
}

func inBackground[T any](call func() (T, error)) <-chan answer[T] {
	out := make(chan answer[T], 1)
	start := time.Now()
	go func() {
		got, err := call()
		out <- answer[T]{got, err, time.Since(start)}
	}()
	return out
}

func (s *system) wait(c dispatch.Caller, wait time.Duration, ids ...device.RequestID) <-chan answer[dispatch.Replies] {
	return inBackground(func() (dispatch.Replies, error) {
		return s.Replies(context.Background(), c, dispatch.RepliesInput{Device: cam, IDs: ids, Wait: wait})
	})
}

func wantTook(t *testing.T, took, low, high time.Duration) {
	t.Helper()
	if took < low || took > high {
		t.Errorf("took %v, want %v to %v", took, low, high)
	}
}

func TestWait_EndsWithTheReply(t *testing.T) {
	for name, byID := range map[string]bool{"by id": true, "without ids": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSystem(true, nil)
				s.start(t)
				synctest.Wait()
				id := s.send(t, alice, cam)
				var asked []device.RequestID
				if byID {
					asked = append(asked, id)
				}
				waiting := s.wait(alice, time.Minute, asked...)
				time.Sleep(3 * time.Second)
				s.broker.arrive(id, 0, true, `1`)
				out := <-waiting
				wantReplies(t, out.got, out.err, `1`)
				wantTook(t, out.took, 3*time.Second, 3*time.Second)
			})
		})
	}
}

func TestWait_EndsWithProgressOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(true, nil)
		s.start(t)
		synctest.Wait()
		id := s.send(t, alice, cam)
		waiting := s.wait(alice, time.Minute, id)
		time.Sleep(time.Second)
		s.broker.arrive(id, 0, false, `"half"`)
		out := <-waiting
		wantReplies(t, out.got, out.err, `"half"`)
		wantTook(t, out.took, time.Second, time.Second)

		// What is read again is no news: the next wait lasts until there is some.
		waiting = s.wait(alice, time.Minute, id)
		time.Sleep(7 * time.Second)
		s.broker.arrive(id, 1, true, `"all"`)
		out = <-waiting
		wantReplies(t, out.got, out.err, `"half"`, `"all"`)
		wantTook(t, out.took, 7*time.Second, 7*time.Second)
	})
}

func TestWait_LastsNoLongerThanAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(true, nil)
		s.start(t)
		synctest.Wait()
		id := s.send(t, alice, cam)
		out := <-s.wait(alice, 20*time.Second, id)
		wantReplies(t, out.got, out.err)
		wantStates(t, out.got, device.StateDelivered)
		wantTook(t, out.took, 20*time.Second, 20*time.Second)
	})
}

func TestWait_EndsWhenNoReplyCanCome(t *testing.T) {
	tests := map[string]struct {
		prepare func(t *testing.T, s *system) device.RequestID
		want    device.State
		low     time.Duration
		high    time.Duration
	}{
		"not found": {func(*testing.T, *system) device.RequestID { return "nonsense" }, device.StateNotFound, 0, 0},
		"already read": {func(t *testing.T, s *system) device.RequestID {
			id := s.answered(t, alice, `1`)
			_, _ = s.poll(alice)
			time.Sleep(31 * time.Second)
			return id
		}, device.StateAlreadyRead, 0, 0},
		"expires meanwhile": {func(t *testing.T, s *system) device.RequestID { return s.hold(t) },
			device.StateExpired, 10 * time.Second, 17 * time.Second},
		"the device stays silent": {func(t *testing.T, s *system) device.RequestID { return s.send(t, alice, cam) },
			device.StateNoReply, 30 * time.Second, 37 * time.Second},
		"the device was silent before: a late reply may come": {func(t *testing.T, s *system) device.RequestID {
			id := s.send(t, alice, cam)
			time.Sleep(31 * time.Second)
			return id
		}, device.StateNoReply, time.Minute, time.Minute},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSystem(true, nil)
				s.start(t)
				synctest.Wait()
				id := tt.prepare(t, s)
				out := <-s.wait(alice, time.Minute, id)
				wantReplies(t, out.got, out.err)
				wantStates(t, out.got, tt.want)
				wantTook(t, out.took, tt.low, tt.high)
			})
		})
	}
}

// Whoever waits learns at once that no reply can come, not at its next look.
func TestWait_EndsWhenTheBrokerTellsThatNoReplyCanCome(t *testing.T) {
	for name, tt := range map[string]struct {
		ask  func(*testing.T, *system) device.RequestID
		ends time.Duration
		want device.State
	}{
		"expired":  {func(t *testing.T, s *system) device.RequestID { return s.hold(t) }, 10*time.Second + 1, device.StateExpired},
		"no reply": {func(t *testing.T, s *system) device.RequestID { return s.send(t, alice, cam) }, 30*time.Second + 1, device.StateNoReply},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSystem(true, nil)
				s.start(t)
				synctest.Wait()
				id := tt.ask(t, s)
				waiting := s.wait(alice, time.Minute, id)
				time.Sleep(tt.ends)
				s.broker.tell(dispatch.Hint{Request: &dispatch.RequestHint{Device: cam, Mailbox: device.MailboxOf(alice.Client), Request: id, State: tt.want}})
				out := <-waiting
				wantReplies(t, out.got, out.err)
				wantStates(t, out.got, tt.want)
				wantTook(t, out.took, tt.ends, tt.ends)
			})
		})
	}
}

func TestWait_WithoutHintsStillEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(true, nil)
		s.broker.always(brokerDown, "watch")
		s.start(t)
		synctest.Wait()
		id := s.send(t, alice, cam)
		waiting := s.wait(alice, time.Minute, id)
		time.Sleep(10 * time.Second)
		s.broker.arrive(id, 0, true, `1`)
		out := <-waiting
		wantReplies(t, out.got, out.err, `1`)
		wantTook(t, out.took, 10*time.Second, 12*time.Second)
	})
}

func TestWait_AHintLostInABrokenStreamCostsASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(true, nil)
		s.start(t)
		synctest.Wait()
		id := s.send(t, alice, cam)
		waiting := s.wait(alice, time.Minute, id)
		time.Sleep(100 * time.Millisecond)
		s.broker.cutStreams()
		synctest.Wait()
		s.broker.arrive(id, 0, true, `1`)
		out := <-waiting
		wantReplies(t, out.got, out.err, `1`)
		wantTook(t, out.took, 100*time.Millisecond, 1200*time.Millisecond)
	})
}

func TestWait_ADeadStreamIsOpenedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(true, nil)
		s.broker.always(fault{hang: true}, "watch")
		s.start(t)
		time.Sleep(time.Second)
		s.broker.always(fault{})
		time.Sleep(3 * time.Second)
		id := s.send(t, alice, cam)
		waiting := s.wait(alice, time.Minute, id)
		time.Sleep(time.Second)
		s.broker.arrive(id, 0, true, `1`)
		wantTook(t, (<-waiting).took, time.Second, time.Second)
	})
}

func TestWait_RegistersBeforeTheFirstRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(true, nil)
		s.start(t)
		synctest.Wait()
		id := s.send(t, alice, cam)
		// The reply comes after the last read of the first poll and before the call waits.
		s.broker.set(func(op string) fault {
			if op != "requests" {
				return fault{}
			}
			s.broker.set(nil)
			return fault{then: func() { s.broker.arrive(id, 0, true, `1`) }}
		})
		out := <-s.wait(alice, time.Minute, id)
		wantReplies(t, out.got, out.err, `1`)
		wantTook(t, out.took, 0, 0)
	})
}

func TestWait_OutageMeanwhileIsWaitedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(true, nil)
		s.start(t)
		synctest.Wait()
		id := s.send(t, alice, cam)
		waiting := s.wait(alice, time.Minute, id)
		time.Sleep(time.Second)
		s.broker.always(brokerDown)
		s.broker.cutStreams()
		time.Sleep(20 * time.Second)
		s.broker.always(fault{})
		s.broker.arrive(id, 0, true, `1`)
		out := <-waiting
		wantReplies(t, out.got, out.err, `1`)
		wantTook(t, out.took, 21*time.Second, 25*time.Second)
	})
}

// A read that failed when its hint came is tried again soon: no second hint comes.
func TestWait_AFailedReadCostsLessThanASecond(t *testing.T) {
	for _, how := range []string{"a send that waits", "a poll that waits"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSystem(true, nil)
				s.start(t)
				synctest.Wait()
				ended := inBackground(func() (any, error) {
					if how == "a send that waits" {
						return s.Send(context.Background(), alice, dispatch.SendInput{Device: cam, Command: "ping", Wait: time.Minute})
					}
					id := s.send(t, alice, cam)
					return s.Replies(context.Background(), alice, dispatch.RepliesInput{Device: cam, IDs: []device.RequestID{id}, Wait: time.Minute})
				})
				time.Sleep(2 * time.Second)
				synctest.Wait()
				ids := slices.Collect(maps.Keys(s.broker.records))
				left := 2
				s.broker.set(func(op string) fault {
					if op == "drain" && left > 0 {
						left--
						return brokerDown
					}
					return fault{}
				})
				s.broker.arrive(ids[0], 0, true, `1`)
				out := <-ended
				if out.err != nil {
					t.Error(out.err)
				}
				wantTook(t, out.took, 2*time.Second, 4*time.Second)
			})
		})
	}
}

func TestWait_OutageToTheEndIsTheAnswer(t *testing.T) { // I8
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(true, nil)
		s.start(t)
		synctest.Wait()
		id := s.send(t, alice, cam)
		waiting := s.wait(alice, 20*time.Second, id)
		time.Sleep(time.Second)
		s.broker.always(brokerDown)
		out := <-waiting
		wantKind(t, out.err, device.BrokerUnavailable)
		wantTook(t, out.took, 20*time.Second, 22*time.Second)
	})
}

func TestWait_RepliesLostOnTheWayEndItAtOnce(t *testing.T) { // I8
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(true, nil)
		s.start(t)
		synctest.Wait()
		id := s.send(t, alice, cam)
		waiting := s.wait(alice, 20*time.Second)
		time.Sleep(time.Second)
		s.cache.set(func(op string) fault {
			if op != "take" {
				return fault{}
			}
			s.cache.set(nil)
			return cutOff
		})
		s.broker.arrive(id, 0, true, `1`)
		out := <-waiting
		wantKind(t, out.err, device.OutcomeUnknown)
		wantTook(t, out.took, time.Second, time.Second)
		got, err := s.poll(alice, id)
		wantReplies(t, got, err, `1`)
	})
}

func TestWait_CloseEndsIt(t *testing.T) { // F13
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(true, nil)
		s.start(t)
		synctest.Wait()
		id := s.send(t, alice, cam)
		waiting := s.wait(alice, time.Minute, id)
		time.Sleep(time.Second)
		s.Close()
		out := <-waiting
		wantReplies(t, out.got, out.err)
		wantStates(t, out.got, device.StateDelivered)
		wantTook(t, out.took, time.Second, time.Second)
	})
}

func TestWait_EndsWhenTheCallerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(true, nil)
		s.start(t)
		ctx, leave := context.WithCancel(t.Context())
		waiting := inBackground(func() (dispatch.Replies, error) {
			return s.Replies(ctx, alice, dispatch.RepliesInput{Device: cam, Wait: time.Minute})
		})
		time.Sleep(time.Second)
		leave()
		if out := <-waiting; out.err == nil {
			t.Error("no error")
		}
		if got := s.Degraded(time.Now()); len(got) != 0 {
			t.Errorf("a caller who leaves is not an outage: %v", got)
		}
	})
}

func TestWait_IsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(true, nil)
		s.start(t)
		const most = 100
		var waiting []<-chan answer[dispatch.Replies]
		for range most {
			waiting = append(waiting, s.wait(alice, 30*time.Second))
		}
		synctest.Wait()
		wantKind(t, (<-s.wait(alice, time.Second)).err, device.RateLimited)
		_, err := s.Send(t.Context(), alice, dispatch.SendInput{Device: cam, Command: "ping", Wait: time.Second})
		wantKind(t, err, device.RateLimited)
		if len(s.broker.sent) != 0 {
			t.Error("a refused command was sent")
		}
		wantKind(t, (<-s.wait(bob, time.Second)).err, device.OK)
		_, err = s.poll(alice)
		wantKind(t, err, device.OK)
		for _, w := range waiting {
			<-w
		}
		wantKind(t, (<-s.wait(alice, time.Second)).err, device.OK)
	})
}
