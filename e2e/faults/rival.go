package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"signaldevice/testserver/child"
	"signaldevice/testserver/pki"
)

const contestCalm = 2 * time.Second // before the fault and after it

// contender is a system that the same load and the same faults meet.
type contender struct {
	name      string
	mosquitto string // more of its configuration; "": it is this program
}

// contenders: Mosquitto writes its messages to a file from time to time; the second does so as often as it can.
var contenders = []contender{
	{name: "this program, two APIs"},
	{"Mosquitto and a bridge into Redis; `persistence true`", "persistence true\n"},
	{"the same with `autosave_on_changes true`, `autosave_interval 1`", "persistence true\nautosave_on_changes true\nautosave_interval 1\n"},
}

// rivalACL gives each camera its own topics, and the bridge all of them.
const rivalACL = `user bridge
topic readwrite devices/#

pattern read devices/%u/commands
pattern write devices/%u/events
`

// rivalConf is fair to Mosquitto: with the default limits of 20 messages in flight and 1,000 queued for one client, the
// bridge would wait for itself, and replies would be dropped.
const rivalConf = `
cafile %[1]s/ca.pem
certfile %[1]s/server.pem
keyfile %[1]s/server.key
acl_file %[1]s/acl
require_certificate true
use_identity_as_username true
allow_anonymous false
set_tcp_nodelay true
max_inflight_messages 0
max_queued_messages 0
persistence_location %[1]s/
`

// startRival starts Mosquitto, Redis and one bridge, which is package bench/bridge in a process of its own. It has one
// HTTP server; both APIs of the harness are that one.
func startRival(binary, dir, mosquitto string) (_ *system, cameras []registration, err error) {
	s := &system{dir: dir, binary: binary, journal: newJournal()}
	defer func() {
		if err != nil {
			s.stop()
		}
	}()
	files, cameras, tokens, err := s.rivalFiles()
	if err != nil {
		return nil, nil, err
	}
	if s.brokerClock, _, err = s.newClock(brokerName); err != nil {
		return nil, nil, err
	}
	if s.redis, err = s.start(child.Redis()); err != nil {
		return nil, nil, err
	}
	if s.broker, err = s.start(child.Mosquitto(fmt.Sprintf(rivalConf, dir) + mosquitto)); err != nil {
		return nil, nil, err
	}
	proxies := newProxies()
	way := map[string]*proxy{}
	for name, addr := range map[string]string{"cameras": s.broker.Addr(), "redis": s.redis.Addr(), "bridge": s.broker.Addr()} {
		p, err := proxies.open(name, addr)
		if err != nil {
			return nil, nil, err
		}
		s.stops = append(s.stops, p.refuse)
		way[name] = p
	}
	s.toCameras = way["cameras"]
	one := &api{toBroker: way["bridge"], toRedis: way["redis"]}
	files["mosquitto"], files["redis"], files["tokens"] = one.toBroker.Listen, "redis://"+one.toRedis.Listen, tokens
	data, err := json.Marshal(files)
	if err != nil {
		return nil, nil, err
	}
	config, told := filepath.Join(dir, "bridge.json"), filepath.Join(dir, "bridge.ready")
	if err := os.WriteFile(config, data, 0o600); err != nil {
		return nil, nil, err
	}
	one.Process, err = s.start(s.bridge(config, told, one))
	if err != nil {
		return nil, nil, err
	}
	s.apis = [apiCount]*api{one, one}
	s.http = newCaller(s)
	s.stops = append(s.stops, s.http.close)
	return s, cameras, nil
}

// bridge says how to run the bridge. It chooses its port itself, anew with each start.
func (s *system) bridge(config, told string, one *api) child.Program {
	return child.Program{
		Name: "bridge",
		Path: s.binary,
		Env:  child.OwnEnvironment(os.Environ()),
		Args: func(string, int) ([]string, error) {
			if err := os.Remove(told); err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, err
			}
			return []string{"bench", "--bridge", config, "--ready-file", told}, nil
		},
		Ready: func(*child.Process, time.Duration) error {
			data, err := os.ReadFile(told)
			if err != nil {
				return err
			}
			var at struct {
				HTTP string `json:"http"`
			}
			if err := json.Unmarshal(data, &at); err != nil {
				return err
			}
			one.at.Store(&at.HTTP)
			return nil
		},
	}
}

