package queue_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"signaldevice/broker/queue"
	"signaldevice/broker/requests"
	"signaldevice/broker/stream"
	"signaldevice/device"
)

// childDir, when set, makes the test binary a broker's queue that is filled until it is killed.
const childDir = "QUEUE_TEST_CHILD_DIR"

// runChild lets cameras publish, each with several replies on their way, and prints a line for each record that was made
// and each reply that was acknowledged, in the moment that this is told.
func runChild(dir string) error {
	ctx, cancel := testContext()
	defer cancel()
	e, err := stream.Open(ctx, stream.Config{Dir: dir})
	if err != nil {
		return err
	}
	records, err := requests.Open(ctx, requests.Config{Engine: e})
	if err != nil {
		return err
	}
	q, err := queue.Open(ctx, queue.Config{Engine: e, Records: records, MaxReplies: 1 << 20, MaxBytes: 1 << 40})
	if err != nil {
		return err
	}
	failed := make(chan error, 100)
	for c := range 6 {
		go func() { failed <- publish(records, q, device.ID("cam-"+strconv.Itoa(c))) }()
	}
	return <-failed
}

func publish(records *requests.Store, q *queue.Queue, dev device.ID) error {
	ctx, cancel := testContext()
	defer cancel()
	window := make(chan struct{}, 16)
	for {
		now := time.Now()
		id := ring.Mint(now, alice, dev, now.Add(time.Minute))
		rec := requests.Record{ID: id, Device: dev, Command: "ping", Created: requests.At(now), ReplyBy: requests.At(now.Add(time.Minute))}
		if err := records.Create(ctx, rec); err != nil {
			return err
		}
		fmt.Println("record", dev, id)
		for seq := range 20 {
			window <- struct{}{}
			r := reply(dev, id, seq, seq == 19, strings.Repeat("x", 100))
			r.Done = func(err error) {
				if err == nil {
					fmt.Println("reply", dev, id, seq)
				}
				<-window
			}
			q.Put(r)
		}
	}
}

// I1, I5, I9: what was acknowledged before kill -9 is there afterwards, once, in order, and its request knows of it.
func TestQueue_KilledAtAnyMoment(t *testing.T) {
	for _, lines := range []int{1, 300, 2000} {
		t.Run(fmt.Sprint("after ", lines, " acknowledgements"), func(t *testing.T) {
			dir := t.TempDir()
			told := killAfter(t, dir, lines)
			s := &shed{t: t, dir: dir, arrived: make(chan queue.Reply, 1), edit: func(c *queue.Config) { c.Arrived = nil }}
			s.open()
			defer s.close()
			replies := 0
			for dev, ids := range told {
				found := map[device.RequestID][]int{}
				for _, r := range s.pages(dev) {
					found[r.ID] = append(found[r.ID], r.Seq)
				}
				for id, acknowledged := range ids {
					rec := s.record(id)
					s.queue.Complete(&rec)
					for i, seq := range found[id] {
						if seq != i {
							t.Fatalf("%s: replies in the order %v", dev, found[id])
						}
						if !rec.HasReply(seq) {
							t.Fatalf("the record does not know of reply %d", seq)
						}
					}
					if acknowledged > len(found[id]) {
						t.Fatalf("%s: %d replies were acknowledged, %d are there", dev, acknowledged, len(found[id]))
					}
					replies += acknowledged
				}
			}
			if replies < lines {
				t.Errorf("the child acknowledged %d replies", replies)
			}
		})
	}
}

// pages drains everything.
func (s *shed) pages(dev device.ID) (all []queue.Drained) {
	for after := []byte(nil); ; {
		page, err := s.queue.Drain(s.t.Context(), queue.Drain{Device: dev, Limit: 1000, After: after})
		if err != nil {
			s.t.Fatal(err)
		}
		if all = append(all, page.Replies...); !page.More {
			return all
		}
		after = page.Replies[len(page.Replies)-1].Position
	}
}

// killAfter runs the child until it has acknowledged some replies, kills it, and returns how many it told of by device
// and request.
func killAfter(t *testing.T, dir string, lines int) map[device.ID]map[device.RequestID]int {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), exe)
	child.Env = append(os.Environ(), childDir+"="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	told := map[device.ID]map[device.RequestID]int{}
	acknowledged := 0
	for text := bufio.NewScanner(out); text.Scan(); {
		f := strings.Fields(text.Text())
		dev, id := device.ID(f[1]), device.RequestID(f[2])
		switch {
		case f[0] == "record" && told[dev] == nil:
			told[dev] = map[device.RequestID]int{id: 0}
		case f[0] == "record":
			told[dev][id] = 0
		case f[0] == "reply" && len(f) == 4:
			told[dev][id]++
			acknowledged++
		}
		if acknowledged >= lines {
			once.Do(func() { _ = child.Process.Kill() }) // what it still printed counts
		}
	}
	_ = child.Wait() // killed
	return told
}
