package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"signaldevice/access"
	"signaldevice/testserver/child"
)

const (
	apiCount    = 2
	clientCount = 8
	anyPort     = "127.0.0.1:0"
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
`

// Build compiles the program into a folder and returns the path of the executable.
func Build(ctx context.Context, dir string) (string, error) {
	binary := filepath.Join(dir, "signal-device")
	out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, "signaldevice/cmd/signal-device").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return binary, nil
}

// system is the processes of one run and the ways between them.
type system struct {
	dir, binary string

	redis, broker *child.Process
	at            ready // where the broker listens
	apis          [apiCount]*api
	toCameras     *proxy // from cameras to the broker

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
}

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
func startSystem(binary, dir string) (s *system, err error) {
	s = &system{dir: dir, binary: binary, journal: newJournal()}
	defer func() {
		if err != nil {
			s.stop()
		}
	}()
	catalogue, tokens := filepath.Join(dir, "commands.yaml"), filepath.Join(dir, "tokens.yaml")
	if err := errors.Join(os.WriteFile(catalogue, []byte(commands), 0o600), s.createClients(tokens)); err != nil {
		return nil, err
	}
	if s.redis, err = s.start(child.Redis()); err != nil {
		return nil, err
	}
	if err := s.startBroker(); err != nil {
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
			toBroker: open(fmt.Sprintf("api%d-broker", i), s.at.GRPC),
			toRedis:  open(fmt.Sprintf("api%d-redis", i), s.redis.Addr()),
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

// startBroker starts a broker whose three ports stay the same over all its lives.
func (s *system) startBroker() error {
	mqtt, err := child.FreePort()
	if err != nil {
		return err
	}
	file := filepath.Join(s.dir, "broker.ready")
	s.broker, err = s.start(s.own("broker", file, &s.at, func(port int) []string {
		return []string{
			"broker", "--data", filepath.Join(s.dir, "broker"), "--admin", anyPort,
			"--mqtt", fmt.Sprintf("127.0.0.1:%d", mqtt), "--grpc", fmt.Sprintf("127.0.0.1:%d", port),
		}
	}))
	return err
}

func (s *system) startAPI(i int, a *api, catalogue, tokens string) (*child.Process, error) {
	name := fmt.Sprintf("api-%d", i)
	file := filepath.Join(s.dir, name+".ready")
	var at ready
	return s.start(s.own(name, file, &at, func(port int) []string {
		return []string{
			"serve", "--http", fmt.Sprintf("127.0.0.1:%d", port), "--admin", anyPort, "--rate", "0",
			"--tokens", tokens, "--catalogue", catalogue, "--redis", "redis://" + a.toRedis.Listen,
			"--broker", a.toBroker.Listen, "--broker-ca", s.at.CA,
			"--broker-cert", s.at.Service.Cert, "--broker-key", s.at.Service.Key,
		}
	}))
}

// own says how to run this program; each start waits for a ready file of its own.
func (s *system) own(name, file string, at *ready, args func(port int) []string) child.Program {
	return child.Program{
		Name: name,
		Path: s.binary,
		Env:  ownEnvironment(os.Environ()),
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

// ownEnvironment leaves out the options that were meant for another process, and lets the started ones log what is wrong
// only.
func ownEnvironment(environ []string) []string {
	var kept []string
	for _, entry := range environ {
		if !strings.HasPrefix(entry, "SIGNAL_DEVICE_") {
			kept = append(kept, entry)
		}
	}
	return append(kept, "SIGNAL_DEVICE_LOG_LEVEL=warn")
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
