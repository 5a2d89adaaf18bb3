package camera

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// Faults are ways in which a camera misbehaves. The zero value is a good camera. What is a matter of chance is drawn
// once for each new command, in the order of their arrival, from the camera's seed: the same commands meet the same
// faults in every run.
type Faults struct {
	// ReplyDelay is how long a command's first reply is held back; the others follow at their own pace.
	ReplyDelay time.Duration

	// Silent is a camera that takes and executes commands and never replies.
	Silent bool

	// Duplicate sends each reply twice, each copy with a packet id of its own.
	Duplicate bool

	// DropConnection is the probability, for each command, that the TCP connection is cut before the reply: half of
	// the time at once, before the command's PUBACK, else when the reply is ready. The reply follows on the next
	// connection.
	DropConnection float64

	// Garbage is the probability, for each command, that an event nobody should receive is published before the reply:
	// bytes that are not JSON, a reply with a bent request id, or one with another camera's request id (of the same
	// Fleet; a camera alone has none and bends).
	Garbage float64
}

func (f Faults) validate() error {
	return errors.Join(
		probability("DropConnection", f.DropConnection),
		probability("Garbage", f.Garbage),
		check(f.ReplyDelay >= 0, "ReplyDelay must not be negative"),
	)
}

func probability(name string, p float64) error {
	return check(p >= 0 && p <= 1, name+" must be a probability from 0 to 1") // a NaN fails too
}

// fate is what the faults hold ready for one command.
type fate struct {
	cutOnReceipt   bool
	cutBeforeReply bool
	garbage        []byte // nil: none
}

// dice draws fates. It is safe for concurrent use.
type dice struct {
	mu     sync.Mutex
	rng    *rand.Rand
	faults Faults
}

// throw draws the fate of a command. The number of draws is always the same, so that one fault's setting does not shift
// another's luck.
func (d *dice) throw(requestID, foreignID string) fate {
	d.mu.Lock()
	defer d.mu.Unlock()
	var (
		cut     = d.rng.Float64() < d.faults.DropConnection
		early   = d.rng.IntN(2) == 0
		garbage = d.rng.Float64() < d.faults.Garbage
		kind    = d.rng.IntN(3)
		noise   = d.rng.Uint64()
	)
	f := fate{cutOnReceipt: cut && early, cutBeforeReply: cut && !early}
	if garbage {
		f.garbage = makeGarbage(kind, noise, requestID, foreignID)
	}
	return f
}

func makeGarbage(kind int, noise uint64, requestID, foreignID string) []byte {
	switch {
	case kind == 0:
		return fmt.Appendf(nil, "\xff\x00{not json %x", noise)
	case kind == 1 && foreignID != "":
		return fmt.Appendf(nil, `{"request_id":%q,"status":"ok","result":"stolen","seq":0,"final":true}`, foreignID)
	default:
		return fmt.Appendf(nil, `{"request_id":%q,"status":"ok","result":"forged","seq":0,"final":true}`, bend(requestID, noise))
	}
}

// bend changes one character of the second half of an id, where a signature would be. The id keeps its alphabet.
func bend(id string, noise uint64) string {
	if id == "" {
		return "bent"
	}
	b := []byte(id)
	i := len(b)/2 + int(noise%uint64((len(b)+1)/2))
	if b[i] == 'A' {
		b[i] = 'B'
	} else {
		b[i] = 'A'
	}
	return string(b)
}

// rumours is what the cameras of a fleet overhear of each other: the last request ids, with who received them.
type rumours struct {
	mu    sync.Mutex
	heard [8]rumour
	next  int
}

type rumour struct{ camera, requestID string }

func (r *rumours) add(camera, requestID string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heard[r.next] = rumour{camera, requestID}
	r.next = (r.next + 1) % len(r.heard)
}

// of returns a request id of another camera than this, "" if none is known.
func (r *rumours) of(camera string) string {
	if r == nil {
		return ""
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range r.heard {
		if h.requestID != "" && h.camera != camera {
			return h.requestID
		}
	}
	return ""
}
