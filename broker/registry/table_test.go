package registry

import (
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"signaldevice/device"
)

// message is one message of a stream that keeps the last one of each subject.
type message struct {
	seq     uint64
	subject string
	data    []byte
}

// fakeCert is a certificate that only the table sees.
func fakeCert(n int) certificateRecord {
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{byte(n)}})
	return certificateRecord{Fingerprint: fmt.Sprintf("f%d", n), PEM: string(text), NotAfter: time.Unix(1<<32, 0)}
}

// history writes valid messages, as writers do who know the exact table.
type history struct {
	exact  *table
	stream []message // compacted
}

func (h *history) write(subject string, record any) {
	h.stream = slices.DeleteFunc(h.stream, func(m message) bool { return m.subject == subject })
	m := message{h.exact.last + 1, subject, marshal(record)}
	h.stream = append(h.stream, m)
	if _, err := h.exact.apply(m.subject, m.data, m.seq); err != nil {
		panic(err)
	}
}

// ageOut removes the tombstones.
func (h *history) ageOut() {
	h.stream = slices.DeleteFunc(h.stream, func(m message) bool { return strings.Contains(string(m.data), `"deleted":true`) })
}

// step draws one change that the exact table allows, or does nothing.
func (h *history) step(t *rapid.T) {
	id := device.ID(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "device"))
	s := h.exact.devices[id]
	if s != nil && rapid.SampledFrom([]bool{false, false, false, true}).Draw(t, "delete") {
		h.write(deviceSubject(id), deviceRecord{Deleted: true, Code: s.code})
		return
	}
	rec := deviceRecord{RegistryID: DefaultID}
	if s != nil {
		rec = s.record()
	}
	rec.Name = rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "name")
	rec.Certificates = nil
	for n := range 4 {
		if rapid.Bool().Draw(t, "certificate") {
			rec.Certificates = append(rec.Certificates, fakeCert(n))
		}
	}
	next, err := rec.snapshot(id, 0)
	if err != nil {
		t.Fatal(err)
	}
	if owner, ok := h.exact.names[next.nameKey()]; ok && owner != id {
		return
	}
	for _, hash := range next.hashes {
		if held, ok := h.exact.certs[hash]; ok && held.device != id {
			return
		}
	}
	h.write(deviceSubject(id), rec)
}

// However far a follower lags, and whatever messages are superseded before it sees them: once it stands at the last
// sequence its table is the exact one, and it has told of every certificate that no longer admits.
func TestTable_ALaggingFollowerBecomesExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := &history{exact: newTable(time.Now)}
		lagging := newTable(time.Now)
		admitted := map[string]bool{} // "device fingerprint" that the follower admits, by what it was told
		catchUp := func() {
			for _, m := range h.stream {
				if m.seq <= lagging.last {
					continue
				}
				change, err := lagging.apply(m.subject, m.data, m.seq)
				if err != nil {
					t.Fatal(err)
				}
				if change != nil {
					for _, f := range change.Fingerprints {
						delete(admitted, string(change.Device)+" "+f)
					}
				}
				for id, s := range lagging.devices {
					for _, c := range s.Certificates {
						admitted[string(id)+" "+c.Fingerprint] = true
					}
				}
			}
		}
		for range 40 {
			h.step(t)
			switch rapid.SampledFrom([]string{"write on", "write on", "write on", "catch up", "start over"}).Draw(t, "then") {
			case "catch up":
				catchUp()
			case "start over": // it may have missed tombstones
				h.ageOut()
				lagging.startOver()
				catchUp()
				for _, c := range lagging.sweep() {
					for _, f := range c.Fingerprints {
						delete(admitted, string(c.Device)+" "+f)
					}
				}
			}
		}
		catchUp()
		want := map[string]bool{}
		for id, s := range h.exact.devices {
			for _, c := range s.Certificates {
				want[string(id)+" "+c.Fingerprint] = true
			}
			if got := lagging.devices[id]; got == nil || got.Name != s.Name {
				t.Fatalf("device %s: %+v, want %+v", id, got, s)
			}
		}
		if len(lagging.devices) != len(h.exact.devices) || !maps.Equal(lagging.names, h.exact.names) || !maps.Equal(lagging.certs, h.exact.certs) {
			t.Fatalf("indexes differ: %v, want %v; %v, want %v", lagging.names, h.exact.names, lagging.certs, h.exact.certs)
		}
		if !maps.Equal(admitted, want) {
			t.Fatalf("told to admit %v, want %v", admitted, want)
		}
	})
}
