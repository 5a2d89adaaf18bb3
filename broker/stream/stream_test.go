package stream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"signaldevice/broker/stream"
)

const name = "TEST"

func open(t testing.TB, dir string) *stream.Engine {
	t.Helper()
	e, err := stream.Open(t.Context(), stream.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Ensure(t.Context(), jetstream.StreamConfig{
		Name: name, Subjects: []string{"t.>"}, Storage: jetstream.FileStorage, AllowDirect: true, AllowAtomicPublish: true,
		Duplicates: time.Minute,
	}); err != nil {
		t.Fatal(err)
	}
	return e
}

func newEngine(t testing.TB) *stream.Engine {
	e := open(t, t.TempDir())
	t.Cleanup(e.Close)
	return e
}

func newAppender(t testing.TB, e *stream.Engine) *stream.Appender {
	a := e.NewAppender()
	t.Cleanup(a.Close)
	return a
}

// subjects reads everything and lists the subjects in order.
func subjects(t testing.TB, e *stream.Engine) (out []string) {
	t.Helper()
	for after := uint64(0); ; {
		ms, more, err := e.Last(t.Context(), name, []string{"t.>"}, after, 300)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range ms {
			out, after = append(out, m.Subject), m.Seq
		}
		if !more {
			return out
		}
	}
}

// anew makes a stream that was just deleted. The server is still busy with the old one's files for a moment.
func anew(t *testing.T, e *stream.Engine) (life uint64) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(5 * time.Second); ; <-tick.C {
		life, err := e.Ensure(t.Context(), jetstream.StreamConfig{
			Name: name, Subjects: []string{"t.>"}, Storage: jetstream.FileStorage, AllowDirect: true, AllowAtomicPublish: true,
		})
		if err == nil {
			return life
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

type outcome struct {
	i   int
	seq uint64
	err error
}

// Whatever number comes at once, in batches or one by one, everything is stored in order and told so.
func TestAppender_KeepsOrder(t *testing.T) {
	for _, n := range []int{1, 2, 11, 12, 13, 100, 1500} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			e := newEngine(t)
			a := newAppender(t, e)
			done := make(chan outcome, n)
			for i := range n {
				if err := a.TryAppend(&stream.Append{
					Subject: fmt.Sprint("t.", i), Data: []byte("x"), Key: "one",
					Done: func(seq uint64, err error) { done <- outcome{i, seq, err} },
				}); err != nil {
					t.Fatal(err)
				}
			}
			for i := range n {
				if o := <-done; o.err != nil || o.i != i || o.seq != uint64(i+1) {
					t.Fatalf("outcome %d: %+v", i, o)
				}
			}
			for i, s := range subjects(t, e) {
				if s != fmt.Sprint("t.", i) {
					t.Fatalf("message %d is %s", i, s)
				}
			}
		})
	}
}

// A refused message in a batch fails alone, with those of its key behind it, and the others get in.
func TestAppender_OneRefusedMessageInABatch(t *testing.T) {
	e := newEngine(t)
	a := newAppender(t, e)
	const n = 60
	done := make(chan outcome, n)
	for i := range n {
		m := &stream.Append{
			Subject: fmt.Sprint("t.", i), Key: fmt.Sprint("key-", i%3),
			Done: func(seq uint64, err error) { done <- outcome{i, seq, err} },
		}
		if i == 30 { // of key-0
			m.Header = nats.Header{"Nats-Expected-Last-Subject-Sequence": {"999"}}
		}
		if err := a.TryAppend(m); err != nil {
			t.Fatal(err)
		}
	}
	stored := 0
	var failed []int
	for range n {
		o := <-done
		switch {
		case o.err == nil:
			stored++
		case o.i == 30 && !stream.IsConflict(o.err):
			t.Errorf("the culprit failed with %v", o.err)
		default:
			failed = append(failed, o.i)
		}
	}
	if got := len(subjects(t, e)); got != stored {
		t.Errorf("%d stored, %d told so", got, stored)
	}
	for _, i := range failed {
		if i%3 != 0 || i < 30 {
			t.Errorf("message %d failed too", i)
		}
	}
	if len(failed) == 0 || failed[len(failed)-1] != 30 { // the last of a key is told of first
		t.Errorf("failed in the order %v", failed)
	}
}

