package cache

import (
	"bytes"
	"testing"
	"time"

	"signaldevice/device"
)

func validRecord() []byte {
	return encodeRecord(device.Reply{
		Request: "r", Command: "ping", Seq: 300, Final: true, ReceivedAt: time.Unix(1_800_000_000, 5),
		Body: []byte("body"), Position: []byte{1, 2},
	})
}

func TestRecord_DamagedIsRefused(t *testing.T) {
	whole := validRecord()
	if _, err := decodeRecord(whole); err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if _, err := decodeRecord(whole[:n]); err == nil {
			t.Errorf("cut to %d of %d bytes it is still read", n, len(whole))
		}
	}
	other := bytes.Clone(whole)
	other[0] = recordVersion + 1
	if _, err := decodeRecord(other); err == nil {
		t.Error("a record of another version is read")
	}
}

// A record that decodes has one form only; no bytes make decoding panic.
func FuzzRecord(f *testing.F) {
	f.Add(validRecord())
	f.Add([]byte{recordVersion, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decodeRecord(data)
		if err != nil {
			return
		}
		again, err := decodeRecord(encodeRecord(r))
		if err != nil || again.Request != r.Request || again.Seq != r.Seq || !again.ReceivedAt.Equal(r.ReceivedAt) ||
			!bytes.Equal(again.Body, r.Body) || !bytes.Equal(again.Position, r.Position) {
			t.Errorf("%+v became %+v, %v", r, again, err)
		}
	})
}
