package app

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"signaldevice/broker"
)

// A broker that fails is started anew on the same addresses, with what it had stored.
func TestKeeper_StartsAFailedBrokerAnew(t *testing.T) {
	failures := make(chan error)
	k, first, err := keep(t.Context(), broker.Config{DataDir: t.TempDir(), MQTTAddr: anyPort, GRPCAddr: anyPort}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	k.failed = func(*broker.Broker) <-chan error { return failures }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.run(ctx) }()
	var again *broker.Broker
	for range 2 {
		before := k.broker()
		failures <- errors.New("the store takes no writes")
		again = before
		for deadline := time.Now().Add(10 * time.Second); again == nil || again == before; again = k.broker() {
			if time.Now().After(deadline) {
				t.Fatal("not started anew")
			}
		}
	}
	if again.GRPCAddr().String() != first.GRPCAddr().String() || again.MQTTAddr().String() != first.MQTTAddr().String() {
		t.Error("on other addresses")
	}
	if families, err := k.Gather(); err != nil || len(families) == 0 {
		t.Errorf("%d metrics, %v", len(families), err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := k.stop(context.WithoutCancel(ctx)); err != nil {
		t.Error(err)
	}
}