// rivalFiles writes what Mosquitto needs, and returns the beginning of the bridge's configuration, the cameras and the
// clients by token.
func (s *system) rivalFiles() (bridge map[string]any, cameras []registration, tokens map[string]string, err error) {
	ca, err := pki.NewAuthority()
	if err != nil {
		return nil, nil, nil, err
	}
	issue := func(name string) pki.Pair {
		pair, issueErr := ca.Issue(name)
		err = errors.Join(err, issueErr)
		return pair
	}
	write := func(name string, data []byte) {
		err = errors.Join(err, os.WriteFile(filepath.Join(s.dir, name), data, 0o600))
	}
	_, _, writeErr := issue("server").Write(s.dir, "server")
	err = errors.Join(err, writeErr)
	write("ca.pem", ca.PEM)
	write("acl", []byte(rivalACL))
	own := issue("bridge")
	bridge = map[string]any{"ca": string(ca.PEM), "cert": string(own.Cert), "key": string(own.Key)}
	for i := range foreignCameras {
		r := registration{ID: fmt.Sprintf("camera-%d", i), CA: string(ca.PEM), keepsSession: true}
		own := issue(r.ID)
		r.cert, r.key = own.Cert, own.Key
		r.Topics.Commands, r.Topics.Events = "devices/"+r.ID+"/commands", "devices/"+r.ID+"/events"
		cameras = append(cameras, r)
	}
	tokens = map[string]string{}
	for i := range clientCount {
		c := client{fmt.Sprintf("client-%d", i), fmt.Sprintf("token-%d", i)}
		s.clients = append(s.clients, c)
		tokens[c.token] = c.name
	}
	return bridge, cameras, tokens, err
}

// contestFaults are what all contenders go through.
func contestFaults() []*Fault {
	var chosen []*Fault
	for _, f := range Faults() {
		if f.ID == "F3" || f.ID == "F10" || f.ID == "F11" {
			chosen = append(chosen, f)
		}
	}
	return append(chosen, &Fault{ID: "F11, F10", Name: "APIs killed (-9), and half a second later the broker", make: killAll})
}

// killAll leaves cameras the time to answer what they have received.
func killAll(ctx context.Context, r *run, d time.Duration) (string, error) {
	const between = 500 * time.Millisecond
	apis := slices.Compact(slices.Clone(r.apis[:])) // a bridge is both
	for i := range r.apis {
		defer r.away(i, false)()
	}
	for _, a := range apis {
		a.Kill()
	}
	hold(ctx, between)
	r.broker.Kill()
	hold(ctx, d)
	err := r.broker.Restart()
	for _, a := range apis {
		err = errors.Join(err, a.Restart())
	}
	return "", err
}

// Contest is what one contender did in one fault.
type Contest struct {
	Contender string
	Fault     *Fault
	Acked     int // replies with a PUBACK
	Lost      int // of those, never readable by their client
	Wrong     int // replies given to another client, or with another body
	Answered  int // calls that do not wait, during the fault
	Refused   int // of those, 503
	Silent    int // calls without an answer
	Recovered time.Duration
}

// OK reports whether this program kept what it promises; the others have promised nothing.
func (c Contest) OK() bool {
	return c.Contender != contenders[0].name || c.Lost == 0 && c.Wrong == 0 && c.Recovered >= 0
}

// Compare lets every contender go through the faults of a contest, each in a system of its own, under the same load, so
// many side by side.
func Compare(ctx context.Context, cfg Config, each time.Duration, parallel int) ([]Contest, error) {
	chosen := contestFaults()
	contests := make([]Contest, len(chosen)*len(contenders))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i := range contests {
		f, c := chosen[i/len(contenders)], contenders[i%len(contenders)]
		group.Go(func() (err error) {
			if contests[i], err = contest(ctx, cfg, c, f, each); err != nil {
				return fmt.Errorf("%s: %s: %w", f.ID, c.name, err)
			}
			return nil
		})
	}
	return contests, group.Wait()
}

