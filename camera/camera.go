// Package camera is a simulated camera: it enrols over HTTP with its own key, holds one MQTT 3.1.1 connection over
// mutual TLS, executes every command of the default catalogue on a small model of a taxi and its driver, and misbehaves
// on request.
//
// It is the other side of the contract and proves it, so it imports no other package of this program: topics, JSON
// bodies and the enrolment call are declared here once more, and a request id is an opaque string.
//
// A Camera promises what the contract asks of every camera. It answers each command at least once: a reply stays until
// its PUBACK, over any number of connections of the same process. It executes a command at most once: a second copy,
// told by its request id among the last 1,000, gets the same replies again. It executes none after its time. Its memory
// is bounded: 64 commands at a time, over which it answers "busy"; 1,000 unacknowledged replies, over which it leaves
// commands unacknowledged. It does not survive its process: a restart forgets settings, history and unsent replies, and
// keeps the identity in its folder alone. Long commands are shortened: each piece takes Config.Pace, whatever the length
// of the clip. No picture of a person, no network but broker and API.
//
// The MQTT session is written here, over the packet codec of Eclipse Paho, and not on Paho's client. Faults need to
// decide when a PUBACK is withheld and where a connection breaks, and a process holds a thousand cameras: for 1,000 idle
// TLS connections with a subscription Paho's client took 47 KB and 10 goroutines each, a reader and a sender over the
// codec 16 KB and 2 (heap and stacks after a collection). A whole camera takes 35 KB, its certificates and model
// included (BenchmarkFleet_Idle).
//
// A Camera and a Fleet are safe for concurrent use; Run is called once.
package camera

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	defaultPace       = 300 * time.Millisecond
	defaultAckTimeout = 20 * time.Second
	restartSteps      = 5 // pieces of Pace that a restart takes
)

// Config tells a camera who it is and how it behaves. Either Identity, or API with Code or an enrolled Folder.
type Config struct {
	Name string // asked for at enrolment, where the API may give another

	Identity *Identity // of a camera that is registered already; Name, API, Code and Folder are then not needed

	API    string // base URL of the HTTP API, such as http://127.0.0.1:8080
	Code   string // one-time enrolment code
	Folder string // keeps key, certificates and id, readable by the owner only; "": in memory

	Faults Faults
	Seed   uint64 // of the simulation and of chance; the same seed is the same camera

	Pace       time.Duration // of one piece of a long command; 0: 300 ms
	AckTimeout time.Duration // until an event without PUBACK costs the connection; 0: 20 s

	HTTP   *http.Client     // for enrolment; nil: the default client
	Logger *slog.Logger     // nil: silence
	Clock  func() time.Time // the camera's own clock, which may be wrong; nil: time.Now

	// For whoever keeps a journal of the camera; nil: nobody. Neither may block, nor keep the bytes.
	OnCommand func(body []byte) // each message of the commands topic, before its PUBACK
	OnPuback  func(body []byte) // each reply that the broker has acknowledged

	// What the cameras of a fleet share; nil for a camera alone.
	connecting gate // how many enrol or connect at the same time
	drawing    gate // how many draw at the same time
	rumours    *rumours
}

func (cfg *Config) setDefaults() {
	if cfg.Pace == 0 {
		cfg.Pace = defaultPace
	}
	if cfg.AckTimeout == 0 {
		cfg.AckTimeout = defaultAckTimeout
	}
	if cfg.HTTP == nil {
		cfg.HTTP = http.DefaultClient
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.OnCommand == nil {
		cfg.OnCommand = func([]byte) {}
	}
	if cfg.OnPuback == nil {
		cfg.OnPuback = func([]byte) {}
	}
}

func (cfg *Config) validate() error {
	errs := []error{cfg.Faults.validate()}
	if cfg.Identity != nil {
		errs = append(errs, cfg.Identity.validate())
	} else if cfg.API == "" && cfg.Folder == "" {
		errs = append(errs, errors.New("an Identity, an API to enrol at or an enrolled Folder is needed"))
	}
	if cfg.Pace < 0 || cfg.AckTimeout < 0 {
		errs = append(errs, errors.New("neither Pace nor AckTimeout may be negative"))
	}
	return errors.Join(errs...)
}

// Camera is one simulated camera.
type Camera struct {
	cfg     Config
	log     *slog.Logger
	unit    *unit
	drive   *drive
	dice    *dice
	rng     *rand.Rand // of Run alone: back-off
	history history
	outbox  *outbox
	running atomic.Int32 // tasks in execution
	count   counters

	identity atomic.Pointer[Identity] // set once it is known
	started  atomic.Bool
	ready    chan struct{}
	once     sync.Once      // closes ready
	tasks    sync.WaitGroup // running commands
}

// New returns a camera that Run starts. It checks the configuration and touches neither network nor disk.
func New(cfg Config) (*Camera, error) {
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("camera: %w", err)
	}
	chance := func(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(cfg.Seed, stream)) }
	world := chance(1)
	return &Camera{
		cfg:    cfg,
		log:    cfg.Logger,
		unit:   newUnit(world, cfg.Clock()),
		drive:  newDrive(world),
		dice:   &dice{rng: chance(2), faults: cfg.Faults},
		rng:    chance(3),
		outbox: newOutbox(),
		ready:  make(chan struct{}),
	}, nil
}

