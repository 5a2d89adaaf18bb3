package faults

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"signaldevice/access"
	"signaldevice/testserver/child"
)

const (
	apiCount    = 2
	clientCount = 8
)

// commands is the catalogue of the runs: deadlines are short, so that a run sees their end.
const commands = `commands:
  - name: exchange
    permission: commands.status
    deliver_within: 5s
    reply_within: 8s
    args: &args
      type: object
      additionalProperties: false
      properties:
        nonce: {type: string}
        delay_ms: {type: integer}
        progress: {type: boolean}
  - name: exchange_held
    permission: commands.status
    hold: true
    deliver_within: 5s
    reply_within: 8s
    args: *args
  - name: ping
    permission: commands.status
    deliver_within: 5s
    reply_within: 8s
    args:
      type: object
      additionalProperties: false
      properties:
        nonce: {type: string}
`

// Build compiles the program into a folder and returns the path of the executable. With a movable clock it can go through
// F14; the first such build compiles the standard library, too, which takes a minute or two.
func Build(ctx context.Context, dir string, movable bool) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "signal-device")
	args := []string{"build", "-o", binary}
	if movable {
		overlay, err := movableClock(ctx, dir)
		if err != nil {
			return "", err
		}
		args = append(args, "-overlay", overlay)
	}
	out, err := exec.CommandContext(ctx, "go", append(args, "signaldevice/cmd/signal-device")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return binary, nil
}

// processors is how many each broker and API uses. There are more processes than a small machine has processors, and less is
// lost in handing over where none of them spreads over all.
const processors = "1"

// conditions are what a system has from its start to its end.
type conditions struct {
	clocks     bool          // they can be moved: the program was built for that
	redisAhead time.Duration // the clock of Redis
	memory     string        // GOMEMLIMIT of broker and APIs; "": none
	disk       int64         // bytes for the broker's files; 0: no bound of ours
	records    int           // of requests that the broker keeps at most, and replies for a minute; 0: as it does unasked
}

// system is the processes of one run and the ways between them.
type system struct {
	dir, binary string
	under       conditions

	redis, broker           *child.Process
	redisClock, brokerClock *clock
	brokerAdmin             string
	at                      ready // where the broker listens
	apis                    [apiCount]*api
	toCameras               *proxy // from cameras to the broker

	admin   client
	clients []client
	journal *journal
	http    *caller

	stops []func() // in the order of the starts
}

// api is one instance with its own ways to broker and cache.
type api struct {
	*child.Process
	toBroker, toRedis *proxy
	clock             *clock
	admin             string
	at                atomic.Pointer[string] // where it listens, if not at its process's port
}

// base is where its API begins.
func (a *api) base() string {
	if at := a.at.Load(); at != nil {
		return "http://" + *at
	}
	return "http://" + a.Addr()
}

func apiName(i int) string { return fmt.Sprintf("api-%d", i) }

// ready is what a started program tells of itself.
type ready struct {
	MQTT    string `json:"mqtt"`
	GRPC    string `json:"grpc"`
	CA      string `json:"ca"`
	Service struct {
		Cert string `json:"cert"`
		Key  string `json:"key"`
	} `json:"service"`
}

// startSystem starts everything but the cameras. An error leaves nothing running.
func startSystem(ctx context.Context, binary, dir string, under conditions) (_ *system, err error) {
	s := &system{dir: dir, binary: binary, under: under, journal: newJournal()}
	s.journal.records = under.records
	defer func() {
		if err != nil {
			s.stop()
		}
	}()
	catalogue, tokens := filepath.Join(dir, "commands.yaml"), filepath.Join(dir, "tokens.yaml")
	if err := errors.Join(os.WriteFile(catalogue, []byte(commands), 0o600), s.createClients(tokens)); err != nil {
		return nil, err
	}
	if err := s.startRedis(ctx); err != nil {
		return nil, err
	}
	if err := s.startBroker(ctx); err != nil {
		return nil, err
	}
	proxies := newProxies()
	open := func(name, server string) *proxy {
		p, openErr := proxies.open(name, server)
		if openErr != nil {
			err = errors.Join(err, openErr)
			return nil
		}
		s.stops = append(s.stops, p.refuse)
		return p
	}
	s.toCameras = open("cameras-broker", s.at.MQTT)
	for i := range s.apis {
		s.apis[i] = &api{
			toBroker: open(apiName(i)+"-broker", s.at.GRPC),
			toRedis:  open(apiName(i)+"-redis", s.redis.Addr()),
		}
	}
	if err != nil {
		return nil, err
	}
	for i, a := range s.apis {
		if a.Process, err = s.startAPI(i, a, catalogue, tokens); err != nil {
			return nil, err
		}
	}
	s.http = newCaller(s)
	s.stops = append(s.stops, s.http.close)
	return s, nil
}

// stop ends everything, the newest first.
func (s *system) stop() {
	for _, stop := range slices.Backward(s.stops) {
		stop()
	}
	s.stops = nil
}

func (s *system) start(p child.Program) (*child.Process, error) {
	started, err := child.Start(s.dir, p)
	if err == nil {
		s.stops = append(s.stops, started.Shutdown)
	}
	return started, err
}

