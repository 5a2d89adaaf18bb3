package rpc_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"signaldevice/broker/rpc"
	"signaldevice/device"
	brokerv1 "signaldevice/proto/signaldevice/broker/v1"
)

// I10: nothing is sent, and the error names each field at fault.
func TestSend_RefusesWhatBreaksTheLimits(t *testing.T) {
	tests := map[string]struct {
		edit   func(*brokerv1.SendRequest)
		faults []string
	}{
		"a delivery longer than the reply": {func(r *brokerv1.SendRequest) {
			r.DeliverWithin = durationpb.New(30*time.Second + 1)
		}, []string{"deliver_within"}},
		"a held one too": {func(r *brokerv1.SendRequest) {
			r.Hold, r.DeliverWithin = true, durationpb.New(72*time.Hour)
		}, []string{"deliver_within"}},
		"a reply of 30 days and more": {func(r *brokerv1.SendRequest) {
			r.ReplyWithin = durationpb.New(30*24*time.Hour + 1)
		}, []string{"reply_within"}},
		"no payload": {func(r *brokerv1.SendRequest) { r.Payload = nil }, []string{"payload"}},
		"no client, no command": {func(r *brokerv1.SendRequest) {
			r.Client, r.Command = "", ""
		}, []string{"client", "command"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			in := &brokerv1.SendRequest{
				DeviceId: "cam-1", Mailbox: make([]byte, 16), Client: "alice", Command: "ping",
				Payload:       &brokerv1.SendRequest_JsonArgs{JsonArgs: []byte(`{}`)},
				DeliverWithin: durationpb.New(10 * time.Second), ReplyWithin: durationpb.New(30 * time.Second),
			}
			tt.edit(in)
			_, err := new(rpc.RequestServer).Send(t.Context(), in)
			refused, ok := errors.AsType[*device.Error](err)
			if !ok || refused.Kind != device.Invalid {
				t.Fatalf("error is %v", err)
			}
			var fields []string
			for _, f := range refused.Faults {
				fields = append(fields, f.Location)
			}
			if !slices.Equal(fields, tt.faults) {
				t.Errorf("it names %q, want %q", fields, tt.faults)
			}
		})
	}
}