// A message that the stream takes no part of fails alone, wherever it stands in its batch.
func TestAppender_OversizedMessageInABatch(t *testing.T) {
	for _, culprit := range []int{0, 17, 29} {
		t.Run(strconv.Itoa(culprit), func(t *testing.T) {
			e := open(t, t.TempDir())
			defer e.Close()
			if _, err := e.Ensure(t.Context(), jetstream.StreamConfig{
				Name: name, Subjects: []string{"t.>"}, Storage: jetstream.FileStorage, AllowDirect: true, AllowAtomicPublish: true, MaxMsgSize: 1000,
			}); err != nil {
				t.Fatal(err)
			}
			a := e.NewAppender()
			defer a.Close()
			busy := block(t, a)
			done := make(chan outcome, 30)
			for i := range 30 {
				size := 100
				if i == culprit {
					size = 2000
				}
				if err := a.TryAppend(&stream.Append{Subject: fmt.Sprint("t.", i), Data: make([]byte, size), Done: func(seq uint64, err error) {
					done <- outcome{i, seq, err}
				}}); err != nil {
					t.Fatal(err)
				}
			}
			busy()
			for range 30 {
				if o := <-done; (o.err != nil) != (o.i == culprit) || o.err != nil && !stream.NotStored(o.err) {
					t.Errorf("message %d: %v", o.i, o.err)
				}
			}
			if got := len(subjects(t, e)); got != 30 { // and the one that kept the appender busy
				t.Errorf("%d stored", got)
			}
		})
	}
}

// block keeps the appender busy with one message until it is let go, so that what comes meanwhile is one batch.
func block(t *testing.T, a *stream.Appender) (letGo func()) {
	t.Helper()
	here, gone := make(chan struct{}), make(chan struct{})
	if err := a.TryAppend(&stream.Append{Subject: "t.busy", Done: func(uint64, error) { close(here); <-gone }}); err != nil {
		t.Fatal(err)
	}
	<-here
	return func() { close(gone) }
}

// A message that comes while those before it fail fails too, before the first of them is told: nothing overtakes.
func TestAppender_NothingOvertakesWhatFails(t *testing.T) {
	e := newEngine(t)
	a := newAppender(t, e)
	busy := block(t, a)
	told := make(chan string, 10)
	message := func(name string, then func()) *stream.Append {
		return &stream.Append{Subject: "t." + name, Key: "one", Done: func(_ uint64, err error) {
			if err == nil || !stream.NotStored(err) {
				t.Errorf("%s: %v", name, err)
			}
			then()
			told <- name
		}}
	}
	try := func(m *stream.Append) {
		if err := a.TryAppend(m); err != nil {
			t.Error(err)
		}
	}
	first := message("first", func() {})
	first.Header = nats.Header{"Nats-Expected-Last-Subject-Sequence": {"9"}}
	try(first)
	try(message("second", func() {}))
	try(message("third", func() { try(message("fourth", func() {})) }))
	busy()
	for _, want := range []string{"third", "second", "fourth", "first"} {
		if got := <-told; got != want {
			t.Errorf("told of the %s one, want the %s", got, want)
		}
	}
	if _, err := a.Do(t.Context(), stream.Append{Subject: "t.after", Key: "one"}); err != nil {
		t.Error(err)
	}
	if got := fmt.Sprint(subjects(t, e)); got != "[t.busy t.after]" {
		t.Errorf("stored %s", got)
	}
}

