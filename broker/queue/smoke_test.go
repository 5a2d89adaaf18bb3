package queue

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"signaldevice/broker/requests"
	"signaldevice/broker/stream"
	"signaldevice/device"
)

func TestSmoke(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ring, _ := device.NewKeyRing(device.NewKey(1))
	dev := device.ID("cam-1")
	mbox := device.MailboxOf("alice")
	open := func() (*stream.Engine, *requests.Store, *Queue) {
		e, err := stream.Open(ctx, stream.Config{Dir: dir, Log: slog.Default()})
		if err != nil {
			t.Fatal(err)
		}
		r, err := requests.Open(ctx, requests.Config{Engine: e, Clock: time.Now, Log: slog.Default()})
		if err != nil {
			t.Fatal(err)
		}
		q, err := Open(ctx, Config{Engine: e, Records: r, Clock: time.Now, Log: slog.Default()})
		if err != nil {
			t.Fatal(err)
		}
		return e, r, q
	}
	e, r, q := open()
	now := time.Now()
	id := ring.Mint(now, mbox, dev, now.Add(time.Minute))
	if err := r.Create(ctx, requests.Record{ID: id, Device: dev, Client: "alice", Command: "ping", Created: requests.At(now), DeliverBy: requests.At(now.Add(time.Second)), ReplyBy: requests.At(now.Add(time.Minute))}); err != nil {
		t.Fatal(err)
	}
	put := func(n int, final bool) {
		c, err := ring.Verify(id, dev)
		if err != nil {
			t.Fatal(err)
		}
		ch := make(chan error, 1)
		q.Put(&Reply{Device: dev, ID: id, Claims: c, Seq: n, Final: final, Body: []byte("x"), Done: func(err error) { ch <- err }})
		if err := <-ch; err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		put(i, false)
	}
	put(3, true)
	put(3, true)
	p, err := q.Drain(ctx, Drain{Device: dev, Limit: 100})
	t.Logf("%+v %v", p, err)
	if err := q.Acknowledge(ctx, dev, [][]byte{p.Replies[0].Position, p.Replies[0].Position}, 0); err != nil {
		t.Fatal(err)
	}
	if err := q.Acknowledge(ctx, dev, [][]byte{p.Replies[0].Position, p.Replies[1].Position}, time.Hour); err != nil {
		t.Fatal(err)
	}
	p, err = q.Drain(ctx, Drain{Device: dev, Limit: 100})
	t.Logf("%d %v", len(p.Replies), err)
	q.Close()
	r.Close()
	e.Close()
	e, r, q = open()
	p, err = q.Drain(ctx, Drain{Device: dev, Limit: 100})
	t.Logf("%d %v", len(p.Replies), err)
	c, _ := id.Claims()
	rec, ok, err := r.Get(ctx, c)
	t.Logf("%+v %v %v %+v", rec, ok, err, q.Stats())
	l, next, err := r.List(ctx, mbox, "", 10, "")
	t.Log(len(l), next, err)
	q.Close()
	r.Close()
	e.Close()
}