func contest(ctx context.Context, cfg Config, c contender, f *Fault, each time.Duration) (Contest, error) {
	dir, err := os.MkdirTemp("", "signal-device-contest-*")
	if err != nil {
		return Contest{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // a temporary folder
	r := &run{cfg: cfg, out: newPrinter(cfg.Progress)}
	var cameras []registration
	if c.mosquitto == "" {
		if r.system, err = startSystem(ctx, cfg.Binary, dir, conditions{}); err == nil {
			defer r.stop()
			cameras, err = r.registerCameras(ctx)
		}
	} else if r.system, cameras, err = startRival(cfg.Binary, dir, c.mosquitto); err == nil {
		defer r.stop()
	}
	if err != nil {
		return Contest{}, err
	}
	r.out.line("%s: %s", f.ID, c.name)
	return r.contend(ctx, c, f, each, cameras)
}

// contend puts the load on a contender, lets the fault happen, reads what is left by request id, and counts.
func (r *run) contend(ctx context.Context, c contender, f *Fault, each time.Duration, cameras []registration) (Contest, error) {
	life, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	r.load = &load{s: r.system, rate: r.cfg.Rate, seed: r.cfg.Seed, plain: true}
	if err := r.startForeign(life, &running, cameras); err != nil {
		return Contest{}, err
	}
	loading, stopLoad := context.WithCancel(life)
	var loop sync.WaitGroup
	loop.Go(func() { r.load.run(loading) })
	hold(ctx, contestCalm)
	at := span{from: time.Now()}
	_, err := f.make(ctx, r, each)
	at.to = time.Now()
	took := r.firstExchange(ctx)
	hold(ctx, contestCalm)
	stopLoad()
	loop.Wait()
	r.load.wait()
	if err != nil {
		return Contest{}, err
	}
	r.settle(ctx)
	for _, who := range r.clients {
		for _, cam := range cameras {
			for _, id := range r.journal.unread(who.name, cam.ID) {
				if _, ok := r.http.poll(ctx, 0, who, cam.ID, []string{id}, 0); !ok {
					return Contest{}, fmt.Errorf("%s could not read the rest at %s", who.name, cam.ID)
				}
			}
		}
	}
	stop()
	running.Wait()
	r.journal.mu.Lock()
	defer r.journal.mu.Unlock()
	v := &Verdict{}
	v.judgeReplies(r.journal)
	v.judgeReadings(r.journal)
	result := Contest{Contender: c.name, Fault: f, Acked: v.Acked, Lost: v.Count(lost), Recovered: took}
	result.Wrong = len(v.Violations) - result.Lost
	for _, a := range r.journal.answers {
		if a.op == opWait || a.began.Before(at.from) || !a.began.Before(at.to) {
			continue
		}
		switch a.status {
		case 0:
			result.Silent++
		case 503:
			result.Refused++
			fallthrough
		default:
			result.Answered++
		}
	}
	r.out.line("%d PUBACKs, %d never readable, well again after %s", result.Acked, result.Lost, recovered(took))
	return result, nil
}

// firstExchange waits until each API makes a whole exchange again, and returns how long that took; negative: it did not.
func (r *run) firstExchange(ctx context.Context) time.Duration {
	began := time.Now()
	for i := range r.apis {
		for {
			x := r.load.probe(r.clients[0])
			x.attempt()
			x.accept(r.http.do(ctx, i, x.who, x.request(opSend)))
			if x.id != "" {
				if got, ok := r.http.poll(ctx, i, x.who, x.device, []string{x.id}, 2); ok && got.final(x.id) {
					break
				}
			}
			if time.Since(began) > recoverWithin || ctx.Err() != nil {
				return -1
			}
			hold(ctx, probeEvery)
		}
	}
	return time.Since(began)
}
