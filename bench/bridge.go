package bench

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"signaldevice/bench/bridge"
	"signaldevice/testserver/pki"
)

// bridgeACL gives each camera its own topics, and the bridge all of them.
const bridgeACL = `user bridge
topic readwrite devices/#

pattern read devices/%u/commands
pattern write devices/%u/events
`

// bridgeFile tells a bridge in a process of its own where everything is.
type bridgeFile struct {
	Mosquitto string            `json:"mosquitto"` // host:port
	Redis     string            `json:"redis"`     // URL
	Tokens    map[string]string `json:"tokens"`    // token → client
	CA        string            `json:"ca"`        // PEM
	Cert      string            `json:"cert"`      // PEM
	Key       string            `json:"key"`       // PEM
}

// startBridge measures what a team would otherwise build: package bridge in front of Mosquitto and Redis, in a process of
// its own.
func (s *system) startBridge(ctx context.Context, cfg Config, dir string) error {
	aclFile := filepath.Join(dir, "acl")
	if err := os.WriteFile(aclFile, []byte(bridgeACL), 0o600); err != nil {
		return err
	}
	m, err := s.startMosquitto(dir, "acl_file "+aclFile+"\npersistence true\npersistence_location "+dir+"/\n")
	if err != nil {
		return err
	}
	redis, err := s.startRedis(dir)
	if err != nil {
		return err
	}
	own, err := m.authority.Issue("bridge")
	if err != nil {
		return err
	}
	file := bridgeFile{
		Mosquitto: m.process.Addr(), Redis: redis, Tokens: map[string]string{},
		CA: string(m.authority.PEM), Cert: string(own.Cert), Key: string(own.Key),
	}
	tokens := make([]string, cfg.Clients)
	for i := range tokens {
		tokens[i] = rand.Text()
		file.Tokens[tokens[i]] = fmt.Sprintf("bench-%d", i)
	}
	path := filepath.Join(dir, "bridge.json")
	if err := writeJSON(path, file); err != nil {
		return err
	}
	at, err := s.startOwn(cfg.Binary, "bridge", dir, "bench", "--bridge", path)
	if err != nil {
		return err
	}
	places, err := m.places(cfg.Cameras)
	if err != nil {
		return err
	}
	if err := s.useCameras(ctx, places, cfg.Payload); err != nil {
		return err
	}
	client := newHTTPClient("http://"+at.HTTP, tokens)
	s.onStop(client.close)
	s.exchange = client.exchange(s.cameras, ids(places), cfg.Command)
	return nil
}

// RunBridge is the bridge's process: it reads the file that the bench wrote for it, tells in the ready file where it
// listens, and runs until ctx ends.
func RunBridge(ctx context.Context, file, readyFile string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	var f bridgeFile
	if err := json.Unmarshal(data, &f); err != nil {
		return fmt.Errorf("bridge: %s: %w", file, err)
	}
	config, err := pki.Pair{Cert: []byte(f.Cert), Key: []byte(f.Key)}.ClientTLS([]byte(f.CA))
	if err != nil {
		return fmt.Errorf("bridge: %s: %w", file, err)
	}
	b, err := bridge.Start(ctx, bridge.Config{
		HTTP: anyPort, Mosquitto: "ssl://" + f.Mosquitto, TLS: config, Redis: f.Redis, Tokens: f.Tokens,
	})
	if err != nil {
		return err
	}
	err = writeJSON(readyFile, map[string]string{"http": b.Addr()})
	if err == nil {
		<-ctx.Done()
	}
	return errors.Join(err, b.Stop(context.WithoutCancel(ctx)))
}

// writeJSON writes a file that only its owner reads. Whoever sees the file sees all of it.
func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	part := path + ".part"
	if err := os.WriteFile(part, append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(part, path)
}
