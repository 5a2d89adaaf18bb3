package cache

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"signaldevice/device"
	"signaldevice/dispatch"
	"signaldevice/testserver"
	"testing"
	"time"
)

func TestScratch(t *testing.T) {
	s := testserver.Redis(t)
	r, err := OpenRedis(t.Context(), RedisConfig{URL: s.URL, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	fmt.Println("durable", r.Durable())
	ctx, c := context.WithTimeout(t.Context(), time.Second)
	defer c()
	rep := device.Reply{Request: "r1", Device: "d", Mailbox: device.MailboxOf("a"), Command: "ping", Seq: 3, Final: true, Body: []byte("hello\x00x"), Position: []byte{1, 2}, ReceivedAt: time.Now()}
	fmt.Println(r.Put(ctx, []device.Reply{rep, rep}))
	fmt.Println(r.Unread(ctx, rep.Mailbox, "d"))
	fmt.Println(r.Records(ctx))
	fmt.Println(r.Take(ctx, dispatch.Take{Mailbox: rep.Mailbox, Device: "d", Grace: time.Minute}))
	fmt.Println(r.Take(ctx, dispatch.Take{Mailbox: rep.Mailbox, Device: "d", IDs: []device.RequestID{"r1"}, Grace: time.Minute}))
	fmt.Println(r.Put(ctx, []device.Reply{rep, rep}))
	r.Advance(time.Minute)
	fmt.Println(r.Put(ctx, []device.Reply{rep, rep}))
	fmt.Println(r.Records(ctx))
	fmt.Println(r.Take(ctx, dispatch.Take{Mailbox: rep.Mailbox, Device: "d", IDs: []device.RequestID{"r1"}, Grace: time.Minute}))
}