func (s *system) createClients(tokens string) error {
	create := func(name, role string) (client, error) {
		token, err := access.CreateToken(tokens, name, role, 0)
		return client{name, token}, err
	}
	var errs []error
	for i := range clientCount {
		c, err := create(fmt.Sprintf("client-%d", i), "operator")
		s.clients, errs = append(s.clients, c), append(errs, err)
	}
	var err error
	s.admin, err = create("root", "admin")
	return errors.Join(append(errs, err)...)
}

func (s *system) clientsByName() map[string]client {
	byName := map[string]client{}
	for _, c := range s.clients {
		byName[c.name] = c
	}
	return byName
}

// newClock makes the clock of one process, and returns the variable of its environment that names it.
func (s *system) newClock(name string) (*clock, string, error) {
	path := filepath.Join(s.dir, name+".clock")
	c, err := newClock(path)
	if err != nil {
		return nil, "", err
	}
	s.stops = append(s.stops, c.close)
	return c, clockVariable + "=" + path, nil
}

func (s *system) startRedis(ctx context.Context) error {
	program := child.Redis()
	var variable string
	var err error
	if s.redisClock, variable, err = s.newClock("redis"); err != nil {
		return err
	}
	if s.under.redisAhead != 0 {
		preload, err := movableClockC(ctx, s.dir)
		if err != nil {
			return err
		}
		program.Env = append(os.Environ(), variable, "LD_PRELOAD="+preload)
		if err := s.redisClock.set(s.under.redisAhead); err != nil {
			return err
		}
	}
	s.redis, err = s.start(program)
	return err
}

// startBroker starts a broker whose ports stay the same over all its lives.
func (s *system) startBroker(ctx context.Context) error {
	data := filepath.Join(s.dir, "broker")
	if s.under.disk > 0 {
		unmount, err := mountSmall(ctx, data, s.under.disk)
		if err != nil {
			return err
		}
		s.stops = append(s.stops, unmount)
	}
	var variable string
	var err error
	if s.brokerClock, variable, err = s.newClock(brokerName); err != nil {
		return err
	}
	var mqtt string
	file := filepath.Join(s.dir, "broker.ready")
	s.broker, err = s.start(s.own(brokerName, file, variable, &s.at, func(port int) []string {
		if s.broker == nil { // each attempt at the first start has ports of its own
			mqtt, s.brokerAdmin = freeAddr(), freeAddr()
		}
		args := []string{"broker", "--data", data, "--admin", s.brokerAdmin, "--mqtt", mqtt, "--grpc", fmt.Sprintf("127.0.0.1:%d", port)}
		if s.under.records > 0 {
			args = append(args, "--max-requests", strconv.Itoa(s.under.records), "--retention", time.Minute.String(), "--pprof")
		}
		return args
	}))
	return err
}

func (s *system) startAPI(i int, a *api, catalogue, tokens string) (p *child.Process, err error) {
	var variable string
	if a.clock, variable, err = s.newClock(apiName(i)); err != nil {
		return nil, err
	}
	file := filepath.Join(s.dir, apiName(i)+".ready")
	var at ready
	return s.start(s.own(apiName(i), file, variable, &at, func(port int) []string {
		if a.Process == nil {
			a.admin = freeAddr()
		}
		return []string{
			"serve", "--http", fmt.Sprintf("127.0.0.1:%d", port), "--admin", a.admin, "--rate", "0",
			"--tokens", tokens, "--catalogue", catalogue, "--redis", "redis://" + a.toRedis.Listen,
			"--broker", a.toBroker.Listen, "--broker-ca", s.at.CA,
			"--broker-cert", s.at.Service.Cert, "--broker-key", s.at.Service.Key,
		}
	}))
}

// freeAddr returns an address that was free a moment ago, or one on which nobody can listen.
func freeAddr() string {
	port, err := child.FreePort()
	if err != nil {
		port = -1
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// own says how to run this program; each start waits for a ready file of its own.
func (s *system) own(name, file, clock string, at *ready, args func(port int) []string) child.Program {
	return child.Program{
		Name: name,
		Path: s.binary,
		Env:  append(child.OwnEnvironment(os.Environ()), clock, "GOMEMLIMIT="+cmp.Or(s.under.memory, "off"), "GOMAXPROCS="+processors),
		Args: func(_ string, port int) ([]string, error) {
			if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, err
			}
			return append(args(port), "--ready-file", file), nil
		},
		Ready: func(*child.Process, time.Duration) error {
			data, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			return json.Unmarshal(data, at)
		},
	}
}

// away notes that an API cannot be reached, by intent, from now until the returned function is called.
func (s *system) away(i int, orderly bool) (back func()) {
	o := &outage{api: i, orderly: orderly, span: span{time.Now(), time.Now().Add(time.Hour)}}
	s.journal.note(func(j *journal) { j.outages = append(j.outages, o) })
	var once sync.Once
	return func() {
		once.Do(func() { s.journal.note(func(*journal) { o.to = time.Now() }) })
	}
}

// ways returns the ways of all APIs to the broker, or to Redis.
func (s *system) ways(of func(*api) *proxy) []*proxy {
	var list []*proxy
	for _, a := range s.apis {
		list = append(list, of(a))
	}
	return list
}

func toBroker(a *api) *proxy { return a.toBroker }
func toRedis(a *api) *proxy  { return a.toRedis }
