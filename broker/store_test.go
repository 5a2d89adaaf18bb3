package broker

import (
	"context"
	"testing"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// F17: while the store takes no writes the broker says that it does not serve; with room on the disk it asks for a new
// start, which is what heals the store.
func TestBroker_StoreThatTakesNoWrites(t *testing.T) {
	b, err := Start(t.Context(), Config{DataDir: t.TempDir(), MQTTAddr: "127.0.0.1:0", GRPCAddr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	if err := b.engine.JetStream().DeleteStream(t.Context(), "PRESENCE"); err != nil {
		t.Fatal(err)
	}
	b.presence.Came("cam-1", time.Now(), time.Now) // a write that fails
	select {
	case err := <-b.Failed():
		if err == nil {
			t.Error("failed without an error")
		}
	case <-time.After(4 * storeFailing):
		t.Fatal("nobody was told")
	}
	answer, err := b.health.Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || answer.Status != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health is %v, %v", answer.GetStatus(), err)
	}
}
