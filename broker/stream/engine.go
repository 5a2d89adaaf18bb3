// Package stream is the broker's durable engine: a NATS JetStream server embedded in the process, and the few operations
// on streams that the rest of the broker is built from.
//
// It promises that an append which returned without error is on disk with fsync on a single node, or on a majority of
// nodes where streams have three replicas (I1). It knows nothing of devices, requests or replies. Everything here is
// safe for concurrent use.
package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// leastWindow is the shortest time for which the server lets a stream know repeated messages.
const leastWindow = 100 * time.Millisecond

// Config says where and how the engine keeps its data.
type Config struct {
	Dir      string // folder of the store; made when absent
	Node     string // name of this node; default "node-1"
	Replicas int    // of every stream: 1 on a single node, 3 in a cluster; default 1
	MaxStore int64  // bytes on disk of all streams together; default 16 GiB
	NoSync   bool   // leave fsync to the operating system: only for measuring what it costs
	Log      *slog.Logger
}

// Engine is a running JetStream server and a connection to it inside the process.
type Engine struct {
	cfg     Config
	server  *server.Server
	conn    *nats.Conn
	js      jetstream.JetStream
	answers *answers
	deletes chan struct{} // one token for each Delete under way

	mu        sync.Mutex
	appenders []*Appender
	handles   map[string]jetstream.Stream // by name
}

// Open starts the engine and waits until it accepts work. Close stops it.
func Open(ctx context.Context, cfg Config) (*Engine, error) {
	if cfg.Node == "" {
		cfg.Node = "node-1"
	}
	if cfg.Replicas == 0 {
		cfg.Replicas = 1
	}
	if cfg.MaxStore == 0 {
		cfg.MaxStore = 16 << 30
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("stream: %w", err)
	}
	if !cfg.NoSync {
		if err := syncAll(cfg.Dir); err != nil {
			return nil, fmt.Errorf("stream: open %s: %w", filepath.Clean(cfg.Dir), err)
		}
	}
	e := &Engine{cfg: cfg, deletes: make(chan struct{}, maxDeletes), handles: map[string]jetstream.Stream{}}
	if err := e.start(ctx); err != nil {
		e.Close()
		return nil, fmt.Errorf("stream: open %s: %w", filepath.Clean(cfg.Dir), err)
	}
	return e, nil
}

// syncAll makes the files of a store durable as they are. A process that was killed in the middle of a batch, and a server
// that was shut down, leave messages which the kernel may not have written yet. The next one counts them as stored, and
// would acknowledge them when they are repeated (I1).
func syncAll(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() && !entry.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}

func (e *Engine) start(ctx context.Context) error {
	if err := e.startServer(e.cfg.MaxStore); err != nil {
		return err
	}
	// Streams of a time with a larger store reserve more than this one has, and the server would not even let them be
	// made smaller. It does with room for both; the next start is within bounds.
	stats, err := e.server.Jsz(nil)
	if err != nil {
		return err
	}
	if reserved := int64(stats.ReservedStore); reserved > e.cfg.MaxStore {
		e.stopServer()
		if err := e.startServer(reserved + e.cfg.MaxStore); err != nil {
			return err
		}
	}
	// A stream that could not be read would be made anew, empty, by whoever ensures it.
	if err := e.Broken(); err != nil {
		return err
	}
	return e.connect(ctx)
}

func (e *Engine) startServer(maxStore int64) (err error) {
	e.server, err = server.NewServer(&server.Options{
		ServerName:         e.cfg.Node,
		DontListen:         true, // the only client is in this process
		JetStream:          true,
		StoreDir:           e.cfg.Dir,
		JetStreamMaxStore:  maxStore,
		JetStreamMaxMemory: 256 << 20,
		SyncAlways:         !e.cfg.NoSync, // I1
		NoSigs:             true,
		NoLog:              false,
	})
	if err != nil {
		return err
	}
	e.server.SetLoggerV2(&serverLog{e.cfg.Log.With("part", "jetstream")}, false, false, false)
	e.server.Start()
	if !e.server.ReadyForConnections(10 * time.Second) {
		return errors.New("the server did not start within 10 s")
	}
	return nil
}

func (e *Engine) stopServer() {
	e.server.Shutdown()
	e.server.WaitForShutdown()
}