// Ready returns a channel that is closed once the camera has subscribed to its commands for the first time.
func (c *Camera) Ready() <-chan struct{} { return c.ready }

// ID returns the device id, "" while the camera has none or does not know it.
func (c *Camera) ID() string {
	if id := c.identity.Load(); id != nil {
		return id.ID
	}
	return ""
}

// displayName is what people know the camera by.
func (c *Camera) displayName() string {
	if id := c.identity.Load(); id != nil && id.Name != "" {
		return id.Name
	}
	if c.cfg.Name != "" {
		return c.cfg.Name
	}
	return c.ID()
}

// Run enrols where needed, then connects and serves until ctx ends, coming back after every lost connection. It returns
// nil for a clean stop, an *EnrolmentError for a final refusal, and another error where folder or answer are unusable.
// What was not acknowledged when ctx ends is lost, as in a camera without power.
func (c *Camera) Run(ctx context.Context) error {
	if !c.started.CompareAndSwap(false, true) {
		return errors.New("camera: Run was called before")
	}
	defer c.tasks.Wait()
	identity, err := c.enrol(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("camera: enrol: %w", err)
	}
	c.identity.Store(&identity)
	if err := c.serve(ctx, identity); err != nil {
		return fmt.Errorf("camera: %w", err)
	}
	return nil
}

// serve holds one connection after the other.
func (c *Camera) serve(ctx context.Context, identity Identity) error {
	config, err := identity.tls()
	if err != nil {
		return err
	}
	addr, err := identity.address()
	if err != nil {
		return err
	}
	connect := func() (*link, error) {
		if !c.cfg.connecting.enter(ctx) {
			return nil, context.Cause(ctx)
		}
		defer c.cfg.connecting.leave()
		return dial(ctx, addr, config, identity.ID)
	}
	wait, failures := backoff{rng: c.rng}, 0
	for ctx.Err() == nil {
		began, before := time.Now(), c.count.connections.Load()
		err := c.connection(ctx, connect, identity.topics())
		if errors.Is(err, errRestart) {
			sleep(ctx, restartSteps*c.cfg.Pace)
			c.unit.start(c.cfg.Clock())
			wait.reset()
			continue
		}
		if errors.Is(err, errCut) || time.Since(began) > steady {
			wait.reset()
		}
		if c.count.connections.Load() > before {
			failures = 0
		}
		failures++
		if ctx.Err() == nil {
			c.logLoss(ctx, err, failures)
			sleep(ctx, wait.delay())
		}
	}
	return nil
}

// logLoss tells of a lost connection, and of the attempts after it only to those who want everything: a thousand cameras
// without a broker would say little else.
func (c *Camera) logLoss(ctx context.Context, err error, failures int) {
	level := slog.LevelDebug
	if failures == 1 {
		level = slog.LevelInfo
	}
	c.log.Log(ctx, level, "camera disconnected", "camera", c.displayName(), "error", err)
}

// connection opens one connection and serves it until it ends.
func (c *Camera) connection(ctx context.Context, connect func() (*link, error), topics Topics) error {
	l, err := connect()
	if err != nil {
		return err
	}
	s := &session{cam: c, link: l, topics: topics, start: func(t task) {
		c.tasks.Go(func() { c.execute(ctx, t) })
	}}
	return s.run(ctx)
}

// subscribed notes that commands arrive from now on.
func (c *Camera) subscribed() {
	c.count.connections.Add(1)
	c.log.Info("camera connected", "camera", c.displayName(), "device_id", c.ID())
	c.once.Do(func() { close(c.ready) })
}