// Of a few messages one of each key is under way at a time. A refused one takes those of its key behind it with it, and no
// others. A stream without an answer is not asked again for those that wait.
func TestAppender_FewMessages(t *testing.T) {
	for _, c := range []struct {
		keys   string // of the messages, a letter each; none: a dash; of the refused one: a capital
		gone   bool   // the stream
		stored string // the indices of those
		failed string // and of these, in the order in which they are told
	}{
		{keys: "aaaaa", stored: "01234"},
		{keys: "ababa", stored: "01234"},
		{keys: "-----", stored: "01234"},
		{keys: "Aaaaa", failed: "43210"},
		{keys: "aaAaa", stored: "01", failed: "432"},
		{keys: "abAba", stored: "013", failed: "42"},
		{keys: "aA-ba-b", stored: "02356", failed: "41"},
		{keys: "-a-b-", gone: true, failed: "01234"},
		{keys: "cab-c", gone: true, failed: "40123"},
	} {
		t.Run(c.keys, func(t *testing.T) {
			e := newEngine(t)
			a := newAppender(t, e)
			busy := block(t, a)
			done := make(chan outcome, len(c.keys))
			for i, key := range strings.Split(c.keys, "") {
				m := &stream.Append{
					Subject: fmt.Sprint("t.", i), Key: strings.Trim(strings.ToLower(key), "-"),
					Done: func(seq uint64, err error) { done <- outcome{i, seq, err} },
				}
				if key != strings.ToLower(key) {
					m.Header = nats.Header{"Nats-Expected-Last-Subject-Sequence": {"9"}}
				}
				if err := a.TryAppend(m); err != nil {
					t.Fatal(err)
				}
			}
			if c.gone {
				if err := e.JetStream().DeleteStream(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
			busy()
			var stored, failed string
			for range c.keys {
				switch o := <-done; {
				case o.err == nil:
					stored += strconv.Itoa(o.i)
				case !c.gone && !stream.NotStored(o.err):
					t.Errorf("message %d: %v", o.i, o.err)
				default:
					failed += strconv.Itoa(o.i)
				}
			}
			if stored != c.stored || failed != c.failed {
				t.Errorf("stored %q, failed %q", stored, failed)
			}
		})
	}
}

// A repeated append, whose first answer was lost, stores nothing and is told the place of the first: alone and in a batch.
func TestAppender_RepeatedMessageID(t *testing.T) {
	e := newEngine(t)
	a := newAppender(t, e)
	for round := range 2 {
		busy := block(t, a)
		done := make(chan outcome, 20)
		for i := range 20 {
			if err := a.TryAppend(&stream.Append{
				Subject: fmt.Sprint("t.", i), Header: nats.Header{"Nats-Msg-Id": {strconv.Itoa(i)}}, Key: "one",
				Done: func(seq uint64, err error) { done <- outcome{i, seq, err} },
			}); err != nil {
				t.Fatal(err)
			}
		}
		busy()
		for i := range 20 {
			if o := <-done; o.err != nil || o.i != i || o.seq != uint64(i+2) {
				t.Errorf("round %d: %+v", round, o)
			}
		}
	}
	if n, err := e.Count(t.Context(), name); err != nil || n != 22 {
		t.Errorf("%d stored, %v", n, err)
	}
}

func TestAppender_FullTakesNoMore(t *testing.T) {
	e := newEngine(t)
	a := newAppender(t, e)
	busy := block(t, a)
	var wg sync.WaitGroup
	for range 8192 {
		wg.Add(1)
		if err := a.TryAppend(&stream.Append{Subject: "t.x", Done: func(uint64, error) { wg.Done() }}); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.TryAppend(&stream.Append{Subject: "t.x"}); !errors.Is(err, stream.ErrFull) {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Do(ctx, stream.Append{Subject: "t.x"}); !errors.Is(err, context.Canceled) {
		t.Errorf("waited for room: %v", err)
	}
	busy()
	wg.Wait()
	if _, err := a.Do(t.Context(), stream.Append{Subject: "t.x"}); err != nil {
		t.Error(err)
	}
}

func TestAppender_FullOfBytes(t *testing.T) {
	e := newEngine(t)
	a := newAppender(t, e)
	busy := block(t, a)
	m := &stream.Append{Subject: "t.x", Data: make([]byte, 256<<10), Done: func(uint64, error) {}}
	for i := range 64 << 20 / len(m.Data) {
		if err := a.TryAppend(m); err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
	}
	if err := a.TryAppend(m); !errors.Is(err, stream.ErrFull) {
		t.Errorf("error %v", err)
	}
	if err := a.TryAppend(&stream.Append{Subject: "t.x", Done: m.Done}); err != nil {
		t.Errorf("an empty message: %v", err)
	}
	busy()
	a.Close()
}

func TestAppender_RefusesWhatNoBatchMayHold(t *testing.T) {
	e := newEngine(t)
	a := newAppender(t, e)
	m := &stream.Append{Subject: "t.big", Data: make([]byte, 1<<20), Done: func(uint64, error) { t.Error("told twice") }}
	if err := a.TryAppend(m); !errors.Is(err, stream.ErrTooLarge) {
		t.Errorf("error %v", err)
	}
	if _, err := a.Do(t.Context(), stream.Append{Subject: "t.ok", Data: []byte("x")}); err != nil { // I10
		t.Error(err)
	}
	if _, err := a.Do(t.Context(), stream.Append{Subject: "elsewhere", Data: []byte("x")}); err == nil {
		t.Error("a subject of no stream was taken")
	}
}

func TestAppender_CloseAnswersEverything(t *testing.T) {
	e := newEngine(t)
	a := e.NewAppender()
	const n = 3000
	done := make(chan outcome, n)
	handed := 0
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range n {
			if a.TryAppend(&stream.Append{Subject: fmt.Sprint("t.", i), Done: func(seq uint64, err error) { done <- outcome{i, seq, err} }}) != nil {
				return
			}
			handed++
		}
	})
	<-done // it is busy
	a.Close()
	a.Close()
	wg.Wait()
	stored := 1
	for range handed - 1 {
		if o := <-done; o.err == nil {
			stored++
		} else if !errors.Is(o.err, stream.ErrClosed) {
			t.Errorf("message %d: %v", o.i, o.err)
		}
	}
	if got := len(subjects(t, e)); got != stored {
		t.Errorf("%d stored, %d told so", got, stored)
	}
	if err := a.TryAppend(&stream.Append{Subject: "t.late"}); !errors.Is(err, stream.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

func TestEngine_KeepsWhatItAcknowledged(t *testing.T) {
	dir := t.TempDir()
	e := open(t, dir)
	life, err := e.Ensure(t.Context(), jetstream.StreamConfig{
		Name: name, Subjects: []string{"t.>"}, Storage: jetstream.FileStorage, AllowDirect: true, AllowAtomicPublish: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	a := e.NewAppender()
	body := []byte("body\x00\xff")
	if _, err := a.Do(t.Context(), stream.Append{Subject: "t.a", Data: body, Header: nats.Header{"X": {"y"}}}); err != nil {
		t.Fatal(err)
	}
	a.Close()
	e.Close()
	e = open(t, dir)
	defer e.Close()
	m, ok, err := e.Newest(t.Context(), name, "t.a")
	if err != nil || !ok || !bytes.Equal(m.Data, body) || m.Header.Get("X") != "y" || m.Seq != 1 {
		t.Errorf("%+v, %v, %v", m, ok, err)
	}
	again, err := e.Ensure(t.Context(), jetstream.StreamConfig{
		Name: name, Subjects: []string{"t.>"}, Storage: jetstream.FileStorage, AllowDirect: true, AllowAtomicPublish: true,
	})
	if err != nil || again != life {
		t.Errorf("life went from %d to %d, %v", life, again, err)
	}
	if err := e.JetStream().DeleteStream(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if again := anew(t, e); again == life {
		t.Error("a new stream has the life of the old one")
	}
}

func fill(t testing.TB, e *stream.Engine, n int) {
	t.Helper()
	a := newAppender(t, e)
	var wg sync.WaitGroup
	for i := range n {
		wg.Add(1)
		if err := a.TryAppend(&stream.Append{Subject: fmt.Sprintf("t.%d.%d", i%2, i), Done: func(_ uint64, err error) {
			if err != nil {
				t.Error(err)
			}
			wg.Done()
		}}); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
}

// The server gives up above 1,024 matches; reading goes on another way then, with the same result.
func TestLast_BeyondTheServersLimit(t *testing.T) {
	for _, n := range []int{1023, 1024, 1025, 2500} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			e := newEngine(t)
			fill(t, e, n)
			if got := subjects(t, e); len(got) != n {
				t.Errorf("%d messages", len(got))
			}
		})
	}
}

func TestReads(t *testing.T) {
	e := newEngine(t)
	fill(t, e, 10)
	ms, more, err := e.Last(t.Context(), name, []string{"t.1.>"}, 4, 2)
	if err != nil || len(ms) != 2 || ms[0].Subject != "t.1.5" || ms[1].Subject != "t.1.7" || !more {
		t.Errorf("a page: %v, more %v, %v", ms, more, err)
	}
	ms, more, err = e.Last(t.Context(), name, []string{"t.0.2", "t.1.9", "t.none"}, 0, 10)
	if err != nil || len(ms) != 2 || more {
		t.Errorf("several filters: %v, more %v, %v", ms, more, err)
	}
	m, ok, err := e.Next(t.Context(), name, "t.0.>", 3)
	if err != nil || !ok || m.Subject != "t.0.4" {
		t.Errorf("next: %v, %v, %v", m, ok, err)
	}
	if _, ok, err := e.Next(t.Context(), name, "t.0.>", 100); ok || err != nil {
		t.Errorf("next of nothing: %v, %v", ok, err)
	}
	if _, ok, err := e.Newest(t.Context(), name, "t.none"); ok || err != nil {
		t.Errorf("newest of nothing: %v, %v", ok, err)
	}
	seen := map[string]bool{}
	if err := e.Subjects(t.Context(), name, "t.1.>", func(s string) { seen[s] = true }); err != nil || len(seen) != 5 {
		t.Errorf("subjects %v, %v", seen, err)
	}
	if _, _, err := e.Last(t.Context(), "NONE", []string{"x"}, 0, 1); err == nil {
		t.Error("a stream that is not there was read")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := e.Last(ctx, name, []string{"t.>"}, 0, 1); err == nil {
		t.Error("read for a caller that left")
	}
}

func TestDelete(t *testing.T) {
	e := newEngine(t)
	fill(t, e, 1200)
	seqs := []uint64{1, 1, 700, 9999} // twice, and one that never was
	for seq := uint64(10); seq < 610; seq++ {
		seqs = append(seqs, seq)
	}
	for range 2 { // repeating is no error
		if err := e.Delete(t.Context(), name, seqs); err != nil {
			t.Fatal(err)
		}
		if got := len(subjects(t, e)); got != 1200-602 {
			t.Errorf("%d are left", got)
		}
	}
	if err := e.Delete(t.Context(), "NONE", []uint64{1}); err == nil {
		t.Error("deleted from a stream that is not there")
	}
	if err := e.PurgeSubject(t.Context(), name, "t.0.>"); err != nil {
		t.Fatal(err)
	}
	for _, s := range subjects(t, e) {
		if s[:4] != "t.1." {
			t.Fatalf("%s is left", s)
		}
	}
}

// Whichever part of the head goes with what else, while others append: exactly what was named is gone, now and after the
// next start.
func TestDelete_TheNamedAndNoOthers(t *testing.T) {
	dir := t.TempDir()
	e := open(t, dir)
	a := newAppender(t, e)
	random := rand.New(rand.NewPCG(1, 2))
	kept := map[string]uint64{}
	add := func(subject string) uint64 {
		seq, err := a.Do(t.Context(), stream.Append{Subject: subject})
		if err != nil {
			t.Error(err)
		}
		return seq
	}
	for round := range 40 {
		var named []uint64
		for i := range 60 {
			subject := fmt.Sprintf("t.%d.%d", round, i)
			seq := add(subject)
			if random.IntN(40) < round%3 { // rounds in which none stays, some, and more
				kept[subject] = seq
			} else {
				named = append(named, seq)
			}
		}
		if round%5 == 4 { // what blocked the head goes at last
			named = slices.AppendSeq(named, maps.Values(kept))
			clear(kept)
		}
		random.Shuffle(len(named), func(i, j int) { named[i], named[j] = named[j], named[i] })
		var meanwhile sync.WaitGroup
		meanwhile.Go(func() {
			for i := range 20 {
				subject := fmt.Sprintf("t.meanwhile.%d.%d", round, i)
				kept[subject] = add(subject)
			}
		})
		if err := e.Delete(t.Context(), name, named); err != nil {
			t.Fatal(err)
		}
		meanwhile.Wait()
	}
	check := func(e *stream.Engine) {
		t.Helper()
		left := subjects(t, e)
		for _, s := range left {
			if _, ok := kept[s]; !ok {
				t.Errorf("%s is left", s)
			}
		}
		if len(left) != len(kept) {
			t.Errorf("%d are left of %d", len(left), len(kept))
		}
	}
	check(e)
	a.Close()
	e.Close()
	e = open(t, dir)
	defer e.Close()
	check(e)
}

// Many callers delete at once: the server drops its whole queue of requests when they are too many.
func TestDelete_ManyCallers(t *testing.T) {
	e := newEngine(t)
	fill(t, e, 6000)
	var wg sync.WaitGroup
	for c := range 30 {
		wg.Go(func() {
			seqs := make([]uint64, 400)
			for i := range seqs {
				seqs[i] = uint64(1 + (c*200+i)%6000) // each twice
			}
			if err := e.Delete(t.Context(), name, seqs); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n, err := e.Count(t.Context(), name); err != nil || n != 0 {
		t.Errorf("%d are left, %v", n, err)
	}
}

func TestOldest(t *testing.T) {
	e := newEngine(t)
	if ms, err := e.Oldest(t.Context(), name, 5); err != nil || len(ms) != 0 {
		t.Errorf("%d of none, %v", len(ms), err)
	}
	fill(t, e, 10)
	if err := e.Delete(t.Context(), name, []uint64{1, 3}); err != nil {
		t.Fatal(err)
	}
	ms, err := e.Oldest(t.Context(), name, 2)
	if err != nil || len(ms) != 2 || ms[0].Seq != 2 || ms[1].Seq != 4 {
		t.Errorf("%v, %v", ms, err)
	}
}

func TestToken_SortsAndComesBack(t *testing.T) {
	previous := ""
	for i := range 256 {
		b := []byte{byte(i), byte(255 - i), 7}
		text := stream.Token(b)
		back, err := stream.ParseToken(text)
		if err != nil || !bytes.Equal(back, b) || text <= previous {
			t.Fatalf("%v became %q and %v, %v", b, text, back, err)
		}
		previous = text
	}
}

// BenchmarkAppend stores messages of 1 KB with fsync; each writer waits for its own before the next one. Their keys are all
// different, or one of so many.
func BenchmarkAppend(b *testing.B) {
	for _, c := range []struct{ writers, keys int }{{1, 0}, {10, 0}, {50, 0}, {1000, 0}, {5, 1}, {10, 1}, {10, 4}, {50, 1}} {
		b.Run(fmt.Sprintf("writers=%d/keys=%d", c.writers, c.keys), func(b *testing.B) {
			e := newEngine(b)
			a := newAppender(b, e)
			body := make([]byte, 1024)
			next := make(chan int)
			var wg sync.WaitGroup
			for w := range c.writers {
				key := ""
				if c.keys > 0 {
					key = fmt.Sprint(w % c.keys)
				}
				wg.Go(func() {
					for i := range next {
						if _, err := a.Do(b.Context(), stream.Append{Subject: fmt.Sprint("t.", i), Data: body, Key: key}); err != nil {
							b.Error(err)
						}
					}
				})
			}
			b.ResetTimer()
			begin := time.Now()
			for i := range b.N {
				next <- i
			}
			close(next)
			wg.Wait()
			b.ReportMetric(float64(b.N)/time.Since(begin).Seconds(), "messages/s")
		})
	}
}

// BenchmarkDelete removes a thousand messages: the whole head of the stream, or all but one in a hundred.
func BenchmarkDelete(b *testing.B) {
	for what, stay := range map[string]uint64{"head": 0, "scattered": 100} {
		b.Run(what, func(b *testing.B) {
			e := newEngine(b)
			for i := range b.N {
				b.StopTimer()
				fill(b, e, 1000)
				var seqs []uint64
				for seq := uint64(1000*i + 1); seq <= uint64(1000*i+1000); seq++ {
					if stay == 0 || seq%stay != 1 {
						seqs = append(seqs, seq)
					}
				}
				b.StartTimer()
				if err := e.Delete(b.Context(), name, seqs); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(1000*b.N), "µs/message")
		})
	}
}

// One write without an answer does not make a stream that fails; several in a row do, until the next answer.
func TestEngine_Failing(t *testing.T) {
	e := newEngine(t)
	a := newAppender(t, e)
	if _, err := a.Do(t.Context(), stream.Append{Subject: "t.a", Header: nats.Header{"Nats-Expected-Last-Subject-Sequence": {"9"}}}); !stream.IsConflict(err) {
		t.Fatal(err)
	}
	if d := e.Failing(); d != 0 {
		t.Errorf("failing for %v after a refusal", d)
	}
	if err := e.JetStream().DeleteStream(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	for try := range 3 {
		if _, err := a.Do(t.Context(), stream.Append{Subject: "t.a"}); err == nil {
			t.Fatal("stored nowhere")
		}
		d := e.Failing()
		if (d > 0) != (try > 0) {
			t.Errorf("failing for %v after %d writes without an answer", d, try+1)
		}
		if later := e.Failing(); later != d {
			t.Errorf("%v have become %v without a write", d, later)
		}
	}
	anew(t, e)
	if _, err := a.Do(t.Context(), stream.Append{Subject: "t.a"}); err != nil {
		t.Fatal(err)
	}
	if d := e.Failing(); d != 0 {
		t.Errorf("failing for %v after a write", d)
	}
}

// I1: a stream that cannot be read is never taken for an empty one.
func TestOpen_RefusesAStreamThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	e := open(t, dir)
	if _, err := newAppender(t, e).Do(t.Context(), stream.Append{Subject: "t.a"}); err != nil {
		t.Fatal(err)
	}
	e.Close()
	metas, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", name, "meta.inf"))
	if err != nil || len(metas) != 1 {
		t.Fatal(metas, err)
	}
	good, err := os.ReadFile(metas[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(metas[0], []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again, err := stream.Open(t.Context(), stream.Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("opened with %v", err)
		again.Close()
	}
	if err := os.WriteFile(metas[0], good, 0o600); err != nil {
		t.Fatal(err)
	}
	e = open(t, dir)
	defer e.Close()
	if got := subjects(t, e); !slices.Equal(got, []string{"t.a"}) {
		t.Errorf("it holds %v", got)
	}
}

// breakFiles lets the stream make no further file, until they are mended.
func breakFiles(t *testing.T, dir string) (mend func()) {
	t.Helper()
	folder := filepath.Join(dir, "jetstream", "$G", "streams", name, "msgs")
	if err := errors.Join(os.Rename(folder, folder+".away"), os.WriteFile(folder, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := errors.Join(os.Remove(folder), os.Rename(folder+".away", folder)); err != nil {
			t.Fatal(err)
		}
	}
}

// I1: a batch that fails half way has its first messages in the stream, where nobody has made them durable. The server then
// takes them for repeated ones, and must not be believed.
func TestAppender_BatchThatFailsHalfWay(t *testing.T) {
	dir := t.TempDir()
	e := open(t, dir)
	defer func() { e.Close() }()
	a := newAppender(t, e)
	for range 14 { // the first file is nearly full
		if _, err := a.Do(t.Context(), stream.Append{Subject: "t.before", Data: make([]byte, 512<<10)}); err != nil {
			t.Fatal(err)
		}
	}
	mend := breakFiles(t, dir)
	const n = 20
	message := func(i int) stream.Append {
		return stream.Append{
			Subject: fmt.Sprint("t.", i), Data: make([]byte, 100<<10), Header: nats.Header{"Nats-Msg-Id": {strconv.Itoa(i)}},
		}
	}
	unsure := func(what string, err error) {
		t.Helper()
		if err == nil || stream.NotStored(err) || stream.IsConflict(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	busy := block(t, a)
	done := make(chan outcome, n)
	for i := range n {
		m := message(i)
		m.Done = func(seq uint64, err error) { done <- outcome{i, seq, err} }
		if err := a.TryAppend(&m); err != nil {
			t.Fatal(err)
		}
	}
	busy()
	for range n {
		o := <-done
		unsure(fmt.Sprint("message ", o.i), o.err)
	}
	if count, err := e.Count(t.Context(), name); err != nil || count <= 15 || count >= 15+n {
		t.Fatalf("%d in the stream: the batch has not failed half way, %v", count, err)
	}
	_, err := a.Do(t.Context(), message(0))
	unsure("repeated", err)
	expecting := message(0)
	expecting.Header = nats.Header{"Nats-Expected-Last-Subject-Sequence": {"0"}}
	_, err = a.Do(t.Context(), expecting)
	unsure("repeated, expecting none", err)
	e.Abandon()
	mend()
	e.Close()
	e = open(t, dir)
	a = newAppender(t, e)
	for i := range n {
		if _, err := a.Do(t.Context(), message(i)); err != nil {
			t.Errorf("message %d after the next start: %v", i, err)
		}
	}
}

// F17: a stream that could not write says so at once, and has all that was acknowledged when it is opened anew (I1).
func TestEngine_Broken(t *testing.T) {
	dir := t.TempDir()
	e := open(t, dir)
	defer func() { e.Close() }()
	if err := e.Broken(); err != nil {
		t.Fatal(err)
	}
	mend := breakFiles(t, dir)
	a := newAppender(t, e)
	var stored []string
	for i := range 64 {
		m := stream.Append{Subject: "t." + strconv.Itoa(i), Data: make([]byte, 512<<10)}
		if _, err := a.Do(t.Context(), m); err != nil {
			break
		}
		stored = append(stored, m.Subject)
	}
	if err := e.Broken(); err == nil || !strings.Contains(err.Error(), name) {
		t.Fatalf("after %d messages: %v", len(stored), err)
	}
	e.Abandon()
	if _, err := a.Do(t.Context(), stream.Append{Subject: "t.late"}); err == nil {
		t.Error("stored by a stream that was given up")
	}
	mend()
	e.Close()
	e = open(t, dir)
	if got := subjects(t, e); !slices.Equal(got, stored) {
		t.Errorf("it holds %v, acknowledged were %v", got, stored)
	}
}
