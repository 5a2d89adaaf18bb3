package faults

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"golang.org/x/sync/errgroup"
)

const (
	registerWorkers = 8
	stormWithin     = 90 * time.Second // until all of them are connected
	knockWithin     = 10 * time.Second // one attempt to connect
	calmBefore      = 3 * time.Second
)

// knocker is a device that does nothing but connect and subscribe: thousands of them are cheap.
type knocker struct {
	registration
	tls *tls.Config
}

// connect opens a connection and returns once it is subscribed.
func (k *knocker) connect(ctx context.Context, addr string) (conn net.Conn, err error) {
	ctx, cancel := context.WithTimeout(ctx, knockWithin)
	defer cancel()
	if conn, err = (&tls.Dialer{Config: k.tls}).DialContext(ctx, "tcp", addr); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, conn.Close())
		}
	}()
	deadline, _ := ctx.Deadline()
	if err = conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	hello, _ := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	hello.ProtocolName, hello.ProtocolVersion, hello.CleanSession, hello.ClientIdentifier = "MQTT", 4, true, k.ID
	subscribe, _ := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	subscribe.MessageID, subscribe.Topics, subscribe.Qoss = 1, []string{k.Topics.Commands}, []byte{1}
	for _, p := range []packets.ControlPacket{hello, subscribe} {
		if err = p.Write(conn); err != nil {
			return nil, err
		}
		answer, readErr := packets.ReadPacket(conn)
		if readErr != nil {
			return nil, readErr
		}
		if c, ok := answer.(*packets.ConnackPacket); ok && c.ReturnCode != packets.Accepted {
			return nil, fmt.Errorf("refused with %d", c.ReturnCode)
		}
	}
	return conn, conn.SetDeadline(time.Time{})
}

// storm lets many registered devices connect at the same moment, each again and again until it is connected.
func storm(ctx context.Context, r *run, d time.Duration) (string, error) {
	crowd, err := r.registerCrowd(ctx, r.cfg.Crowd)
	if err != nil {
		return "", err
	}
	calm := span{from: time.Now()}
	hold(ctx, calmBefore)
	calm.to = time.Now()

	conns, connecting := make(chan net.Conn, len(crowd)), new(sync.WaitGroup)
	var connected, failures atomic.Int64
	during := span{from: time.Now()}
	giveUp, cancel := context.WithTimeout(ctx, stormWithin)
	defer cancel()
	for _, k := range crowd {
		connecting.Go(func() {
			for giveUp.Err() == nil {
				conn, err := k.connect(giveUp, r.at.MQTT)
				if err == nil {
					connected.Add(1)
					conns <- conn
					return
				}
				failures.Add(1)
				hold(giveUp, latest)
			}
		})
	}
	fastest := rateOf(&connected, connecting)
	during.to = time.Now()
	close(conns)
	if n := int(connected.Load()); n < len(crowd) && ctx.Err() == nil {
		r.violation(noRecovery, "%d of %d devices were connected %s later", n, len(crowd), stormWithin)
	}
	p99 := func(s span) (p time.Duration) {
		r.journal.note(func(j *journal) { p = quantile(latencies(j, s), 0.99) })
		return p.Round(time.Millisecond)
	}
	note := fmt.Sprintf("%d devices in %s, at most %d in a second, %d attempts failed; p99 of calls %s, before %s", connected.Load(),
		during.to.Sub(during.from).Round(100*time.Millisecond), fastest, failures.Load(), p99(during), p99(calm))
	hold(ctx, d-time.Since(during.from))
	for conn := range conns {
		_ = conn.Close() // nothing was to be said any more
	}
	return note, r.deleteCrowd(ctx, crowd)
}

// rateOf waits until all is done and returns how far the counter rose in its best second.
func rateOf(counter *atomic.Int64, all *sync.WaitGroup) (fastest int64) {
	done := make(chan struct{})
	go func() {
		all.Wait()
		close(done)
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for before := int64(0); ; {
		ended := false
		select {
		case <-done:
			ended = true
		case <-tick.C:
		}
		now := counter.Load()
		fastest, before = max(fastest, now-before), now
		if ended {
			return fastest
		}
	}
}

func (r *run) registerCrowd(ctx context.Context, n int) ([]*knocker, error) {
	crowd := make([]*knocker, n)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(registerWorkers)
	batch := time.Now().UnixNano()
	for i := range crowd {
		group.Go(func() error {
			registered, err := r.register(ctx, fmt.Sprintf("crowd-%d-%d", batch, i), oneDay)
			if err != nil {
				return err
			}
			pair, err := tls.X509KeyPair(registered.cert, registered.key)
			if err != nil {
				return err
			}
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM([]byte(registered.CA))
			crowd[i] = &knocker{registered, &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, ServerName: "127.0.0.1"}}
			return nil
		})
	}
	return crowd, group.Wait()
}

func (r *run) deleteCrowd(ctx context.Context, crowd []*knocker) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(registerWorkers)
	for _, k := range crowd {
		group.Go(func() error {
			got := r.http.do(ctx, 0, r.admin, request{op: opStaff, method: http.MethodDelete, path: "/v1/devices/" + k.ID})
			if got.status != http.StatusNoContent {
				return fmt.Errorf("delete %s: %d %s %s", k.ID, got.status, got.code, got.err)
			}
			return nil
		})
	}
	return group.Wait()
}

const (
	deafReaders = 16
	deafWithin  = 30 * time.Second // until the last of them is dropped: the service gives an answer 15 s, a poll its wait
)

// neverRead opens connections that ask and never read an answer: long polls, and large answers until no buffer takes
// more. It lasts until all of them are dropped. Others read events from a stream slowly enough to be no reader.
func neverRead(ctx context.Context, r *run, d time.Duration) (string, error) {
	began := time.Now()
	giveUp, cancel := context.WithTimeout(ctx, deafWithin)
	defer cancel()
	var all sync.WaitGroup
	var dropped atomic.Int64
	for i := range deafReaders {
		all.Go(func() {
			if deaf(giveUp, r.apis[i%apiCount].Addr(), r.load.devices[i%len(r.load.devices)], r.clients[i%clientCount].token) {
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
