package cache

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"signaldevice/device"
)

func validRecord() []byte {
	return stored(7, device.Reply{
		Request: "r", Command: "ping", Seq: 300, Final: true, ReceivedAt: time.Unix(1_800_000_000, 5),
		Body: []byte("body"), Position: []byte{1, 2},
	})
}

// stored returns a record as the script stores it.
func stored(expiry int64, r device.Reply) []byte {
	o := ownerOf(r.Mailbox, r.Device)
	return append(binary.BigEndian.AppendUint64(nil, uint64(expiry)), encodeRecord(o, o.digest(r.Request), r)...)
}

func TestRecord_DamagedIsRefused(t *testing.T) {
	whole := validRecord()
	if expiry, _, err := decodeRecord(whole); err != nil || expiry != 7 {
		t.Fatalf("expiry %d, %v", expiry, err)
	}
	for n := range whole {
		if _, _, err := decodeRecord(whole[:n]); err == nil {
			t.Errorf("cut to %d of %d bytes it is still read", n, len(whole))
		}
	}
	other := bytes.Clone(whole)
	other[versionAt] = recordVersion + 1
	if _, _, err := decodeRecord(other); err == nil {
		t.Error("a record of another version is read")
	}
}

// A record that decodes has one form only; no bytes make decoding panic.
func FuzzRecord(f *testing.F) {
	f.Add(validRecord())
	f.Add(validRecord()[:fixedHead])
	f.Fuzz(func(t *testing.T, data []byte) {
		expiry, r, err := decodeRecord(data)
		if err != nil {
			return
		}
		expiryAgain, again, err := decodeRecord(stored(expiry, r))
		if err != nil || expiryAgain != expiry || again.Request != r.Request || again.Seq != r.Seq || !again.ReceivedAt.Equal(r.ReceivedAt) ||
			!bytes.Equal(again.Body, r.Body) || !bytes.Equal(again.Position, r.Position) {
			t.Errorf("%+v became %+v, %v", r, again, err)
		}
	})
}
