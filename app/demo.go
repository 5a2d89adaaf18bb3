package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"signaldevice/access"
	"signaldevice/camera"
)

const (
	firstCameraWithin = 15 * time.Second        // from the start until one camera listens
	allCamerasWithin  = 1500 * time.Millisecond // from then; more of them follow while people look around
	maxDemoCameras    = 100                     // as many enrolment codes as one client may make at once
	demoTokensFile    = "demo-tokens.yaml"
)

// demoRoles are the shipped roles, each of which gets a token.
var demoRoles = [...]string{"admin", "operator", "viewer"}

// DemoOptions say how a demonstration runs. Without a data folder it uses a temporary one and removes it when it stops.
type DemoOptions struct {
	API     APIOptions
	Broker  BrokerOptions
	Cameras int // simulated cameras, up to 100
}

// Validate reports what keeps these options from being a demonstration: above all, a listener that other machines reach.
func (o DemoOptions) Validate() error {
	if o.Cameras < 0 || o.Cameras > maxDemoCameras {
		return fmt.Errorf("cameras: want 0 to %d", maxDemoCameras)
	}
	for name, addr := range map[string]string{"http": o.API.HTTP, "admin": o.API.Admin, "mqtt": o.Broker.MQTT, "grpc": o.Broker.GRPC} {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if !isLoopback(host) {
			return fmt.Errorf("%s: a demonstration gives everybody a token, so it listens on loopback only, such as 127.0.0.1:0, and not on %q", name, addr)
		}
	}
	return nil
}

// Demonstration is a running demonstration.
type Demonstration struct {
	*App
	CameraID string // device id of the first camera; "": there is none
}

// Demo starts broker, API and simulated cameras on this machine, with a token for each of the shipped roles. The cameras
// make their own keys and enrol over HTTP with one-time codes. Those of an earlier demonstration in the same data folder
// are removed first.
func Demo(ctx context.Context, o DemoOptions) (*Demonstration, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	d := &Demonstration{App: newApp(o.API.Log)}
	if _, err := d.started(ctx, d.start(ctx, o)); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *Demonstration) start(ctx context.Context, o DemoOptions) error {
	if o.Broker.Data == "" {
		dir, err := os.MkdirTemp("", "signal-device-demo-*")
		if err != nil {
			return fmt.Errorf("demo: %w", err)
		}
		d.onStop("temporary data", func(context.Context) error { return os.RemoveAll(dir) })
		o.Broker.Data = dir
	}
	if err := d.makeTokens(&o); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	o.API.loopbackOnly = true
	if err := d.startStandalone(ctx, o.API, o.Broker); err != nil {
		return err
	}
	if err := d.startCameras(ctx, o.Cameras); err != nil {
		return fmt.Errorf("demo: cameras: %w", err)
	}
	return nil
}

// makeTokens gives each role a token. Without a file of the user's own, those of an earlier start are gone.
func (d *Demonstration) makeTokens(o *DemoOptions) error {
	if err := os.MkdirAll(o.Broker.Data, 0o700); err != nil {
		return err
	}
	if o.API.Tokens == "" {
		o.API.Tokens = filepath.Join(o.Broker.Data, demoTokensFile)
		if err := os.Remove(o.API.Tokens); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	d.ready.Tokens = map[string]string{}
	for _, role := range demoRoles {
		token, err := access.CreateToken(o.API.Tokens, "demo-"+role, role, 0)
		if err != nil {
			return err
		}
		d.ready.Tokens[role] = token
	}
	return nil
}

// startCameras lets the cameras enrol and returns when at least one of them listens to commands.
func (d *Demonstration) startCameras(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, firstCameraWithin)
	defer cancel()
	admin := demoClient{base: "http://" + d.ready.HTTP, token: d.ready.Tokens["admin"]}
	defer admin.close()
	if err := admin.removeCameras(ctx); err != nil || n == 0 {
		return err
	}
	var cameras []camera.Config
	for i := range n {
		name := fmt.Sprintf("camera-%d", i+1)
		code, err := admin.enrolmentCode(ctx, name)
		if err != nil {
			return err
		}
		cameras = append(cameras, camera.Config{Name: name, API: admin.base, Code: code, Seed: uint64(i + 1), Logger: d.log})
	}
	fleet, err := camera.NewFleet(camera.FleetConfig{Cameras: cameras})
	if err != nil {
		return err
	}
	d.background("cameras", fleet.Run)
	first := fleet.Cameras()[0]
	select {
	case <-first.Ready():
		d.CameraID = first.ID()
	case err := <-d.failed:
		return err
	case <-ctx.Done():
		return fmt.Errorf("the first one does not listen after %s", firstCameraWithin)
	}
	select {
	case <-fleet.Ready():
	case <-time.After(allCamerasWithin):
	}
	return nil
}

// demoLabel marks the devices that a demonstration made and may remove.
var demoLabel = [2]string{"made-by", "demo"}

// demoClient sets up the cameras through the HTTP API, as anybody would.
type demoClient struct {
	base, token string
	http        http.Client
}

func (c *demoClient) close() { c.http.CloseIdleConnections() }

func (c *demoClient) enrolmentCode(ctx context.Context, name string) (string, error) {
	var made struct {
		Code string `json:"code"`
	}
	body := map[string]any{"name": name, "labels": map[string]string{demoLabel[0]: demoLabel[1]}}
	err := c.call(ctx, http.MethodPost, "/v1/enrolment-codes", body, &made)
	return made.Code, err
}

// removeCameras deletes the devices of an earlier demonstration, whose keys are gone.
func (c *demoClient) removeCameras(ctx context.Context) error {
	for {
		var page struct {
			Items []struct {
				ID string `json:"id"`
			} `json:"items"`
		}
		if err := c.call(ctx, http.MethodGet, "/v1/devices?label="+demoLabel[0]+"="+demoLabel[1], nil, &page); err != nil {
			return err
		}
		if len(page.Items) == 0 {
			return nil
		}
		for _, d := range page.Items {
			if err := c.call(ctx, http.MethodDelete, "/v1/devices/"+d.ID, nil, nil); err != nil {
				return err
			}
		}
	}
}

func (c *demoClient) call(ctx context.Context, method, path string, body, out any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	if body == nil {
		data = nil
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Content-Type", "application/json")
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("%s %s: %s: %s", method, path, res.Status, answer)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}
