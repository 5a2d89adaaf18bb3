package faults

import (
	"fmt"
	"sync"
	"time"
)

// slot is the place of one reply.
type slot struct {
	request string
	seq     int
}

func (s slot) String() string { return fmt.Sprintf("%s/%d", s.request, s.seq) }

// attempt is a command that a client tried to send. Its nonce travels to the camera in the arguments.
type attempt struct {
	client, device string
	at             time.Time
}

// acceptance is a request that the service has accepted.
type acceptance struct {
	client, device string
	at             time.Time
}

// delivery is a command that came to a camera.
type delivery struct {
	device    string // of the camera that received it
	request   string
	nonce     string
	at        time.Time
	expiresAt time.Time
}

// published is a reply as its camera made it, and when its PUBACK came: zero while it has none.
type published struct {
	device string
	hash   string
	final  bool
	made   time.Time
	acked  time.Time
}

// reading is a reply that a client was given.
type reading struct {
	client string
	hash   string
	at     time.Time
}

// telling is a state of a request that the service told.
type telling struct {
	client  string
	request string
	state   string
	cause   string
	asked   time.Time // when the call began
	lastly  bool      // asked after everything: it has to stand
}

// answer is one HTTP call and what came of it.
type answer struct {
	op         string // send, poll, wait (a poll that waits), state, me
	api        int
	began      time.Time
	took       time.Duration
	status     int // 0: no answer
	code       string
	degraded   string
	retryAfter bool
	err        string
}

// span is a time during which something was so.
type span struct {
	from, to time.Time
}

func (s span) String() string { return s.from.Format("05.000") + "…" + s.to.Format("05.000") }

// touches reports whether the two have a moment in common.
func (s span) touches(o span) bool { return !s.from.After(o.to) && !o.from.After(s.to) }

// outage is a time during which one API could not be reached, by intent.
type outage struct {
	span
	api     int
	orderly bool // by SIGTERM: calls under way are answered
}

// journal is the truth outside of the system. Its fields are read by the oracle once nobody writes any more.
type journal struct {
	mu        sync.Mutex
	attempts  map[string]attempt    // by nonce
	accepted  map[string]acceptance // by request id
	later     map[string]bool       // request ids: accepted by a clock that was ahead, so that the deadlines are still to come
	delivered []delivery
	nonces    map[string]string // by request id: the nonce that came with it to a camera
	replies   map[slot]published
	read      map[slot][]reading
	told      []telling
	answers   []answer
	outages   []*outage
	emptied   []time.Time   // when the cache lost its content by intent
	dropped   map[slot]bool // replies that were in it then
	faults    []faultSpan
	kills     []time.Time
	samples   []sample
	history   *history
	own       map[string]bool // devices of our own cameras, whose replies are known by their PUBACK only

	afterGrace int // replies that were asked for again when they had to be gone
	records    int // of requests that the broker keeps at most; 0: all of a run
}

// faultSpan is one fault of the run.
type faultSpan struct {
	span
	fault     *Fault
	recovered time.Duration // from its end until all was well; negative: it never was
	note      string
}

func newJournal() *journal {
	return &journal{
		attempts: map[string]attempt{},
		accepted: map[string]acceptance{},
		later:    map[string]bool{},
		nonces:   map[string]string{},
		replies:  map[slot]published{},
		read:     map[slot][]reading{},
		dropped:  map[slot]bool{},
		own:      map[string]bool{},
		history:  newHistory(),
	}
}

// note changes the journal.
func (j *journal) note(change func(j *journal)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	change(j)
}

// deliver notes a command that came to a camera.
func (j *journal) deliver(device string, cmd command, at time.Time) {
	j.note(func(j *journal) {
		j.delivered = append(j.delivered, delivery{device, cmd.RequestID, cmd.Args.Nonce, at, cmd.ExpiresAt})
		j.nonces[cmd.RequestID] = cmd.Args.Nonce
	})
}

// publish notes a reply that a camera is about to publish. The same reply again changes nothing.
func (j *journal) publish(s slot, p published) {
	j.note(func(j *journal) {
		if _, there := j.replies[s]; !there {
			j.replies[s] = p
		}
	})
}

// ack notes the PUBACK for a reply.
func (j *journal) ack(s slot, at time.Time) {
	j.note(func(j *journal) {
		if p := j.replies[s]; p.acked.IsZero() {
			p.acked = at
			j.replies[s] = p
		}
	})
}

// unread returns the requests of a client at a device of which not every published reply was read.
func (j *journal) unread(client, device string) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	seen := map[string]bool{}
	var ids []string
	for s, p := range j.replies {
		if p.device == device && !seen[s.request] && len(j.read[s]) == 0 && j.owner(s.request) == client {
			seen[s.request] = true
			ids = append(ids, s.request)
		}
	}
	return ids
}

// hasRead reports whether so many replies to a request were given to somebody, from the first on. The caller holds the lock.
func (j *journal) hasRead(request string, replies int) bool {
	for seq := range replies {
		if len(j.read[slot{request, seq}]) == 0 {
			return false
		}
	}
	return true
}

// device returns the device that a request is for; "" where nobody sent it.
func (j *journal) device(request string) string {
	if a, ok := j.accepted[request]; ok {
		return a.device
	}
	return j.attempts[j.nonces[request]].device
}

// owner returns the client whose request this is, also where the service has not told that it accepted it; "" where
// nobody sent it.
func (j *journal) owner(request string) string {
	if a, ok := j.accepted[request]; ok {
		return a.client
	}
	return j.attempts[j.nonces[request]].client
}