func (e *Engine) connect(ctx context.Context) (err error) {
	e.conn, err = nats.Connect("", nats.InProcessServer(e.server), nats.Name(e.cfg.Node),
		nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond),
		nats.SyncQueueLen(1024), // the default allocates 512 KB for each subscription
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			e.cfg.Log.Warn("connection to the store", "error", err)
		}))
	if err != nil {
		return err
	}
	if e.js, err = jetstream.New(e.conn, jetstream.WithPublishAsyncMaxPending(16384)); err != nil {
		return err
	}
	if e.answers, err = newAnswers(e.conn); err != nil {
		return err
	}
	return ctx.Err()
}

// Abandon makes everything fail that waits for an answer of a broken stream, and all that is still asked: what it wrote
// is unknown. Close is to follow.
func (e *Engine) Abandon() { e.conn.Close() }

// Close stops the server and closes the connection. Appends that were not answered yet fail.
func (e *Engine) Close() {
	if e.conn != nil {
		e.conn.Close()
	}
	if e.server != nil {
		e.stopServer()
	}
}

// JetStream gives the engine's own interface for what this package does not wrap.
func (e *Engine) JetStream() jetstream.JetStream { return e.js }

const healthTries = 100

// Broken tells of a stream that could not be read at the start, or that takes no more writes: JetStream gives a stream up
// once a write to it has failed, with a full disk or for want of file descriptors, until the engine is opened anew. nil:
// there is none.
func (e *Engine) Broken() error {
	var health *server.HealthStatus
	for range healthTries {
		health = e.server.Healthz(&server.HealthzOptions{Details: true})
		switch {
		case len(health.Errors) == 0:
			return nil
		case health.Errors[0].Type != server.HealthzErrorConn: // which a busy machine gets: the server gives itself 1 ms
			return errors.New(health.Errors[0].Error)
		}
	}
	return errors.New(health.Errors[0].Error)
}

// Failing tells for how long some stream has not answered what was to be written to it: the time between the first and
// the latest write in a row that had no answer. 0: all answer, or one write alone had none, which a short stall of the
// disk does, however often one of a rarely written stream meets it. It grows with further writes only, so a stream shows as
// dead to those who try again.
func (e *Engine) Failing() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	var longest time.Duration
	for _, a := range e.appenders {
		longest = max(longest, time.Duration(a.failing.Load()))
	}
	return longest
}

// Conn is the connection inside the process.
func (e *Engine) Conn() *nats.Conn { return e.conn }

// Replicas is the number of copies that every stream has.
func (e *Engine) Replicas() int { return e.cfg.Replicas }

// Ensure creates the stream, or brings its configuration up to date, and returns its life: a number that is another one
// once the stream has been deleted and made anew. It sets the number of replicas itself. The stream knows repeated messages
// by their Nats-Msg-Id only where cfg.Duplicates says for how long.
func (e *Engine) Ensure(ctx context.Context, cfg jetstream.StreamConfig) (life uint64, err error) {
	cfg.Replicas = e.cfg.Replicas
	cfg.Duplicates = cmp.Or(cfg.Duplicates, leastWindow) // at a start the server reads what was stored within it
	s, err := e.js.CreateOrUpdateStream(ctx, cfg)
	if err != nil {
		return 0, fmt.Errorf("stream: %s: %w", cfg.Name, err)
	}
	e.mu.Lock()
	e.handles[cfg.Name] = s
	e.mu.Unlock()
	return uint64(s.CachedInfo().Created.UnixNano()), nil
}

// handle returns the stream without a call where Ensure made it.
func (e *Engine) handle(ctx context.Context, stream string) (jetstream.Stream, error) {
	e.mu.Lock()
	s, ok := e.handles[stream]
	e.mu.Unlock()
	if ok {
		return s, nil
	}
	return e.js.Stream(ctx, stream)
}

// serverLog sends the server's lines to slog. The server never logs message bodies at these levels.
type serverLog struct{ log *slog.Logger }

func (l *serverLog) Noticef(format string, v ...any) {
	l.log.Debug("jetstream says", "line", fmt.Sprintf(format, v...))
}
func (l *serverLog) Warnf(format string, v ...any) {
	l.log.Warn("jetstream says", "line", fmt.Sprintf(format, v...))
}
func (l *serverLog) Fatalf(format string, v ...any) {
	l.log.Error("jetstream says", "line", fmt.Sprintf(format, v...))
}
func (l *serverLog) Errorf(format string, v ...any) {
	l.log.Error("jetstream says", "line", fmt.Sprintf(format, v...))
}
func (l *serverLog) Debugf(string, ...any) {}
func (l *serverLog) Tracef(string, ...any) {}
