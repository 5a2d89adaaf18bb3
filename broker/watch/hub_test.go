package watch_test

import (
	"sync"
	"testing"

	"signaldevice/broker/watch"
)

func all(watch.Event) bool { return true }

func presence(id string) watch.Event {
	return watch.Event{Presence: &watch.Presence{Device: "cam-1", Online: id == "online"}}
}

func TestHub_TellsWhoWantsToKnow(t *testing.T) {
	var h watch.Hub
	everything, stop := h.Listen(all)
	replies, stopReplies := h.Listen(func(e watch.Event) bool { return e.Reply != nil })
	h.Publish(presence("online"))
	h.Publish(watch.Event{Reply: &watch.Reply{Device: "cam-1", Seq: 3}})
	if e := <-everything; e.Presence == nil {
		t.Errorf("got %+v", e)
	}
	if e := <-replies; e.Reply == nil || e.Reply.Seq != 3 {
		t.Errorf("got %+v", e)
	}
	stop()
	stop()
	stopReplies()
	h.Publish(presence("online"))
	if <-everything; len(everything) != 0 {
		t.Error("told after it stopped")
	}
}

// F18: whoever does not keep up is ended, and the others notice nothing.
func TestHub_DropsWhoDoesNotKeepUp(t *testing.T) {
	var h watch.Hub
	slow, _ := h.Listen(all)
	quick, _ := h.Listen(all)
	const n = 5000
	for range n {
		h.Publish(presence("online"))
		if _, ok := <-quick; !ok {
			t.Fatal("the quick one was ended")
		}
	}
	got := 0
	for range slow {
		got++
	}
	if got == 0 || got >= n {
		t.Errorf("the slow one got %d of %d before its end", got, n)
	}
}

// What was seen is published before anything that happens after the look.
func TestHub_PublishesInTheOrderOfWhatWasSeen(t *testing.T) {
	var h watch.Hub
	h.PublishSeen(func() watch.Event { t.Error("it looks although nobody listens"); return watch.Event{} })
	events, stop := h.Listen(all)
	defer stop()
	var later sync.WaitGroup
	h.PublishSeen(func() watch.Event {
		started := make(chan struct{})
		later.Go(func() { close(started); h.Publish(presence("offline")) })
		<-started
		return presence("online")
	})
	later.Wait()
	for _, online := range []bool{true, false} {
		if e := <-events; e.Presence.Online != online {
			t.Errorf("online %t comes, want %t", e.Presence.Online, online)
		}
	}
}

func TestHub_CloseEndsEveryone(t *testing.T) {
	var h watch.Hub
	before, stop := h.Listen(all)
	h.Close()
	after, stopAfter := h.Listen(all)
	for name, ch := range map[string]<-chan watch.Event{"before": before, "after": after} {
		if _, ok := <-ch; ok {
			t.Errorf("%s: told something", name)
		}
	}
	stop()
	stopAfter()
	h.Publish(presence("online"))
}
