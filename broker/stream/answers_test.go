package stream

import (
	"context"
	"testing"

	"github.com/nats-io/nats.go"
)

// What was answered is not reported as unknown because the time ended at the same moment.
func TestReceive_AnAnswerThatIsThereCounts(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	ch := make(chan *nats.Msg, 1)
	for range 100 {
		ch <- &nats.Msg{}
		if _, err := receive(over, ch); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := receive(over, ch); err == nil {
		t.Error("no answer and no time, and no error")
	}
}
