package registry

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"signaldevice/device"
)

// table is the registry as the stream's messages up to a sequence make it. It is not safe for concurrent use.
//
// A subject keeps its last message only, so a follower that lags may see device B take over a name or certificate before
// it sees the later message in which device A has lost it. Each index entry therefore belongs to whoever came last, and
// is removed only by its owner. Once the table stands at the stream's last sequence it is exact.
type table struct {
	clock   func() time.Time
	last    uint64 // the sequence of the last message applied
	devices map[device.ID]*Snapshot
	names   map[nameKey]device.ID
	certs   map[[sha256.Size]byte]heldCertificate
	ordered []*Snapshot // by name; nil: to be sorted again

	codes  map[string]codeRecord // by hash; what has expired goes when the next one comes
	spent  map[string]device.ID  // hash of a code → the device, there or deleted, that carries it
	graves map[device.ID]string  // deleted devices that carry a code → its hash

	generation uint64 // counts how often the stream was read from its start
	unswept    bool   // a reading from the start is not complete yet
}

type nameKey struct{ registry, name string }

type heldCertificate struct {
	device   device.ID
	notAfter time.Time
}

func newTable(clock func() time.Time) *table {
	return &table{
		clock:   clock,
		devices: map[device.ID]*Snapshot{},
		names:   map[nameKey]device.ID{},
		certs:   map[[sha256.Size]byte]heldCertificate{},
		codes:   map[string]codeRecord{},
		spent:   map[string]device.ID{},
		graves:  map[device.ID]string{},
	}
}

// apply takes the next message of the stream. The change is nil where no certificate was removed. An error is a message
// that cannot be read: its device or code then counts as removed.
func (t *table) apply(subject string, data []byte, seq uint64) (*Change, error) {
	t.last = seq
	if hash, ok := strings.CutPrefix(subject, codePrefix); ok {
		return nil, t.applyCode(hash, data)
	}
	if id, ok := strings.CutPrefix(subject, devicePrefix); ok {
		return t.applyDevice(device.ID(id), data)
	}
	return nil, nil
}

func (t *table) applyCode(hash string, data []byte) error {
	t.dropExpiredCodes()
	delete(t.codes, hash)
	var rec codeRecord
	if err := json.Unmarshal(data, &rec); err != nil {
		return fmt.Errorf("enrolment code: %w", err)
	}
	t.codes[hash] = rec
	return nil
}

func (t *table) dropExpiredCodes() {
	now := t.clock()
	for hash, code := range t.codes {
		if now.After(code.ExpiresAt) {
			if id, ok := t.spent[hash]; ok && t.graves[id] == hash {
				delete(t.graves, id)
			}
			delete(t.spent, hash)
			delete(t.codes, hash)
		}
	}
}

func (t *table) applyDevice(id device.ID, data []byte) (*Change, error) {
	var rec deviceRecord
	err := json.Unmarshal(data, &rec)
	var next *Snapshot
	if err == nil && !rec.Deleted {
		next, err = rec.snapshot(id, len(data))
	}
	change := t.replace(id, next)
	if err != nil {
		return change, fmt.Errorf("device %s: %w", id, err)
	}
	delete(t.graves, id)
	if _, ok := t.codes[rec.Code]; ok {
		t.spent[rec.Code] = id
		if rec.Deleted {
			t.graves[id] = rec.Code
		}
	}
	return change, nil
}

// replace puts next, or nothing where it is nil, in the place of what the device was.
func (t *table) replace(id device.ID, next *Snapshot) *Change {
	t.ordered = nil
	old := t.devices[id]
	if old != nil {
		if key := old.nameKey(); t.names[key] == id {
			delete(t.names, key)
		}
		for _, hash := range old.hashes {
			if t.certs[hash].device == id {
				delete(t.certs, hash)
			}
		}
		delete(t.devices, id)
	}
	if next != nil {
		next.generation = t.generation
		t.devices[id] = next
		t.names[next.nameKey()] = id
		for i, hash := range next.hashes {
			t.certs[hash] = heldCertificate{id, next.Certificates[i].NotAfter}
		}
	}
	return removed(old, next)
}

func (s *Snapshot) nameKey() nameKey { return nameKey{s.RegistryID, s.Name} }

// removed tells which certificates old had and next has not.
func removed(old, next *Snapshot) *Change {
	if old == nil {
		return nil
	}
	c := &Change{Device: old.ID, Deleted: next == nil}
	for i, hash := range old.hashes {
		if next == nil || !slices.Contains(next.hashes, hash) {
			c.Fingerprints = append(c.Fingerprints, old.Certificates[i].Fingerprint)
		}
	}
	if !c.Deleted && len(c.Fingerprints) == 0 {
		return nil
	}
	return c
}

// startOver prepares for reading the stream from its start. Devices stay until the reading is complete, and sweep then
// removes those that were not seen again.
func (t *table) startOver() {
	t.last = 0
	t.generation++
	t.unswept = true
	clear(t.codes)
	clear(t.spent)
	clear(t.graves)
}

func (t *table) sweep() []*Change {
	if !t.unswept {
		return nil
	}
	t.unswept = false
	var changes []*Change
	for id, s := range t.devices {
		if s.generation != t.generation {
			changes = append(changes, t.replace(id, nil))
		}
	}
	return changes
}

// byName returns all devices in the order of their names.
func (t *table) byName() []*Snapshot {
	if t.ordered == nil {
		t.ordered = make([]*Snapshot, 0, len(t.devices))
		for _, s := range t.devices {
			t.ordered = append(t.ordered, s)
		}
		slices.SortFunc(t.ordered, func(a, b *Snapshot) int { return strings.Compare(a.Name, b.Name) })
	}
	return t.ordered
}

// liveCode returns a code that has not expired.
func (t *table) liveCode(hash string) (codeRecord, bool) {
	code, ok := t.codes[hash]
	return code, ok && !t.clock().After(code.ExpiresAt)
}
