package app

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"signaldevice/broker"
)

// Times of starting a broker anew.
const (
	brokerStopWithin = time.Second // what waits for its store fails at once
	brokerPause      = 500 * time.Millisecond
)

// keeper keeps a broker running: one that has failed is stopped and started again, on the same addresses and the same
// folder. Devices and the API come back by themselves, and nothing that was acknowledged is lost on the way.
type keeper struct {
	cfg    broker.Config
	log    *slog.Logger
	failed func(*broker.Broker) <-chan error

	mu      sync.Mutex
	current *broker.Broker // nil: between two of them
}

// keep starts a broker. The addresses of the first one stay.
func keep(ctx context.Context, cfg broker.Config, log *slog.Logger) (*keeper, *broker.Broker, error) {
	b, err := broker.Start(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	cfg.MQTTAddr, cfg.GRPCAddr = b.MQTTAddr().String(), b.GRPCAddr().String()
	return &keeper{cfg: cfg, log: log, failed: (*broker.Broker).Failed, current: b}, b, nil
}

func (k *keeper) broker() *broker.Broker {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.current
}

func (k *keeper) set(b *broker.Broker) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.current = b
}

// run looks after the broker until ctx ends.
func (k *keeper) run(ctx context.Context) error {
	for {
		b := k.broker()
		select {
		case <-ctx.Done():
			return nil
		case err := <-k.failed(b):
			k.log.Error("broker failed, it is started anew", "error", err)
		}
		k.set(nil)
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), brokerStopWithin)
		if err := b.Stop(stopCtx); err != nil {
			k.log.Warn("failed broker not stopped well", "error", err)
		}
		cancel()
		if !k.restart(ctx) {
			return nil
		}
	}
}

// restart tries until a broker runs; it is false when ctx ends first.
func (k *keeper) restart(ctx context.Context) bool {
	for {
		b, err := broker.Start(ctx, k.cfg)
		if err == nil {
			k.set(b)
			k.log.Info("broker runs again")
			return true
		}
		k.log.Error("broker not started, trying again", "error", err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(brokerPause):
		}
	}
}

// stop ends the broker, when run has ended.
func (k *keeper) stop(ctx context.Context) error {
	if b := k.broker(); b != nil {
		return b.Stop(ctx)
	}
	return nil
}

// Gather implements prometheus.Gatherer for whichever broker runs.
func (k *keeper) Gather() ([]*dto.MetricFamily, error) {
	if b := k.broker(); b != nil {
		return b.Metrics().Gather()
	}
	return nil, nil
}

var _ prometheus.Gatherer = (*keeper)(nil)
