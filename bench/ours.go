package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"signaldevice/access"
	"signaldevice/testserver/child"
	"signaldevice/testserver/pki"
)

const (
	anyPort         = "127.0.0.1:0"
	admin, operator = "admin", "operator" // shipped roles
	startRedis      = "start"
)

// startOurs measures this program: started here, or met where the configuration says that it runs.
func (s *system) startOurs(ctx context.Context, cfg Config, dir string) error {
	api, err := s.reachAPI(ctx, cfg, dir)
	if err != nil {
		return err
	}
	places, err := s.registerCameras(ctx, cfg, api, cfg.Cameras)
	if err != nil {
		return err
	}
	if err := s.useCameras(ctx, places, cfg.Payload); err != nil {
		return err
	}
	s.exchange = api.exchange(s.cameras, ids(places), cfg.Command)
	return nil
}

// reachAPI returns a client of an API that was started, or that runs already. Its first token may register cameras.
func (s *system) reachAPI(ctx context.Context, cfg Config, dir string) (*httpClient, error) {
	api := newHTTPClient(strings.TrimSuffix(cfg.Server, "/"), cfg.Tokens)
	if cfg.Server == "" {
		started, err := s.startAPI(cfg, dir)
		if err != nil {
			return nil, err
		}
		api = started
	} else {
		for name, pid := range cfg.PIDs {
			s.processes = append(s.processes, process{name, pid})
		}
	}
	s.onStop(api.close)
	return api, api.call(ctx, api.tokens[0], http.MethodGet, "/v1/me", nil, nil)
}

// startAPI starts broker, API and, where asked for, Redis, each as a process of its own, as on a machine that is all
// theirs: no limit for a client's calls.
func (s *system) startAPI(cfg Config, dir string) (*httpClient, error) {
	broker, err := s.startOwn(cfg.Binary, "broker", dir, "broker",
		"--data", filepath.Join(dir, "broker"), "--mqtt", anyPort, "--grpc", anyPort, "--admin", anyPort)
	if err != nil {
		return nil, err
	}
	var cache []string
	if cfg.Redis != "" {
		url := cfg.Redis
		if url == startRedis {
			if url, err = s.startRedis(dir); err != nil {
				return nil, err
			}
		}
		cache = []string{"--redis", url}
	}
	tokensFile := filepath.Join(dir, "tokens.yaml")
	tokens, err := createTokens(tokensFile, cfg.Clients)
	if err != nil {
		return nil, err
	}
	api, err := s.startOwn(cfg.Binary, "serve", dir, append([]string{"serve",
		"--http", anyPort, "--admin", anyPort, "--rate", "0", "--tokens", tokensFile,
		"--broker", broker.GRPC, "--broker-ca", broker.CA, "--broker-cert", broker.Service.Cert, "--broker-key", broker.Service.Key,
	}, cache...)...)
	if err != nil {
		return nil, err
	}
	return newHTTPClient("http://"+api.HTTP, tokens), nil
}

// createTokens makes a token for each client. The first client may register cameras too.
func createTokens(file string, clients int) ([]string, error) {
	tokens := make([]string, clients)
	for i := range tokens {
		role := operator
		if i == 0 {
			role = admin
		}
		var err error
		if tokens[i], err = access.CreateToken(file, fmt.Sprintf("bench-%d", i), role, 0); err != nil {
			return nil, err
		}
	}
	return tokens, nil
}

// ready is what a started program of ours tells of itself.
type ready struct {
	HTTP    string `json:"http"`
	GRPC    string `json:"grpc"`
	CA      string `json:"ca"`
	Service struct {
		Cert string `json:"cert"`
		Key  string `json:"key"`
	} `json:"service"`
}

// startOwn starts this program again with other arguments, as the system's process of that name.
func (s *system) startOwn(binary, name, dir string, args ...string) (ready, error) {
	var at ready
	file := filepath.Join(dir, name+".ready")
	p, err := child.Start(dir, child.Program{
		Name: name,
		Path: binary,
		Env:  child.OwnEnvironment(os.Environ()),
		Args: func(string, int) ([]string, error) { return append(args, "--ready-file", file), nil },
		Ready: func(*child.Process, time.Duration) error {
			data, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			return json.Unmarshal(data, &at)
		},
	})
	if err != nil {
		return ready{}, err
	}
	s.started(name, p)
	return at, nil
}

// started notes a process that is to be measured, and ended with the system.
func (s *system) started(name string, p *child.Process) {
	s.processes = append(s.processes, process{name, p.PID()})
	s.onStop(p.Shutdown)
}

func (s *system) startRedis(dir string) (url string, err error) {
	p, err := child.Start(dir, child.Redis())
	if err != nil {
		return "", err
	}
	s.started("redis-server", p)
	return "redis://" + p.Addr(), nil
}

// registration is what the API answers to a device that was registered.
type registration struct {
	ID     string `json:"id"`
	CA     string `json:"ca"`
	MQTT   string `json:"mqtt"`
	Topics struct {
		Commands string `json:"commands"`
		Events   string `json:"events"`
	} `json:"topics"`
}

// registerCameras registers cameras with certificates of their own. Where the API runs on without us, they are deleted
// in the end.
func (s *system) registerCameras(ctx context.Context, cfg Config, api *httpClient, n int) ([]place, error) {
	places := make([]place, n)
	if cfg.Server != "" {
		s.onStop(func() { deleteCameras(context.WithoutCancel(ctx), api, places) })
	}
	run := time.Now().UTC().Format("20060102-150405")
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(connecting)
	for i := range places {
		group.Go(func() (err error) {
			places[i], err = register(groupCtx, api, fmt.Sprintf("bench-%s-%d", run, i))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("register cameras: %w", err)
	}
	return places, nil
}

func register(ctx context.Context, api *httpClient, name string) (place, error) {
	ctx, cancel := context.WithTimeout(ctx, setUpWithin)
	defer cancel()
	own, err := pki.SelfSigned(name, 24*time.Hour)
	if err != nil {
		return place{}, err
	}
	var r registration
	body := map[string]any{"name": name, "certificate": string(own.Cert), "labels": map[string]string{"made-by": "bench"}}
	if err := api.call(ctx, api.tokens[0], http.MethodPost, "/v1/devices", body, &r); err != nil {
		return place{}, err
	}
	config, err := own.ClientTLS([]byte(r.CA))
	if err != nil {
		return place{}, err
	}
	return place{
		addr: strings.TrimPrefix(r.MQTT, "ssl://"), tls: config, id: r.ID,
		commands: r.Topics.Commands, events: r.Topics.Events,
	}, nil
}

// deleteCameras removes the devices that were registered. One that stays is a device that never comes online; its label
// says who made it.
func deleteCameras(ctx context.Context, api *httpClient, places []place) {
	ctx, cancel := context.WithTimeout(ctx, setUpWithin)
	defer cancel()
	var group errgroup.Group
	group.SetLimit(connecting)
	for _, p := range places {
		if p.id != "" {
			group.Go(func() error {
				return api.call(ctx, api.tokens[0], http.MethodDelete, "/v1/devices/"+url.PathEscape(p.id), nil, nil)
			})
		}
	}
	_ = group.Wait() // what was measured is not worse for it
}
