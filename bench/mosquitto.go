package bench

import (
	"fmt"
	"os"
	"path/filepath"

	"signaldevice/testserver/child"
	"signaldevice/testserver/pki"
)

// mosquitto is a started Mosquitto that admits certificates of its own authority only.
type mosquitto struct {
	authority *pki.Authority
	process   *child.Process
}

// mosquittoConf is fair to Mosquitto: without set_tcp_nodelay each exchange waits for a delayed TCP acknowledgement, 40 ms
// or so, and with the default limits of 20 messages in flight and 1,000 queued for one client, the one client that takes
// all replies would wait for its own PUBACKs.
const mosquittoConf = `
cafile %[1]s
certfile %[2]s
keyfile %[3]s
require_certificate true
use_identity_as_username true
allow_anonymous false
set_tcp_nodelay true
max_inflight_messages 0
max_queued_messages 0
connection_messages false
`

// startMosquitto starts Mosquitto with mutual TLS. conf is more of its configuration.
func (s *system) startMosquitto(dir, conf string) (*mosquitto, error) {
	ca, err := pki.NewAuthority()
	if err != nil {
		return nil, err
	}
	server, err := ca.Issue("mosquitto")
	if err != nil {
		return nil, err
	}
	caFile := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(caFile, ca.PEM, 0o600); err != nil {
		return nil, err
	}
	certFile, keyFile, err := server.Write(dir, "server")
	if err != nil {
		return nil, err
	}
	p, err := child.Start(dir, child.Mosquitto(fmt.Sprintf(mosquittoConf, caFile, certFile, keyFile)+conf))
	if err != nil {
		return nil, err
	}
	s.started("mosquitto", p)
	return &mosquitto{authority: ca, process: p}, nil
}

// places makes certificates for cameras, each named by its device id.
func (m *mosquitto) places(n int) ([]place, error) {
	places := make([]place, n)
	for i := range places {
		id := fmt.Sprintf("camera-%d", i)
		own, err := m.authority.Issue(id)
		if err != nil {
			return nil, err
		}
		config, err := own.ClientTLS(m.authority.PEM)
		if err != nil {
			return nil, err
		}
		places[i] = place{
			addr: m.process.Addr(), tls: config, id: id,
			commands: "devices/" + id + "/commands", events: "devices/" + id + "/events",
		}
	}
	return places, nil
}
