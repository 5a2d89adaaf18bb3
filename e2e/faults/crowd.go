package faults

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

const (
	lowest      = "19"             // priority: the devices' processors are not the server's
	stormWithin = 3 * time.Minute  // until all of them are connected
	knockWithin = 10 * time.Second // one attempt to connect, as simulated cameras have it
	firstPause  = time.Second      // after an attempt; twice as long each time
	longPause   = 16 * time.Second
)

// crowd is the command crowd, running. Its devices connect when it is told to, and stay until it is closed.
type crowd struct {
	cmd     *exec.Cmd
	errors  *bytes.Buffer // to be read when it has ended
	in      io.WriteCloser
	encoder *json.Encoder
	decoder *json.Decoder
}

// crowded is what the crowd is told first.
type crowded struct {
	Addr    string
	CA      string
	Devices []knocker
}

// knocker is a device that does nothing but connect and subscribe: thousands of them are cheap.
type knocker struct {
	ID, Commands string
	Cert, Key    []byte // PEM
}

// stormed is what became of the crowd.
type stormed struct {
	Connected, Failed int           // devices, attempts
	Fastest           int           // devices in the best second
	Took              time.Duration // until the last one was connected
}

// startCrowd builds and starts a crowd at the lowest priority, and returns once it is ready to connect.
func startCrowd(ctx context.Context, dir string, of crowded) (*crowd, error) {
	binary := filepath.Join(dir, "crowd")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, "signaldevice/e2e/faults/cmd/crowd").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build: %w\n%s", err, out)
	}
	c := &crowd{cmd: exec.CommandContext(ctx, "nice", "-n", lowest, binary), errors: new(bytes.Buffer)}
	c.cmd.Stderr = c.errors
	in, err := c.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.in, c.encoder, c.decoder = in, json.NewEncoder(in), json.NewDecoder(out)
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	var ready struct{}
	if err := c.ask(of, &ready); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *crowd) ask(question, answer any) error {
	if err := c.encoder.Encode(question); err != nil {
		return fmt.Errorf("crowd: %w", err)
	}
	if err := c.decoder.Decode(answer); err != nil {
		return fmt.Errorf("crowd: %w", err)
	}
	return nil
}

// connect returns when all devices are connected, or gave up.
func (c *crowd) connect() (s stormed, err error) {
	err = c.ask(struct{}{}, &s)
	return s, err
}

// close ends the process, and its connections with it.
func (c *crowd) close() error {
	if err := errors.Join(c.in.Close(), c.cmd.Wait()); err != nil {
		return fmt.Errorf("crowd: %w\n%s", err, c.errors)
	}
	return nil
}

// Crowd does what a started crowd does: it reads who it is, says that it is ready, connects when it is told to, says how
// that went, and stays connected until in ends.
func Crowd(ctx context.Context, in io.Reader, out io.Writer) error {
	decoder, encoder := json.NewDecoder(in), json.NewEncoder(out)
	var of crowded
	if err := decoder.Decode(&of); err != nil {
		return err
	}
	configs := make([]*tls.Config, len(of.Devices))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(of.CA))
	for i, k := range of.Devices {
		pair, err := tls.X509KeyPair(k.Cert, k.Key)
		if err != nil {
			return err
		}
		configs[i] = &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, ServerName: "127.0.0.1"}
	}
	var start struct{}
	if err := errors.Join(encoder.Encode(start), decoder.Decode(&start)); err != nil {
		return err
	}
	s, conns := storm(ctx, of, configs)
	if err := encoder.Encode(s); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, in)
	for _, conn := range conns {
		_ = conn.Close() // nothing was to be said any more
	}
	return err
}

// storm lets all devices connect at the same moment, each again and again until it is connected.
func storm(ctx context.Context, of crowded, configs []*tls.Config) (stormed, []net.Conn) {
	ctx, cancel := context.WithTimeout(ctx, stormWithin)
	defer cancel()
	began := time.Now()
	var (
		all    sync.WaitGroup
		failed atomic.Int64
		mu     sync.Mutex
		conns  []net.Conn
		perSec = map[int]int{}
	)
	for i, k := range of.Devices {
		all.Go(func() {
			for pause := firstPause; ctx.Err() == nil; pause = min(2*pause, longPause) {
				conn, err := k.connect(ctx, of.Addr, configs[i])
				if err == nil {
					mu.Lock()
					conns = append(conns, conn)
					perSec[int(time.Since(began)/time.Second)]++
					mu.Unlock()
					return
				}
				failed.Add(1)
				hold(ctx, pause/2+rand.N(pause/2))
			}
		})
	}
	all.Wait()
	s := stormed{Connected: len(conns), Failed: int(failed.Load()), Took: time.Since(began)}
	for _, n := range perSec {
		s.Fastest = max(s.Fastest, n)
	}
	return s, conns
}

// connect opens a connection and returns once it is subscribed. With an error the connection is closed.
func (k *knocker) connect(ctx context.Context, addr string, config *tls.Config) (conn net.Conn, err error) {
	ctx, cancel := context.WithTimeout(ctx, knockWithin)
	defer cancel()
	if conn, err = (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", addr); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = conn.Close() // it failed before
		}
	}()
	deadline, _ := ctx.Deadline()
	if err = conn.SetDeadline(deadline); err != nil {
		return conn, err
	}
	hello, _ := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	hello.ProtocolName, hello.ProtocolVersion, hello.CleanSession, hello.ClientIdentifier = "MQTT", 4, true, k.ID
	subscribe, _ := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	subscribe.MessageID, subscribe.Topics, subscribe.Qoss = 1, []string{k.Commands}, []byte{1}
	for _, p := range []packets.ControlPacket{hello, subscribe} {
		if err = p.Write(conn); err != nil {
			return conn, err
		}
		answer, readErr := packets.ReadPacket(conn)
		if readErr != nil {
			return conn, readErr
		}
		if c, ok := answer.(*packets.ConnackPacket); ok && c.ReturnCode != packets.Accepted {
			return conn, fmt.Errorf("refused with %d", c.ReturnCode)
		}
	}
	return conn, conn.SetDeadline(time.Time{})
}
