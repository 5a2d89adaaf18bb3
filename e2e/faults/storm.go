package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	registerWorkers = 8
	calmBefore      = 10 * time.Second
)

// manyConnect lets many registered devices connect at the same moment.
func manyConnect(ctx context.Context, r *run, d time.Duration) (string, error) {
	devices, ca, err := r.registerCrowd(ctx, r.cfg.Crowd)
	if err != nil {
		return "", err
	}
	all, err := startCrowd(ctx, r.dir, crowded{Addr: r.at.MQTT, CA: ca, Devices: devices})
	if err != nil {
		return "", err
	}
	calm := span{from: time.Now()}
	hold(ctx, calmBefore)
	calm.to = time.Now()

	during := span{from: time.Now()}
	s, err := all.connect()
	during.to = time.Now()
	if err != nil {
		return "", errors.Join(err, all.close())
	}
	if s.Connected < len(devices) && ctx.Err() == nil {
		r.violation(noRecovery, "%d of %d devices were connected %s later", s.Connected, len(devices), stormWithin)
	}
	p99 := func(s span) (p time.Duration) {
		r.journal.note(func(j *journal) { p = quantile(latencies(j, s), 0.99) })
		return p.Round(time.Millisecond)
	}
	note := fmt.Sprintf("%d devices in %s, at most %d in a second, %d attempts failed; p99 of calls %s, before %s",
		s.Connected, s.Took.Round(100*time.Millisecond), s.Fastest, s.Failed, p99(during), p99(calm))
	hold(ctx, d-time.Since(during.from))
	if err := all.close(); err != nil {
		return "", err
	}
	return note, r.deleteCrowd(ctx, devices)
}

// registerCrowd registers so many devices, and also returns the CA that they trust.
func (r *run) registerCrowd(ctx context.Context, n int) (devices []knocker, ca string, err error) {
	devices, cas := make([]knocker, n), make([]string, n)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(registerWorkers)
	batch := time.Now().UnixNano()
	for i := range devices {
		group.Go(func() error {
			registered, err := r.register(ctx, fmt.Sprintf("crowd-%d-%d", batch, i), oneDay)
			devices[i] = knocker{registered.ID, registered.Topics.Commands, registered.cert, registered.key}
			cas[i] = registered.CA
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, "", err
	}
	return devices, cas[0], nil
}

func (r *run) deleteCrowd(ctx context.Context, devices []knocker) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(registerWorkers)
	for _, k := range devices {
		group.Go(func() error { return r.remove(ctx, "/v1/devices/"+k.ID) })
	}
	return group.Wait()
}

const (
	deafReaders = 16
	deafWithin  = 30 * time.Second // until the last of them is dropped: the service gives an answer 15 s, a poll its wait
)

// neverRead opens connections that ask and never read an answer: long polls, and large answers until no buffer takes
// more. It lasts until all of them are dropped. Others read events from a stream slowly enough to be no reader. Those who
// poll have no replies of their own: what they were given would be lost by their own will.
func neverRead(ctx context.Context, r *run, d time.Duration) (string, error) {
	began := time.Now()
	giveUp, cancel := context.WithTimeout(ctx, deafWithin)
	defer cancel()
	var all sync.WaitGroup
	var dropped atomic.Int64
	for i := range deafReaders {
		all.Go(func() {
			if deaf(giveUp, r.apis[i%apiCount].Addr(), r.load.devices[i%len(r.load.devices)], r.admin.token) {
				dropped.Add(1)
			}
		})
	}
	streams, stopStreams := context.WithCancel(ctx)
	defer stopStreams()
	for i := range clientCount {
		all.Go(func() { openStream(streams, r.apis[i%apiCount].Addr(), r.clients[i].token) })
	}
	hold(ctx, d)
	stopStreams()
	all.Wait()
	if n := dropped.Load(); n < deafReaders && ctx.Err() == nil {
		r.violation(lingering, "%d of %d readers that never read are connected after %s", deafReaders-n, deafReaders, deafWithin)
	}
	return fmt.Sprintf("%d of %d were dropped, the last after %s", dropped.Load(), deafReaders, time.Since(began).Round(time.Second)), nil
}

// deaf asks and never reads, and reports whether the server ended the connection before ctx did.
func deaf(ctx context.Context, addr, device, token string) bool {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) }) // it has none yet, and is open
	defer stop()
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetReadBuffer(1) // as small as the kernel makes it
	}
	head := "Host: api\r\nAuthorization: Bearer " + token + "\r\n\r\n"
	ask := "GET /v1/devices/" + device + "/replies?wait=2 HTTP/1.1\r\n" + head
	for ; ; ask = "GET /openapi.json HTTP/1.1\r\n" + head {
		if _, err := io.WriteString(conn, ask); err != nil {
			return ctx.Err() == nil
		}
	}
}

// openStream asks for events and reads none.
func openStream(ctx context.Context, addr, token string) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return
	}
	defer conn.Close()
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetReadBuffer(1)
	}
	if _, err := io.WriteString(conn, "GET /v1/events HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer "+token+"\r\n\r\n"); err == nil {
		<-ctx.Done()
	}
}
