package app

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"signaldevice/broker"
	"signaldevice/broker/identity"
	"signaldevice/broker/registry"
)

// BrokerOptions say how a broker runs.
type BrokerOptions struct {
	Data  string // folder of everything that must survive; made if need be
	MQTT  string // address to listen on for devices
	GRPC  string // address to listen on for the API and for IoT Core's clients
	Admin string // address of the listener for metrics and health
	Pprof bool   // serve profiles on the admin listener

	Hosts     []string      // names and addresses at which others reach this machine, for the server certificate
	TLS12     bool          // admit devices with TLS 1.2
	Retention time.Duration // how long an unread reply stays in the output queue; 0: the broker's default

	QueueReplies     int           // unread replies of one device in its queue; 0: the broker's default
	QueueBytes       int64         // of those; 0: the broker's default
	KeepRequests     time.Duration // request records, since their last change; 0: the broker's default
	MaxRequests      int64         // request records; 0: the broker's default
	MaxStore         int64         // bytes on disk; 0: the broker's default
	MaxConnections   int           // of devices; 0: the broker's default
	ConnectRate      int           // devices let in a second; 0: the broker's default
	IoTCoreTokenFile string        // file: a bearer token for IoT Core's services; "": none

	Log *slog.Logger
}

// Validate reports a limit with which the broker could not work.
func (o BrokerOptions) Validate() error { return o.config().Validate() }

func (o BrokerOptions) config() broker.Config {
	return broker.Config{
		DataDir:   o.Data,
		MQTTAddr:  o.MQTT,
		GRPCAddr:  o.GRPC,
		Hosts:     o.Hosts,
		TLS12:     o.TLS12,
		Retention: o.Retention,

		MaxReplies:     o.QueueReplies,
		MaxBytes:       o.QueueBytes,
		KeepRequests:   o.KeepRequests,
		MaxRequests:    o.MaxRequests,
		MaxStore:       o.MaxStore,
		MaxConnections: o.MaxConnections,
		ConnectRate:    o.ConnectRate,
	}
}

// Broker starts a broker. Its data folder then holds the certificates that an API needs, and the default roles and
// commands to be copied and edited.
func Broker(ctx context.Context, o BrokerOptions) (*App, error) {
	a := newApp(o.Log)
	b, err := a.startBroker(ctx, o)
	if err == nil {
		err = a.serveAdmin(ctx, o.Admin, nil, o.Pprof, b)
	}
	return a.started(ctx, err)
}

// startBroker starts the broker and notes where it is reached.
func (a *App) startBroker(ctx context.Context, o BrokerOptions) (*keeper, error) {
	if o.Data == "" {
		return nil, fmt.Errorf("broker: a data folder is needed")
	}
	if err := writeDefaults(o.Data); err != nil {
		return nil, err
	}
	token, err := readToken(o.IoTCoreTokenFile)
	if err != nil {
		return nil, err
	}
	cfg := o.config()
	cfg.IoTCoreToken, cfg.Log = token, a.log
	k, b, err := keep(ctx, cfg, a.log)
	if err != nil {
		return nil, err
	}
	a.onStop("broker", k.stop)
	a.background("broker keeper", k.run)
	a.ready.MQTT, a.ready.GRPC = dialable(b.MQTTAddr()), dialable(b.GRPCAddr())
	a.ready.CA, a.ready.RegistryID = b.CAFile(), registry.DefaultID
	a.ready.Service = keyPair(b.ClientCertificate(identity.RoleService))
	a.ready.Operator = keyPair(b.ClientCertificate(identity.RoleOperator))
	return k, nil
}

// readToken reads the bearer token for IoT Core's services. It must be hard to guess.
func readToken(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("broker: token for IoT Core's services: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if len(token) < 32 {
		return "", fmt.Errorf("broker: token for IoT Core's services: %s must hold at least 32 characters", file)
	}
	return token, nil
}

func keyPair(cert, key string) *KeyPair { return &KeyPair{Cert: cert, Key: key} }
